"""Class names and colours."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

VOID = 0  # class id and object slot of "nothing known"
UNKNOWN = "unknown"  # what an object of class VOID is called: pixels may be void, a thing is one of which the class is not known
OBJECT_COLOURS = 1024  # colours of objects, by slot, repeat after so many


def palette(count: int, seed: int = 7) -> np.ndarray:
    """Well-separated colours, uint8 (count, 3); entry 0 is black. The same index always gives the same colour."""
    golden = 0.618033988749895
    index = np.arange(count, dtype=np.float64)
    hue = (seed * 0.1 + index * golden) % 1.0
    saturation = 0.55 + 0.4 * ((index * 0.37) % 1.0)
    value = 0.65 + 0.35 * ((index * 0.71) % 1.0)
    sector = hue * 6.0
    chroma = value * saturation
    x = chroma * (1 - np.abs(sector % 2 - 1))
    zero = np.zeros_like(x)
    table = np.stack(
        [
            np.stack([chroma, x, zero], 1),
            np.stack([x, chroma, zero], 1),
            np.stack([zero, chroma, x], 1),
            np.stack([zero, x, chroma], 1),
            np.stack([x, zero, chroma], 1),
            np.stack([chroma, zero, x], 1),
        ]
    )
    rgb = table[np.minimum(sector.astype(int), 5), np.arange(count)] + (value - chroma)[:, None]
    colours = np.round(rgb * 255).astype(np.uint8)
    if count:
        colours[0] = 0
    return colours


@dataclass
class LabelSet:
    """The classes a segmenter or data set speaks of: ``names[class_id]``; id 0 is void."""

    names: dict[int, str] = field(default_factory=lambda: {VOID: "void"})

    def name(self, class_id: int) -> str:
        """Name of a class; ``class_<id>`` when the set does not know it."""
        return self.names.get(int(class_id), f"class_{int(class_id)}")

    def object_name(self, class_id: int) -> str:
        """What an object of a class is called; ``unknown`` for one without, as of masks that have no classes."""
        return UNKNOWN if int(class_id) == VOID else self.name(class_id)

    def id_of(self, name: str) -> int | None:
        return next((key for key, value in self.names.items() if value == name), None)
