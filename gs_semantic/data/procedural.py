"""Scenes made in code, with exact depth, instances and classes: many small objects on the floor of a room.

They are like the Messy Rooms data set (25, 50, 100 or 500 objects; Bhalgat et al., Contrastive Lift, NeurIPS 2023) in
what they ask: tell apart many objects that look alike, from masks whose ids mean nothing. Everything follows from the
number of objects and a seed. Rays are intersected with the shapes exactly; nothing is downloaded or read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from gs_semantic.data.sequence import FrameSequence, InstanceRecord
from gs_semantic.data.shapes import Shape, cast, looking, unit_wave
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
MAX_OBJECTS = 60_000  # ids have to fit 16 bits


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
            objects.append(Shape(kind, centre, half, rng.uniform(0, 2 * np.pi), _colours(rng), unit_wave(rng, 5.0)))
        height = _eyes(reach)[1] + ABOVE_M
        middle = np.array([0.0, 0.0, height / 2])
        walls = np.array([reach + WALLS_M, reach + WALLS_M, height / 2])
        pale = np.array([[0.55, 0.5, 0.45], [0.75, 0.72, 0.66]])
        room = Shape("box", middle, walls, 0.0, pale, unit_wave(rng, 12.0) * walls, hollow=True)
        return cls(room, tuple(objects))

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
            pose[:3, :3], pose[:3, 3] = looking(target - eye), eye
            focal = 0.8 * width
            cameras.append(Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2, pose))
        return cameras

    @property
    def labels(self) -> LabelSet:
        return LabelSet({0: "void", BACKGROUND: "background"} | {key: name for name, key in KINDS.items()})

    @property
    def instances(self) -> dict[int, InstanceRecord]:
        return {
            key: InstanceRecord(f"{shape.kind} {key}", KINDS[shape.kind]) for key, shape in enumerate(self.objects, 1)
        }

    @property
    def classes(self) -> np.ndarray:
        return np.array([BACKGROUND, *(KINDS[shape.kind] for shape in self.objects)], np.int32)

    def cast(self, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What every pixel's ray meets: depth float32 (H, W) m, id int32 (H, W), 0 = the room, colour (H, W, 3), 0..1."""
        there = self.present
        depth, index, rgb = cast((self.room, *there.values()), camera)
        return depth, np.array([0, *there], np.int32)[np.maximum(index, 0)], rgb


class ProceduralScene(Protocol):
    """A scene whose views can be cast. ``classes`` int32 (I,): class of every id that ``cast`` gives."""

    @property
    def labels(self) -> LabelSet: ...

    @property
    def instances(self) -> dict[int, InstanceRecord]: ...

    @property
    def classes(self) -> np.ndarray: ...

    def cast(self, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


class ProceduralSequence(FrameSequence):
    """Views of a scene made in code, as a recorded sequence. Colour is the mean of 2 x 2 rays per pixel."""

    format = "procedural"
    has_depth = has_instances = has_semantic = True

    def __init__(self, scene: ProceduralScene, cameras: list[Camera], **options: Any) -> None:
        super().__init__("procedural scene", **options)
        self.scene, self._cameras = scene, cameras
        self.poses = np.stack([camera.T_world_camera for camera in cameras])
        self.labels, self.instances = scene.labels, scene.instances
        self._cast = lru_cache(maxsize=1)(lambda index: self.scene_at(index).cast(cameras[index]))

    def scene_at(self, index: int) -> ProceduralScene:
        """The scene as it is in a frame."""
        return self.scene

    def _camera(self, index: int) -> Camera:
        return self._cameras[index]

    def _semantic(self, index: int) -> np.ndarray:
        return self.scene.classes[self._cast(index)[1]]

    def _read(self, index: int) -> Frame:
        camera = self._cameras[index]
        depth, ids, _ = self._cast(index)
        fine = self.scene_at(index).cast(camera.resized(2 * camera.width, 2 * camera.height))[2]
        rgb = fine.reshape(camera.height, 2, camera.width, 2, 3).mean(axis=(1, 3))
        return Frame(
            self.stamp_ns(index),
            camera,
            np.round(rgb * 255).astype(np.uint8),
            depth,
            ids,
            self._masks(ids, None),
        )


class ChangingSequence(ProceduralSequence):
    """A sequence in which the scene changes: from frame ``starts[i]`` on, it is ``scenes[i]``; all have the same objects."""

    def __init__(self, scenes: Mapping[int, ObjectScene], cameras: list[Camera], **options: Any) -> None:
        if 0 not in scenes:
            raise InvalidRequestError("scenes: one must begin at frame 0")
        self.scenes = dict(sorted(scenes.items()))
        super().__init__(self.scenes[0], cameras, **options)

    def scene_at(self, index: int) -> ObjectScene:
        return self.scenes[max(start for start in self.scenes if start <= index)]


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
