"""Keyframes: which frames are taken, what of them is kept, and which are optimised next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from gs_semantic.gaussians import Camera, Frame
from gs_semantic.mapping.config import MapperConfig

MAX_RENAMES = 64  # renames remembered before every keyframe is brought up to date


@dataclass(frozen=True)
class View:
    """What one optimisation step compares with: a window of a keyframe. rgb float32 (h, w, 3) 0..1, NaN = does not count;
    depth float32 (h, w) m, 0 = none; slots int64 (h, w), object of each pixel, 0 = unlabelled."""

    camera: Camera
    rgb: torch.Tensor
    depth: torch.Tensor | None
    slots: torch.Tensor | None


@dataclass
class Keyframe:
    """A frame kept for optimisation, in compact form: rgb uint8, depth uint16 mm (0 = none), slots uint16."""

    index: int
    stamp_ns: int
    camera: Camera
    rgb: np.ndarray
    depth_mm: np.ndarray | None
    slots: np.ndarray | None
    ignored: np.ndarray | None = None  # bool
    renames: int = 0  # how many of the store's renames ``slots`` has seen
    draws: int = 0  # how many windows of it were optimised

    def window(self, left: int, top: int, width: int, height: int) -> View:
        """The pixels of a window, with the camera that sees just them."""
        camera = replace(
            self.camera, width=width, height=height, cx=self.camera.cx - left, cy=self.camera.cy - top
        )
        part = np.s_[top : top + height, left : left + width]
        depth = None if self.depth_mm is None else torch.from_numpy(self.depth_mm[part] * np.float32(1e-3))
        slots = None if self.slots is None else torch.from_numpy(self.slots[part].astype(np.int64))
        rgb = self.rgb[part] * np.float32(1 / 255)
        if self.ignored is not None:
            rgb[self.ignored[part]] = np.nan
        return View(camera, torch.from_numpy(rgb), depth, slots)


def make_keyframe(index: int, frame: Frame, slots: np.ndarray | None, config: MapperConfig) -> Keyframe:
    """Keep a frame for optimisation."""
    depth = None
    if frame.depth is not None:
        depth = np.round(np.minimum(usable_depth(frame.depth, config), 65.0) * 1e3).astype(np.uint16)
    labels = None if slots is None else slots.astype(np.uint16)
    return Keyframe(index, frame.stamp_ns, frame.camera, frame.rgb, depth, labels, frame.ignored)


def usable_depth(depth: np.ndarray, config: MapperConfig) -> np.ndarray:
    """Depth float32 with everything outside the configured range, NaN and infinity set to 0."""
    ok = (depth >= config.depth_min_m) & (depth <= config.depth_max_m)  # NaN compares false
    return np.where(ok, depth, 0).astype(np.float32)


def moved(a: Camera, b: Camera) -> tuple[float, float]:
    """Distance in m and angle in degrees between two poses."""
    delta = a.T_camera_world @ b.T_world_camera
    cosine = np.clip((np.trace(delta[:3, :3]) - 1) / 2, -1, 1)
    return float(np.linalg.norm(delta[:3, 3])), float(np.degrees(np.arccos(cosine)))


class KeyframeStore:
    """The keyframes kept for optimisation, at most ``config.max_keyframes``; beyond, the most redundant one goes."""

    def __init__(self, config: MapperConfig, first: int = 0) -> None:
        """Keyframes are numbered from ``first``."""
        self.config = config
        self.frames: list[Keyframe] = []
        self._last: dict[str, tuple[Camera, int]] = {}  # by camera frame: several cameras may feed one map
        self._first = self._count = first
        self.trail: dict[int, tuple[int, np.ndarray]] = {}  # stamp and pose of every keyframe taken, by its number
        self._renames: list[np.ndarray] = []  # applied to a keyframe when it is drawn: most never are in between
        self._random = np.random.default_rng(config.seed)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def count(self) -> int:
        """Keyframes taken since the start."""
        return self._count - self._first

    def wanted(self, frame: Frame) -> bool:
        """Has the camera moved, turned or waited enough since the last keyframe?"""
        if frame.frame_id not in self._last:
            return True
        camera, stamp = self._last[frame.frame_id]
        distance, angle = moved(camera, frame.camera)
        waited = abs(frame.stamp_ns - stamp) * 1e-9
        return (
            distance >= self.config.keyframe_translation_m
            or angle >= self.config.keyframe_rotation_deg
            or waited >= self.config.keyframe_interval_s
        )

    def note(self, frame: Frame) -> int:
        """Remember that this frame was taken; returns the keyframe's number."""
        self._last[frame.frame_id] = (frame.camera, frame.stamp_ns)
        self._count += 1
        return self._count - 1

    def add(self, keyframe: Keyframe) -> None:
        keyframe.renames = len(self._renames)
        self.trail[keyframe.index] = (keyframe.stamp_ns, keyframe.camera.T_world_camera)
        self.frames.append(keyframe)
        if len(self.frames) > self.config.max_keyframes:
            self.drop_most_redundant()

    def drop_most_redundant(self) -> None:
        self.frames.pop(self._most_redundant())

    def move(self, moves: dict[int, np.ndarray]) -> None:
        """Move keyframes by rigid motions (4x4, world)."""
        for keyframe in self.frames:
            motion = moves.get(keyframe.index)
            if motion is not None:
                keyframe.camera = keyframe.camera.at(motion @ keyframe.camera.T_world_camera)
        for index in moves.keys() & self.trail.keys():
            stamp_ns, pose = self.trail[index]
            self.trail[index] = (stamp_ns, moves[index] @ pose)

    def ignore(self, slot: int) -> None:
        """An object is gone: where keyframes show it, they show nothing any more."""
        for keyframe in self.frames:
            self._rename(keyframe)
            shown = None if keyframe.slots is None else keyframe.slots == slot
            if shown is None or not shown.any():
                continue
            keyframe.ignored = shown if keyframe.ignored is None else keyframe.ignored | shown
            if keyframe.depth_mm is not None:
                keyframe.depth_mm = np.where(shown, 0, keyframe.depth_mm).astype(np.uint16)

    def rename(self, table: np.ndarray) -> None:
        """Objects were merged or forgotten: slot s is now ``table[s]``."""
        self._renames.append(table)
        if len(self._renames) > MAX_RENAMES:
            for keyframe in self.frames:
                self._rename(keyframe)
                keyframe.renames = 0
            self._renames.clear()

    def copies(self) -> list[Keyframe]:
        """All keyframes as they are now; images are shared, and nobody writes into them."""
        for keyframe in self.frames:
            self._rename(keyframe)
        return [replace(keyframe) for keyframe in self.frames]

    def _rename(self, keyframe: Keyframe) -> None:
        missed = self._renames[keyframe.renames :]
        keyframe.renames = len(self._renames)
        if not missed or keyframe.slots is None:
            return
        names = np.arange(1 << 16)
        for table in missed:
            small = names < len(table)
            names[small] = table[names[small]]
        keyframe.slots = names[keyframe.slots].astype(np.uint16)

    def _most_redundant(self) -> int:
        """The keyframe nearest to another one, recent ones excepted; of the two, the older."""
        frames = self.frames[: -self.config.window_recent] or self.frames
        centres = np.stack([k.camera.T_world_camera[:3, 3] for k in frames])
        axes = np.stack([k.camera.T_world_camera[:3, 2] for k in frames])
        distance = np.linalg.norm(centres[:, None] - centres[None], axis=2)
        distance += 2.0 * (1 - axes @ axes.T)  # turning by 60 degrees counts like 1 m
        np.fill_diagonal(distance, np.inf)
        return int(distance.min(1).argmin())

    def draw(self, evenly: bool = False) -> View:
        """What to optimise next: a window of, every other time, a recent keyframe, else of any; ``evenly``: of one that
        was drawn least often. Windows of a keyframe take turns, so that each part of it is optimised as often."""
        recent = self.frames[-self.config.window_recent :]
        if evenly:
            least = min(keyframe.draws for keyframe in self.frames)
            pool = [keyframe for keyframe in self.frames if keyframe.draws == least]
        else:
            pool = recent if self._random.random() < 0.5 else self.frames
        keyframe = pool[int(self._random.integers(len(pool)))]
        self._rename(keyframe)
        camera = keyframe.camera
        width = min(camera.width, self.config.optimise_width_px)
        height = min(camera.height, max(1, round(camera.height * width / camera.width)))
        columns, rows = -(-camera.width // width), -(-camera.height // height)
        row, column = divmod((keyframe.index + keyframe.draws) % (columns * rows), columns)
        keyframe.draws += 1
        left = self._place(column, columns, camera.width - width)
        top = self._place(row, rows, camera.height - height)
        return keyframe.window(left, top, width, height)

    def _place(self, turn: int, turns: int, room: int) -> int:
        """Where the window with that turn begins, of as many as are needed side by side, up to a sixth to either side."""
        step = room / max(turns - 1, 1)
        return int(np.clip(round(step * (turn + self._random.uniform(-1 / 6, 1 / 6))), 0, room))
