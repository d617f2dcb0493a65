"""Maps brought to a given size for rate and service measurements."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_semantic.benchmarks.mapping import FAR_M, MapBench, crowd, grow
from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.objects.registry import ObjectRegistry, ObjectState


def small_map(count: int = 50) -> tuple[GaussianMap, ObjectRegistry]:
    """Gaussians in a metre cube, half of them of one confirmed object."""
    generator = torch.Generator().manual_seed(0)
    gaussians, objects = GaussianMap(), ObjectRegistry()
    register_votes(gaussians)
    chair = objects.open()
    chair.state, chair.class_scores = ObjectState.CONFIRMED, {3: 1.0}
    gaussians.add(
        means=torch.rand(count, 3, generator=generator),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        log_scales=torch.full((count, 3), -4.0) + torch.rand(count, 3, generator=generator),
        opacity_logits=torch.zeros(count),
        sh=torch.zeros(count, 1, 3),
        object=(torch.arange(count) % 2 * chair.slot).to(torch.int32),
    )
    return gaussians, objects


def test_grow_splits_up_to_the_size_and_keeps_labels():
    gaussians, _ = small_map()
    share = float(gaussians["object"].float().mean())
    assert grow(gaussians, 170)
    assert len(gaussians) == 170
    assert float(gaussians["object"].float().mean()) == pytest.approx(share, abs=0.1)
    assert torch.isfinite(gaussians.means).all()
    assert not grow(gaussians, 100)
    assert len(gaussians) == 170


def test_an_empty_map_cannot_grow():
    with pytest.raises(InvalidRequestError, match="the map is empty"):
        grow(GaussianMap(), 10)


def test_crowd_adds_confirmed_objects_out_of_view():
    gaussians, objects = small_map()
    before = gaussians.means.clone()
    crowd(gaussians, objects, least=2000, count=20, object_size=500)
    assert len(gaussians) >= 2000 and torch.equal(gaussians.means[:50], before)
    present = objects.present()
    assert len(present) == 20
    counts = np.bincount(gaussians["object"].numpy(), minlength=objects.slots)
    added = [obj for obj in present if obj.slot > 1]
    assert counts[added[0].slot] == 500
    for obj in added:
        assert counts[obj.slot] > 0
        assert obj.box is not None and obj.box.centre[0] > FAR_M / 2


def test_the_views_of_a_bench_are_never_given_to_the_map(tmp_path):
    from gs_semantic.share import share_path

    house = share_path("sample", "house")
    alone = MapBench(house, tmp_path, skip_every=8)
    assert alone.start_arguments(5.0)["skip_every"] == alone.withhold == 8
    assert alone.views().indices == tuple(range(7, 60, 8))
    other = MapBench(house, tmp_path, evaluation=share_path("sample", "house_eval"))
    assert other.withhold == 0 and len(other.views()) == 8
