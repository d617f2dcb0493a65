import numpy as np
import pytest
import torch
from scene import camera, frame

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.seeding import make_seeds, quaternions, surface

CONFIG = MapperConfig()


def plane_depth(view: Camera, normal: np.ndarray, distance: float) -> np.ndarray:
    v, u = np.mgrid[0 : view.height, 0 : view.width]
    rays = np.stack([(u - view.cx) / view.fx, (v - view.cy) / view.fy, np.ones(u.shape)], -1)
    return (distance / (rays @ normal)).astype(np.float32)


@pytest.mark.parametrize("tilt", [0.0, 0.5, 1.0])
def test_a_plane_has_no_breaks_and_discs_lie_in_it(tilt):
    view = Camera(64, 48, 60, 60, 31.5, 23.5)
    normal = np.array([np.sin(tilt), 0.0, np.cos(tilt)])
    depth = plane_depth(view, normal, 2.0)
    local = surface(depth)
    assert not local.step_x[:, :-1].any() and not local.step_y[:-1].any()
    seeds = make_seeds(np.full((48, 64, 3), 128, np.uint8), depth, depth > 0, view, CONFIG)
    np.testing.assert_allclose(seeds.means @ normal, 2.0, atol=0.02)
    thin = rotation_matrices(torch.from_numpy(seeds.quats)).numpy()[:, :, 2]
    assert (np.abs(thin @ normal) > 0.99).mean() > 0.95
    assert (seeds.size**2).sum() == 48 * 64, "blocks tile the image exactly once"


def test_detail_gets_small_seeds_and_flat_areas_large_ones():
    view = Camera(64, 64, 60, 60, 31.5, 31.5)
    rgb = np.full((64, 64, 3), 100, np.uint8)
    rgb[16:32, 16:32] = np.random.default_rng(0).integers(0, 255, (16, 16, 3))
    seeds = make_seeds(rgb, np.full((64, 64), 2.0, np.float32), np.ones((64, 64), bool), view, CONFIG)
    inside = ((seeds.pixel >= 16) & (seeds.pixel < 32)).all(1)
    assert seeds.size[inside].max() <= 2 and (seeds.size[~inside] == 8).all()


def test_blocks_do_not_cross_labels_or_depth_steps():
    view = Camera(64, 64, 60, 60, 31.5, 31.5)
    rgb = np.full((64, 64, 3), 100, np.uint8)
    depth = np.full((64, 64), 2.0, np.float32)
    depth[:, 35:] = 3.0
    labels = np.ones((64, 64), np.int32)
    labels[21:] = 2
    seeds = make_seeds(rgb, depth, depth > 0, view, CONFIG, labels)
    low = seeds.pixel - (seeds.size[:, None] - 1) / 2
    high = low + seeds.size[:, None]
    fine = CONFIG.seed_min_size_m * view.fx / 3.0  # blocks below the smallest spacing may cross labels
    crosses = (low[:, 1] < 21) & (high[:, 1] > 21) & (seeds.size > 2 * fine + 1)
    assert not crosses.any()
    assert not ((low[:, 0] < 35) & (high[:, 0] > 35)).any()
    assert set(np.round(1 / (1 / seeds.means[:, 2]), 3)) == {2.0, 3.0}


def test_only_wanted_pixels_with_depth_are_seeded():
    view = camera()
    source = frame(view)
    wanted = np.zeros(source.depth.shape, bool)
    wanted[40:80, 40:80] = True
    depth = source.depth.copy()
    depth[40:60, 40:80] = 0
    seeds = make_seeds(source.rgb, depth, wanted, view, CONFIG)
    assert len(seeds) and seeds.pixel[:, 1].min() >= 59
    assert len(make_seeds(source.rgb, depth, np.zeros_like(wanted), view, CONFIG)) == 0


def test_quaternions_of_every_half_turn():
    axis = np.eye(3)
    rotation = np.stack([np.diag(2 * a - 1) for a in axis] + [np.eye(3)])
    back = rotation_matrices(torch.from_numpy(quaternions(rotation))).numpy()
    np.testing.assert_allclose(back, rotation, atol=1e-6)


def test_seeds_fit_a_map():
    gaussians = GaussianMap()
    source = frame(camera())
    seeds = make_seeds(source.rgb, source.depth, source.depth > 0, source.camera, CONFIG, source.instances)
    gaussians.add(**seeds.rows)
    assert len(gaussians) == len(seeds) and all(torch.isfinite(gaussians[n]).all() for n in ("means", "quats", "log_scales"))


def test_blocks_at_the_border_of_an_odd_image_inherit_votes():
    """43 rows are no whole number of blocks: the middle of the last ones lies below the image."""
    view, mapper = Camera(60, 43, 60, 60, 29.5, 21.0), Mapper()
    rgb, depth = np.full((43, 60, 3), 100, np.uint8), np.full((43, 60), 2.0, np.float32)
    seeds = make_seeds(rgb, depth, depth > 0, view, CONFIG)
    assert seeds.pixel[:, 1].max() >= 43
    votes = (np.zeros((43, 60), np.int64), np.array([[5, 0, 0, 0]], np.int32), np.array([[2.0, 0, 0, 0]], np.float32))
    mapper._add(0, seeds, votes)
    assert (mapper.gaussians["object"] == 5).all()
