"""Convex bodies with matt textures, and what a camera sees of them: rays are intersected in closed form.

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
    """What every pixel's ray meets first: depth float32 (H, W) m (inf: nothing), index of the shape int32 (H, W)
    (-1: nothing), colour float32 (H, W, 3), 0..1."""
    light = light or Light()
    x = ((np.arange(camera.width) - camera.cx) / camera.fx).astype(np.float32)
    y = ((np.arange(camera.height) - camera.cy) / camera.fy).astype(np.float32)[:, None]
    depth = np.full((camera.height, camera.width), np.inf, np.float32)
    index = np.full(depth.shape, -1, np.int32)
    seen: dict[int, tuple[_Rays, tuple[slice, slice]]] = {}
    for key, shape in enumerate(shapes):
        window = np.s_[:, :] if shape.hollow else _window(shape, camera)
        if window is None:
            continue
        rays = _Rays.of(shape, camera, x[window[1]], y[window[0]])
        distance = _distance(shape, rays)
        nearer = distance < depth[window]
        if nearer.any():
            np.copyto(depth[window], distance, where=nearer)
            np.copyto(index[window], key, where=nearer)
            seen[key] = rays, window
    rgb = np.zeros((*depth.shape, 3), np.float32)
    for key, (rays, window) in seen.items():  # only what is seen in the end gets its colour
        here = index[window] == key
        if here.any():
            normal, local = _surface(shapes[key], rays.where(here), depth[window][here])
            rgb[window][here] = _shaded(shapes[key], normal, local, light)
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


@dataclass(frozen=True)
class _Rays:
    """Rays of z-length 1, so that how far along one is depth, in units of a shape's half extents: ``start`` the camera's
    centre, three numbers; ``along`` three float32 arrays of one shape."""

    start: tuple[float, float, float]
    along: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, shape: Shape, camera: Camera, x: np.ndarray, y: np.ndarray) -> _Rays:
        """x (w,), y (h, 1): pixels in the plane at depth 1."""
        turn, pose = shape.rotation / shape.half, camera.T_world_camera  # world to local, for rows
        start = (pose[:3, 3] - shape.centre) @ turn
        axes = (pose[:3, :3].T @ turn).T.tolist()
        along = [x * right + (y * down + ahead) for right, down, ahead in axes]
        return cls(tuple(start.tolist()), tuple(along))

    def where(self, chosen: np.ndarray) -> _Rays:
        x, y, z = self.along
        return _Rays(self.start, (x[chosen], y[chosen], z[chosen]))


def _distance(shape: Shape, rays: _Rays) -> np.ndarray:
    """Where rays first meet a body, or leave a hollow one: distance in rays, inf: never."""
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = {"box": _box, "ball": _ball, "can": _can, "cone": _cone}[shape.kind](rays)
        distance = far if shape.hollow else near
        return np.where((near < far) & (distance > 0), distance, np.float32(np.inf))


def _surface(shape: Shape, rays: _Rays, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where M rays meet a body at ``distance`` (M,): the normal towards the viewer in the world, and the place in units
    of the half extents, both (M, 3)."""
    local = [start + distance * along for start, along in zip(rays.start, rays.along, strict=True)]
    normal = np.stack(_normal(shape.kind, *local), axis=-1)
    normal = normal @ (shape.rotation / shape.half).T.astype(normal.dtype)
    normal /= np.maximum(np.sqrt(np.einsum("mi,mi->m", normal, normal)), 1e-12)[:, None]
    return -normal if shape.hollow else normal, np.stack(local, axis=-1)


Interval = tuple[np.ndarray, np.ndarray]


def _slab(start: Sequence[float], along: Sequence[np.ndarray]) -> Interval:
    """Where the coordinates of rays are all within -1..1."""
    nears, fars = [], []
    for from_, way in zip(start, along, strict=True):
        reach = 1 / way
        middle, half = reach * -from_, np.abs(reach)
        nears.append(middle - half)
        fars.append(middle + half)
    return functools.reduce(np.maximum, nears), functools.reduce(np.minimum, fars)


def _quadratic(a: np.ndarray, b: np.ndarray, c: np.ndarray | float) -> Interval:
    """Where a t^2 + 2 b t + c <= 0, for a > 0; an empty interval is (inf, -inf)."""
    root = b * b - a * c
    width = np.sqrt(np.maximum(root, 0))
    return np.where(root > 0, (-b - width) / a, np.inf), np.where(root > 0, (-b + width) / a, -np.inf)


def _both(first: Interval, second: Interval) -> Interval:
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


def _box(rays: _Rays) -> Interval:
    return _slab(rays.start, rays.along)


def _ball(rays: _Rays) -> Interval:
    (x, y, z), (u, v, w) = rays.start, rays.along
    return _quadratic(u * u + v * v + w * w, u * x + v * y + w * z, x * x + y * y + z * z - 1)


def _can(rays: _Rays) -> Interval:
    (x, y, z), (u, v, w) = rays.start, rays.along
    around = _quadratic(u * u + v * v, u * x + v * y, x * x + y * y - 1)
    return _both(around, _slab([z], [w]))


def _cone(rays: _Rays) -> Interval:
    """x^2 + y^2 <= ((1 - z) / 2)^2 below the tip at z = 1."""
    (x, y, z), (u, v, w) = rays.start, rays.along
    drop = 1 - z
    a = u * u + v * v - w * w / 4
    b = u * x + v * y + w * (drop / 4)
    c = x * x + y * y - drop**2 / 4
    root = b * b - a * c
    width = np.sqrt(np.maximum(root, 0))
    first, second = (-b - width) / a, (-b + width) / a
    low, high = np.minimum(first, second), np.maximum(first, second)
    # a < 0: the ray is inside the double cone up to `low` and from `high` on; only one of the parts lies below the tip
    later = z + high * w < 1
    slab = _slab([z], [w])
    steep = _both((np.where(later, high, -np.inf), np.where(later, np.inf, low)), slab)
    flat = _both((low, high), slab)
    near, far = (np.where(a > 0, one, other) for one, other in zip(flat, steep, strict=True))
    missed = root <= 0
    return np.where(missed, np.inf, near), np.where(missed, -np.inf, far)


def _normal(kind: str, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outward normals, of any length, of points on the unit body, in its own units."""
    if kind == "ball":
        return x, y, z
    if kind == "box":
        wide, deep, tall = np.abs(x), np.abs(y), np.abs(z)
        first = (wide >= deep) & (wide >= tall)
        second = ~first & (deep >= tall)
        return np.sign(x) * first, np.sign(y) * second, np.sign(z) * ~(first | second)
    if kind == "can":
        lid = np.abs(z) >= np.hypot(x, y)
        return x * ~lid, y * ~lid, np.sign(z) * lid
    bottom = z < -1 + 1e-6
    return x * ~bottom, y * ~bottom, np.where(bottom, z, (1 - z) / 4)


def _shaded(shape: Shape, normal: np.ndarray, local: np.ndarray, light: Light) -> np.ndarray:
    """Colour (M, 3), 0..1, of points with a matt surface."""
    wave, across = (vector.astype(np.float32) for vector in (shape.wave, np.roll(shape.wave, 1) * 0.7))
    share = PATTERNS[shape.pattern](local @ wave, local @ across)[:, None].astype(np.float32)
    first, second = shape.colours.astype(np.float32)
    lit = np.maximum(normal @ light.direction.astype(np.float32), 0)
    shade = light.ambient + (1 - light.ambient) * lit
    return np.clip((first + share * (second - first)) * shade[:, None] * light.colour.astype(np.float32), 0, 1)
