"""Reader of recorded RGB-D sequences kept as one folder of images.

Layout::

    rgb/000000.jpg|png       8-bit colour
    depth/000000.png         uint16, times depth_scale_to_m gives metres; 0 = none
    instance/000000.png      object id per pixel, 0 = unlabelled            (optional)
    semantic/000000.png      class id per pixel, 0 = void                   (optional)
    traj.txt                 one row-major 4x4 camera-to-world matrix per line, OpenCV axes, metres
    intrinsics.json          width height fx fy cx cy depth_scale_to_m; distortion_k1k2p1p2k3 (optional)
    labels.json              classes and instances; here or in the parent folder (optional)

Images with lens distortion are undistorted while reading, so that every frame fits its pinhole camera.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame, MaskInfo
from gs_semantic.labels import LabelSet

COLOUR_SUFFIXES = (".jpg", ".jpeg", ".png")
RIGID_TOLERANCE = 1e-3  # poses are stored with a few decimals only


@dataclass(frozen=True)
class InstanceRecord:
    """What labels.json says of one object. ``group``: several objects share the id, so instance scores leave it out."""

    name: str
    class_id: int
    group: bool = False


class FrameFilter(Protocol):
    """Changes a frame as it is read, for example noise; ``index`` makes it reproducible."""

    def apply(self, frame: Frame, index: int) -> Frame: ...


class RgbdSequence:
    """A recorded sequence: ``len(sequence)``, ``sequence[i] -> Frame``, iteration.

    ``period_ns`` spaces the stamps (frame i has stamp ``start_ns + i * period_ns``). ``noise`` is applied to every
    frame. ``labels`` and ``instances`` are what labels.json says, ``group_ids`` its ids that join several objects.
    Raises InvalidInputError, naming the file, for anything that is missing or does not fit.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        period_ns: int = 200_000_000,
        start_ns: int = 0,
        noise: FrameFilter | None = None,
        cache: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.period_ns = period_ns
        self.start_ns = start_ns
        self.noise = noise
        if not self.folder.is_dir():
            raise InvalidInputError(f"{self.folder}: no such folder; expected a sequence with rgb/ and traj.txt")
        self._intrinsics, self.depth_scale, self._distortion = read_intrinsics(self.folder / "intrinsics.json")
        self.poses = read_trajectory(self.folder / "traj.txt")
        self.labels, self.instances = LabelSet(), dict[int, InstanceRecord]()
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
        self._load = lru_cache(maxsize=cache)(self._read) if cache else self._read

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
        return self._intrinsics.at(self.poses[self._checked(index)])

    def semantic(self, index: int) -> np.ndarray | None:
        """True class ids, int32 (H, W), 0 = void; None when the recording has none."""
        if not self.has_semantic:
            return None
        return self._label_image("semantic", self._checked(index))

    # --- reading ----------------------------------------------------------------------------------------------------

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.folder}: frame {index} is outside 0..{len(self) - 1}")
        return index % len(self)

    def _read(self, index: int) -> Frame:
        rgb = self._image(self._colour_path(index), "8-bit colour", ("RGB", "L", "P"), "RGB", cv2.INTER_LINEAR)
        depth = instances = None
        if self.has_depth:
            path = self.folder / "depth" / f"{index:06d}.png"
            raw = self._image(path, "16-bit depth", ("I;16", "I;16B", "I"), None, cv2.INTER_NEAREST)
            depth = raw.astype(np.float32) * np.float32(self.depth_scale)
        if self.has_instances:
            instances = self._label_image("instance", index)
        masks = self._masks(index, instances) if instances is not None else {}
        frame = Frame(
            stamp_ns=self.start_ns + index * self.period_ns,
            camera=self.camera(index),
            rgb=rgb,
            depth=depth,
            instances=instances,
            masks=masks,
        )
        return self.noise.apply(frame, index) if self.noise else frame

    def _masks(self, index: int, instances: np.ndarray) -> dict[int, MaskInfo]:
        """Class of every id in the image: that of labels.json, else the most frequent one in the semantic image."""
        ids = np.unique(instances)
        ids = ids[ids > 0].tolist()
        classes = {key: self.instances[key].class_id for key in ids if key in self.instances}
        if len(classes) < len(ids) and self.has_semantic:
            semantic = self._label_image("semantic", index)
            for key in ids:
                if key not in classes:
                    classes[key] = int(np.bincount(semantic[instances == key]).argmax())
        return {key: MaskInfo(class_id=classes.get(key, 0)) for key in ids}

    def _label_image(self, kind: str, index: int) -> np.ndarray:
        path = self.folder / kind / f"{index:06d}.png"
        modes = ("L", "P", "I;16", "I;16B", "I")
        return self._image(path, f"{kind} ids", modes, None, cv2.INTER_NEAREST).astype(np.int32)

    def _colour_path(self, index: int) -> Path:
        stem = self.folder / "rgb" / f"{index:06d}"
        for suffix in COLOUR_SUFFIXES:
            if stem.with_suffix(suffix).is_file():
                return stem.with_suffix(suffix)
        raise InvalidInputError(
            f"{stem}.jpg: no such file (nor .png); traj.txt has {len(self.poses)} poses, so rgb/ needs as many images"
        )

    def _image(
        self, path: Path, what: str, modes: tuple[str, ...], convert: str | None, interpolation: int
    ) -> np.ndarray:
        camera = self._intrinsics
        try:
            with Image.open(path) as image:
                if image.mode not in modes:
                    raise InvalidInputError(f"{path}: expected {what} ({' or '.join(modes)}), found mode {image.mode}")
                if image.size != (camera.width, camera.height):
                    raise InvalidInputError(
                        f"{path}: image is {image.size[0]}x{image.size[1]}, "
                        f"intrinsics.json says {camera.width}x{camera.height}"
                    )
                pixels = np.asarray(image.convert(convert) if convert else image)
        except FileNotFoundError:
            raise InvalidInputError(f"{path}: no such file; expected {what} for this frame") from None
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged or truncated files
            raise InvalidInputError(f"{path}: cannot be read as {what}: {error}") from error
        if self._distortion is not None:
            maps = cv2.initUndistortRectifyMap(
                camera.K, self._distortion, None, camera.K, (camera.width, camera.height), cv2.CV_32FC1
            )
            pixels = cv2.remap(pixels, maps[0], maps[1], interpolation)
        return np.ascontiguousarray(pixels)


# --- the small files --------------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """Content of a JSON file; InvalidInputError naming the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path}: is not readable JSON: {error}") from error


def read_intrinsics(path: Path) -> tuple[Camera, float, np.ndarray | None]:
    """Camera at the origin, metres per depth unit, and lens distortion (k1 k2 p1 p2 k3) or None."""
    data = read_json(path)
    values: dict[str, float] = {}
    for key in ("width", "height", "fx", "fy", "cx", "cy"):
        try:
            values[key] = float(data[key])
        except (KeyError, TypeError, ValueError):
            raise InvalidInputError(f"{path}: field '{key}' is missing or not a number") from None
    try:
        camera = Camera(
            width=int(values.pop("width")),
            height=int(values.pop("height")),
            **values,  # type: ignore[arg-type]
        )
        scale = float(data.get("depth_scale_to_m", 0.001))
    except (InvalidInputError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"{path}: {error}") from error
    if not (np.isfinite(scale) and scale > 0):
        raise InvalidInputError(f"{path}: field 'depth_scale_to_m' is {scale}, expected a positive number")
    try:
        distortion = np.array(data.get("distortion_k1k2p1p2k3", []), dtype=np.float64)
    except (TypeError, ValueError):
        distortion = np.array([np.nan])
    if distortion.shape not in ((0,), (5,)) or not np.isfinite(distortion).all():
        raise InvalidInputError(f"{path}: field 'distortion_k1k2p1p2k3': expected five finite numbers")
    return camera, scale, distortion if distortion.any() else None


def read_trajectory(path: Path) -> np.ndarray:
    """Camera-to-world poses, float64 (N, 4, 4); every line is checked to be a rigid transform."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot be read: {error}") from error
    poses = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pose = np.array([float(word) for word in line.split()])
        except ValueError as error:
            raise InvalidInputError(f"{path}: line {number}: {error}") from None
        if pose.size != 16:
            raise InvalidInputError(f"{path}: line {number}: expected 16 numbers (a row-major 4x4), found {pose.size}")
        pose = pose.reshape(4, 4)
        if not np.isfinite(pose).all():
            raise InvalidInputError(f"{path}: line {number}: the pose contains NaN or infinity")
        rotation = pose[:3, :3]
        rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=RIGID_TOLERANCE) and np.linalg.det(rotation) > 0
        if not rigid or not np.allclose(pose[3], [0, 0, 0, 1], atol=RIGID_TOLERANCE):
            raise InvalidInputError(
                f"{path}: line {number}: the matrix is not a rigid transform (rotation and translation only)"
            )
        poses.append(pose)
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
