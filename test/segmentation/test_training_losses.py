"""Known values of the losses on identities."""

from __future__ import annotations

import math

import pytest
import torch

from gs_semantic.segmentation.losses import feature_kl, identity_cross_entropy, jensen_shannon, neighbour_kl


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


@pytest.mark.parametrize(
    ("label_weight", "expected"),
    [
        (0.1, (0, 0.1051, 0.6782, 2.0422, 3.4283)),
        (0.5, (0, 0.1038, 0.6226, 1.5166, 2.0)),
        (0.9, (0, 0.1020, 0.5611, 1.1727, 1.4118)),
    ],
)
def test_jensen_shannon_of_two_classes(label_weight, expected):
    for q, value in zip((1.0, 0.9, 0.5, 0.1, 0.0), expected, strict=True):
        q = min(max(q, 1e-12), 1 - 1e-12)
        logits = torch.tensor([[math.log(q), math.log(1 - q)]], dtype=torch.float64)
        loss = float(jensen_shannon(logits, torch.tensor([0]), label_weight))
        assert loss == pytest.approx(value, abs=2e-4)


def test_jensen_shannon_is_the_sum_of_divergences_and_lies_between_its_limits():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 7, generator=random, dtype=torch.float64)
    classes = torch.randint(0, 7, (20,), generator=random)
    label, q = torch.nn.functional.one_hot(classes, 7).double(), logits.softmax(dim=1)
    for weight in (0.2, 0.5):
        mixed = weight * label + (1 - weight) * q
        to_label = -(label * mixed.log()).sum(dim=1)
        to_prediction = (q * (q / mixed).log()).sum(dim=1)
        expected = (weight * to_label + (1 - weight) * to_prediction).mean() / (-(1 - weight) * math.log(1 - weight))
        assert float(jensen_shannon(logits, classes, weight)) == pytest.approx(float(expected), rel=1e-9)
    own = q.gather(1, classes[:, None])
    assert float(jensen_shannon(logits, classes, 1e-4)) == pytest.approx(float(-own.log().mean()), rel=5e-3)
    # towards 1 it nears 1 - q(y), but as slowly as 1 / ln(1 - pi)
    near, nearer = (abs(float(jensen_shannon(logits, classes, w)) - float(1 - own.mean())) for w in (0.9, 1 - 1e-12))
    assert nearer < 0.25 * near


def test_a_label_that_contradicts_pulls_less_than_in_cross_entropy():
    logits = torch.tensor([[8.0, 0.0]], requires_grad=True)
    jensen_shannon(logits, torch.tensor([1])).backward()
    assert float(logits.grad.abs().max()) < 0.02  # cross entropy: 1
    assert float(jensen_shannon(torch.tensor([[90.0, 0.0]]), torch.tensor([1]))) == pytest.approx(2, abs=1e-4)


def test_divergence_of_features_is_that_of_their_distributions():
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points, neighbours = torch.tensor([3, 0, 3]), torch.tensor([[1, 2], [0, 5], [7, 7]])
    shares = features.softmax(dim=1)
    expected = neighbour_kl(shares[points], shares[neighbours], 1)
    assert float(feature_kl(features, points, neighbours)) == pytest.approx(float(expected), rel=1e-6)
    assert float(feature_kl(features, points, points[:, None].expand(3, 4))) == pytest.approx(0, abs=1e-12)
