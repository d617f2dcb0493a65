"""A map made smaller still covers what it covered."""

from __future__ import annotations

import sys

import numpy as np
import psutil
import pytest
import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.mapping.trim import give_back, thin_out
from gs_semantic.rendering.cpu import CpuRasterizer

CAMERA = Camera(80, 60, 65.0, 65.0, 39.5, 29.5)


def wall(step: float, near: float) -> GaussianMap:
    """A wall at 2 m; its left half is nearer and sampled more finely."""
    rows = []
    for z, left, right in ((2.0, 0.0, 1.5), (near, -1.5, 0.0)):
        x, y = np.meshgrid(np.arange(left, right, step * z / 2), np.arange(-1.2, 1.2, step * z / 2))
        rows.append((np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], 1), 0.55 * step * z / 2))
    means = np.concatenate([points for points, _ in rows]).astype(np.float32)
    sigma = np.concatenate([np.full(len(points), size) for points, size in rows]).astype(np.float32)
    gaussians = GaussianMap()
    gaussians.add(
        means=means,
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (len(means), 1)),
        log_scales=np.log(np.stack([sigma, sigma, 0.1 * sigma], 1)),
        opacity_logits=np.full(len(means), 4.0, np.float32),
        sh=np.zeros((len(means), 1, 3), np.float32),
    )
    return gaussians


def test_half_of_the_gaussians_cover_nearly_as_much() -> None:
    gaussians = wall(0.03, near=1.0)
    before = CpuRasterizer().render(gaussians, CAMERA).alpha.numpy()
    count, thickness = len(gaussians), gaussians.log_scales.min()
    assert thin_out(gaussians, count // 2) == count - count // 2
    assert len(gaussians) == count // 2 and gaussians.log_scales.min() == thickness
    after = CpuRasterizer().render(gaussians, CAMERA).alpha.numpy()
    for half in (np.s_[5:-5, 5:35], np.s_[5:-5, 45:-5]):  # the near one and the far one
        assert before[half].mean() > 0.95 and after[half].mean() > 0.85


def test_faint_ones_go_first() -> None:
    gaussians = wall(0.05, near=2.0)
    gaussians.opacity_logits[::2] = -5.0
    gaussians.touch()
    strong = int((gaussians.opacity_logits > 0).sum())
    thin_out(gaussians, strong)
    assert (gaussians.opacity_logits > 0).all() and len(gaussians) == strong


def test_nothing_to_do() -> None:
    gaussians = wall(0.1, near=2.0)
    revision, scales = gaussians.revision, gaussians.log_scales.clone()
    assert thin_out(gaussians, len(gaussians)) == 0
    assert gaussians.revision == revision and torch.equal(gaussians.log_scales, scales)


def test_memory_is_given_back() -> None:
    gaussians = wall(0.02, near=2.0)
    thin_out(gaussians, 640)
    assert gaussians._capacity == 640 and len(gaussians) == 640
    gaussians.add(**{name: gaussians[name][:10].clone() for name in gaussians if name != "uid"})  # and grows again
    assert len(gaussians) == 650


@pytest.mark.skipif(sys.platform != "linux", reason="what glibc does")
def test_freed_memory_in_holes_goes_back_to_the_system() -> None:
    process = psutil.Process()
    blocks = [np.ones(64_000, np.uint8) for _ in range(1500)]  # 96 MB, in pieces that lie on the heap
    full = process.memory_info().rss
    kept = blocks[::20]
    blocks.clear()
    give_back()
    assert full - process.memory_info().rss > 48e6 and len(kept) == 75
