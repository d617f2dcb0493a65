"""Convolution on occupied cells alone, with neighbours looked up by their key; plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Neighbours:
    """Pairs of occupied cells that differ by one tap of a kernel: for tap k, ``targets[k]`` hear ``sources[k]`` (int64).

    The middle tap, every cell with itself, is not among them. opposite: tap k of one direction is tap ``-1 - k`` of the other.
    """

    targets: Sequence[torch.Tensor]
    sources: Sequence[torch.Tensor]


def find_neighbours(cells: torch.Tensor, kernel: int) -> Neighbours:
    """Neighbours within an odd ``kernel`` of different cells (V,3) int64.

    A cell's key is its place in the bounding box, so that a tap is one fixed difference of keys; the table of keys is a
    sorted list. Half of the taps are looked up, the others are the same pairs the other way round.
    """
    reach = kernel // 2
    wide = cells.amax(dim=0) + 1 + 2 * reach  # a margin, so that a row's end does not touch the next one's start
    strides = torch.stack([wide[1] * wide[2], wide[2], torch.ones_like(wide[2])])
    keys, order = torch.sort(((cells + reach) * strides).sum(dim=1))
    targets, sources = [], []
    span = torch.arange(-reach, reach + 1, device=cells.device)
    taps = torch.cartesian_prod(span, span, span)[: kernel**3 // 2]
    for difference in (taps * strides).sum(dim=1).tolist():
        wanted = keys + difference
        place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        found = torch.nonzero(keys[place] == wanted)[:, 0]
        targets.append(order[found])
        sources.append(order[place[found]])
    return Neighbours(targets + sources[::-1], sources + targets[::-1])


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
            cells = x.new_zeros(len(cell_size), x.shape[1]).index_add(0, cell_of, x) / cell_size
        around = _Around.apply(cells, self.weight, neighbours)
        out = own + (around if cell_of is None else around[cell_of])
        return out if self.bias is None else out + self.bias


class _Around(torch.autograd.Function):
    """Sum over all taps but the middle one; gathers again in the backward pass instead of keeping 26 copies."""

    @staticmethod
    def forward(ctx, cells, weight, neighbours):
        ctx.save_for_backward(cells, weight)
        ctx.neighbours = neighbours
        out = cells.new_zeros(len(cells), weight.shape[2])
        for tap, target, source in _taps(neighbours):
            out.index_add_(0, target, cells[source] @ weight[tap])
        return out

    @staticmethod
    def backward(ctx, grad):
        cells, weight = ctx.saved_tensors
        grad_cells, grad_weight = torch.zeros_like(cells), torch.zeros_like(weight)
        for tap, target, source in _taps(ctx.neighbours):
            part = grad[target]
            if ctx.needs_input_grad[0]:
                grad_cells.index_add_(0, source, part @ weight[tap].T)
            grad_weight[tap] = cells[source].T @ part
        return grad_cells, grad_weight, None


def _taps(neighbours: Neighbours):
    """(index of the weight, targets, sources) of every tap that has pairs."""
    half = len(neighbours.targets) // 2
    for position, (target, source) in enumerate(zip(neighbours.targets, neighbours.sources, strict=True)):
        if len(target):
            yield position + (position >= half), target, source
