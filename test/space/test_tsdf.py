"""The signed distance field by itself: signs, what is known, and its memory."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.gaussians import Camera
from gs_semantic.space import tsdf
from gs_semantic.space.tsdf import TooLargeError, TsdfVolume

WALL_M = 2.0


def wall_view(width: int = 160) -> tuple[Camera, np.ndarray]:
    """A wall straight ahead of a camera in the origin that looks along z."""
    height = width * 3 // 4
    camera = Camera(width, height, 0.8 * width, 0.8 * width, (width - 1) / 2, (height - 1) / 2)
    return camera, np.full((height, width), WALL_M, np.float32)


def along_axis(*z: float) -> np.ndarray:
    return np.column_stack([np.full(len(z), 0.013), np.full(len(z), -0.021), z])


def test_free_before_a_wall_inside_it_and_unknown_beyond() -> None:
    volume = TsdfVolume()
    volume.fuse(*wall_view())
    distance, known = volume.at(along_axis(1.0, 1.96, 2.0, 2.04, 2.5))
    assert known.tolist() == [True, True, True, True, False]
    np.testing.assert_allclose(distance[:4], [volume.truncation, 0.04, 0.0, -0.04], atol=2e-3)
    assert not volume.known(np.array([[0.0, 0.0, -0.5], [3.0, 0.0, 1.0], [1e9, 0, 0]])).any(), "behind it, beside it"


@pytest.mark.parametrize("angle", [0.3, 1.2, 2.9])
def test_any_pose(angle) -> None:
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    pose[:3, :3] = pose[:3, :3] @ np.array([[1, 0, 0], [0, np.cos(1), -np.sin(1)], [0, np.sin(1), np.cos(1)]])
    pose[:3, 3] = [5.0, -7.0, 0.3]
    camera, depth = wall_view()
    volume = TsdfVolume()
    volume.fuse(camera.at(pose), depth)
    rng = np.random.default_rng(0)
    z = rng.uniform(0.5, 2.06, 500)
    local = np.column_stack([rng.uniform(-0.5, 0.5, 500) * z, rng.uniform(-0.35, 0.35, 500) * z, z])
    distance, known = volume.at(local @ pose[:3, :3].T + pose[:3, 3])
    assert known.mean() > 0.98
    np.testing.assert_allclose(distance[known], np.minimum(WALL_M - z, volume.truncation)[known], atol=5e-3)


def test_pixels_without_depth_tell_nothing() -> None:
    camera, depth = wall_view()
    depth[:, :80] = 0
    volume = TsdfVolume()
    volume.fuse(camera, depth)
    assert not volume.known(np.array([[-0.3, 0.0, 1.0]])) and volume.known(np.array([[0.3, 0.0, 1.0]]))
    volume = TsdfVolume()
    volume.fuse(camera, np.zeros_like(depth))
    assert volume.blocks == 0


def test_a_ray_that_is_free_up_to_somewhere() -> None:
    camera, depth = wall_view()
    through = depth.copy()
    depth[40:60, 60:100] = 0
    volume = TsdfVolume()
    volume.fuse(camera, depth, through)
    assert volume.known(along_axis(1.0)) and not volume.known(along_axis(2.0))


def test_views_are_averaged_and_old_ones_are_forgotten() -> None:
    camera, depth = wall_view()
    volume = TsdfVolume()
    for offset in (0.02, -0.02):
        volume.fuse(camera, depth + offset)
    assert volume.at(along_axis(2.0))[0] == pytest.approx(0, abs=2e-3)
    for _ in range(60):
        volume.fuse(camera, depth + 1.0)
    assert volume.at(along_axis(2.0))[0] > 0.95 * volume.truncation, "the wall is gone"


def test_memory_is_given_back() -> None:
    camera, depth = wall_view()
    volume = TsdfVolume()
    volume.fuse(camera, depth)
    walls = volume.blocks
    volume.compact()
    assert 0 < volume.blocks <= walls
    kept = volume.blocks
    for _ in range(60):
        volume.fuse(camera, depth + 3.0)
    volume.compact()
    middle = np.array([[0.0, 0.0, WALL_M]])
    assert volume.known(middle) and volume.states(middle)[0] == tsdf.FREE
    volume.forget(np.array([-9.0] * 3), np.array([9.0] * 3))
    assert volume.blocks == 0 and not volume.known(middle) and kept > 0
    assert volume.bounds()[0].tolist() == [0, 0, 0]


def test_the_table_grows_and_has_a_limit() -> None:
    camera, depth = wall_view()
    volume = TsdfVolume()
    for x in (0.0, 30.0, -30.0):
        pose = np.eye(4)
        pose[0, 3] = x
        volume.fuse(camera.at(pose), depth)
    for x in (0.0, 30.0, -30.0):
        distance, known = volume.at(along_axis(1.98) + [x, 0, 0])
        assert known and distance == pytest.approx(0.02, abs=2e-3)
    low, high = volume.bounds()
    assert low[0] < -30 and high[0] > 30 and high[2] == pytest.approx(2.2, abs=0.2)
    pose = np.eye(4)
    pose[:3, 3] = 1e4
    with pytest.raises(TooLargeError, match="at 0.02 m"):
        volume.fuse(camera.at(pose), depth)
