"""Reader of Replica scenes as rendered for NICE-SLAM.

results/frame000000.jpg and depth000000.png, traj.txt (camera-to-world, OpenCV axes) and cam_params.json, in the scene
or the folder above: ``{"camera": {w, h, fx, fy, cx, cy, scale}}``, depth values divided by ``scale`` are metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gs_semantic.data.images import read_colour, read_depth
from gs_semantic.data.sequence import FrameSequence, make_camera, read_json, read_numbers, read_trajectory
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame

PARAMETERS = "cam_params.json"


class ReplicaSequence(FrameSequence):
    """All frames of a scene."""

    format = "replica"
    has_depth = True

    def __init__(self, folder: str | Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.poses = read_trajectory(self.folder / "traj.txt")
        path = self.folder / PARAMETERS
        if not path.is_file():
            path = self.folder.absolute().parent / PARAMETERS
        if not path.is_file():
            raise InvalidInputError(f"{self.folder / PARAMETERS}: no such file, neither there nor in the folder above")
        data = read_json(path)
        values = data.get("camera") if isinstance(data, dict) else None
        if not isinstance(values, dict):
            raise InvalidInputError(f"{path}: field 'camera' is missing; expected w, h, fx, fy, cx, cy and scale in it")
        self._intrinsics = make_camera(read_numbers(values, ("w", "h", "fx", "fy", "cx", "cy"), path), path)
        (units,) = read_numbers(values, ("scale",), path)
        if not units > 0:
            raise InvalidInputError(f"{path}: field 'scale' is {units}, expected a positive number")
        self._depth_scale = 1 / units
        last = self._colour_path(len(self) - 1)
        if not last.is_file():
            raise InvalidInputError(
                f"{last}: no such file; traj.txt has {len(self)} poses, results/ needs as many images"
            )

    def _colour_path(self, index: int) -> Path:
        path = self.folder / "results" / f"frame{index:06d}.jpg"
        return path if path.is_file() else path.with_suffix(".png")

    def _camera(self, index: int) -> Camera:
        return self._intrinsics.at(self.poses[index])

    def _read(self, index: int) -> Frame:
        size = (self._intrinsics.width, self._intrinsics.height)
        rgb = read_colour(self._colour_path(index), size, PARAMETERS)
        depth = read_depth(self.folder / "results" / f"depth{index:06d}.png", self._depth_scale, size, PARAMETERS)
        return Frame(self.stamp_ns(index), self._camera(index), rgb, depth)
