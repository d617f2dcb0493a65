"""Training steps: the native engine against the one by autograd."""

from __future__ import annotations

import pytest
import torch
from training_room import RoomSequence, small_config, small_scene

from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.step import StepRates
from gs_semantic.segmentation.engine import AutogradEngine, Engine, EngineSettings, ImageGradients, NativeEngine
from gs_semantic.segmentation.scene import first_gaussians

RATES = StepRates(1e-3, 1e-3, 5e-3, 5e-2, 2.5e-3, features=2.5e-3, sh_rest=1e-4)
NAMES = ("means", "quats", "log_scales", "opacity_logits", "sh", "identity")


@pytest.fixture(scope="module")
def scene():
    return small_scene(small_config("grouping"), RoomSequence(4))


def make(kind: type, scene, **settings) -> Engine:
    gaussians = first_gaussians(scene, small_config("grouping"))
    gaussians.register("identity", (16,))
    generator = torch.Generator().manual_seed(0)
    gaussians["identity"] = torch.randn(len(gaussians), 16, generator=generator)
    # no balls: their rotations have a gradient of rounding errors only, which Adam blows up
    gaussians["log_scales"] = gaussians.log_scales + 0.5 * torch.randn(len(gaussians), 3, generator=generator)
    return kind(gaussians, CpuRasterizer(), EngineSettings("identity", **settings))


def take_steps(engine: Engine, scene, count: int = 3, direct: bool = True):
    generator = torch.Generator().manual_seed(1)
    statistics = []
    for index in range(count):
        forward = engine.forward(scene.train[index].camera)
        shape = forward.rendering.features.shape
        grads = [1e-4 * torch.randn(s, generator=generator) for s in (forward.rendering.rgb.shape, shape)]
        rows = torch.arange(0, len(engine.gaussians), 5) if direct else None
        values = None if rows is None else 1e-3 * torch.randn(len(rows), 16, generator=generator)
        statistics.append(engine.step(forward, ImageGradients(*grads, rows, values), RATES, want_features=True))
    return statistics


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_both_engines_take_the_same_steps(scene, dense, direct):
    native, autograd = (make(kind, scene, dense=dense) for kind in (NativeEngine, AutogradEngine))
    before = {name: native.gaussians[name].clone() for name in NAMES}
    a, b = (take_steps(engine, scene, direct=direct) for engine in (native, autograd))
    for name in NAMES:
        moved = autograd.gaussians[name] - before[name]
        assert moved.norm() > 0
        assert relative(native.gaussians[name] - before[name], moved) < 0.02, name
    for one, other in zip(a, b, strict=True):
        seen = torch.nonzero(other.in_view)[:, 0]
        assert len(seen) and set(seen.tolist()) <= set(one.rows.tolist())
        assert relative(one.features[torch.searchsorted(one.rows, seen)], other.features[seen]) < 1e-3
        assert not other.features[other.in_view == 0].any() and not other.means2d_norm[other.in_view == 0].any()


def test_gradients_of_projected_centres_are_about_those_of_the_centres(scene):
    native, autograd = (make(kind, scene) for kind in (NativeEngine, AutogradEngine))
    (a,), (b,) = (take_steps(engine, scene, 1) for engine in (native, autograd))
    seen = torch.nonzero(b.in_view)[:, 0]
    ours, other = a.means2d_norm[torch.searchsorted(a.rows, seen)], b.means2d_norm[seen]
    assert float(torch.corrcoef(torch.stack([ours, other]))[0, 1]) > 0.9
    assert 0.7 < float(other.sum() / ours.sum()) < 1.4


@pytest.mark.parametrize("kind", [NativeEngine, AutogradEngine])
def test_a_higher_degree_changes_nothing_at_first(scene, kind):
    plain, raised = make(kind, scene), make(kind, scene)
    for engine in (plain, raised):
        take_steps(engine, scene)
    raised.raise_sh_degree(1)
    raised.raise_sh_degree(1)
    assert raised.gaussians.sh_degree == 1
    camera = scene.train[0].camera
    assert torch.allclose(raised.forward(camera).rendering.rgb, plain.forward(camera).rendering.rgb, atol=1e-6)
    for engine in (plain, raised):
        take_steps(engine, scene)
    assert relative(raised.gaussians.sh[:, 0], plain.gaussians.sh[:, 0]) < 1e-3
    assert raised.gaussians.sh[:, 1:].abs().max() > 0


@pytest.mark.parametrize("kind", [NativeEngine, AutogradEngine])
def test_state_follows_rows_and_opacity_moments_are_forgotten(scene, kind):
    engine = make(kind, scene)
    take_steps(engine, scene)
    assert engine.mean_direction(torch.arange(5)).abs().sum() > 0
    moments = engine.mean_direction(torch.arange(len(engine.gaussians))).clone()
    kept = torch.arange(len(engine.gaussians)) % 2 == 0
    engine.gaussians.keep(kept)
    assert (engine.mean_direction(torch.arange(int(kept.sum()))) == moments[kept]).all()
    logits = engine.gaussians.opacity_logits.clone()
    engine.forget_opacity()
    still = ImageGradients(torch.zeros(48, 64, 3), torch.zeros(48, 64, 16))
    engine.step(engine.forward(scene.train[0].camera), still, RATES)
    assert (engine.gaussians.opacity_logits == logits).all()
