"""Label sets of learners and recordings, brought together by the names of their classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gs_semantic.errors import InvalidInputError
from gs_semantic.labels import VOID, LabelSet

# What recordings call things that the rooms made in code know under another name.
ALIASES = {
    "coffee_table": "table", "desk": "table", "dining_table": "table", "side_table": "table",
    "wardrobe": "cabinet", "nightstand": "cabinet", "tv_stand": "cabinet", "shoe_rack": "cabinet", "dresser": "cabinet",
    "refrigerator": "cabinet", "counter": "cabinet", "bookshelf": "shelf", "bookcase": "shelf",
    "armchair": "chair", "couch": "sofa", "television": "tv", "monitor": "tv", "screen": "tv", "carpet": "rug",
    "painting": "picture", "poster": "picture", "bin": "trash_can", "potted_plant": "plant", "blinds": "curtain",
}  # fmt: skip


def normal(name: str) -> str:
    """A class name as it is compared: lower case, with underscores, an alias replaced."""
    plain = "_".join(name.lower().replace("-", " ").replace("_", " ").split())
    return ALIASES.get(plain, plain)


@dataclass(frozen=True)
class ClassMap:
    """``table`` int16: class id of the recording -> that of the learner, 0 where it knows none of that name.

    missing: names of the recording that the learner does not know; their pixels count as void.
    """

    table: np.ndarray
    missing: tuple[str, ...]

    @classmethod
    def between(cls, recorded: LabelSet, learned: LabelSet, where: str) -> ClassMap:
        """Classes of the same name (``normal``) belong together.

        InvalidInputError, with both lists, when there is none in common though the recording names classes.
        """
        names = {normal(name): key for key, name in learned.names.items() if key != VOID}
        known = {key: name for key, name in recorded.names.items() if key != VOID}
        table = np.zeros(max(recorded.names, default=0) + 1, np.int16)
        missing = []
        for key, name in known.items():
            table[key] = names.get(normal(name), 0)
            if not table[key]:
                missing.append(name)
        if known and not table.any():
            raise InvalidInputError(
                f"{where}: none of its classes is one that was learned; the recording has "
                f"{', '.join(known.values())}; learned were {', '.join(names)}"
            )
        return cls(table, tuple(missing))

    def __call__(self, classes: np.ndarray) -> np.ndarray:
        """Translate an image of class ids; int16."""
        inside = (classes >= 0) & (classes < len(self.table))
        return np.where(inside, self.table[np.where(inside, classes, 0)], 0).astype(np.int16)
