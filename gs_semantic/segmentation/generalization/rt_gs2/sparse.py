"""Convolution on occupied cells alone, with neighbours looked up by their key; plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 27}  # numbers gathered from neighbours in one go


@dataclass(frozen=True)
class Neighbours:
    """table int32 (V, taps): the cell that each cell hears through each tap of a kernel, V where there is none.

    The middle tap, every cell with itself, is not among them. Tap k of one direction is tap ``-1 - k`` of the other.
    """

    table: torch.Tensor


def find_neighbours(cells: torch.Tensor, kernel: int) -> Neighbours:
    """Neighbours within an odd ``kernel`` of different cells (V,3) int64.

    A cell's key is its place in the bounding box, so that a tap is one fixed difference of keys; the table of keys is a
    sorted list.
    """
    reach, count = kernel // 2, len(cells)
    wide = cells.amax(dim=0) + 1 + 2 * reach  # a margin, so that a row's end does not touch the next one's start
    strides = torch.stack([wide[1] * wide[2], wide[2], torch.ones_like(wide[2])])
    keys, order = torch.sort(((cells + reach) * strides).sum(dim=1))
    span = torch.arange(-reach, reach + 1, device=cells.device)
    taps = torch.cartesian_prod(span, span, span)
    differences = (taps * strides).sum(dim=1)
    differences = torch.cat([differences[: kernel**3 // 2], differences[kernel**3 // 2 + 1 :]])
    table = torch.empty(count, len(differences), dtype=torch.int32, device=cells.device)
    step = max(1, AT_ONCE.get(cells.device.type, AT_ONCE["cpu"]) // len(differences))
    for rows, part in zip(order.split(step), keys.split(step), strict=True):
        wanted = differences[:, None] + part  # sorted along the cells, which is quick to look up
        place = torch.searchsorted(keys, wanted).clamp_(max=count - 1)
        table[rows] = torch.where(keys[place] == wanted, order[place], count).int().T
    return Neighbours(table)


class SubmanifoldConv(nn.Module):
    """A convolution whose output lives where its input does (Graham et al., https://arxiv.org/abs/1711.10275).

    Several points may share a cell: a point hears itself through the middle tap, and the mean of each neighbouring cell.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel**3, in_channels, out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.normal_(self.weight, std=(in_channels * kernel**3) ** -0.5)

    def forward(
        self, x: torch.Tensor, neighbours: Neighbours, cell_of: torch.Tensor | None, cell_size: torch.Tensor | None
    ) -> torch.Tensor:
        """x (N,C) -> (N,D). cell_of int64 (N,): the cell of each point, with ``cell_size`` (V,1) points in it; None: its own."""
        middle = len(self.weight) // 2
        own = x @ self.weight[middle]
        cells = x
        if cell_of is not None:
            assert cell_size is not None
            cells = (
                x.new_zeros(len(cell_size), x.shape[1], dtype=torch.float).index_add(0, cell_of, x.float()) / cell_size
            )
        kind = x.device.type
        number = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        weight = torch.cat([self.weight[:middle], self.weight[middle + 1 :]])
        around = _Around.apply(cells.to(number), weight.to(number), neighbours.table)
        out = own + (around if cell_of is None else around[cell_of])
        return out if self.bias is None else out + self.bias


class _Around(torch.autograd.Function):
    """Sum over the taps (taps,C,D) of cells (V,C): all that a cell hears side by side, in one product of matrices.

    Gathers again in the backward pass instead of keeping a copy for each tap. Cell i hears j through tap k where j hears i
    through the opposite tap, so gradients are gathered, too.
    """

    @staticmethod
    def forward(ctx, cells, weight, table):
        ctx.save_for_backward(cells, weight, table)
        flat = weight.flatten(0, 1)
        return torch.cat([heard @ flat for _, heard in _heard(cells, table)])

    @staticmethod
    def backward(ctx, grad):
        cells, weight, table = ctx.saved_tensors
        grad, grad_cells, grad_weight = grad.contiguous(), None, torch.zeros_like(weight, dtype=torch.float)
        for rows, heard in _heard(cells, table):
            grad_weight += (heard.T @ grad[rows]).reshape(weight.shape)
        if ctx.needs_input_grad[0]:
            back = weight.flip(0).transpose(1, 2).flatten(0, 1)
            grad_cells = torch.cat([heard @ back for _, heard in _heard(grad, table)])
        return grad_cells, grad_weight.to(weight.dtype), None


def _heard(values: torch.Tensor, table: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows of the table, and what they hear: (rows, taps * C) of values (V,C); 0 from where nothing is."""
    padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
    step = max(1, AT_ONCE.get(values.device.type, AT_ONCE["cpu"]) // (table.shape[1] * values.shape[1]))
    for start in range(0, len(table), step):
        part = table[start : start + step]
        yield slice(start, start + step), padded.index_select(0, part.flatten()).reshape(len(part), -1)
