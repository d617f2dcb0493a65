"""Endless furnished rooms, made in code: classes, instances, exact depth, camera paths; for methods that generalise.

A room follows from its split and its seed. What is drawn for one split never occurs in another: layouts have streams of
random numbers of their own, and every piece of furniture and every texture has a number, whose remainder modulo three
is the split's. So the rooms of the test split have other layouts, other objects and other textures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gs_semantic.data.furniture import BUILDERS, Piece
from gs_semantic.data.sequence import InstanceRecord
from gs_semantic.data.shapes import Light, Shape, cast, looking
from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera
from gs_semantic.labels import LabelSet

SPLITS = ("train", "validation", "test")
CLASSES = (
    "void", "wall", "floor", "ceiling", "door", "window", "curtain", "picture", "rug", "table", "chair", "sofa", "bed",
    "cabinet", "shelf", "lamp", "tv", "trash_can", "plant", "vase",
)  # fmt: skip
TEST_SEEDS = tuple(range(9000, 9020))  # the rooms of the test split that published scores are of
VALIDATION_SEEDS = tuple(range(5000, 5008))
SURFACES = ("wall", "floor", "ceiling")  # instances 1, 2, 3
DESIGNS, TEXTURES = 100_000, 1_000_000  # numbers of pieces of furniture, per class, and of textures
LAYOUT_STREAM, DESIGN_STREAM, TEXTURE_STREAM, PATH_STREAM = 11, 12, 13, 14
TRIES = 30
WALL_M = 0.1  # thickness
MARGIN_M = 0.45  # cameras keep away from walls
CLEARANCE_M = 0.25  # and from furniture
KINDS = {"bin": "trash_can", "pendant": "lamp"}  # builders whose class has another name
TEXTURES_EACH = 4  # textures of a piece


@dataclass(frozen=True)
class Texture:
    """colours (2, 3), 0..1; pattern of ``shapes.PATTERNS``; wave (3,) rad per metre."""

    colours: np.ndarray
    pattern: str
    wave: np.ndarray


# Colours that a material tends to: mean, how far from it at random, and patterns; others are of any colour.
TENDENCIES: dict[tuple[str, int], tuple[tuple[float, float, float], float, tuple[str, ...]]] = {
    ("wall", 0): ((0.75, 0.72, 0.66), 0.25, ("waves", "waves", "stripes")),
    ("floor", 0): ((0.5, 0.38, 0.27), 0.25, ("lines", "lines", "checks", "waves")),
    ("ceiling", 0): ((0.88, 0.87, 0.85), 0.1, ("waves",)),
    ("window", 1): ((0.75, 0.87, 0.97), 0.12, ("waves",)),
    ("plant", 2): ((0.2, 0.45, 0.15), 0.15, ("waves", "spots")),
    ("tv", 0): ((0.08, 0.08, 0.09), 0.07, ("waves",)),
    ("tv", 1): ((0.1, 0.12, 0.18), 0.12, ("waves",)),
    ("door", 0): ((0.6, 0.45, 0.32), 0.3, ("waves", "lines")),
    ("lamp", 1): ((0.93, 0.88, 0.72), 0.1, ("waves",)),
    ("bed", 1): ((0.88, 0.87, 0.86), 0.12, ("waves",)),
}


@dataclass(frozen=True)
class Placed:
    """A piece in the room: place (3,) m of its origin, yaw rad about z, and its textures by material."""

    piece: Piece
    place: np.ndarray
    yaw: float
    textures: tuple[Texture, ...]

    @property
    def class_id(self) -> int:
        return CLASSES.index(self.piece.kind)

    def shapes(self) -> list[Shape]:
        turn = _turn(self.yaw)
        shapes = []
        for part in self.piece.parts:
            texture, half = self.textures[part.material % len(self.textures)], np.array(part.half)
            centre = self.place + turn @ np.array(part.centre)
            shapes.append(
                Shape(
                    part.kind, centre, half, self.yaw + part.yaw, texture.colours, texture.wave * half, texture.pattern
                )
            )
        return shapes

    def footprint(self) -> np.ndarray:
        """Low and high corner in x and y, (2, 2)."""
        w, d, _ = self.piece.size
        reach = np.abs(_turn(self.yaw)[:2, :2]) @ [w / 2, d / 2]
        return np.stack([self.place[:2] - reach, self.place[:2] + reach])


@dataclass(frozen=True)
class Room:
    """A furnished room of ``size`` (x, y, z) m, one corner at the origin, z up; a ``ProceduralScene``.

    Instance ids: 1 wall, 2 floor, 3 ceiling, from 4 on the pieces in their order.
    """

    split: str
    seed: int
    size: np.ndarray
    surfaces: tuple[Texture, ...]
    pieces: tuple[Placed, ...]
    light: Light = field(default_factory=Light)

    @classmethod
    def make(cls, seed: int, split: str = "train") -> Room:
        """The room of a seed. InvalidRequestError: no such split, or a negative seed."""
        if split not in SPLITS:
            raise InvalidRequestError(f"split '{split}': expected one of {', '.join(SPLITS)}")
        if seed < 0:
            raise InvalidRequestError(f"room seed {seed}: expected 0 or more")
        return _Furnisher(seed, split).room()

    @property
    def labels(self) -> LabelSet:
        return room_labels()

    @property
    def instances(self) -> dict[int, InstanceRecord]:
        found = {key: InstanceRecord(name, CLASSES.index(name)) for key, name in enumerate(SURFACES, 1)}
        return found | {
            key: InstanceRecord(f"{p.piece.kind} {key}", p.class_id) for key, p in enumerate(self.pieces, 4)
        }

    @property
    def classes(self) -> np.ndarray:
        surfaces = (CLASSES.index(name) for name in SURFACES)
        return np.array([0, *surfaces, *(piece.class_id for piece in self.pieces)], np.int32)

    @cached_property
    def _bodies(self) -> tuple[list[Shape], np.ndarray]:
        """All shapes, and the instance id of each."""
        shapes, ids = [], []
        for key, shape in _shell(self.size, self.surfaces):
            shapes.append(shape)
            ids.append(key)
        for key, piece in enumerate(self.pieces, 4):
            parts = piece.shapes()
            shapes += parts
            ids += [key] * len(parts)
        return shapes, np.array([*ids, 0], np.int32)  # the last for index -1: nothing

    def cast(self, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What every pixel's ray meets: depth float32 (H, W) m, instance id int32 (H, W), colour (H, W, 3), 0..1."""
        shapes, ids = self._bodies
        depth, index, rgb = cast(shapes, camera, self.light)
        return depth, ids[index], rgb

    def cameras(self, count: int, size: tuple[int, int], phase: float = 0.0) -> list[Camera]:
        """A walk through the room that looks all around; ``phase`` shifts the views along it, in steps.

        Focal length: 0.8 of the width. Views are at eye height, outside of all furniture.
        """
        if count < 1:
            raise InvalidRequestError(f"{count} views: expected 1 or more")
        rng = np.random.default_rng((PATH_STREAM, SPLITS.index(self.split), self.seed))
        offsets = rng.uniform(0, 2 * np.pi, 6)
        width, height = size
        focal = 0.8 * width
        cameras = []
        for step in np.arange(count) + phase:
            a = 2 * np.pi * step / count
            circle = np.array([np.cos(a + offsets[0]), np.sin(a + offsets[0])])
            wobble = 0.2 * np.array([np.sin(3 * a + offsets[1]), np.sin(2 * a + offsets[2])])
            eye = np.empty(3)
            eye[:2] = self.size[:2] / 2 + (0.7 * circle + wobble) * (self.size[:2] / 2 - MARGIN_M)
            eye[2] = 1.45 + 0.2 * np.sin(3 * a + offsets[3])
            eye = self._free(eye)
            yaw = np.arctan2(-circle[1], -circle[0]) + 0.9 * np.sin(4 * a + offsets[4])  # about the middle of the room
            pitch = -0.2 + 0.28 * np.sin(4 * a + offsets[5])
            forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = looking(forward), eye
            cameras.append(Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2, pose))
        return cameras

    def _free(self, eye: np.ndarray) -> np.ndarray:
        """The place itself, or the nearest one towards the middle that is above or beside all furniture."""
        middle = np.array([*self.size[:2] / 2, eye[2]])
        for share in np.linspace(0, 1, 21):
            place = eye + share * (middle - eye)
            if not any(_inside(place, piece) for piece in self.pieces):
                return place
        return np.array([*eye[:2], self.size[2] - 0.3])  # above everything but lamps


def room_labels() -> LabelSet:
    return LabelSet(dict(enumerate(CLASSES)))


def _inside(place: np.ndarray, piece: Placed) -> bool:
    low, high = piece.footprint()
    bottom = piece.place[2]
    beside = (place[:2] < low - CLEARANCE_M).any() or (place[:2] > high + CLEARANCE_M).any()
    return not beside and bottom - CLEARANCE_M < place[2] < bottom + piece.piece.size[2] + CLEARANCE_M


def _turn(yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _shell(size: np.ndarray, textures: Sequence[Texture]) -> list[tuple[int, Shape]]:
    """Four walls, floor and ceiling as boxes around the room, each with its instance id."""
    middle, half = size / 2, size / 2
    bodies = []
    for axis in (0, 1, 2):
        for sign in (-1, 1):
            centre, extent = middle.copy(), half + WALL_M
            centre[axis] += sign * (half[axis] + WALL_M / 2)
            extent[axis] = WALL_M / 2
            key = 1 if axis < 2 else (2 if sign < 0 else 3)
            texture = textures[key - 1]
            bodies.append(
                (key, Shape("box", centre, extent, 0.0, texture.colours, texture.wave * extent, texture.pattern))
            )
    return bodies


class _Furnisher:
    """Draws a room: door and furniture along the walls, then the middle, then what hangs, then small things."""

    def __init__(self, seed: int, split: str) -> None:
        self.split, self.seed = split, seed
        self.number = SPLITS.index(split)
        self.rng = np.random.default_rng((LAYOUT_STREAM, self.number, seed))
        self.size = np.array([self.rng.uniform(3.4, 6.2), self.rng.uniform(3.2, 5.2), self.rng.uniform(2.4, 2.9)])
        self.placed: list[Placed] = []
        self.taken: list[tuple[np.ndarray, float, float]] = []  # footprints with their lower and upper ends, m

    def room(self) -> Room:
        rng = self.rng
        self._against_wall("door", clear=0.7)
        for _ in range(int(rng.integers(1, 3))):
            self._against_wall("window", height=float(rng.uniform(0.75, 1.0)))
        big = rng.permutation(["bed", "sofa", "cabinet", "cabinet", "shelf", "shelf", "sofa", "table"])
        for kind in big[: int(rng.integers(4, 7))]:
            self._against_wall(str(kind), clear=0.3)
        self._middle()
        for kind in ("lamp", "plant", "bin", "chair", "plant"):
            if rng.random() < 0.6:
                self._against_wall(kind, turned=True)
        for piece in [p for p in self.placed if p.piece.kind == "window"]:
            if rng.random() < 0.6:
                self._beside(piece)
        for _ in range(int(rng.integers(1, 5))):
            self._against_wall("picture", height=float(rng.uniform(1.2, 1.6)))
        for _ in range(int(rng.integers(0, 3))):
            self._against_wall("curtain", height=0.05)
        self._pendants()
        self._on_tops()
        surfaces = tuple(self._texture(name, 0) for name in SURFACES)
        return Room(self.split, self.seed, self.size, surfaces, tuple(self.placed), self._light())

    # --- what there is ----------------------------------------------------------------------------------------------

    def _piece(self, kind: str) -> Piece:
        design = 3 * int(self.rng.integers(DESIGNS)) + self.number
        return BUILDERS[kind](np.random.default_rng((DESIGN_STREAM, list(BUILDERS).index(kind), design)))

    def _texture(self, kind: str, material: int) -> Texture:
        number = 3 * int(self.rng.integers(TEXTURES)) + self.number
        rng = np.random.default_rng((TEXTURE_STREAM, number))
        mean, spread, patterns = TENDENCIES.get((kind, material), ((0.5, 0.5, 0.5), 0.45, ()))
        grey, tint = rng.uniform(-spread, spread), rng.uniform(-0.6 * spread, 0.6 * spread, 3)
        first = np.clip(np.array(mean) + grey + tint, 0.03, 0.98)
        second = np.clip(first + rng.uniform(-0.22, 0.22) + rng.uniform(-0.08, 0.08, 3), 0.02, 0.99)
        pattern = str(rng.choice(list(patterns) or ["waves", "waves", "stripes", "checks", "lines", "spots"]))
        direction = np.abs(rng.normal(size=3)) if pattern == "waves" else np.eye(3)[rng.integers(3)] + 0.02
        wave = direction / np.linalg.norm(direction) * np.exp(rng.uniform(np.log(6.0), np.log(40.0)))
        return Texture(np.stack([first, second]), pattern, wave)

    def _light(self) -> Light:
        rng = self.rng
        direction = np.array([*rng.uniform(-0.7, 0.7, 2), 1.0])
        return Light(
            direction / np.linalg.norm(direction), float(rng.uniform(0.35, 0.65)), 1 + rng.uniform(-0.12, 0.12, 3)
        )

    # --- where it goes ----------------------------------------------------------------------------------------------

    def _put(self, piece: Piece, place: np.ndarray, yaw: float, clear: float = 0.0) -> bool:
        """Place a piece where nothing else is; ``clear`` m before its front stay free up to its height."""
        textures = tuple(self._texture(piece.kind, material) for material in range(TEXTURES_EACH))
        placed = Placed(piece, np.asarray(place, float), float(yaw), textures)
        low, high = placed.footprint()
        if (low < -0.02).any() or (high > self.size[:2] + 0.02).any():
            return False
        front = _turn(yaw)[:2, 1] * clear
        low, high = np.minimum(low, low + front), np.maximum(high, high + front)
        bottom, top = placed.place[2], placed.place[2] + piece.size[2]
        for (other_low, other_high), other_bottom, other_top in self.taken:
            if (low < other_high).all() and (high > other_low).all() and bottom < other_top and top > other_bottom:
                return False
        if top > self.size[2] - 0.02:
            return False
        self.taken.append((np.stack([low, high]), bottom, top))
        self.placed.append(placed)
        return True

    def _against_wall(self, kind: str, height: float = 0.0, clear: float = 0.0, turned: bool = False) -> bool:
        piece = self._piece(kind)
        if turned:  # may stand askew, a little off the wall
            reach = float(np.hypot(*piece.size[:2]) / 2) + 0.03
        for _ in range(TRIES):
            wall = int(self.rng.integers(4))
            depth = reach if turned else piece.size[1] / 2
            length = self.size[0] if wall % 2 == 0 else self.size[1]
            half = reach if turned else piece.size[0] / 2
            if length < 2 * half + 0.1:
                continue
            t = self.rng.uniform(half + 0.02, length - half - 0.02)
            x, y = ((t, depth), (self.size[0] - depth, t), (t, self.size[1] - depth), (depth, t))[wall]
            yaw = (0.0, np.pi / 2, np.pi, -np.pi / 2)[wall]
            if turned:
                yaw += self.rng.uniform(-0.8, 0.8)
            if self._put(piece, np.array([x, y, height]), yaw, clear):
                return True
        return False

    def _middle(self) -> None:
        """A rug, and a table with chairs around it."""
        rng, middle = self.rng, self.size[:2] / 2
        place = middle + rng.uniform(-0.5, 0.5, 2)
        if rng.random() < 0.6:
            self._put(self._piece("rug"), np.array([*place, 0.0]), rng.choice([0.0, np.pi / 2]))
        for _ in range(TRIES):
            place = middle + rng.uniform(-0.9, 0.9, 2)
            table, yaw = self._piece("table"), rng.choice([0.0, np.pi / 2]) + rng.uniform(-0.1, 0.1)
            if self._put(table, np.array([*place, 0.02]), yaw):
                break
        else:
            return
        chair = self._piece("chair")  # all of one kind
        for side, sign in ((1, 1.0), (1, -1.0), (0, 1.0), (0, -1.0)):
            if rng.random() < 0.75:
                offset = np.zeros(3)
                offset[side] = sign * (table.size[side] / 2 + rng.uniform(0.1, 0.3) + chair.size[1] / 2)
                facing = np.arctan2(-offset[1], -offset[0]) - np.pi / 2  # its front, +y, towards the table
                where = np.array([*place, 0.02]) + _turn(yaw) @ offset
                self._put(chair, where, yaw + facing + rng.uniform(-0.3, 0.3))

    def _beside(self, window: Placed) -> None:
        """A curtain at each side of a window, a hand's breadth before the wall."""
        w, _, h = window.piece.size
        for sign in (-1, 1):
            curtain = self._piece("curtain")
            offset = _turn(window.yaw) @ np.array([sign * (w / 2 + curtain.size[0] / 2), 0.02, 0.0])
            place = window.place + offset
            place[2] = max(0.02, window.place[2] + h + 0.1 - curtain.size[2])
            self._put(curtain, place, window.yaw)

    def _pendants(self) -> None:
        for _ in range(int(self.rng.integers(0, 3))):
            piece = self._piece("pendant")
            x, y = self.rng.uniform(0.25, 0.75, 2) * self.size[:2]
            self._put(piece, np.array([x, y, self.size[2] - piece.size[2] - 0.03]), 0.0)

    def _on_tops(self) -> None:
        for below in list(self.placed):
            turn = _turn(below.yaw)
            if below.piece.kind == "cabinet" and below.piece.tops and self.rng.random() < 0.45:
                screen = self._piece("tv")
                if self._put(screen, below.place + [0, 0, below.piece.size[2] + 0.005], below.yaw):
                    continue
            for x, y, z, radius in below.piece.tops:
                if self.rng.random() < 0.5:
                    spot = turn @ np.array([x, y, z + 0.005]) + [*self.rng.uniform(-radius, radius, 2) * 0.5, 0.0]
                    self._put(self._piece("vase"), below.place + spot, self.rng.uniform(0, np.pi))
