"""How far is it to what the map knows: distances of points and spheres to the Gaussians, with sign and gradient.

The distance is that to the nearest disc (see ``discs``); what cameras have seen gives it its sign, and tells what is unknown.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.space.discs import DiscTree
from gs_semantic.space.seen import SeenSpace

FAR_SHARE = 0.02  # a disc that is farther by this share will do
KEPT = 8  # trees of single objects that are kept
MOST_POINTS = 1_000_000
MOST_STEPS = 100_000  # places along a path that are looked at
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

    def __init__(self, gaussians: GaussianMap, seen: SeenSpace | None = None) -> None:
        self.seen = seen
        self._gaussians = gaussians
        self._all = DiscTree(gaussians)
        self._parts: OrderedDict[frozenset[int], DiscTree] = OrderedDict()

    def _tree(self, only: Collection[int]) -> DiscTree:
        if not only:
            return self._all
        key = frozenset(only)
        if key not in self._parts:
            self._parts[key] = DiscTree(self._gaussians, only)
            while len(self._parts) > KEPT:
                self._parts.popitem(last=False)
        self._parts.move_to_end(key)
        return self._parts[key]

    def query(
        self,
        points: np.ndarray,
        radii: np.ndarray | float = 0.0,
        only: Collection[int] = (),
        without: Collection[int] = (),
        threads: int | None = None,
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
        found = self._tree(only).nearest(points, without, FAR_SHARE, threads)
        distance = found.distance
        gradient = found.away / np.maximum(np.where(np.isfinite(distance), distance, 1), 1e-9)[:, None]
        if self.seen is None:
            return Distances(distance - radii, gradient, found.slot, np.ones(len(points), bool))
        unknown = ~self.seen.known(points)
        near = np.flatnonzero(~unknown & (distance <= self.seen.truncation))
        inside = near[self.seen.inside(points[near], distance[near])]
        distance[inside] *= -1
        gradient[inside] *= -1
        for axis in np.vstack([np.eye(3), -np.eye(3)]).astype(np.float32):  # a sphere is known where its poles are
            wide = np.flatnonzero((radii > self.seen.voxel) & ~unknown)
            if len(wide):
                unknown[wide] = ~self.seen.known(points[wide] + radii[wide, None] * axis)
        return Distances(distance - radii, gradient, found.slot, unknown)

    def check_path(self, path: np.ndarray, radius: float, without: Iterable[int] = ()) -> PathCheck:
        """May a sphere move along a path of corners (K, 3)? Space that nobody has seen is not free."""
        path = np.asarray(path, np.float64).reshape(-1, 3)
        if len(path) < 1 or not np.isfinite(path).all():
            raise InvalidRequestError("path: expected one point or more, of finite numbers")
        if not 0 < radius < np.inf:
            raise InvalidRequestError(f"radius is {radius}, expected a positive length")
        step = max(STEP_SHARE * radius, SMALLEST_STEP_M)
        lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
        if lengths.sum() / step + len(path) > MOST_STEPS:
            raise InvalidRequestError(
                f"path: {lengths.sum():.0f} m long, at most {MOST_STEPS * step:.0f} m for a sphere of radius {radius} m"
            )
        places, way, walked = [path[:1]], [np.zeros(1)], 0.0
        for (start, end), length in zip(itertools.pairwise(path), lengths.tolist(), strict=True):
            share = np.linspace(0, 1, int(np.ceil(length / step)) + 1)[1:]
            places.append(start + share[:, None] * (end - start))
            way.append(walked + share * length)
            walked += length
        points, travelled = np.concatenate(places), np.concatenate(way)
        found = self.query(points, radius, without=list(without))
        # spheres that are a little larger cover what lies between two places, and distances that are found a little too large
        covering = (1 + FAR_SHARE) * np.hypot(radius, step / 2)
        hit, unseen = np.flatnonzero(found.distance + radius <= covering), np.flatnonzero(found.unknown)
        result, at = "free", int(found.distance.argmin())
        if len(hit):
            result, at = "blocked", int(hit[0])
        elif len(unseen):
            result, at = "unseen", int(unseen[0])
        clearance = float(found.distance.min())
        return PathCheck(result, clearance, float(travelled[at]), points[at], int(found.slot[at]))
