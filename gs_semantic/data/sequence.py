"""Recorded sequences: what every reader offers, and the reader of our own folders of RGB-D images.

Layout of such a folder::

    rgb/000000.jpg|png       8-bit colour
    depth/000000.png         uint16, times depth_scale_to_m gives metres; 0 = none     (optional)
    instance/000000.png      object id per pixel, 0 = unlabelled                       (optional)
    semantic/000000.png      class id per pixel, 0 = void                              (optional)
    traj.txt                 one row-major 4x4 camera-to-world matrix per line, OpenCV axes, metres
    intrinsics.json          width height fx fy cx cy depth_scale_to_m; distortion_k1k2p1p2k3 (optional)
    labels.json              classes and instances; here or in the parent folder       (optional)

Images with lens distortion are undistorted while reading, so that every frame fits its pinhole camera. The other
formats are in the modules beside this one; ``gs_semantic.data.formats.open_sequence`` finds out which one it is.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np

from gs_semantic.data.images import COLOUR_SUFFIXES, Lens, read_colour, read_depth, read_ids, resized_nearest
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame, MaskInfo
from gs_semantic.labels import LabelSet

RIGID_TOLERANCE = 1e-3  # poses are stored with a few decimals only


@dataclass(frozen=True)
class InstanceRecord:
    """What a recording says of one object. ``group``: several objects share the id, so instance scores leave it out."""

    name: str
    class_id: int
    group: bool = False


@dataclass(frozen=True)
class SparsePoints:
    """Points that a reconstruction brings along: xyz float32 (N, 3) in the world frame, rgb uint8 (N, 3)."""

    xyz: np.ndarray
    rgb: np.ndarray

    def __len__(self) -> int:
        return len(self.xyz)


class FrameFilter(Protocol):
    """Changes a frame as it is read, for example noise; ``index`` makes it reproducible."""

    def apply(self, frame: Frame, index: int) -> Frame: ...


class FrameSequence(ABC):
    """A recorded sequence: ``len(sequence)``, ``sequence[i] -> Frame``, iteration. Frames are read when asked for.

    A reader sets ``poses`` (camera-to-world, float64 (N, 4, 4), OpenCV axes), the ``has_`` flags, and where it knows
    them ``labels`` and ``instances``; it implements ``_camera`` and ``_read``. ``folder`` is where the recording is.

    period_ns, start_ns: stamps of formats without (frame i: ``start_ns + i * period_ns``). noise: applied to every
    frame. cache: frames kept in memory. max_width: wider frames are scaled down to it (0: none).
    Raises InvalidInputError, naming the file, for anything that is missing or does not fit.
    """

    format: ClassVar[str]
    poses: np.ndarray
    has_depth = False
    has_instances = False
    has_semantic = False
    test_indices: tuple[int, ...] = ()  # frames that the data set keeps for evaluation

    def __init__(
        self,
        folder: str | Path,
        *,
        period_ns: int = 200_000_000,
        start_ns: int = 0,
        noise: FrameFilter | None = None,
        cache: int = 0,
        max_width: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.period_ns = period_ns
        self.start_ns = start_ns
        self.noise = noise
        self.max_width = max_width
        self.labels, self.instances = LabelSet(), dict[int, InstanceRecord]()
        self._load = lru_cache(maxsize=cache)(self._finished) if cache else self._finished

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: int) -> Frame:
        return self._load(self._checked(index))

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(len(self)))

    @property
    def group_ids(self) -> set[int]:
        return {key for key, record in self.instances.items() if record.group}

    def camera(self, index: int) -> Camera:
        """The recorded camera of a frame, without noise."""
        return self._limited(self._camera(self._checked(index)))

    def semantic(self, index: int) -> np.ndarray | None:
        """True class ids, int32 (H, W), 0 = void; None when the recording has none."""
        if not self.has_semantic:
            return None
        camera = self.camera(index)
        return resized_nearest(self._semantic(self._checked(index)), (camera.width, camera.height))

    def stamp_ns(self, index: int) -> int:
        """When the frame was taken, ns."""
        return self.start_ns + self._checked(index) * self.period_ns

    def sparse_points(self) -> SparsePoints | None:
        """The reconstruction's points, None when the format has none."""
        return None

    # --- what a reader implements -----------------------------------------------------------------------------------

    @abstractmethod
    def _camera(self, index: int) -> Camera:
        """Pinhole camera of a frame at its pose; ``index`` is checked."""

    @abstractmethod
    def _read(self, index: int) -> Frame:
        """Frame of that camera as recorded; ``index`` is checked."""

    def _semantic(self, index: int) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} has no semantic images")

    # --- the same for all -------------------------------------------------------------------------------------------

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.folder}: frame {index} is outside 0..{len(self) - 1}")
        return index % len(self)

    def _finished(self, index: int) -> Frame:
        frame = self._read(index)
        camera = self._limited(frame.camera)
        if camera is not frame.camera:
            size = (camera.width, camera.height)
            instances = None if frame.instances is None else resized_nearest(frame.instances, size)
            left = set() if instances is None else set(np.unique(instances).tolist())  # small masks may vanish
            frame = replace(
                frame,
                camera=camera,
                rgb=cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA),
                depth=None if frame.depth is None else resized_nearest(frame.depth, size),
                instances=instances,
                masks={key: info for key, info in frame.masks.items() if key in left},
            )
        return self.noise.apply(frame, index) if self.noise else frame

    def _limited(self, camera: Camera) -> Camera:
        if not 0 < self.max_width < camera.width:
            return camera
        return camera.resized(self.max_width, max(1, round(camera.height * self.max_width / camera.width)))

    def _masks(self, instances: np.ndarray, semantic: np.ndarray | None) -> dict[int, MaskInfo]:
        """Class of every id in the image: that of ``self.instances``, else the most frequent one in ``semantic``."""
        ids = np.unique(instances)
        ids = ids[ids > 0].tolist()
        classes = {key: self.instances[key].class_id for key in ids if key in self.instances}
        if semantic is not None:
            for key in ids:
                if key not in classes:
                    classes[key] = int(np.bincount(semantic[instances == key]).argmax())
        return {key: MaskInfo(class_id=classes.get(key, 0)) for key in ids}


class RgbdSequence(FrameSequence):
    """A folder as described above. ``labels`` and ``instances`` are what labels.json says."""

    format = "rgbd"

    def __init__(self, folder: str | Path, **options: Any) -> None:
        super().__init__(folder, **options)
        if not self.folder.is_dir():
            raise InvalidInputError(f"{self.folder}: no such folder; expected a sequence with rgb/ and traj.txt")
        recorded, self.depth_scale, distortion = read_intrinsics(self.folder / "intrinsics.json")
        self._lens = Lens(recorded, np.zeros(0) if distortion is None else distortion)
        self.poses = read_trajectory(self.folder / "traj.txt")
        for candidate in (self.folder / "labels.json", self.folder.parent / "labels.json"):
            if candidate.is_file():
                self.labels, self.instances = read_labels(candidate)
                break
        if not (self.folder / "rgb").is_dir():
            raise InvalidInputError(f"{self.folder / 'rgb'}: no such folder; expected one colour image per frame")
        self.has_depth = (self.folder / "depth").is_dir()
        self.has_instances = (self.folder / "instance").is_dir()
        self.has_semantic = (self.folder / "semantic").is_dir()
        self._colour_path(len(self.poses) - 1)  # a trajectory longer than the recording is found at once

    def _camera(self, index: int) -> Camera:
        return self._lens.camera.at(self.poses[index])

    def _semantic(self, index: int) -> np.ndarray:
        return self._label_image("semantic", index)

    def _read(self, index: int) -> Frame:
        recorded = self._lens.recorded
        size, source = (recorded.width, recorded.height), "intrinsics.json"
        rgb = self._lens.undistort(read_colour(self._colour_path(index), size, source))
        depth = instances = None
        if self.has_depth:
            depth = read_depth(self.folder / "depth" / f"{index:06d}.png", self.depth_scale, size, source)
            depth = self._lens.undistort(depth, labels=True)
        masks: dict[int, MaskInfo] = {}
        if self.has_instances:
            instances = self._label_image("instance", index)
            known = not self.has_semantic or self.instances.keys() >= set(np.unique(instances).tolist()) - {0}
            masks = self._masks(instances, None if known else self._semantic(index))
        return Frame(self.stamp_ns(index), self._camera(index), rgb, depth, instances, masks)

    def _label_image(self, kind: str, index: int) -> np.ndarray:
        recorded = self._lens.recorded
        path = self.folder / kind / f"{index:06d}.png"
        ids = read_ids(path, kind, (recorded.width, recorded.height), "intrinsics.json")
        return self._lens.undistort(ids, labels=True)

    def _colour_path(self, index: int) -> Path:
        stem = self.folder / "rgb" / f"{index:06d}"
        for suffix in COLOUR_SUFFIXES:
            if stem.with_suffix(suffix).is_file():
                return stem.with_suffix(suffix)
        raise InvalidInputError(
            f"{stem}.jpg: no such file (nor .png); traj.txt has {len(self.poses)} poses, so rgb/ needs as many images"
        )


# --- the small files --------------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """Content of a JSON file; InvalidInputError naming the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path}: is not readable JSON: {error}") from error


def read_numbers(data: Mapping[str, Any], names: tuple[str, ...], where: str | Path) -> list[float]:
    """Finite numbers of a JSON object; InvalidInputError naming ``where`` and the field otherwise."""
    values = []
    for name in names:
        try:
            values.append(float(data[name]))
        except (KeyError, TypeError, ValueError, IndexError):
            raise InvalidInputError(f"{where}: field '{name}' is missing or not a number") from None
    return values


def make_camera(values: list[float], where: str | Path) -> Camera:
    """Camera of width, height, fx, fy, cx, cy; InvalidInputError naming ``where`` for impossible values."""
    try:
        return Camera(int(values[0]), int(values[1]), *values[2:6])  # type: ignore[arg-type]
    except (InvalidInputError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"{where}: {error}") from error


def read_intrinsics(path: Path) -> tuple[Camera, float, np.ndarray | None]:
    """Camera at the origin, metres per depth unit, and lens distortion (k1 k2 p1 p2 k3) or None."""
    data = read_json(path)
    camera = make_camera(read_numbers(data, ("width", "height", "fx", "fy", "cx", "cy"), path), path)
    try:
        scale = float(data.get("depth_scale_to_m", 0.001))
    except (TypeError, ValueError):
        scale = float("nan")
    if not (np.isfinite(scale) and scale > 0):
        raise InvalidInputError(f"{path}: field 'depth_scale_to_m' is {scale}, expected a positive number")
    try:
        distortion = np.array(data.get("distortion_k1k2p1p2k3", []), dtype=np.float64)
    except (TypeError, ValueError):
        distortion = np.array([np.nan])
    if distortion.shape not in ((0,), (5,)) or not np.isfinite(distortion).all():
        raise InvalidInputError(f"{path}: field 'distortion_k1k2p1p2k3': expected five finite numbers")
    return camera, scale, distortion if distortion.any() else None


def checked_pose(values: Any, where: str) -> np.ndarray:
    """Rigid 4x4 of 16 or 12 numbers, row by row; InvalidInputError beginning with ``where`` otherwise."""
    try:
        pose: np.ndarray = np.array(values, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{where}: {error}") from None
    if pose.size not in (12, 16):
        raise InvalidInputError(f"{where}: expected 16 numbers (a row-major 4x4), found {pose.size}")
    pose = (np.append(pose, [0, 0, 0, 1]) if pose.size == 12 else pose).reshape(4, 4)
    if not np.isfinite(pose).all():
        raise InvalidInputError(f"{where}: the pose contains NaN or infinity")
    rotation = pose[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=RIGID_TOLERANCE) and np.linalg.det(rotation) > 0
    if not rigid or not np.allclose(pose[3], [0, 0, 0, 1], atol=RIGID_TOLERANCE):
        raise InvalidInputError(f"{where}: the matrix is not a rigid transform (rotation and translation only)")
    return pose


def read_lines(path: Path) -> list[str]:
    """Lines of a text file; InvalidInputError naming it when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot be read: {error}") from error


def read_trajectory(path: Path) -> np.ndarray:
    """Camera-to-world poses, float64 (N, 4, 4); every line is checked to be a rigid transform."""
    poses = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            poses.append(checked_pose(line.split(), f"{path}: line {number}"))
    if not poses:
        raise InvalidInputError(f"{path}: contains no pose")
    return np.stack(poses)


def read_labels(path: Path) -> tuple[LabelSet, dict[int, InstanceRecord]]:
    """Class names and the instances by id."""
    data = read_json(path)
    try:
        labels = LabelSet({0: "void"} | {int(key): str(name) for key, name in data["classes"].items()})
        instances = {
            int(entry["id"]): InstanceRecord(
                str(entry["name"]), int(entry["class_id"]), bool(entry.get("group", False))
            )
            for entry in data.get("instances", [])
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"{path}: expected 'classes' {{id: name}} and 'instances' [{{id, name, class_id}}]: {error!r}"
        ) from error
    return labels, instances
