"""Depth of one camera as another camera sees it, against depth computed for that camera."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.data.images import Lens
from gs_semantic.data.register import DepthRegistration
from gs_semantic.gaussians import Camera

DEPTH_CAMERA = Camera(160, 120, 130.0, 130.0, 79.5, 59.5)
COLOUR_CAMERA = Camera(160, 120, 150.0, 152.0, 81.0, 58.0)
PLUMB_BOB = np.array([0.26, -0.95, -0.005, 0.003, 1.16])
FISHEYE = np.array([0.05, -0.01, 0.002, 0.0])
TURN = np.deg2rad(3.0)
T_COLOUR_DEPTH = np.array(
    [[np.cos(TURN), 0, np.sin(TURN), 0.05], [0, 1, 0, -0.01], [-np.sin(TURN), 0, np.cos(TURN), 0.003], [0, 0, 0, 1]]
)


def rays(lens: Lens) -> np.ndarray:
    """Directions (H, W, 3) of the pixels as recorded, found by inverting the model point by point (Newton's method)."""
    camera = lens.recorded
    v, u = np.mgrid[0 : camera.height, 0 : camera.width].astype(float)
    pixels = np.stack([u.ravel(), v.ravel()], 1)
    plane = Camera(camera.width, camera.height, 1.0, 1.0, 0.0, 0.0)  # rays as pixels
    found = (pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    if lens.distorts:
        step = 1e-6
        for _ in range(20):
            at = lens.distorted(found, plane)
            jacobian = np.stack([(lens.distorted(found + step * axis, plane) - at) / step for axis in np.eye(2)], 2)
            found = found + np.linalg.solve(jacobian, (pixels - at)[..., None])[..., 0]
    return np.concatenate([found, np.ones((len(found), 1))], 1).reshape(camera.height, camera.width, 3)


def plane_depth(directions: np.ndarray, T_world_camera: np.ndarray) -> np.ndarray:
    """Depth of a slanted wall (the plane z + 0.2 x = 2 of the world) along directions of a camera."""
    normal = np.array([0.2, 0, 1.0])
    world = directions @ T_world_camera[:3, :3].T
    return ((2 - normal @ T_world_camera[:3, 3]) / (world @ normal)).astype(np.float32)


@pytest.mark.parametrize(
    "lens",
    [Lens(DEPTH_CAMERA), Lens(DEPTH_CAMERA, PLUMB_BOB), Lens(DEPTH_CAMERA, FISHEYE, fisheye=True)],
    ids=["pinhole", "plumb_bob", "fisheye"],
)
@pytest.mark.parametrize("colour", [COLOUR_CAMERA, COLOUR_CAMERA.resized(320, 240), COLOUR_CAMERA.resized(80, 60)])
def test_a_wall_seen_by_two_cameras(lens: Lens, colour: Camera) -> None:
    depth = plane_depth(rays(lens), T_COLOUR_DEPTH)
    found = DepthRegistration(lens, colour)(depth, T_COLOUR_DEPTH)
    expected = plane_depth(rays(Lens(colour)), np.eye(4))
    inner = np.zeros(found.shape, bool)
    margin = colour.height // 5
    inner[margin:-margin, margin:-margin] = True
    assert (found[inner] > 0).mean() > 0.97  # no holes, whatever the sizes
    known = inner & (found > 0)
    # a pixel shows the depth of a point up to a pixel of the depth image beside it
    np.testing.assert_allclose(found[known], expected[known], atol=0.012)


def test_what_is_nearer_hides_what_is_behind() -> None:
    depth = np.full((120, 160), 3.0, np.float32)
    depth[40:80, 60:100] = 1.0
    moved = np.eye(4)
    moved[0, 3] = 0.2  # shifts the box by 26 pixels, the wall by 9
    found = DepthRegistration(Lens(DEPTH_CAMERA), DEPTH_CAMERA)(depth, moved)
    assert set(np.unique(found).tolist()) == {0.0, 1.0, 3.0}
    np.testing.assert_array_equal(found[40:80, 86:126], 1.0)
    assert (found[40:80, 69:86] == 0).all()  # what the box hid from the depth camera is unknown
    assert (found[50, 9:69] == 3).all() and (found[50, 126:] == 3).all()


def test_the_same_camera_changes_nothing() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 4, (120, 160)).astype(np.float32)
    depth[3, 5], depth[7, 9], depth[11, 13] = 0, np.nan, np.inf
    found = DepthRegistration(Lens(DEPTH_CAMERA), DEPTH_CAMERA)(depth, np.eye(4))
    known = np.isfinite(depth) & (depth > 0)
    np.testing.assert_allclose(found[known], depth[known], rtol=1e-6)
    assert not found[~known].any()


def test_points_behind_the_camera_and_beside_the_image() -> None:
    behind = np.diag([-1.0, 1, -1, 1])  # looks the other way
    depth = np.ones((120, 160), np.float32)
    registration = DepthRegistration(Lens(DEPTH_CAMERA), DEPTH_CAMERA)
    assert not registration(depth, behind).any()
    beside = np.eye(4)
    beside[0, 3] = 5.0
    assert not registration(depth, beside).any()
    np.testing.assert_allclose(registration(depth, np.eye(4)), depth)  # and goes on


def test_depth_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"depth is \(60, 80\), its camera \(120, 160\)"):
        DepthRegistration(Lens(DEPTH_CAMERA), COLOUR_CAMERA)(np.ones((60, 80), np.float32), np.eye(4))
