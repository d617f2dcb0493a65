"""The tree of discs against all distances by brute force, and degenerate maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.space.discs import DISC, DiscTree


def random_map(count: int, seed: int = 0, slots: int = 6) -> GaussianMap:
    rng, gaussians = np.random.default_rng(seed), GaussianMap()
    gaussians.register("object", (), torch.int32)
    gaussians.add(
        means=rng.uniform(-2, 2, (count, 3)).astype(np.float32),
        quats=rng.normal(size=(count, 4)).astype(np.float32),
        log_scales=rng.uniform(-6, -2, (count, 3)).astype(np.float32),
        opacity_logits=np.full(count, 3.0, np.float32),
        sh=np.zeros((count, 1, 3), np.float32),
        object=rng.integers(0, slots, count).astype(np.int32),
    )
    return gaussians


def all_distances(points: np.ndarray, gaussians: GaussianMap) -> np.ndarray:
    """(N, M): as the module describes a disc."""
    rotations = rotation_matrices(gaussians.quats).numpy().astype(float)
    scales = DISC * np.exp(gaussians.log_scales.numpy().astype(float))
    local = np.einsum("mij,nmi->nmj", rotations, points[:, None] - gaussians.means.numpy())
    flat = np.eye(3, dtype=bool)[scales.argmin(axis=1)]
    reach = np.where(flat, np.inf, scales)
    rim = np.maximum(np.sqrt(((np.where(flat, 0, local) / reach) ** 2).sum(-1)), 1)[..., None]
    nearest = np.where(flat, 0, local / rim)
    return np.linalg.norm(local - nearest, axis=-1)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 257, 5000])
def test_the_nearest_disc_is_found(count) -> None:
    gaussians = random_map(count, count)
    points = np.random.default_rng(1).uniform(-4, 4, (300, 3)).astype(np.float32)
    truth = all_distances(points, gaussians)
    found = DiscTree(gaussians).nearest(points)
    np.testing.assert_allclose(found.distance, truth.min(axis=1), atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(found.away, axis=1), found.distance, rtol=1e-5)
    chosen = np.take_along_axis(truth, np.argmin(truth, axis=1)[:, None], 1)[:, 0]
    other = np.where(gaussians["object"].numpy() == found.slot[:, None], truth, np.inf).min(axis=1)
    np.testing.assert_allclose(other, chosen, atol=2e-5, err_msg="the slot is that of the nearest one")


def test_objects_left_out_and_alone() -> None:
    gaussians = random_map(3000)
    points = np.random.default_rng(1).uniform(-3, 3, (300, 3)).astype(np.float32)
    truth, slots = all_distances(points, gaussians), gaussians["object"].numpy()
    left = np.where(np.isin(slots, [0, 4]), np.inf, truth).min(axis=1)
    np.testing.assert_allclose(DiscTree(gaussians).nearest(points, without=[0, 4, 999]).distance, left, atol=2e-5)
    alone = np.where(slots == 2, truth, np.inf).min(axis=1)
    np.testing.assert_allclose(DiscTree(gaussians, [2]).nearest(points).distance, alone, atol=2e-5)
    nothing = DiscTree(gaussians).nearest(points, without=range(6))
    assert np.isinf(nothing.distance).all() and not nothing.away.any() and not nothing.slot.any()


def test_another_disc_will_do_when_it_is_little_farther() -> None:
    gaussians = random_map(3000)
    points = np.random.default_rng(1).uniform(-5, 5, (500, 3)).astype(np.float32)
    exact, rough = (DiscTree(gaussians).nearest(points, share=share).distance for share in (0.0, 0.1))
    assert (rough >= exact - 1e-6).all() and (rough <= 1.1 * exact + 1e-6).all()


def test_maps_without_obstacles_and_with_broken_rows() -> None:
    empty = DiscTree(random_map(0)).nearest(np.zeros((3, 3)))
    assert np.isinf(empty.distance).all()
    faint = random_map(50)
    faint["opacity_logits"] = torch.full((50,), -5.0)
    assert np.isinf(DiscTree(faint).nearest(np.zeros((3, 3))).distance).all()
    broken = random_map(100)
    broken.means[3, 1], broken.log_scales[7, 0] = float("nan"), float("inf")
    good = np.ones(100, bool)
    good[[3, 7]] = False
    points = np.random.default_rng(1).uniform(-2, 2, (50, 3)).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        truth = all_distances(points, broken)[:, good].min(axis=1)
    np.testing.assert_allclose(DiscTree(broken).nearest(points).distance, truth, atol=2e-5)
    assert np.isfinite(DiscTree(random_map(10)).nearest(np.full((2, 3), 3e38)).distance).all()
