"""Convex bodies with matt textures, and what a camera sees of them: rays are intersected exactly.

Scenes made in code (``procedural.py``, ``rooms.py``) are lists of such bodies.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from gs_semantic.gaussians import Camera

SHAPE_KINDS = ("box", "ball", "can", "cone")
CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
NEAR_M = 0.01


def _waves(phase: np.ndarray, across: np.ndarray) -> np.ndarray:
    return 0.5 + 0.25 * np.sin(phase) + 0.25 * np.sin(across + 1.0)


def _stripes(phase: np.ndarray, across: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(5 * np.sin(phase))


def _checks(phase: np.ndarray, across: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(8 * np.sin(phase) * np.sin(across))


def _lines(phase: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Thin lines on a ground that changes from one strip to the next, as boards do."""
    strip = 0.35 * (np.sin(np.floor(phase / np.pi) * 12.9898) * 0.5 + 0.5)
    return np.where(np.abs(np.sin(phase)) < 0.12, 1.0, strip)


def _spots(phase: np.ndarray, across: np.ndarray) -> np.ndarray:
    return (np.sin(phase) + np.sin(across) > 1.1).astype(np.float64)


# Share of the second colour, 0..1, of the angles (rad) along two directions of a surface.
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "waves": _waves,
    "stripes": _stripes,
    "checks": _checks,
    "lines": _lines,
    "spots": _spots,
}


@dataclass(frozen=True)
class Light:
    """One far lamp: unit ``direction`` (3,) towards it, share ``ambient`` of light from everywhere, its ``colour`` (3,)."""

    direction: np.ndarray = field(
        default_factory=lambda: np.array([0.35, 0.25, 0.9]) / np.linalg.norm([0.35, 0.25, 0.9])
    )
    ambient: float = 0.45
    colour: np.ndarray = field(default_factory=lambda: np.ones(3))


@dataclass(frozen=True)
class Shape:
    """A convex body: ``kind`` at ``centre`` (3,), with half extents ``half`` (3,) m, turned about z by ``yaw`` rad.

    Its surface shows a ``pattern`` along ``wave`` (3,) rad per half extent between the two ``colours`` (2, 3), 0..1.
    hollow: it is seen from inside, like a room.
    """

    kind: str
    centre: np.ndarray
    half: np.ndarray
    yaw: float
    colours: np.ndarray
    wave: np.ndarray
    pattern: str = "waves"
    hollow: bool = False

    @property
    def radius(self) -> float:
        """Of a sphere around the centre that holds the body."""
        return float(np.linalg.norm(self.half))

    @property
    def rotation(self) -> np.ndarray:
        return Rotation.from_euler("z", self.yaw).as_matrix()


def cast(
    shapes: Sequence[Shape], camera: Camera, light: Light | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What every pixel's ray meets first: depth float64 (H, W) m (inf: nothing), index of the shape int32 (H, W)
    (-1: nothing), colour (H, W, 3), 0..1."""
    light = light or Light()
    v, u = np.mgrid[0 : camera.height, 0 : camera.width].astype(np.float64)
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)
    rays = rays @ camera.T_world_camera[:3, :3].T  # of z-length 1: how far along a ray is depth
    depth = np.full(u.shape, np.inf)
    index = np.full(u.shape, -1, np.int32)
    rgb = np.zeros((*u.shape, 3))
    for key, shape in enumerate(shapes):
        window = np.s_[:, :] if shape.hollow else _window(shape, camera)
        if window is None:
            continue
        eye, seen = camera.T_world_camera[:3, 3], rays[window]
        distance = _distance(shape, eye, seen)
        nearer = distance < depth[window]
        if not nearer.any():
            continue
        distance = distance[nearer]
        depth[window][nearer] = distance
        index[window][nearer] = key
        rgb[window][nearer] = _shaded(shape, *_surface(shape, eye, seen[nearer], distance), light)
    return depth, index, rgb


def unit_wave(rng: np.random.Generator, strength: float) -> np.ndarray:
    """A random direction (3,) of this length."""
    direction = rng.normal(size=3)
    return strength * direction / np.linalg.norm(direction)


def looking(forward: np.ndarray) -> np.ndarray:
    """Rotation camera-to-world (3, 3), optical axes, of a camera that looks along ``forward`` with z up."""
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def _window(shape: Shape, camera: Camera) -> tuple[slice, slice] | None:
    """Rows and columns of the image in which a shape may be seen; None when it cannot."""
    corners = shape.centre + (CORNERS * shape.half) @ shape.rotation.T
    x, y, z = ((corners - camera.T_world_camera[:3, 3]) @ camera.T_world_camera[:3, :3]).T
    if (z <= 0).all():
        return None
    if (z <= NEAR_M).any():  # around the camera
        return np.s_[:, :]
    bounds = []
    for place, focal, centre, size in (
        (y, camera.fy, camera.cy, camera.height),
        (x, camera.fx, camera.cx, camera.width),
    ):
        ends = focal * place / z + centre
        low, high = max(0, int(np.floor(ends.min()))), min(size, int(np.ceil(ends.max())) + 1)
        if low >= high:
            return None
        bounds.append(slice(low, high))
    return bounds[0], bounds[1]


def _distance(shape: Shape, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Where rays (..., 3) first meet a body, or leave a hollow one: distance in rays, inf: never."""
    start, along = _local(shape, origin, rays)
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = {"box": _box, "ball": _ball, "can": _can, "cone": _cone}[shape.kind](start, along)
        distance = np.where((near < far) & (far > 0), far if shape.hollow else near, np.inf)
    return np.where(distance > 0, distance, np.inf)


def _surface(shape: Shape, origin: np.ndarray, rays: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays (M, 3) meet a body at ``distance`` (M,): the normal towards the viewer in the world, and the place in
    units of the half extents, both (M, 3)."""
    start, along = _local(shape, origin, rays)
    local = start + distance[:, None] * along
    normal = _normal(shape.kind, local) / shape.half @ shape.rotation.T
    normal /= np.maximum(np.sqrt(_sum(normal**2)), 1e-12)[:, None]
    return -normal if shape.hollow else normal, local


def _local(shape: Shape, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin (3,) and rays (..., 3) in units of the half extents."""
    rotation = shape.rotation
    return (origin - shape.centre) @ rotation / shape.half, rays @ rotation / shape.half


def _sum(values: np.ndarray) -> np.ndarray:
    """Over the last axis, which is short: numpy is slow at that."""
    total = values[..., 0]
    for column in range(1, values.shape[-1]):
        total = total + values[..., column]
    return total


Interval = tuple[np.ndarray, np.ndarray]


def _slab(start: np.ndarray, along: np.ndarray) -> Interval:
    """Where the coordinates (..., k) of rays are all within -1..1."""
    nears, fars = [], []
    for column in range(along.shape[-1]):
        first, second = (-1 - start[column]) / along[..., column], (1 - start[column]) / along[..., column]
        nears.append(np.minimum(first, second))
        fars.append(np.maximum(first, second))
    return functools.reduce(np.maximum, nears), functools.reduce(np.minimum, fars)


def _quadratic(a: np.ndarray, b: np.ndarray, c: np.ndarray | float) -> Interval:
    """Where a t^2 + 2 b t + c <= 0, for a > 0; an empty interval is (inf, -inf)."""
    root = b * b - a * c
    width = np.sqrt(np.maximum(root, 0))
    return np.where(root > 0, (-b - width) / a, np.inf), np.where(root > 0, (-b + width) / a, -np.inf)


def _both(first: Interval, second: Interval) -> Interval:
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


def _box(start: np.ndarray, along: np.ndarray) -> Interval:
    return _slab(start, along)


def _ball(start: np.ndarray, along: np.ndarray) -> Interval:
    return _quadratic(_sum(along**2), _sum(along * start), float(start @ start) - 1)


def _can(start: np.ndarray, along: np.ndarray) -> Interval:
    x, y = along[..., 0], along[..., 1]
    around = _quadratic(x * x + y * y, x * start[0] + y * start[1], start[0] ** 2 + start[1] ** 2 - 1)
    return _both(around, _slab(start[2:], along[..., 2:]))


def _cone(start: np.ndarray, along: np.ndarray) -> Interval:
    """x^2 + y^2 <= ((1 - z) / 2)^2 below the tip at z = 1."""
    x, y, z = along[..., 0], along[..., 1], along[..., 2]
    drop = 1 - start[2]
    a = x * x + y * y - z * z / 4
    b = x * start[0] + y * start[1] + z * drop / 4
    c = start[0] ** 2 + start[1] ** 2 - drop**2 / 4
    root = b * b - a * c
    width = np.sqrt(np.maximum(root, 0))
    first, second = (-b - width) / a, (-b + width) / a
    low, high = np.minimum(first, second), np.maximum(first, second)
    # a < 0: the ray is inside the double cone up to `low` and from `high` on; only one of the parts lies below the tip
    later = start[2] + high * z < 1
    slab = _slab(start[2:], along[..., 2:])
    steep = _both((np.where(later, high, -np.inf), np.where(later, np.inf, low)), slab)
    flat = _both((low, high), slab)
    near, far = (np.where(a > 0, one, other) for one, other in zip(flat, steep, strict=True))
    missed = root <= 0
    return np.where(missed, np.inf, near), np.where(missed, -np.inf, far)


def _normal(kind: str, local: np.ndarray) -> np.ndarray:
    """Outward normals, of any length, of points on the unit body, (..., 3), in its own units."""
    if kind == "ball":
        return local
    if kind == "box":
        axis = np.abs(local).argmax(axis=-1)[..., None]
        return np.take_along_axis(np.sign(local), axis, -1) * (np.arange(3) == axis)
    x, y, z = local[..., 0], local[..., 1], local[..., 2]
    if kind == "can":
        lid = (np.abs(z) >= np.hypot(x, y))[..., None]
        return np.where(lid, np.stack([0 * x, 0 * y, np.sign(z)], -1), np.stack([x, y, 0 * z], -1))
    bottom = (z < -1 + 1e-6)[..., None]
    return np.where(bottom, np.stack([0 * x, 0 * y, z], -1), np.stack([x, y, (1 - z) / 4], -1))


def _shaded(shape: Shape, normal: np.ndarray, local: np.ndarray, light: Light) -> np.ndarray:
    """Colour (M, 3), 0..1, of points with a matt surface."""
    share = PATTERNS[shape.pattern](local @ shape.wave, local @ np.roll(shape.wave, 1) * 0.7)[:, None]
    colour = shape.colours[0] + share * (shape.colours[1] - shape.colours[0])
    shade = light.ambient + (1 - light.ambient) * np.maximum(normal @ light.direction, 0.0)
    return np.clip(colour * shade[:, None] * light.colour, 0, 1)
