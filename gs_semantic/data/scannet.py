"""Reader of ScanNet scenes as its own tools export them from the .sens files.

color/0.jpg, depth/0.png (16-bit mm), pose/0.txt (camera-to-world), intrinsic/intrinsic_color.txt and
intrinsic_depth.txt (4x4); optional label-filt/0.png and instance-filt/0.png of the colour image's size, and
scannetv2-labels.combined.tsv, beside the scene or in it, with the names of the classes. Frames without a pose (ScanNet
writes -inf) are left out. A frame has the depth image's size: colour and labels are brought to its camera.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gs_semantic.data.images import image_size, read_colour, read_depth, read_ids
from gs_semantic.data.sequence import FrameSequence, checked_pose, read_lines
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame, MaskInfo
from gs_semantic.labels import LabelSet

DEPTH_SCALE = 0.001
CLASS_TABLE = "scannetv2-labels.combined.tsv"


class ScanNetSequence(FrameSequence):
    """The frames that have a pose, in the order of their numbers."""

    format = "scannet"
    has_depth = True

    def __init__(self, folder: str | Path, **options: Any) -> None:
        super().__init__(folder, **options)
        files = sorted((file for file in (self.folder / "pose").glob("*.txt") if file.stem.isdecimal()), key=_number)
        if not files:
            raise InvalidInputError(f"{self.folder / 'pose'}: no poses; expected 0.txt, 1.txt, ...")
        poses = {_number(file): _read_pose(file) for file in files}
        self._numbers = [number for number, pose in poses.items() if pose is not None]
        if not self._numbers:
            raise InvalidInputError(f"{self.folder / 'pose'}: none of the {len(files)} poses is finite")
        self.poses = np.stack([pose for pose in poses.values() if pose is not None])
        first = self._numbers[0]
        self._size = image_size(self._path("depth", first))
        self._colour_size = image_size(self._path("color", first))
        self._intrinsics = _read_camera(self.folder / "intrinsic" / "intrinsic_depth.txt", self._size)
        colour = _read_camera(self.folder / "intrinsic" / "intrinsic_color.txt", self._colour_size)
        self._colour_camera = colour
        self.has_semantic = (self.folder / "label-filt").is_dir()
        self.has_instances = (self.folder / "instance-filt").is_dir()
        for table in (
            self.folder / CLASS_TABLE,
            *(parent / CLASS_TABLE for parent in self.folder.absolute().parents[:2]),
        ):
            if table.is_file():
                self.labels = _read_classes(table)
                break

    def _path(self, kind: str, number: int) -> Path:
        suffixes = (".jpg", ".png") if kind == "color" else (".png",)
        paths = [self.folder / kind / f"{number}{suffix}" for suffix in suffixes]
        return next((path for path in paths if path.is_file()), paths[0])

    def stamp_ns(self, index: int) -> int:
        return self.start_ns + self._numbers[self._checked(index)] * self.period_ns

    def _camera(self, index: int) -> Camera:
        return self._intrinsics.at(self.poses[index])

    def _semantic(self, index: int) -> np.ndarray:
        return self._labels("label-filt", index)

    def _read(self, index: int) -> Frame:
        number = self._numbers[index]
        source = "the first image of this folder"
        rgb = read_colour(self._path("color", number), self._colour_size, source)
        depth = read_depth(self._path("depth", number), DEPTH_SCALE, self._size, source)
        instances, masks = None, dict[int, MaskInfo]()
        if self.has_instances:
            instances = self._labels("instance-filt", index)
            masks = self._masks(instances, self._semantic(index) if self.has_semantic else None)
        return Frame(self.stamp_ns(index), self._camera(index), self._as_depth_sees(rgb), depth, instances, masks)

    def _labels(self, kind: str, index: int) -> np.ndarray:
        path = self._path(kind, self._numbers[index])
        ids = read_ids(path, kind, self._colour_size, "the first image of color")
        camera = self._intrinsics
        K = self._colour_camera.K @ np.linalg.inv(camera.K)
        u = np.round(K[0, 0] * np.arange(camera.width) + K[0, 2]).astype(np.intp)
        v = np.round(K[1, 1] * np.arange(camera.height) + K[1, 2]).astype(np.intp)
        inside = ((v >= 0) & (v < ids.shape[0]))[:, None] & ((u >= 0) & (u < ids.shape[1]))
        return np.where(inside, ids[np.clip(v, 0, ids.shape[0] - 1)[:, None], np.clip(u, 0, ids.shape[1] - 1)], 0)

    def _as_depth_sees(self, rgb: np.ndarray) -> np.ndarray:
        """The colour image at the depth camera, which has the same pose: first smaller, then shifted a little."""
        small = self._colour_camera.resized(*self._size)
        resized = cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA)
        K = small.K @ np.linalg.inv(self._intrinsics.K)
        return cv2.warpPerspective(
            resized, K, self._size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )


def _number(file: Path) -> int:
    return int(file.stem)


def _read_matrix(path: Path) -> np.ndarray:
    try:
        return np.array([float(word) for line in read_lines(path) for word in line.split()])
    except ValueError as error:
        raise InvalidInputError(f"{path}: {error}") from None


def _read_pose(path: Path) -> np.ndarray | None:
    """Camera-to-world; None for a frame whose pose ScanNet does not know."""
    values = _read_matrix(path)
    if values.size == 16 and not np.isfinite(values).all():
        return None
    return checked_pose(values, str(path))


def _read_camera(path: Path, size: tuple[int, int]) -> Camera:
    if not path.is_file():
        raise InvalidInputError(f"{path}: no such file; expected the 4x4 intrinsic matrix of the images")
    values = _read_matrix(path)
    if values.size != 16:
        raise InvalidInputError(f"{path}: expected 16 numbers (a 4x4 intrinsic matrix), found {values.size}")
    K = values.reshape(4, 4)
    try:
        return Camera(*size, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def _read_classes(path: Path) -> LabelSet:
    rows = csv.DictReader(read_lines(path), delimiter="\t")
    try:
        return LabelSet({0: "void"} | {int(row["id"]): row["raw_category"] for row in rows})
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{path}: expected columns 'id' and 'raw_category': {error!r}") from error
