"""Known values of the losses on identities."""

from __future__ import annotations

import math

import pytest
import torch

from gs_semantic.segmentation.losses import identity_cross_entropy, neighbour_kl


def test_uniform_logits_give_one():
    loss = identity_cross_entropy(torch.zeros(7, 256), torch.arange(7))
    assert float(loss) == pytest.approx(1.0, abs=1e-6)
    assert float(identity_cross_entropy(torch.zeros(3, 10), torch.arange(3), 10)) == pytest.approx(1.0, abs=1e-6)


def test_identical_identities_cost_nothing():
    probabilities = torch.softmax(torch.randn(4, 9), dim=1)
    assert float(neighbour_kl(probabilities, probabilities[:, None].expand(4, 5, 9))) == pytest.approx(0, abs=1e-7)


def test_two_opposite_classes():
    points, neighbours = torch.tensor([[0.9, 0.1]]), torch.tensor([[[0.1, 0.9]]])
    divergence = 0.9 * math.log(9) + 0.1 * math.log(1 / 9)
    assert 2 * float(neighbour_kl(points, neighbours)) == pytest.approx(2 * divergence / 256, rel=1e-5)
    assert 2 * float(neighbour_kl(points, neighbours)) == pytest.approx(0.013733, abs=1e-6)


def test_the_point_itself_among_the_neighbours_adds_zero():
    points = torch.tensor([[0.9, 0.1]])
    both = torch.stack([points, torch.tensor([[0.1, 0.9]])], dim=1)
    assert float(neighbour_kl(points, both)) == pytest.approx(float(neighbour_kl(points, both[:, 1:])) / 2)
