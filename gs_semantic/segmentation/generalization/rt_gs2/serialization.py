"""Points in the order of a space-filling curve: neighbours in the list are neighbours in space.

Codes are int64 of three bits a level, coarsest first, so ``code >> 3`` is the code of the cell twice as large, on both
curves. Point Transformer V3 (https://arxiv.org/abs/2312.10035), section 4.1.
"""

from __future__ import annotations

import torch

from gs_semantic.errors import InvalidInputError

MAX_BITS = 20  # per axis: three of them, and the sums of neighbouring cells, fit 63 bits
ORDERS = ("z", "z-trans", "hilbert", "hilbert-trans")  # trans: the first two axes swapped


def grid_cells(xyz: torch.Tensor, size: float) -> torch.Tensor:
    """Cell int64 (N,3), from 0 on, of points (N,3) in a grid of ``size``. InvalidInputError: not finite, or too far apart."""
    if not bool(torch.isfinite(xyz).all()):
        raise InvalidInputError("positions of Gaussians contain NaN or infinity; remove those rows")
    cells = torch.floor((xyz.double() - xyz.double().amin(dim=0)) / size)
    widest = float(cells.max()) if len(cells) else 0.0
    if widest >= 1 << MAX_BITS:
        raise InvalidInputError(
            f"the scene is {widest * size:.4g} wide, more than {1 << MAX_BITS} cells of {size:g}; remove stray Gaussians or use larger cells"
        )
    return cells.long()


def curve_codes(cells: torch.Tensor, order: str, bits: int) -> torch.Tensor:
    """Place int64 (N,) of cells (N,3) < 2^bits on one of ``ORDERS``."""
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits per axis, expected 1..{MAX_BITS}")
    if order.endswith("-trans"):
        cells = cells[:, [1, 0, 2]]
    return z_order(cells) if order.startswith("z") else hilbert(cells, bits)


def z_order(cells: torch.Tensor) -> torch.Tensor:
    """Morton codes int64 (N,): the bits of x, y, z in turn, those of x in front."""
    x, y, z = (_spread(axis) for axis in cells.long().unbind(dim=1))
    return (x << 2) | (y << 1) | z


def hilbert(cells: torch.Tensor, bits: int) -> torch.Tensor:
    """Hilbert codes int64 (N,) (Skilling, Programming the Hilbert curve, 2004): steps from one cell to a touching one."""
    axes = [axis.clone() for axis in cells.long().unbind(dim=1)]
    for level in range(bits - 1, 0, -1):  # undo the turns of the coarser levels
        below = (1 << level) - 1
        for axis in range(3):
            there = (axes[axis] >> level & 1).bool()
            swap = (axes[0] ^ axes[axis]) & below
            first = torch.where(there, axes[0] ^ below, axes[0] ^ swap)
            if axis:
                axes[axis] = torch.where(there, axes[axis], axes[axis] ^ swap)
            axes[0] = first
    axes[1] ^= axes[0]  # Gray code
    axes[2] ^= axes[1]
    turn = torch.zeros_like(axes[0])
    for level in range(bits - 1, 0, -1):
        turn = torch.where((axes[2] >> level & 1).bool(), turn ^ ((1 << level) - 1), turn)
    return z_order(torch.stack([axis ^ turn for axis in axes], dim=1))


def _spread(axis: torch.Tensor) -> torch.Tensor:
    """Two zero bits between any two of the lowest 21 bits."""
    value = axis & 0x1FFFFF
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        value = (value | (value << shift)) & mask
    return value


def patch_rows(count: int, size: int, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """How ``count`` points in a row are cut into patches of ``size``.

    rows int64 (P,S): places in the row of each patch; only the last one overlaps, with the one before it, so that all
    are full (S = min(count, size)). own int64 (count,): the patch slot, counted through, that answers for each place.
    """
    size = min(count, size)
    patches = -(-count // size)
    starts = torch.arange(patches, device=device) * size
    starts[-1] = count - size
    rows = starts[:, None] + torch.arange(size, device=device)
    own = torch.arange(count, device=device)
    overlap = patches * size - count
    own[(patches - 1) * size :] += overlap
    return rows, own
