"""What Point Transformer V3 needs to know of where points are, at every resolution; worked out once per cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gs_semantic.segmentation.generalization.rt_gs2.serialization import ORDERS, curve_codes
from gs_semantic.segmentation.generalization.rt_gs2.sparse import Neighbours, find_neighbours


@dataclass(frozen=True)
class Level:
    """The points of one resolution.

    orders: int64 (N,) per curve, points as they come on it. neighbours: pairs of cells within 3 cells. cell_of int64
    (N,), cell_size (V,1): which points share a cell; None where each has its own. parent int64 (N,): the point of the
    next coarser level that a point belongs to; None at the coarsest.
    """

    orders: Sequence[torch.Tensor]
    neighbours: Neighbours
    cell_of: torch.Tensor | None
    cell_size: torch.Tensor | None
    parent: torch.Tensor | None
    parents: int

    @property
    def count(self) -> int:
        return len(self.orders[0])


@dataclass(frozen=True)
class Pyramid:
    """Levels from fine to coarse, each with cells twice as large; stem: neighbours of the finest level within its kernel."""

    levels: Sequence[Level]
    stem: Neighbours


def build_pyramid(cells: torch.Tensor, levels: int, stem_kernel: int, orders: Sequence[str] = ORDERS) -> Pyramid:
    """The pyramid of points in grid cells (N,3) int64, N >= 1.

    Cells are halved on both curves by dropping three bits of the code, so codes are made once.
    """
    bits = max(1, int(cells.max()).bit_length())
    codes = torch.stack([curve_codes(cells, order, bits) for order in orders])
    built: list[Level] = []
    stem: Neighbours | None = None
    for depth in range(levels):
        unique, cell_of, size = torch.unique(codes[0], return_inverse=True, return_counts=True)
        shared = len(unique) < codes.shape[1]
        places = _first_of_each(cells, cell_of, len(unique)) if shared else cells
        if stem is None:
            stem = find_neighbours(places, stem_kernel)
        parent, parents = None, 0
        if depth + 1 < levels:
            above, parent = torch.unique(codes[0] >> 3, return_inverse=True)
            parents = len(above)
        built.append(
            Level(
                [torch.argsort(code) for code in codes],
                find_neighbours(places, 3),
                cell_of if shared else None,
                size[:, None].float() if shared else None,
                parent,
                parents,
            )
        )
        if parent is not None:
            cells = _first_of_each(cells, parent, parents) >> 1
            codes = _first_of_each(codes.T.contiguous(), parent, parents).T >> 3
    assert stem is not None
    return Pyramid(built, stem)


def _first_of_each(rows: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    """(groups, ...): the rows of one member of each group (all that count here are alike)."""
    out = rows.new_empty(groups, *rows.shape[1:])
    out[group] = rows
    return out
