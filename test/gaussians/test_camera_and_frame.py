"""Cameras and frames: geometry and refused input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame

POSE = np.array([[0, 0, 1, 1.0], [-1, 0, 0, 2.0], [0, -1, 0, 3.0], [0, 0, 0, 1.0]])


def test_unproject_known_point_and_holes():
    camera = Camera(4, 3, 2.0, 2.0, 1.0, 1.0, POSE)
    depth = np.full((3, 4), 2.0, np.float32)
    depth[0, 0], depth[0, 1] = 0, np.nan
    points = camera.unproject(depth)
    assert points.dtype == np.float32 and np.isnan(points[0, :2]).all()
    # pixel (3, 2): 2 right and 1 down of the centre, at 2 m
    assert points[2, 3] == pytest.approx(POSE[:3, :3] @ [2.0, 1.0, 2.0] + POSE[:3, 3])


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_resized_keeps_the_view(width, height):
    camera = Camera(640, 480, 525.0, 520.0, 319.5, 230.0)
    other = camera.resized(width, height)
    for corner in ((-0.5, -0.5), (639.5, 479.5)):  # outer corners of the image see the same rays
        scaled = ((corner[0] + 0.5) * width / 640 - 0.5, (corner[1] + 0.5) * height / 480 - 0.5)
        assert (scaled[0] - other.cx) / other.fx == pytest.approx((corner[0] - camera.cx) / camera.fx)
        assert (scaled[1] - other.cy) / other.fy == pytest.approx((corner[1] - camera.cy) / camera.fy)


def test_inverse_pose():
    camera = Camera(4, 3, 2.0, 2.0, 1.0, 1.0, POSE)
    assert np.allclose(camera.T_camera_world @ camera.T_world_camera, np.eye(4))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fx": 0.0}, "intrinsics"),
        ({"cy": np.nan}, "intrinsics"),
        ({"width": 0}, "size"),
        ({"T_world_camera": np.eye(3)}, "4x4"),
        ({"T_world_camera": np.full((4, 4), np.nan)}, "NaN"),
    ],
)
def test_bad_cameras_are_refused(change, text):
    values = {"width": 4, "height": 3, "fx": 2.0, "fy": 2.0, "cx": 1.0, "cy": 1.0} | change
    with pytest.raises(InvalidInputError, match=text):
        Camera(**values)


def test_frames_of_another_size_or_type_are_refused():
    camera, rgb = Camera(4, 3, 2.0, 2.0, 1.0, 1.0), np.zeros((3, 4, 3), np.uint8)
    with pytest.raises(InvalidInputError, match="depth: image is 5x3, the camera is 4x3"):
        Frame(0, camera, rgb, depth=np.zeros((3, 5), np.float32))
    with pytest.raises(InvalidInputError, match="rgb: expected uint8"):
        Frame(0, camera, rgb.astype(np.float32))
