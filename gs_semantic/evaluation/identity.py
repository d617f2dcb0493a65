"""Do identities survive? Id switches, duplicates and ghosts of a map over a sequence with known objects.

Switches are counted as in multi-object tracking (Bernardin and Stiefelhagen, CLEAR MOT, 2008): every time the object that
mostly shows a true one is another than the last time it was shown. Duplicates and ghosts are what planners suffer from:
several objects for one thing, and objects for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from gs_semantic.evaluation.contingency import Contingency
from gs_semantic.objects.packing import ObjectView
from gs_semantic.objects.registry import MapObject

LEAST_PX = 50  # of a true object in a view; with fewer it does not count
SHARE = 0.5  # of a true object's pixels that one object must show to stand for it
DUPLICATE = 0.2  # share of its pixels from which a further object is a duplicate
NEAR = 1.3  # an object is where a thing is when its centre is within so many times the thing's radius


@dataclass
class IdentityScore:
    """Pools views in the order of time. Ids of the map are those that the outside sees; 0 = none."""

    switches: int = 0
    views: int = 0
    seen: int = 0  # true objects in views
    shown: int = 0  # of them, those that an object stands for
    duplicates: int = 0
    _last: dict[int, int] = field(default_factory=dict, init=False)

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """One view: ids (H, W) of the map and of the true objects, 0 = none."""
        table = Contingency.of(predicted, truth, (0,))
        self.views += 1
        for true, row in zip(table.truths.tolist(), table.pixels, strict=True):
            total = int(row.sum())
            if total < LEAST_PX:
                continue
            self.seen += 1
            objects = np.where(table.predictions > 0, row, 0)
            best = int(objects.argmax())
            self.duplicates += max(0, int((objects >= DUPLICATE * total).sum()) - 1)
            if objects[best] < SHARE * total:
                continue
            self.shown += 1
            now = int(table.predictions[best])
            self.switches += self._last.get(true, now) != now
            self._last[true] = now

    @property
    def identities(self) -> Mapping[int, int]:
        """Id that stood for each true object the last time that it was shown."""
        return self._last

    def results(self) -> dict[str, float]:
        """id_switches, and per hundred sightings of an object: duplicates_pct, shown_pct."""
        seen = max(self.seen, 1)
        return {
            "id_switches": self.switches,
            "duplicates_pct": 100 * self.duplicates / seen,
            "shown_pct": 100 * self.shown / seen,
        }


def ghosts(objects: Collection[MapObject | ObjectView], places: Mapping[int, tuple[np.ndarray, float]]) -> list[int]:
    """Ids of objects where no thing is; ``places``: centre (3,) and radius m of every thing that is there, by its id."""
    out = []
    for obj in objects:
        if obj.box is None:
            continue
        away = [np.linalg.norm(obj.box.centre - centre) / radius for centre, radius in places.values()]
        if min(away, default=np.inf) > NEAR:
            out.append(obj.id)
    return out
