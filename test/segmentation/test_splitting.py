"""Splits that keep the parent's moments."""

from __future__ import annotations

import pytest
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.segmentation.splitting import SHRINK, child_offset, split_across


def one_gaussian() -> GaussianMap:
    gaussians = GaussianMap()
    gaussians.register("identity", (2,))
    gaussians.register_state("identity", "adam")
    gaussians.add(
        means=torch.tensor([[1.0, 2.0, 3.0], [9, 9, 9]]),
        quats=torch.tensor([[0.9, 0.1, -0.3, 0.2], [1, 0, 0, 0]]),
        log_scales=torch.tensor([[0.3, 0.05, 0.1], [1, 1, 1]]).log(),
        opacity_logits=torch.tensor([0.7, 0.0]),
        sh=torch.rand(2, 1, 3),
        identity=torch.tensor([[0.5, -0.5], [0, 0]]),
    )
    gaussians.state("identity", "adam").fill_(1)
    return gaussians


def covariance(gaussians: GaussianMap, row: int) -> torch.Tensor:
    spread = rotation_matrices(gaussians.quats)[row] * gaussians.log_scales[row].exp()
    return spread @ spread.T


def test_the_offset_is_the_known_one():
    assert child_offset(1.6) == pytest.approx(0.7806, abs=5e-5)
    assert (1 / SHRINK) ** 2 + child_offset() ** 2 == pytest.approx(1)


@pytest.mark.parametrize("axis", [[1.0, 0, 0], [0, 0, 1.0], [0.6, 0.0, 0.8], [0.36, 0.48, -0.8]])
def test_children_together_have_the_mean_and_covariance_of_the_parent(axis):
    gaussians = one_gaussian()
    mean, whole = gaussians.means[0].clone(), covariance(gaussians, 0)
    rows = split_across(gaussians, torch.tensor([0]), torch.tensor([axis]))
    assert rows.tolist() == [1, 2] and len(gaussians) == 3
    offset = gaussians.means[1] - mean
    assert torch.allclose(gaussians.means[2] - mean, -offset, atol=1e-6)
    together = covariance(gaussians, 1) + offset[:, None] * offset[None]
    assert torch.allclose(together, whole, atol=1e-6)
    assert torch.allclose(covariance(gaussians, 2), covariance(gaussians, 1))


def test_the_longest_axis_is_split_as_known():
    gaussians = one_gaussian()
    along = rotation_matrices(gaussians.quats)[0, :, 0]
    mean = gaussians.means[0].clone()
    split_across(gaussians, torch.tensor([0]), torch.tensor([[1.0, 0, 0]]))
    assert torch.allclose(gaussians.means[1] - mean, 0.3 * child_offset() * along, atol=1e-6)
    assert torch.allclose(gaussians.log_scales[1].exp(), torch.tensor([0.3 / 1.6, 0.05, 0.1]), atol=1e-6)


def test_everything_else_is_copied_and_moments_start_anew():
    gaussians = one_gaussian()
    uids = set(gaussians["uid"].tolist())
    sh = gaussians.sh[0].clone()
    rows = split_across(gaussians, torch.tensor([0]), torch.tensor([[1.0, 0, 0]]))
    assert (gaussians["identity"][rows] == torch.tensor([0.5, -0.5])).all()
    assert (gaussians.sh[rows] == sh).all() and (gaussians.opacity_logits[rows] == 0.7).all()
    assert (gaussians.state("identity", "adam")[rows] == 0).all()
    assert not set(gaussians["uid"][rows].tolist()) & uids


def test_variants_of_scale_and_opacity():
    gaussians = one_gaussian()
    rows = split_across(gaussians, torch.tensor([0]), torch.tensor([[1.0, 0, 0]]), 1.6, 1.6, thin_opacity=True)
    assert torch.allclose(gaussians.log_scales[rows[0]].exp(), torch.tensor([0.3, 0.05, 0.1]) / 1.6, atol=1e-6)
    thin, whole = torch.sigmoid(gaussians.opacity_logits[rows[0]]), torch.sigmoid(torch.tensor(0.7))
    assert 1 - (1 - thin) ** 2 == pytest.approx(float(whole), abs=1e-6)
