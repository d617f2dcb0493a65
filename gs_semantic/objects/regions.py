"""Parts of space: which points lie in a box, a sphere, a prism or a frustum. Lengths in m, angles in rad."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gs_semantic.errors import InvalidRequestError

SMALLEST_AREA_M2 = 1e-8  # of a prism's polygon


class Shape(Protocol):
    """A body in a frame of its own."""

    def contains(self, points: np.ndarray) -> np.ndarray:
        """bool (N,): which points (N, 3), in the body's frame, lie inside or on the border."""
        ...


@dataclass(frozen=True)
class Region:
    """A shape somewhere in the world. InvalidRequestError for a shape without volume or numbers that are not finite."""

    shape: Shape
    T_world_region: np.ndarray = field(default_factory=lambda: np.eye(4))

    def inside(self, points: np.ndarray) -> np.ndarray:
        """bool (N,): which points (N, 3), in the world, lie inside."""
        rotation = self.T_world_region[:3, :3].astype(points.dtype)
        return self.shape.contains((points - self.T_world_region[:3, 3].astype(points.dtype)) @ rotation)


@dataclass(frozen=True)
class BoxShape:
    """size (3,): lengths along the axes, centred."""

    size: np.ndarray

    def __post_init__(self) -> None:
        if not (np.isfinite(self.size).all() and (np.asarray(self.size) > 0).all()):
            raise InvalidRequestError(f"size is {np.asarray(self.size).tolist()}, a box needs three positive lengths")

    def contains(self, points: np.ndarray) -> np.ndarray:
        return (np.abs(points) <= np.asarray(self.size, points.dtype) / 2).all(axis=1)


@dataclass(frozen=True)
class SphereShape:
    radius: float

    def __post_init__(self) -> None:
        if not 0 < self.radius < np.inf:
            raise InvalidRequestError(f"radius is {self.radius}, a sphere needs a positive one")

    def contains(self, points: np.ndarray) -> np.ndarray:
        return (points**2).sum(axis=1) <= self.radius**2


@dataclass(frozen=True)
class PrismShape:
    """What stands on a polygon (K, 2) at height ``bottom``, up to ``height`` above it."""

    polygon: np.ndarray
    bottom: float
    height: float

    def __post_init__(self) -> None:
        polygon = np.asarray(self.polygon, np.float64)
        if polygon.ndim != 2 or len(polygon) < 3:
            raise InvalidRequestError(f"polygon has {len(polygon)} corners, a prism needs three or more")
        if not (np.isfinite(polygon).all() and np.isfinite(self.bottom)):
            raise InvalidRequestError("polygon: a corner is NaN or infinite")
        if not 0 < self.height < np.inf:
            raise InvalidRequestError(f"height is {self.height}, a prism needs a positive one")
        x, y = polygon.T
        if abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 < SMALLEST_AREA_M2:
            raise InvalidRequestError("polygon: its corners lie on one line")

    def contains(self, points: np.ndarray) -> np.ndarray:
        low = np.asarray(self.bottom, points.dtype)
        inside = (points[:, 2] >= low) & (points[:, 2] <= low + self.height)
        corners = np.asarray(self.polygon, points.dtype)
        inside &= ((points[:, :2] >= corners.min(axis=0)) & (points[:, :2] <= corners.max(axis=0))).all(axis=1)
        near = np.flatnonzero(inside)
        x, y = points[near, 0], points[near, 1]
        odd = np.zeros(len(near), bool)  # edges crossed on the way out along x
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if ay != by:
                odd ^= ((y < ay) != (y < by)) & (x < ax + (y - ay) * ((bx - ax) / (by - ay)))
        inside[near] = odd
        return inside


@dataclass(frozen=True)
class FrustumShape:
    """What a camera in the origin sees (x right, y down, z forward); whole opening angles, and depths along z."""

    horizontal_fov: float
    vertical_fov: float
    near: float
    far: float

    def __post_init__(self) -> None:
        for name in ("horizontal_fov", "vertical_fov"):
            if not 0 < getattr(self, name) < np.pi:
                raise InvalidRequestError(f"{name} is {getattr(self, name)}, expected an angle between 0 and pi")
        if not 0 <= self.near < self.far < np.inf:
            raise InvalidRequestError(f"near is {self.near} and far {self.far}, expected 0 <= near < far")

    def contains(self, points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        wide, high = np.tan(self.horizontal_fov / 2), np.tan(self.vertical_fov / 2)
        return (z >= self.near) & (z <= self.far) & (np.abs(x) <= wide * z) & (np.abs(y) <= high * z)
