"""Neighbours of Gaussians: Euclidean (Gaussian Grouping) and locally adaptive ones (GradiSeg, section 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.spatial import cKDTree

BLOCK_BYTES = 32 << 20  # largest piece of a matrix of distances or projections


class NeighbourIndex:
    """A KD-tree over centres (N,3); over a random ``limit`` of them where there are more.

    Rows in and out are rows of the map. Made again when rows come or go; it does not follow small moves.
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

    def sample(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Positions in ``rows`` of a random ``count`` of the points."""
        return random.choice(len(self.rows), min(count, len(self.rows)), replace=False)

    def nearest(self, targets: np.ndarray, count: int) -> np.ndarray:
        """Positions (T,count) of the nearest points, the target itself (almost always) first; rising distance."""
        count = min(count, len(self.rows))
        return self._tree.query(self.points[targets], k=np.arange(1, count + 1))[1]

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
        along = np.where(along > 0, along, np.inf)
        order = np.argsort(along, axis=1, kind="stable")[:, :count]
        found = np.where(np.isfinite(np.take_along_axis(along, order, 1)), np.take_along_axis(pool, order, 1), -1)
        return self._filled(found, near, count)

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
    """The same answers as tensors on a device, by plain search in blocks: no tree, and the host never waits.

    Among equals the order may differ from that of ``NeighbourIndex``.
    """

    def __init__(self, means: torch.Tensor, limit: int, random: np.random.Generator) -> None:
        count, device = len(means), means.device
        chosen = np.arange(count) if count <= limit else np.sort(random.choice(count, limit, replace=False))
        self.rows = torch.from_numpy(chosen).to(device)
        self.points = means.detach()[self.rows]

    @classmethod
    def of(cls, rows: torch.Tensor, points: torch.Tensor) -> DeviceNeighbourIndex:
        """The index that had these ``rows`` and ``points``."""
        index = cls.__new__(cls)
        index.rows, index.points = rows, points
        return index

    def sample(self, count: int, random: np.random.Generator) -> torch.Tensor:
        """Positions in ``rows`` of a random ``count`` of the points."""
        chosen = torch.from_numpy(random.choice(len(self.rows), min(count, len(self.rows)), replace=False))
        return chosen.to(self.rows.device, non_blocking=True)

    def nearest(self, targets: torch.Tensor, count: int) -> torch.Tensor:
        """As ``NeighbourIndex.nearest``, the target itself always first."""
        distances = self._blocks(targets, self._squared_distances)
        return torch.cat(
            [block.topk(min(count, len(self.points)), dim=1, largest=False).indices for block in distances]
        )

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
                block.topk(min(count, len(self.points)), dim=1, largest=False)
                for block in self._blocks(targets, self._projections, directions)
            ]
            found = torch.cat([torch.where(part.values.isfinite(), part.indices, -1) for part in parts])
        fresh = ~(near[:, :, None] == found[:, None, :]).any(dim=2)
        pool = torch.cat([found, torch.where(fresh, near, -1)], dim=1)
        filled = pool.gather(1, (pool < 0).to(torch.int8).argsort(dim=1, stable=True))[:, :count]
        return torch.where(filled < 0, filled[:, :1], filled)

    def _blocks(
        self, targets: torch.Tensor, matrix: Callable[..., torch.Tensor], *more: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        rows = max(1, BLOCK_BYTES // self.points.element_size() // len(self.points))
        for parts in zip(targets.split(rows), *(values.split(rows) for values in more), strict=True):
            yield matrix(*parts)

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
