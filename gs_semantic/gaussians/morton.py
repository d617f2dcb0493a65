"""Morton's curve (1966): numbers of cells whose neighbours in order are neighbours in space."""

from __future__ import annotations

import numpy as np

_STEPS = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_codes(cells: np.ndarray) -> np.ndarray:
    """uint64 (N,) of cells, integers (N, 3) from 0 on, below 2^21: their bits in turn, those of x last. Without its last three bits a
    code is that of the cell twice as large."""
    cells = cells.astype(np.uint64)
    return _spread(cells[:, 0]) | _spread(cells[:, 1]) << np.uint64(1) | _spread(cells[:, 2]) << np.uint64(2)


def _spread(values: np.ndarray) -> np.ndarray:
    """Two zeros before every bit."""
    for shift, mask in _STEPS:
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values
