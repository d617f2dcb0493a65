"""Scenes made in code, with exact depth, instances and classes: many small objects on the floor of a room.

They are like the Messy Rooms data set (25, 50, 100 or 500 objects; Bhalgat et al., Contrastive Lift, NeurIPS 2023) in
what they ask: tell apart many objects that look alike, from masks whose ids mean nothing. Everything follows from the
number of objects and a seed. Rays are intersected with the shapes exactly; nothing is downloaded or read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from gs_semantic.data.sequence import FrameSequence, InstanceRecord
from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera, Frame
from gs_semantic.labels import LabelSet

BACKGROUND = 1
KINDS = {"box": 2, "ball": 3, "can": 4, "cone": 5}  # class ids
SPACING_M = 0.34  # side of the square of floor that an object has for itself
HALF_M = (0.04, 0.11)  # half of an object's extents
WALLS_M = 1.5  # from the outermost object to the walls
EYES_M = (0.7, 1.5)  # heights of the camera before up to 25 objects; with more it looks from higher up
HIGHEST = 1.5  # times these at most
AHEAD = 2.2  # the camera looks at the floor this many of its heights away, at most across the middle
ABOVE_M = 1.0  # from the highest view to the ceiling
LIGHT = np.array([0.35, 0.25, 0.9]) / np.linalg.norm([0.35, 0.25, 0.9])
AMBIENT = 0.45
MAX_OBJECTS = 60_000  # ids have to fit 16 bits


@dataclass(frozen=True)
class Shape:
    """A convex body: ``kind`` at ``centre`` (3,), with half extents ``half`` (3,) m, turned about z by ``yaw`` rad.

    Its surface shows waves of ``wave`` (3,) rad per half extent between the two ``colours`` (2, 3), 0..1.
    """

    kind: str
    centre: np.ndarray
    half: np.ndarray
    yaw: float
    colours: np.ndarray
    wave: np.ndarray

    @property
    def radius(self) -> float:
        """Of a sphere around the centre that holds the body."""
        return float(np.linalg.norm(self.half))

    @property
    def rotation(self) -> np.ndarray:
        return Rotation.from_euler("z", self.yaw).as_matrix()


@dataclass(frozen=True)
class ObjectScene:
    """A room (the inside of a box) and the objects in it; object ``i`` of the tuple has the id ``i + 1``.

    absent: ids of objects that are not there.
    """

    room: Shape
    objects: tuple[Shape, ...]
    absent: frozenset[int] = frozenset()

    @property
    def present(self) -> dict[int, Shape]:
        """The objects that are there, by id."""
        return {key: shape for key, shape in enumerate(self.objects, 1) if key not in self.absent}

    def changed(
        self,
        moved: Mapping[int, tuple[np.ndarray, float]] | None = None,
        removed: Collection[int] = (),
        added: Collection[int] = (),
    ) -> ObjectScene:
        """The scene after some objects were moved (id -> new place (2,) on the floor, turn in rad), taken away, or brought.

        InvalidRequestError for ids that are not in the scene.
        """
        moved = moved or {}
        unknown = {*moved, *removed, *added} - set(range(1, len(self.objects) + 1))
        if unknown:
            raise InvalidRequestError(f"object {min(unknown)}: the scene has objects 1 to {len(self.objects)}")
        objects = list(self.objects)
        for key, (place, turn) in moved.items():
            shape = objects[key - 1]
            centre = np.array([*np.asarray(place, float), shape.centre[2]])
            objects[key - 1] = replace(shape, centre=centre, yaw=shape.yaw + turn)
        return replace(self, objects=tuple(objects), absent=(self.absent | frozenset(removed)) - frozenset(added))

    @classmethod
    def make(cls, count: int, seed: int = 0) -> ObjectScene:
        """``count`` objects that stand on the floor (z = 0) without touching, at random. InvalidRequestError: too many."""
        if not 1 <= count <= MAX_OBJECTS:
            raise InvalidRequestError(f"{count} objects: expected 1 to {MAX_OBJECTS}")
        rng = np.random.default_rng((seed, count))
        reach = _reach(count)
        objects = []
        cells = int(np.ceil(np.sqrt(count)))  # a grid with as many on a side; each object stays in its own cell
        for cell in rng.permutation(cells * cells)[:count]:
            kind = str(rng.choice(list(KINDS)))
            half = rng.uniform(*HALF_M, 3)
            if kind in ("can", "cone"):
                half[1] = half[0]
            slack = SPACING_M - 2 * np.hypot(half[0], half[1])
            place = (np.array(divmod(int(cell), cells)) + 0.5 - cells / 2) * SPACING_M + rng.uniform(
                -0.5, 0.5, 2
            ) * slack
            centre = np.array([*place, half[2]])
            objects.append(Shape(kind, centre, half, rng.uniform(0, 2 * np.pi), _colours(rng), _wave(rng, 5.0)))
        height = _eyes(reach)[1] + ABOVE_M
        middle = np.array([0.0, 0.0, height / 2])
        walls = np.array([reach + WALLS_M, reach + WALLS_M, height / 2])
        pale = np.array([[0.55, 0.5, 0.45], [0.75, 0.72, 0.66]])
        return cls(Shape("box", middle, walls, 0.0, pale, _wave(rng, 12.0) * walls), tuple(objects))

    def cameras(self, count: int, size: tuple[int, int], phase: float = 0.0) -> list[Camera]:
        """A walk among the objects: it circles at changing distance and height, and looks at the floor ahead.

        ``phase`` shifts the views along the walk, in steps. Focal length: 0.8 of the width.
        """
        width, height = size
        reach = _reach(len(self.objects))
        cameras = []
        for step in np.arange(count) + phase:
            turn = 2 * np.pi * step / count
            low, high = _eyes(reach)
            distance = reach * (0.7 + 0.4 * np.cos(3 * turn)) + 0.4
            eye = np.array([np.cos(turn), np.sin(turn), 0.0]) * distance
            eye[2] = low + (high - low) * (0.5 + 0.5 * np.sin(5 * turn))
            ahead = turn + 0.7 * np.sin(4 * turn)
            far = min(distance + 0.35 * reach, AHEAD * eye[2])
            target = eye * [1.0, 1.0, 0.0] - far * np.array([np.cos(ahead), np.sin(ahead), 0.0])
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = _looking(target - eye), eye
            focal = 0.8 * width
            cameras.append(Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2, pose))
        return cameras

    def cast(self, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What every pixel's ray meets: depth float64 (H, W) m, id int32 (H, W), 0 = the room, colour (H, W, 3), 0..1."""
        v, u = np.mgrid[0 : camera.height, 0 : camera.width].astype(np.float64)
        rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)
        rays = rays @ camera.T_world_camera[:3, :3].T  # of z-length 1: how far along a ray is depth
        depth = np.full(u.shape, np.inf)
        ids = np.zeros(u.shape, np.int32)
        rgb = np.zeros((*u.shape, 3))
        for key, shape in ({0: self.room} | self.present).items():
            window = np.s_[:, :] if key == 0 else _window(shape, camera)
            if window is None:
                continue
            distance, normal, local = _hit(shape, camera.T_world_camera[:3, 3], rays[window], inside=key == 0)
            nearer = distance < depth[window]
            if not nearer.any():
                continue
            depth[window][nearer] = distance[nearer]
            ids[window][nearer] = key
            rgb[window][nearer] = _shaded(shape, normal[nearer], local[nearer])
        return depth, ids, rgb


class ObjectSequence(FrameSequence):
    """Views of a scene of objects, as a recorded sequence. Colour is the mean of 2 x 2 rays per pixel."""

    format = "procedural"
    has_depth = has_instances = has_semantic = True

    def __init__(self, scene: ObjectScene, cameras: list[Camera], **options: Any) -> None:
        super().__init__("procedural scene", **options)
        self.scene, self._cameras = scene, cameras
        self.poses = np.stack([camera.T_world_camera for camera in cameras])
        self.labels = LabelSet({0: "void", BACKGROUND: "background"} | {key: name for name, key in KINDS.items()})
        self.instances = {
            key: InstanceRecord(f"{shape.kind} {key}", KINDS[shape.kind]) for key, shape in enumerate(scene.objects, 1)
        }
        self._classes = np.array([BACKGROUND, *(KINDS[shape.kind] for shape in scene.objects)], np.int32)

    def _camera(self, index: int) -> Camera:
        return self._cameras[index]

    def _semantic(self, index: int) -> np.ndarray:
        return self._classes[self.scene.cast(self._cameras[index])[1]]

    def _read(self, index: int) -> Frame:
        camera = self._cameras[index]
        depth, ids, _ = self.scene.cast(camera)
        fine = self.scene.cast(camera.resized(2 * camera.width, 2 * camera.height))[2]
        rgb = fine.reshape(camera.height, 2, camera.width, 2, 3).mean(axis=(1, 3))
        return Frame(
            self.stamp_ns(index),
            camera,
            np.round(rgb * 255).astype(np.uint8),
            depth.astype(np.float32),
            ids,
            self._masks(ids, None),
        )


class ChangingSequence(ObjectSequence):
    """A sequence in which the scene changes: from frame ``starts[i]`` on, it is ``scenes[i]``; all have the same objects."""

    def __init__(self, scenes: Mapping[int, ObjectScene], cameras: list[Camera], **options: Any) -> None:
        if 0 not in scenes:
            raise InvalidRequestError("scenes: one must begin at frame 0")
        self.scenes = dict(sorted(scenes.items()))
        super().__init__(self.scenes[0], cameras, **options)

    def scene_at(self, index: int) -> ObjectScene:
        """The scene as it is in a frame."""
        return self.scenes[max(start for start in self.scenes if start <= index)]

    def _semantic(self, index: int) -> np.ndarray:
        self.scene = self.scene_at(index)
        return super()._semantic(index)

    def _read(self, index: int) -> Frame:
        self.scene = self.scene_at(index)
        return super()._read(index)


def _reach(count: int) -> float:
    """From the middle of the floor to the outermost objects, m."""
    return SPACING_M * float(np.ceil(np.sqrt(count))) / 2


def _eyes(reach: float) -> tuple[float, float]:
    """Lowest and highest view, m."""
    scale = float(np.clip(np.sqrt(reach / _reach(25)), 1.0, HIGHEST))
    return EYES_M[0] * scale, EYES_M[1] * scale


def _colours(rng: np.random.Generator) -> np.ndarray:
    first = rng.uniform(0.1, 0.95, 3)
    return np.stack([first, np.clip(first + rng.uniform(-0.35, 0.35, 3), 0.05, 0.98)])


def _wave(rng: np.random.Generator, strength: float) -> np.ndarray:
    direction = rng.normal(size=3)
    return strength * direction / np.linalg.norm(direction)


def _looking(forward: np.ndarray) -> np.ndarray:
    """Rotation camera-to-world (3, 3), optical axes, of a camera that looks along ``forward`` with z up."""
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def _window(shape: Shape, camera: Camera) -> tuple[slice, slice] | None:
    """Rows and columns of the image in which a shape may be seen; None when it cannot."""
    x, y, z = (shape.centre - camera.T_world_camera[:3, 3]) @ camera.T_world_camera[:3, :3]
    radius = shape.radius
    if z <= -radius:
        return None
    if z <= 1.2 * radius:  # around the camera
        return np.s_[:, :]
    bounds = []
    for place, focal, centre, size in (
        (y, camera.fy, camera.cy, camera.height),
        (x, camera.fx, camera.cx, camera.width),
    ):
        ends = [(place + sign * radius) / (z + other * radius) for sign in (-1, 1) for other in (-1, 1)]
        low, high = focal * min(ends) + centre, focal * max(ends) + centre
        low, high = max(0, int(np.floor(low))), min(size, int(np.ceil(high)) + 1)
        if low >= high:
            return None
        bounds.append(slice(low, high))
    return bounds[0], bounds[1]


def _hit(shape: Shape, origin: np.ndarray, rays: np.ndarray, inside: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays (..., 3) first meet a body, or with ``inside`` leave it: distance in rays (inf: never), the normal
    towards the viewer in the world, and the place in units of the half extents, both (..., 3)."""
    rotation = shape.rotation
    start = (origin - shape.centre) @ rotation / shape.half
    along = rays @ rotation / shape.half
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = {"box": _box, "ball": _ball, "can": _can, "cone": _cone}[shape.kind](start, along)
        distance = np.where((near < far) & (far > 0), far if inside else near, np.inf)
    distance = np.where(distance > 0, distance, np.inf)
    local = start + np.where(np.isfinite(distance), distance, 0.0)[..., None] * along
    normal = _normal(shape.kind, local) / shape.half @ rotation.T
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    return distance, -normal if inside else normal, local


Interval = tuple[np.ndarray, np.ndarray]


def _slab(start: np.ndarray, along: np.ndarray) -> Interval:
    """Where the coordinates (..., k) of rays are all within -1..1."""
    first, second = (-1 - start) / along, (1 - start) / along
    return np.minimum(first, second).max(axis=-1), np.maximum(first, second).min(axis=-1)


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
    return _quadratic((along**2).sum(-1), (along * start).sum(-1), float(start @ start) - 1)


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


def _shaded(shape: Shape, normal: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Colour (M, 3), 0..1, of points with a matt surface: two waves across each other between two colours."""
    phase = local @ shape.wave
    across = local @ np.roll(shape.wave, 1) * 0.7
    share = (0.5 + 0.25 * np.sin(phase) + 0.25 * np.sin(across + 1.0))[:, None]
    colour = shape.colours[0] + share * (shape.colours[1] - shape.colours[0])
    light = AMBIENT + (1 - AMBIENT) * np.maximum(normal @ LIGHT, 0.0)
    return np.clip(colour * light[:, None], 0, 1)
