"""Incremental packing, the step of several tensors, and the gradients of the loss."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_scenes import make_map, random_values, small_camera, sparse_adam

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians.copies import CopyPool
from gs_semantic.gaussians.gaussian_map import CORE
from gs_semantic.rendering import native
from gs_semantic.rendering.base import Rendering
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.residual import LossSettings, image_gradients


def assert_same_view(rasterizer, gaussians):
    """What the rasteriser draws from its scene equals what a fresh one draws."""
    ids = torch.arange(1, len(gaussians) + 1, dtype=torch.int32)
    images = []
    for drawing in (rasterizer, CpuRasterizer()):
        view = drawing.open(gaussians, small_camera())
        rendering, top = view.render(), view.render_ids(ids)
        images.append((view.visible, rendering.rgb, rendering.depth, rendering.alpha, top.ids, top.confidence))
    for ours, fresh in zip(*images, strict=True):
        assert torch.equal(ours, fresh)


KINDS = ["touch", "add", "remove", "keep", "write", "replace"]
CHANGES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 10**6)))


@settings(max_examples=30)
@given(CHANGES)
def test_packing_what_changed_equals_packing_all(changes):
    gaussians, source = make_map(random_values(400, 1)), make_map(random_values(300, 2))
    rasterizer, reader, pool = CpuRasterizer(), CpuRasterizer(), CopyPool()
    assert_same_view(rasterizer, gaussians)
    for kind, seed in changes:
        generator = torch.Generator().manual_seed(seed)
        some = torch.randint(max(1, len(gaussians)), (min(9, len(gaussians)),), generator=generator).unique()
        if kind == "touch":
            gaussians.means[some] += 0.1
            gaussians.log_scales[some] += 0.1
            gaussians.touch(some)
        elif kind == "add":
            taken = torch.arange(seed % 300)
            gaussians.add(**{name: source[name][taken] for name in CORE})
        elif kind == "remove":
            gaussians.remove(some)
        elif kind == "keep":
            mask = torch.ones(len(gaussians), dtype=torch.bool)
            mask[some] = False
            gaussians.keep(mask)
        else:
            if kind == "write":
                gaussians.opacity_logits[some] += 0.5
            else:
                gaussians._buffers["means"] = gaussians._buffers["means"] + 0.01
            assert_same_view(rasterizer, gaussians)  # seen before its touch, too
            assert_same_view(reader, pool.copy(gaussians))
            gaussians.touch()
        assert_same_view(rasterizer, gaussians)
        assert_same_view(reader, pool.copy(gaussians))


def test_a_scene_that_shrinks_to_whole_chunks():
    gaussians, rasterizer = make_map(random_values(200, 3)), CpuRasterizer()
    assert_same_view(rasterizer, gaussians)
    gaussians.remove(torch.arange(128, 200))
    assert_same_view(rasterizer, gaussians)
    gaussians.remove(torch.arange(0, 128))
    assert len(gaussians) == 0
    rasterizer.render(gaussians, small_camera())


def test_repacking_refuses_chunks_outside_the_map():
    gaussians = make_map(random_values(100, 0))
    scene = native.Handle("gs_scene_create", "gs_scene_destroy")
    tensors = [gaussians[name] for name in CORE]
    struct = native.ParametersStruct(*(t.data_ptr() for t in tensors), 100, tensors[4].shape[1])
    chunks = np.array([2], np.int32)
    with pytest.raises(InvalidRequestError):
        native.call("gs_scene_repack", scene.pointer, struct, 3.0, chunks.ctypes.data, 1, 0)


def test_a_step_of_several_tensors_equals_single_steps():
    generator = torch.Generator().manual_seed(0)
    count, widths = 3000, ((3,), (4,), (), (1, 3))
    rows = torch.nonzero(torch.rand(count, generator=generator) < 0.7)[:, 0]

    def make():
        generator = torch.Generator().manual_seed(1)
        steps = torch.randint(0, 4, (count,), generator=generator).float()
        tensors = [torch.randn(count, *width, generator=generator) for width in widths]
        grads = [torch.randn(len(rows), *width, generator=generator) for width in widths]
        moments = [(torch.full_like(t, 0.1), torch.full_like(t, 0.2)) for t in tensors]
        own_steps = torch.zeros(count)
        return [
            native.AdamTensor(t, g, *m, own_steps if k == 3 else steps, 0.01 * (k + 1), k in (0, 3))
            for k, (t, g, m) in enumerate(zip(tensors, grads, moments, strict=True))
        ]

    together, single = make(), make()
    native.adam_step(together, rows, 0.9, 0.99, 1e-3)
    for t in single:
        sparse_adam(
            *(t.param, t.grad, t.exp_avg, t.exp_avg_sq, t.steps, rows, t.lr, 0.9, 0.99, 1e-3), advance=t.advance
        )
    for ours, theirs in zip(together, single, strict=True):
        for name in ("param", "exp_avg", "exp_avg_sq", "steps"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert not torch.equal(together[0].param, make()[0].param)


LOSS = LossSettings(0.04, 0.03, 0.12, 0.01, 2.0, 3.0)


def images(height=37, width=53, channels=16):
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    rendering = Rendering(
        uniform(height, width, 3), 3 * uniform(height, width), uniform(height, width), uniform(height, width, channels)
    )
    depth = (rendering.depth + 0.4 * (uniform(height, width) - 0.5)).clamp_min(0)
    depth[uniform(height, width) < 0.2] = 0
    slots = torch.randint(0, 5, (height, width), generator=generator)
    return rendering, uniform(height, width, 3), depth, slots, uniform(6, channels)


def test_loss_gradients_follow_autograd():
    rendering, rgb, depth, slots, codes = images()
    grads = image_gradients(rendering, rgb, depth, slots, codes, LOSS)
    leaves = [t.clone().requires_grad_() for t in (rendering.rgb, rendering.depth, rendering.features)]
    huber = torch.nn.functional.huber_loss
    near = (depth > 0) & (rendering.alpha > 0.5) & ((rendering.depth - depth).abs() < 0.12 + 0.01 * depth**2)
    loss = huber(leaves[0], rgb, reduction="sum", delta=0.04) / 0.04
    loss = loss + 2 * huber(leaves[1][near], depth[near], reduction="sum", delta=0.03) / 0.03
    known = slots > 0
    loss = loss + 1.5 * ((leaves[2] - codes[slots])[known] ** 2).sum()
    loss.backward()
    for ours, leaf in zip((grads.rgb, grads.depth, grads.features), leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad, rtol=1e-5, atol=1e-5)
    assert 0.05 < near.float().mean() < 0.95
    assert grads.colour_error == pytest.approx(float((rendering.rgb - rgb).abs().mean()), rel=1e-5)


def test_loss_without_depth_or_features():
    rendering, rgb, _, _, _ = images()
    grads = image_gradients(rendering, rgb, None, None, None, LOSS)
    assert grads.depth is None and grads.features is None
    assert torch.equal(grads.rgb, ((rendering.rgb - rgb) * (1 / 0.04)).clamp(-1, 1))


def test_a_slot_without_a_code_is_refused():
    rendering, rgb, depth, slots, codes = images()
    slots[3, 4] = len(codes)
    with pytest.raises(InvalidRequestError, match="slots"):
        image_gradients(rendering, rgb, depth, slots, codes, LOSS)
