"""Neighbours of Gaussians: Euclidean (Gaussian Grouping) and locally adaptive ones (GradiSeg, section 3.5)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial import cKDTree

BLOCK_BYTES = 32 << 20  # largest piece of a matrix of distances or projections
LEAF = 256  # points of a leaf of a tree on a device, at most
NEAR_LEAVES = 16  # that are looked into


class NeighbourIndex:
    """A KD-tree over centres (N,3); over a random ``limit`` of them where there are more.

    Rows in and out are rows of the map. Made again when rows come or go; it does not follow small moves, so what was
    found for a point is kept, 4 bytes a neighbour.
    """

    def __init__(self, means: np.ndarray, limit: int, random: np.random.Generator) -> None:
        count = len(means)
        rows = np.arange(count) if count <= limit else np.sort(random.choice(count, limit, replace=False))
        self._plant(rows, np.ascontiguousarray(means[rows], np.float64))

    @classmethod
    def of(cls, rows: np.ndarray, points: np.ndarray) -> NeighbourIndex:
        """The index that had these ``rows`` and ``points``."""
        index = cls.__new__(cls)
        index._plant(rows, points)
        return index

    def _plant(self, rows: np.ndarray, points: np.ndarray) -> None:
        self.rows, self.points = rows, points
        self._tree = cKDTree(points, balanced_tree=False, compact_nodes=False)  # built in half the time
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by count: which points were asked for, answers

    def sample(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Positions in ``rows`` of a random ``count`` of the points."""
        return random.choice(len(self.rows), min(count, len(self.rows)), replace=False)

    def nearest(self, targets: np.ndarray, count: int) -> np.ndarray:
        """Positions (T,count) of the nearest points, the target itself (almost always) first; rising distance."""
        count, size = min(count, len(self.rows)), len(self.rows)
        if count not in self._found:
            self._found[count] = np.zeros(size, bool), np.empty((size, count), np.int32)
        asked, answers = self._found[count]
        fresh = targets[~asked[targets]]
        if len(fresh):
            answers[fresh] = self._tree.query(self.points[fresh], k=np.arange(1, count + 1))[1]
            asked[fresh] = True
        return answers[targets].astype(np.int64)

    def adaptive(self, targets: np.ndarray, directions: np.ndarray, count: int, candidates: int) -> np.ndarray:
        """Positions (T,count) of the points with the smallest positive projection onto each target's direction.

        directions (T,3): v_t, any length, 0 or NaN where unknown. candidates: only so many Euclidean neighbours are
        projected, 0: all points, as the paper's Eq. 4 reads. Slots that stay empty are filled with the nearest
        Euclidean neighbours (the target left out) that are not among the found ones, in turn.
        """
        near = self._without_self(targets, max(candidates, 2 * count))
        if not candidates:
            return self._filled(self._smallest_positive_of_all(targets, directions, count), near, count)
        pool = near[:, :candidates]
        with np.errstate(invalid="ignore"):
            along = np.einsum("tkd,td->tk", self.points[pool] - self.points[targets][:, None], directions)
        along[~(along > 0)] = np.inf
        few = min(count, pool.shape[1])
        best = np.argpartition(along, few - 1, axis=1)[:, :few]
        value = np.take_along_axis(along, best, 1)
        order = np.argsort(value, axis=1, kind="stable")
        found = np.where(
            np.isfinite(np.take_along_axis(value, order, 1)),
            np.take_along_axis(pool, np.take_along_axis(best, order, 1), 1),
            -1,
        )
        return self._filled(found, near[:, : 2 * count], count)

    def _without_self(self, targets: np.ndarray, count: int) -> np.ndarray:
        """The ``count`` nearest points, or as many as there are, other than the target."""
        near = self.nearest(targets, count + 1)
        own = near == targets[:, None]
        own[~own.any(axis=1), -1] = True  # points in the same place may have pushed it out
        return near[~own].reshape(len(targets), -1)

    def _smallest_positive_of_all(self, targets: np.ndarray, directions: np.ndarray, count: int) -> np.ndarray:
        count = min(count, len(self.points))
        found = np.full((len(targets), count), -1)
        points = self.points
        rows = max(1, BLOCK_BYTES // points.itemsize // len(points))
        for first in range(0, len(targets), rows):
            part = slice(first, first + rows)
            v = directions[part]
            along = v @ points.T - np.einsum("td,td->t", v, points[targets[part]])[:, None]
            along[~(along > 0)] = np.inf
            along[np.arange(len(v)), targets[part]] = np.inf
            best = np.argpartition(along, count - 1, axis=1)[:, :count]
            value = np.take_along_axis(along, best, 1)
            order = np.argsort(value, axis=1, kind="stable")
            sorted_best = np.take_along_axis(best, order, 1)
            found[part] = np.where(np.isfinite(np.take_along_axis(value, order, 1)), sorted_best, -1)
        return found

    @staticmethod
    def _filled(found: np.ndarray, near: np.ndarray, count: int) -> np.ndarray:
        """(T,count) with the gaps (-1) of ``found`` taken from ``near``, nearest first and none twice."""
        fresh = ~(near[:, :, None] == found[:, None, :]).any(axis=2)
        pool = np.concatenate([found, np.where(fresh, near, -1)], axis=1)
        order = np.argsort(pool < 0, axis=1, kind="stable")  # what is there first, in its order
        filled = np.take_along_axis(pool, order, 1)[:, :count]
        # a scene of fewer points than asked for: the last one again
        gap = filled < 0
        filled[gap] = np.broadcast_to(filled[:, :1], filled.shape)[gap]
        return filled


class DeviceNeighbourIndex:
    """The same answers as tensors on a device, where the host never waits.

    Points are halved along the widest axis again and again into leaves of up to ``LEAF``; only those in the ``NEAR_LEAVES``
    leaves whose boxes are nearest to a target are measured: a few points in a hundred thousand may be missed by that. A
    small map is searched as a whole. Among equals the order may differ from that of ``NeighbourIndex``.
    """

    def __init__(self, means: torch.Tensor, limit: int, random: np.random.Generator) -> None:
        count, device = len(means), means.device
        chosen = np.arange(count) if count <= limit else np.sort(random.choice(count, limit, replace=False))
        rows = torch.from_numpy(chosen).to(device)
        self._plant(rows, means.detach()[rows])

    @classmethod
    def of(cls, rows: torch.Tensor, points: torch.Tensor) -> DeviceNeighbourIndex:
        """The index that had these ``rows`` and ``points``."""
        index = cls.__new__(cls)
        index._plant(rows, points)
        return index

    def _plant(self, rows: torch.Tensor, points: torch.Tensor) -> None:
        self.rows, self.points = rows, points
        count = len(points)
        depth = (count // LEAF).bit_length()
        size = -(-count // (1 << depth))
        filled = points.new_full((size << depth, 3), torch.inf)  # with points that are nobody's neighbours
        filled[:count] = torch.where(points.isfinite().all(dim=1, keepdim=True), points, torch.inf)
        leaves = torch.arange(len(filled), device=points.device)[None]
        for _ in range(depth):
            inside = filled[leaves]
            axis = (inside.amax(dim=1) - inside.amin(dim=1)).argmax(dim=1)
            along = inside.gather(2, axis[:, None, None].expand(-1, inside.shape[1], 1))[..., 0]
            leaves = leaves.gather(1, along.argsort(dim=1)).reshape(2 * len(leaves), -1)
        self._leaf_points, self._leaves = filled[leaves], leaves.clamp(max=count - 1)
        self._low, self._high = self._leaf_points.amin(dim=1), self._leaf_points.amax(dim=1)
        self._leaf_of = torch.empty(len(filled), dtype=torch.long, device=points.device)
        self._leaf_of[leaves.reshape(-1)] = torch.arange(len(filled), device=points.device) // size

    def sample(self, count: int, random: np.random.Generator) -> torch.Tensor:
        """Positions in ``rows`` of a random ``count`` of the points."""
        chosen = torch.from_numpy(random.choice(len(self.rows), min(count, len(self.rows)), replace=False))
        return chosen.to(self.rows.device, non_blocking=True)

    def nearest(self, targets: torch.Tensor, count: int) -> torch.Tensor:
        """As ``NeighbourIndex.nearest``, the target itself always first."""
        count = min(count, len(self.points))
        measured = NEAR_LEAVES * self._leaves.shape[1]
        if len(self._leaves) > NEAR_LEAVES and 2 * count < measured:
            return torch.cat([self._nearest_in_leaves(part, count) for (part,) in self._parts(3 * measured, targets)])
        parts = self._parts(len(self.points), targets)
        return torch.cat([self._squared_distances(*p).topk(count, dim=1, largest=False).indices for p in parts])

    def _nearest_in_leaves(self, targets: torch.Tensor, count: int) -> torch.Tensor:
        own = self.points[targets][:, None]
        outside = torch.maximum(self._low - own, own - self._high).clamp_(min=0).square_().sum(dim=2)
        outside.scatter_(1, self._leaf_of[targets][:, None], -1.0)
        near = outside.topk(NEAR_LEAVES, dim=1, largest=False, sorted=False).indices
        known = self._leaves[near].reshape(len(targets), -1)
        distances = (self._leaf_points[near].reshape(len(targets), -1, 3) - own).square_().sum(dim=2)
        distances.masked_fill_(known == targets[:, None], -1.0)  # first also among points in the same place
        return known.gather(1, distances.topk(count, dim=1, largest=False).indices)

    def adaptive(self, targets: torch.Tensor, directions: torch.Tensor, count: int, candidates: int) -> torch.Tensor:
        """As ``NeighbourIndex.adaptive``; directions (T,3)."""
        near = self.nearest(targets, max(candidates, 2 * count) + 1)[:, 1:]
        if candidates:
            pool = near[:, :candidates]
            offsets = self.points[pool] - self.points[targets][:, None]
            along = _positive((offsets * directions[:, None]).sum(dim=2))
            best = along.topk(min(count, pool.shape[1]), dim=1, largest=False)
            found = torch.where(best.values.isfinite(), pool.gather(1, best.indices), -1)
        else:
            parts = [
                self._projections(*part).topk(min(count, len(self.points)), dim=1, largest=False)
                for part in self._parts(len(self.points), targets, directions)
            ]
            found = torch.cat([torch.where(part.values.isfinite(), part.indices, -1) for part in parts])
        fresh = ~(near[:, :, None] == found[:, None, :]).any(dim=2)
        pool = torch.cat([found, torch.where(fresh, near, -1)], dim=1)
        filled = pool.gather(1, (pool < 0).to(torch.int8).argsort(dim=1, stable=True))[:, :count]
        return torch.where(filled < 0, filled[:, :1], filled)

    def _parts(self, width: int, *values: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Rows of ``values`` of which ``width`` numbers each are no more than a block."""
        rows = max(1, BLOCK_BYTES // self.points.element_size() // width)
        return zip(*(value.split(rows) for value in values), strict=True)

    def _squared_distances(self, targets: torch.Tensor) -> torch.Tensor:
        own = self.points[targets]
        total = (own[:, :1] - self.points[:, 0]).square_()
        for axis in (1, 2):  # an axis at a time: no (T,N,3)
            apart = own[:, axis, None] - self.points[:, axis]
            total.addcmul_(apart, apart)
        return total.scatter_(1, targets[:, None], -1.0)  # first also among points in the same place

    def _projections(self, targets: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        along = directions @ self.points.T - (directions * self.points[targets]).sum(dim=1, keepdim=True)
        return _positive(along).scatter_(1, targets[:, None], torch.inf)


def _positive(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values > 0, values, torch.inf)
