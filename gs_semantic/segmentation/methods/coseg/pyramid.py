"""Point clouds of falling size with their neighbours: what RandLA-Net (Hu et al., CVPR 2020) and the decoder walk on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

RATIO = 4  # points of one cloud for one of the next
CLOUDS = 5
NEIGHBOURS = 16
INTERPOLATED = 3  # neighbours that features are interpolated between
SQUARED_M2 = 1e-8  # added to squared distances


@dataclass(frozen=True)
class Interpolation:
    """From m coarse to n fine points: indices int64 (n,3) of coarse points and their weights (n,3), which sum to 1."""

    indices: torch.Tensor
    weights: torch.Tensor

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """(n,C) of values (m,C); differentiable."""
        return _Interpolate.apply(values, self.indices, self.weights)


class _Interpolate(torch.autograd.Function):
    """Without the large gathered arrays that autograd would keep."""

    @staticmethod
    def forward(ctx, values, indices, weights):
        ctx.save_for_backward(indices, weights)
        ctx.count = len(values)
        total = values.index_select(0, indices[:, 0]) * weights[:, :1]
        for k in range(1, indices.shape[1]):
            total.addcmul_(values.index_select(0, indices[:, k]), weights[:, k : k + 1])
        return total

    @staticmethod
    def backward(ctx, gradient):
        indices, weights = ctx.saved_tensors
        total = gradient.new_zeros(ctx.count, gradient.shape[1])
        for k in range(indices.shape[1]):
            total.index_add_(0, indices[:, k], gradient * weights[:, k : k + 1])
        return total, None, None


@dataclass(frozen=True)
class Cloud:
    """points float32 (n,3) m; rows int64 (n,): which of the first cloud they are; neighbours int64 (n,K), nearest first,
    the point itself among them. Where there are fewer than K points, the last one is repeated."""

    points: torch.Tensor
    rows: torch.Tensor
    neighbours: torch.Tensor


@dataclass(frozen=True)
class Pyramid:
    """``clouds[0]`` has all points, each further one a random quarter of the one before, its first rows.

    ``up[k]`` interpolates from ``clouds[k + 1]`` to ``clouds[k]``.
    """

    clouds: tuple[Cloud, ...]
    up: tuple[Interpolation, ...]

    def to(self, device: torch.device) -> Pyramid:
        """The same on another device."""
        clouds = (Cloud(*(t.to(device) for t in (c.points, c.rows, c.neighbours))) for c in self.clouds)
        return Pyramid(tuple(clouds), tuple(Interpolation(u.indices.to(device), u.weights.to(device)) for u in self.up))

    @classmethod
    def of(cls, points: np.ndarray, random: np.random.Generator, neighbours: int = NEIGHBOURS) -> Pyramid:
        """Of points (N,3), N >= 1; ``random`` decides which are kept.

        The rows of ``clouds[0]`` are a random permutation, so that every cloud is the beginning of the one before it.
        """
        order = random.permutation(len(points))
        xyz = np.ascontiguousarray(points[order], np.float32)
        clouds, up = [], []
        trees: list[cKDTree] = []
        for k in range(CLOUDS):
            count = max(1, len(xyz) // RATIO**k)
            tree = cKDTree(xyz[:count])
            trees.append(tree)
            near = _nearest(tree, xyz[:count], neighbours)[1]
            clouds.append(Cloud(*map(torch.from_numpy, (xyz[:count], order[:count], near))))
        for fine, tree in zip(clouds, trees[1:], strict=False):
            distance, near = _nearest(tree, fine.points.numpy(), INTERPOLATED)
            weight = 1 / (distance**2 + SQUARED_M2)
            weight /= weight.sum(axis=1, keepdims=True)
            up.append(Interpolation(torch.from_numpy(near), torch.from_numpy(weight.astype(np.float32))))
        return cls(tuple(clouds), tuple(up))


def _nearest(tree: cKDTree, points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices (n,count) of the nearest points; the last one again where there are not so many."""
    found = min(count, tree.n)
    distance, index = tree.query(points, k=np.arange(1, found + 1), workers=torch.get_num_threads())
    if found < count:
        distance, index = (np.pad(a, ((0, 0), (0, count - found)), mode="edge") for a in (distance, index))
    return distance, index
