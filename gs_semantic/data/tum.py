"""Reader of sequences of the TUM RGB-D benchmark.

rgb.txt and depth.txt list ``timestamp file``, groundtruth.txt lists ``timestamp tx ty tz qx qy qz qw`` (camera to
world). Depth images are 16-bit, 5000 = 1 m. A frame is a colour image that has a depth image within 20 ms and a pose,
interpolated at its own time. The format has no place for intrinsics: an intrinsics.json in the folder (as in our own
format) is used, else the published values of the camera that the folder's name tells (freiburg1, 2, 3), else those of
the sensor's default calibration.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from gs_semantic.data.images import Lens, read_colour, read_depth
from gs_semantic.data.sequence import FrameSequence, read_intrinsics, read_lines
from gs_semantic.data.trajectory import interpolated_poses, nearest
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame

DEPTH_SCALE = 1 / 5000
DEPTH_TOLERANCE_NS = 20_000_000
MAX_POSE_GAP_NS = 200_000_000
FILES = ("rgb.txt", "depth.txt", "groundtruth.txt")
# fx fy cx cy, then k1 k2 p1 p2 k3, as published with the benchmark
CAMERAS = {
    "1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "3": ((535.4, 539.2, 320.1, 247.6), ()),
    "": ((525.0, 525.0, 319.5, 239.5), ()),
}


class TumSequence(FrameSequence):
    """The colour images that have both depth and a pose; stamps are the recorded ones."""

    format = "tum"
    has_depth = True

    def __init__(self, folder: str | Path, **options: Any) -> None:
        super().__init__(folder, **options)
        for name in FILES:
            if not (self.folder / name).is_file():
                raise InvalidInputError(f"{self.folder / name}: no such file; expected {', '.join(FILES)}")
        self._lens, self._depth_scale = self._intrinsics()
        colour, colour_files = _read_list(self.folder / "rgb.txt", 1)
        depth, depth_files = _read_list(self.folder / "depth.txt", 1)
        pose_stamps, rows = _read_list(self.folder / "groundtruth.txt", 7)
        poses = _poses(self.folder / "groundtruth.txt", rows)
        partner = nearest(depth, colour, DEPTH_TOLERANCE_NS)
        interpolated, known = interpolated_poses(pose_stamps, poses, colour, MAX_POSE_GAP_NS)
        kept = np.nonzero(known & (partner >= 0))[0]
        if not len(kept):
            raise InvalidInputError(
                f"{self.folder}: of {len(colour)} colour images {(partner >= 0).sum()} have depth within 20 ms "
                f"and {known.sum()} have a pose, none has both; are the stamps of {', '.join(FILES)} of one clock?"
            )
        self.poses = interpolated[kept]
        self._stamps = colour[kept]
        self._files = [(colour_files[i][0], depth_files[partner[i]][0]) for i in kept]

    def _intrinsics(self) -> tuple[Lens, float]:
        path = self.folder / "intrinsics.json"
        if path.is_file():
            camera, _, distortion = read_intrinsics(path)
            return Lens(camera, np.zeros(0) if distortion is None else distortion), DEPTH_SCALE
        named = re.search(r"(?:freiburg|fr)([123])", self.folder.absolute().name)
        values, coefficients = CAMERAS[named.group(1) if named else ""]
        return Lens(Camera(640, 480, *values), np.array(coefficients)), DEPTH_SCALE

    def stamp_ns(self, index: int) -> int:
        return int(self._stamps[self._checked(index)])

    def _camera(self, index: int) -> Camera:
        return self._lens.camera.at(self.poses[index])

    def _read(self, index: int) -> Frame:
        recorded = self._lens.recorded
        size, source = (recorded.width, recorded.height), "the camera's calibration"
        colour, depth = (self.folder / name for name in self._files[index])
        return Frame(
            self.stamp_ns(index),
            self._camera(index),
            self._lens.undistort(read_colour(colour, size, source)),
            self._lens.undistort(read_depth(depth, self._depth_scale, size, source), labels=True),
        )


def _read_list(path: Path, values: int) -> tuple[np.ndarray, list[list[str]]]:
    """Stamps in ns, rising, and the words after them."""
    rows: dict[int, list[str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        try:
            stamp = int(Decimal(words[0]) * 1_000_000_000)
        except (InvalidOperation, ValueError, OverflowError):
            raise InvalidInputError(f"{path}: line {number}: '{words[0]}' is not a timestamp in seconds") from None
        if len(words) < values + 1:
            raise InvalidInputError(f"{path}: line {number}: expected {values + 1} words, found {len(words)}")
        rows[stamp] = words[1:]
    if not rows:
        raise InvalidInputError(f"{path}: lists nothing")
    stamps = sorted(rows)
    return np.array(stamps, np.int64), [rows[stamp] for stamp in stamps]


def _poses(path: Path, rows: list[list[str]]) -> np.ndarray:
    try:
        values = np.array([[float(word) for word in row[:7]] for row in rows])
    except ValueError as error:
        raise InvalidInputError(f"{path}: {error}; expected timestamp tx ty tz qx qy qz qw") from None
    lengths = np.linalg.norm(values[:, 3:], axis=1)
    if not (np.isfinite(values).all() and (np.abs(lengths - 1) < 0.01).all()):
        raise InvalidInputError(f"{path}: a pose is not finite, or its quaternion has not the length 1")
    poses = np.tile(np.eye(4), (len(values), 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(values[:, 3:]).as_matrix()
    poses[:, :3, 3] = values[:, :3]
    return poses
