"""The optimiser lowers its loss, touches only what it sees, and keeps its state with the Gaussians."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scene import camera, frame

from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.keyframes import View, make_keyframe
from gs_semantic.mapping.optimiser import WindowOptimiser, object_codes
from gs_semantic.mapping.seeding import make_seeds
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.step import ATTRIBUTES

CONFIG = MapperConfig()
SOURCE = frame(camera())
CODES = object_codes(8, CONFIG.identity_dims)


def target(**changes) -> View:
    keyframe = make_keyframe(0, SOURCE, SOURCE.instances, CONFIG)
    return replace(keyframe.window(0, 0, SOURCE.camera.width, SOURCE.camera.height), **changes)


def seeded(**options) -> tuple[GaussianMap, WindowOptimiser]:
    config = MapperConfig(**options)
    gaussians = GaussianMap()
    optimiser = WindowOptimiser(gaussians, CpuRasterizer(), config)
    gaussians.add(**make_seeds(SOURCE.rgb, SOURCE.depth, SOURCE.depth > 0, SOURCE.camera, config).rows)
    return gaussians, optimiser


def depth_error(gaussians: GaussianMap) -> float:
    rendering = CpuRasterizer().render(gaussians, SOURCE.camera)
    error = (rendering.depth - torch.from_numpy(SOURCE.depth)).abs()
    return float(error[error < 0.15].mean())


def identity_error(gaussians: GaussianMap) -> float:
    features = CpuRasterizer().render(gaussians, SOURCE.camera, gaussians["identity"]).features
    return float((features - CODES[torch.from_numpy(SOURCE.instances).long()]).square().sum(-1).mean())


def test_steps_lower_the_colour_error():
    gaussians, optimiser = seeded()
    gaussians["sh"] = gaussians.sh + 0.3
    view = target()
    errors = [optimiser.step(view) for _ in range(25)]
    assert errors[-1] < 0.5 * errors[0]


def test_steps_lower_the_depth_error():
    gaussians, optimiser = seeded(lr_means=4e-3, depth_weight=10.0)
    pose = SOURCE.camera.T_world_camera
    gaussians["means"] = gaussians.means + 0.03 * torch.from_numpy(pose[:3, 2]).float()  # pushed back
    before = depth_error(gaussians)
    for _ in range(25):
        optimiser.step(target())
    assert depth_error(gaussians) < 0.6 * before


def test_identity_learns_the_code_of_each_object():
    gaussians, optimiser = seeded()
    before = identity_error(gaussians)
    for _ in range(60):
        optimiser.step(target(), CODES)
    assert identity_error(gaussians) < 0.4 * before
    features = CpuRasterizer().render(gaussians, SOURCE.camera, gaussians["identity"]).features
    nearest = (features @ CODES[:5].T)[..., 1:].argmax(-1).numpy() + 1
    assert (nearest == SOURCE.instances).mean() > 0.95


def test_without_codes_or_labels_identity_stays():
    gaussians, optimiser = seeded()
    optimiser.step(target())
    optimiser.step(target(slots=None), CODES)
    assert not gaussians["identity"].any() and gaussians.state("means", "adam")[:, 15].max() == 0
    assert gaussians.state("means", "adam")[:, 14].max() == 2


def test_unlabelled_pixels_teach_no_identity():
    gaussians, optimiser = seeded()
    optimiser.step(target(slots=torch.zeros(SOURCE.rgb.shape[:2], dtype=torch.int64)), CODES)
    assert not gaussians["identity"].any()


def test_without_depth_only_colour_counts():
    gaussians, optimiser = seeded()
    gaussians["sh"] = gaussians.sh + 0.3
    errors = [optimiser.step(target(depth=None)) for _ in range(10)]
    assert errors[-1] < errors[0]


def test_what_is_out_of_view_does_not_move():
    gaussians, optimiser = seeded()
    rows = len(gaussians)
    pose = SOURCE.camera.T_world_camera
    behind = {name: gaussians[name].clone() for name in ATTRIBUTES}
    behind["means"] -= 8 * torch.from_numpy(pose[:3, 2]).float()
    gaussians.add(**behind)
    before = {name: gaussians[name].clone() for name in ATTRIBUTES}
    for _ in range(3):
        optimiser.step(target(), CODES)
    for name in ATTRIBUTES:
        assert torch.equal(gaussians[name][rows:], before[name][rows:]), name
    assert not torch.equal(gaussians["sh"][:rows], before["sh"][:rows])
    assert not gaussians.state("means", "adam")[rows:].any()


def test_revision_rises_and_values_stay_finite_on_an_impossible_target():
    gaussians, optimiser = seeded()
    revision = gaussians.revision
    noise = np.random.default_rng(0).random(SOURCE.rgb.shape, np.float32)
    for _ in range(20):
        optimiser.step(target(rgb=torch.from_numpy(noise), depth=torch.full(SOURCE.depth.shape, 0.3)), CODES)
    assert gaussians.revision > revision
    assert all(torch.isfinite(gaussians[name]).all() for name in (*ATTRIBUTES, "identity"))


def test_state_stays_with_its_gaussian_when_others_are_removed():
    gaussians, optimiser = seeded()
    optimiser.step(target())
    uid, moment = gaussians["uid"].clone(), gaussians.state("means", "adam").clone()
    gaussians.remove(torch.arange(0, len(gaussians), 3))
    position = {int(u): row for row, u in enumerate(uid)}
    rows = torch.tensor([position[int(u)] for u in gaussians["uid"]])
    assert torch.equal(gaussians.state("means", "adam"), moment[rows])


@pytest.mark.parametrize("dims", [4, 16])
def test_codes_are_unit_vectors_that_stay_when_more_are_made(dims):
    few, many = object_codes(10, dims), object_codes(200, dims)
    assert torch.equal(many[:10], few) and not few[0].any()
    np.testing.assert_allclose(many[1:].norm(dim=1), 1, rtol=1e-5)
