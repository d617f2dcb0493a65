"""Reader of posed photographs described by a transforms.json: nerfstudio, instant-ngp, and the NeRF synthetic scenes.

Intrinsics (fl_x fl_y cx cy w h, or camera_angle_x; k1..k6 p1 p2 or camera_model OPENCV_FISHEYE) stand at the top or
with each frame. ``transform_matrix`` is camera-to-world with OpenGL axes (x right, y up, z backward), and the first
pixel's centre is (0.5, 0.5). Depth (``depth_file_path``, 16-bit) is in units of ``depth_unit_scale_factor`` (nerfstudio,
0.001 if not said) or ``integer_depth_scale`` (instant-ngp) metres. Points come from ``ply_file_path``.

A transforms_opencv.json is read as well: the same with ``camera_to_world_opencv`` (x right, y down, z forward), the
first pixel's centre at (0, 0), and points in points.npz (xyz, rgb).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gs_semantic.data.images import COLOUR_SUFFIXES, Lens, image_size, read_colour, read_depth
from gs_semantic.data.points import read_points_ply
from gs_semantic.data.sequence import (
    FrameSequence,
    SparsePoints,
    checked_pose,
    make_camera,
    read_json,
    read_numbers,
)
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame

NAMES = ("transforms.json", "transforms_train.json", "transforms_opencv.json")
MODELS = ("OPENCV", "OPENCV_FISHEYE", "PINHOLE", "SIMPLE_PINHOLE")
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
LENS_KEYS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
FISHEYE_KEYS = ("k1", "k2", "k3", "k4")


def find_transforms(path: Path) -> Path | None:
    """The JSON file of a folder, or the file itself; None when there is none."""
    if path.is_file():
        return path if path.suffix == ".json" else None
    return next((path / name for name in NAMES if (path / name).is_file()), None)


class TransformsSequence(FrameSequence):
    """The frames of a transforms.json in its order, undistorted; with depth when every frame has a depth file."""

    format = "nerfstudio"

    def __init__(self, path: str | Path, **options: Any) -> None:
        super().__init__(path, **options)
        file = find_transforms(self.folder)
        if file is None:
            raise InvalidInputError(f"{path}: no transforms file; expected one of {', '.join(NAMES)}")
        self.file, self._root = file, file.parent
        data = read_json(file)
        self._data = data if isinstance(data, dict) else {}
        frames = self._data.get("frames")
        if not isinstance(frames, list) or not frames:
            raise InvalidInputError(f"{file}: field 'frames' is missing or empty; expected a list of posed images")
        self._frames: list[dict[str, Any]] = frames
        self._opencv = isinstance(self._frames[0], dict) and "camera_to_world_opencv" in self._frames[0]
        self.poses = np.stack([self._pose(index) for index in range(len(self))])
        self.has_depth = all(frame.get("depth_file_path") for frame in self._frames)
        self._lenses: dict[tuple[Any, ...], Lens] = {}
        self._camera(0)  # intrinsics that do not fit are found at once

    def __len__(self) -> int:
        return len(self._frames)

    def _where(self, index: int) -> str:
        return f"{self.file}: frame {index}"

    def _pose(self, index: int) -> np.ndarray:
        frame, key = self._frames[index], "camera_to_world_opencv" if self._opencv else "transform_matrix"
        if not isinstance(frame, dict) or key not in frame or not isinstance(frame.get("file_path"), str):
            raise InvalidInputError(f"{self._where(index)}: expected fields 'file_path' and '{key}'")
        pose = checked_pose(frame[key], f"{self._where(index)}: field '{key}'")
        return pose if self._opencv else pose @ OPENGL_TO_OPENCV

    def _lens(self, index: int) -> Lens:
        values = {**self._data, **self._frames[index]}
        shared = tuple(
            values.get(key) for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_model")
        )
        key = (*shared, *(values.get(name) for name in LENS_KEYS))
        if key not in self._lenses:
            self._lenses[key] = self._make_lens(values, index)
        return self._lenses[key]

    def _make_lens(self, values: dict[str, Any], index: int) -> Lens:
        where = self._where(index)
        model = values.get("camera_model", "OPENCV_FISHEYE" if values.get("is_fisheye") else "OPENCV")
        if model not in MODELS:
            raise InvalidInputError(f"{where}: camera_model '{model}' is not supported; use {', '.join(MODELS)}")
        if "w" in values and "h" in values:
            width, height = read_numbers(values, ("w", "h"), where)
        else:
            width, height = image_size(self._colour_path(index))
        shift = 0.0 if self._opencv else 0.5
        if "fl_x" in values:
            (fx,) = read_numbers(values, ("fl_x",), where)
        elif "camera_angle_x" in values:
            (angle,) = read_numbers(values, ("camera_angle_x",), where)
            fx = width / 2 / math.tan(angle / 2) if 0 < angle < math.pi else math.nan
        else:
            raise InvalidInputError(
                f"{where}: neither 'fl_x' nor 'camera_angle_x' is given, the focal length is unknown"
            )
        fy = read_numbers(values, ("fl_y",), where)[0] if "fl_y" in values else fx
        cx = (read_numbers(values, ("cx",), where)[0] if "cx" in values else width / 2 - 0.5 + shift) - shift
        cy = (read_numbers(values, ("cy",), where)[0] if "cy" in values else height / 2 - 0.5 + shift) - shift
        fisheye = model == "OPENCV_FISHEYE"
        keys = FISHEYE_KEYS if fisheye else LENS_KEYS if "PINHOLE" not in model else ()
        coefficients = np.array([read_numbers({key: 0.0, **values}, (key,), where)[0] for key in keys])
        if not np.isfinite(coefficients).all():
            raise InvalidInputError(f"{where}: the lens parameters contain NaN or infinity")
        return Lens(make_camera([width, height, fx, fy, cx, cy], where), coefficients, fisheye)

    def _colour_path(self, index: int) -> Path:
        path = self._root / self._frames[index]["file_path"]
        if path.is_file():
            return path
        for suffix in COLOUR_SUFFIXES:  # the synthetic scenes leave it out
            if path.with_name(path.name + suffix).is_file():
                return path.with_name(path.name + suffix)
        raise InvalidInputError(f"{path}: no such file; frame {index} of {self.file.name} needs it")

    def _depth_scale(self) -> float:
        for key in ("depth_unit_scale_factor", "integer_depth_scale"):
            if key in self._data:
                scale = read_numbers(self._data, (key,), self.file)[0]
                if not (math.isfinite(scale) and scale > 0):
                    raise InvalidInputError(f"{self.file}: field '{key}' is {scale}, expected a positive number")
                return scale
        return 0.001

    def _camera(self, index: int) -> Camera:
        return self._lens(index).camera.at(self.poses[index])

    def _read(self, index: int) -> Frame:
        lens = self._lens(index)
        size = (lens.recorded.width, lens.recorded.height)
        rgb = lens.undistort(read_colour(self._colour_path(index), size, self.file.name))
        depth = None
        if self.has_depth:
            path = self._root / self._frames[index]["depth_file_path"]
            depth = lens.undistort(read_depth(path, self._depth_scale(), size, self.file.name), labels=True)
        return Frame(self.stamp_ns(index), self._camera(index), rgb, depth)

    def sparse_points(self) -> SparsePoints | None:
        if self._data.get("ply_file_path"):
            return read_points_ply(self._root / self._data["ply_file_path"])
        table = self._root / "points.npz"
        if not (self._opencv and table.is_file()):
            return None
        try:
            with np.load(table) as data:
                return SparsePoints(data["xyz"].astype(np.float32), data["rgb"].astype(np.uint8))
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInputError(f"{table}: expected arrays xyz and rgb: {error}") from error
