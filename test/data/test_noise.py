"""Sensor noise has the stated size and is reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.data.noise import SensorNoise
from gs_semantic.gaussians import Camera, Frame


def flat_frame(z: float) -> Frame:
    camera = Camera(320, 240, 200.0, 200.0, 159.5, 119.5)
    depth = np.full((240, 320), z, np.float32)
    depth[:10] = 0
    return Frame(5, camera, np.zeros((240, 320, 3), np.uint8), depth=depth)


@pytest.mark.parametrize("z", [1.0, 4.0])
def test_depth_noise_grows_with_the_square_of_depth(z):
    frame = SensorNoise(seed=1).apply(flat_frame(z), 0)
    valid = frame.depth[10:] > 0
    assert 1 - valid.mean() == pytest.approx(0.05, abs=0.005)
    assert frame.depth[10:][valid].std() == pytest.approx(0.0015 * z * z, rel=0.03)
    assert frame.depth[10:][valid].mean() == pytest.approx(z, abs=1e-3)
    assert (frame.depth[:10] == 0).all() and frame.depth.dtype == np.float32


def test_pose_noise_has_the_stated_size_and_stays_rigid():
    still = Frame(0, Camera(1, 1, 1.0, 1.0, 0.0, 0.0), np.zeros((1, 1, 3), np.uint8))
    poses = np.stack([SensorNoise(seed=2).apply(still, i).camera.T_world_camera for i in range(2000)])
    assert np.allclose(poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1), np.eye(3), atol=1e-9)
    length = np.linalg.norm(poses[:, :3, 3], axis=1)
    angle = np.rad2deg(np.arccos(np.clip((np.trace(poses[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert np.sqrt(np.mean(length**2)) == pytest.approx(0.01, rel=0.06)
    assert np.sqrt(np.mean(angle**2)) == pytest.approx(0.5, rel=0.06)
    assert np.abs(poses[:, :3, 3].mean(axis=0)).max() < 1e-3


def test_the_same_seed_and_frame_give_the_same_noise():
    def draw(seed: int, index: int) -> np.ndarray:
        return SensorNoise(seed=seed).apply(flat_frame(2.0), index).depth

    assert np.array_equal(draw(3, 4), draw(3, 4))
    assert not np.array_equal(draw(3, 4), draw(3, 5))
    assert not np.array_equal(draw(3, 4), draw(4, 4))


def test_switched_off_it_changes_nothing_and_input_is_not_written():
    frame = flat_frame(2.0)
    before = frame.depth.copy()
    quiet = SensorNoise(depth_sigma=0, holes=0, pose_m=0, pose_deg=0).apply(frame, 0)
    assert np.array_equal(quiet.depth, before)
    assert np.allclose(quiet.camera.T_world_camera, frame.camera.T_world_camera)
    SensorNoise().apply(frame, 0)
    assert np.array_equal(frame.depth, before)
