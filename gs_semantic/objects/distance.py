"""How far is it to what the map knows: distances of points and spheres to the Gaussians, with sign and gradient.

A Gaussian is taken for the flat disc that it is: the distance to it is that to its ellipse at ``DISC`` standard deviations.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.mapping.visibility import Visibility

OPAQUE = 0.3  # opacity from which a Gaussian is an obstacle
DISC = 1.5  # standard deviations
FAR_SHARE = 0.02  # a disc that is farther by this share will do: in the middle of a room all walls are alike
NEIGHBOURS = 4  # discs that are looked at per point
KEPT = 4  # selections of objects whose search trees are kept
MOST_POINTS = 1_000_000
STEP_SHARE = 0.5  # of the radius, between two places of a sphere on a path
SMALLEST_STEP_M = 0.02


@dataclass(frozen=True)
class Distances:
    """distance (N,) m, negative inside; gradient (N, 3) unit vectors away from what is nearest; slot (N,) of the object
    nearest, 0 = none; unknown (N,) bool: nobody has looked there, so something may be nearer."""

    distance: np.ndarray
    gradient: np.ndarray
    slot: np.ndarray
    unknown: np.ndarray


@dataclass(frozen=True)
class PathCheck:
    """result: "free", "blocked" or "unseen"; clearance m between sphere and obstacles, travelled m up to ``point`` (3,):
    the first that is not free, or else that with the least clearance; slot of the object that is nearest there."""

    result: str
    clearance: float
    travelled: float
    point: np.ndarray
    slot: int


class DistanceField:
    """Answers for one map revision; whoever holds it may ask from one thread at a time."""

    def __init__(self, gaussians: GaussianMap, visibility: Visibility | None = None) -> None:
        with torch.no_grad():
            solid = torch.nonzero(gaussians.opacity_logits > np.log(OPAQUE / (1 - OPAQUE)))[:, 0]
        self._visibility = visibility
        self._gaussians, self._solid = gaussians, solid.numpy()
        self._means = gaussians.means.numpy()[self._solid]
        self._slots = gaussians["object"].numpy()[self._solid]
        self._trees: OrderedDict[tuple[frozenset[int], frozenset[int]], tuple[cKDTree | None, np.ndarray]] = OrderedDict()

    def _tree(self, only: Collection[int], without: Collection[int]) -> tuple[cKDTree | None, np.ndarray]:
        key = (frozenset(only), frozenset(without))
        if key not in self._trees:
            kept = np.ones(len(self._slots), bool)
            if only:
                kept &= np.isin(self._slots, list(only))
            if without:
                kept &= ~np.isin(self._slots, list(without))
            rows = np.flatnonzero(kept)
            tree = cKDTree(self._means[rows], balanced_tree=False, compact_nodes=False) if len(rows) else None
            self._trees[key] = (tree, rows)
            while len(self._trees) > KEPT:
                self._trees.popitem(last=False)
        self._trees.move_to_end(key)
        return self._trees[key]

    def query(
        self,
        points: np.ndarray,
        radii: np.ndarray | float = 0.0,
        only: Collection[int] = (),
        without: Collection[int] = (),
        workers: int = 2,
    ) -> Distances:
        """Distances of points or spheres (N, 3) m, only to the objects in some slots, or as if others were not there.

        InvalidRequestError for numbers that are not finite, negative radii, or more than ``MOST_POINTS`` points.
        """
        points = np.asarray(points, np.float32).reshape(-1, 3)
        radii = np.broadcast_to(np.asarray(radii, np.float32), len(points))
        if len(points) > MOST_POINTS:
            raise InvalidRequestError(f"{len(points)} points: at most {MOST_POINTS} at a time")
        if not np.isfinite(points).all():
            raise InvalidRequestError("points: one is NaN or infinite")
        if not (np.isfinite(radii).all() and (radii >= 0).all()):
            raise InvalidRequestError("radii: expected 0 or more")
        tree, rows = self._tree(only, without)
        distance = np.full(len(points), np.inf, np.float32)
        gradient, slot = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.int32)
        if tree is not None and len(points):
            _, near = tree.query(points, k=min(NEIGHBOURS, len(rows)), eps=FAR_SHARE, workers=workers)
            own = rows[near.reshape(len(points), -1)]
            distance, gradient = self._to_discs(points, own)
            best = distance.argmin(axis=1)
            line = np.arange(len(points))
            distance, gradient, slot = distance[line, best], gradient[line, best], self._slots[own[line, best]]
        if self._visibility is None:
            return Distances(distance - radii, gradient, slot, np.ones(len(points), bool))
        sdf, known = self._visibility.at(points)
        inside = known & (sdf < 0) & (distance <= self._visibility.truncation)
        distance = np.where(inside, -distance, distance)
        gradient = np.where(inside[:, None], -gradient, gradient)
        unknown = ~known
        for axis in np.vstack([np.eye(3), -np.eye(3)]):  # a sphere is known where its poles are
            wide = np.flatnonzero((radii > self._visibility.voxel) & ~unknown)
            if len(wide):
                unknown[wide] |= ~self._visibility.at(points[wide] + radii[wide, None] * axis)[1]
        return Distances(distance - radii, gradient, slot, unknown)

    def _to_discs(self, points: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance (N, K) and unit direction (N, K, 3) of points from the discs ``own`` (N, K)."""
        used, place = np.unique(own, return_inverse=True)
        index = torch.from_numpy(self._solid[used])
        rotations = rotation_matrices(self._gaussians.quats[index]).numpy()[place].reshape(*own.shape, 3, 3)
        scales = DISC * np.exp(self._gaussians.log_scales.numpy()[self._solid[used]])[place].reshape(*own.shape, 3)
        offset = points[:, None] - self._means[own]
        local = np.einsum("nkij,nki->nkj", rotations, offset)
        flat = scales.min(axis=2, keepdims=True) == scales
        reach = np.where(flat, 0.0, scales)  # the smallest axis is the normal: a disc has no thickness
        inside = np.minimum(1.0, 1 / np.maximum(np.linalg.norm(local / np.maximum(reach, 1e-6) * ~flat, axis=2), 1e-9))
        nearest = np.where(flat, 0.0, local * inside[..., None])
        away = np.einsum("nkij,nkj->nki", rotations, local - nearest)
        distance = np.linalg.norm(away, axis=2)
        return distance, away / np.maximum(distance, 1e-9)[..., None]

    def check_path(
        self, path: np.ndarray, radius: float, without: Iterable[int] = ()
    ) -> PathCheck:
        """May a sphere move along a path of corners (K, 3)? Space that nobody has seen is not free."""
        path = np.asarray(path, np.float64).reshape(-1, 3)
        if len(path) < 1 or not np.isfinite(path).all():
            raise InvalidRequestError("path: expected one point or more, of finite numbers")
        if not 0 < radius < np.inf:
            raise InvalidRequestError(f"radius is {radius}, expected a positive length")
        step = max(STEP_SHARE * radius, SMALLEST_STEP_M)
        places, way = [path[:1]], [np.zeros(1)]
        for start, end in itertools.pairwise(path):
            length = float(np.linalg.norm(end - start))
            share = np.linspace(0, 1, int(np.ceil(length / step)) + 1)[1:]
            places.append(start + share[:, None] * (end - start))
            way.append(way[-1][-1:] + share * length if len(share) else np.zeros(0))
        points, travelled = np.concatenate(places), np.concatenate(way)
        found = self.query(points, radius, without=list(without))
        hit, unseen = np.flatnonzero(found.distance <= 0), np.flatnonzero(found.unknown)
        result, at = "free", int(found.distance.argmin())
        if len(hit):
            result, at = "blocked", int(hit[0])
        elif len(unseen):
            result, at = "unseen", int(unseen[0])
        clearance = float(found.distance.min())
        return PathCheck(result, clearance, float(travelled[at]), points[at], int(found.slot[at]))
