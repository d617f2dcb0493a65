"""Known values of the losses on untracked masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from gs_semantic.segmentation.untracked import (
    Draw,
    MaskPixels,
    Prototypes,
    assign,
    class_loss,
    concentration_loss,
    confidence,
    contrastive_loss,
    mask_scores,
    norm_loss,
    unit,
)


@pytest.fixture
def pixels():
    torch.manual_seed(0)
    segments = torch.randint(0, 5, (400,))
    centres = 3 * torch.eye(5, 8)
    return centres[segments] + 0.4 * torch.randn(400, 8), segments


def test_large_masks_choose_their_code_first():
    """90 pixels with mean (.6, .4) and 10 with (.9, .1): summed 54 + 1 beats 36 + 9; as means 1.3 beats 0.7."""
    probabilities = torch.tensor([[0.6, 0.4]]).repeat(90, 1), torch.tensor([[0.9, 0.1]]).repeat(10, 1)
    segments = torch.tensor([0] * 90 + [1] * 10)
    summed = mask_scores(torch.cat(probabilities), segments, 2)
    torch.testing.assert_close(summed, torch.tensor([[54.0, 36.0], [9.0, 1.0]]))
    assert assign(summed)[1].tolist() == [0, 1]
    assert assign(mask_scores(torch.cat(probabilities), segments, 2, area_aware=False))[1].tolist() == [1, 0]


def test_more_masks_than_codes_leaves_the_smallest_without():
    scores = mask_scores(torch.full((6, 2), 0.5), torch.tensor([0, 0, 0, 1, 2, 2]), 3)
    masks, codes = assign(scores)
    assert masks.tolist() == [0, 2] and sorted(codes.tolist()) == [0, 1]


def test_orthogonal_prototypes_are_confident_at_the_filters_temperature():
    features, segments = 4 * torch.eye(200), torch.arange(200)
    expected = math.exp(10) / (math.exp(10) + 199)
    assert expected == pytest.approx(0.9910, abs=1e-4)
    torch.testing.assert_close(confidence(features, segments, 200), torch.full((200,), expected), atol=1e-4, rtol=0)


def test_a_pixel_in_the_wrong_mask_is_filtered_out(pixels):
    features, segments = pixels
    wrong = segments.clone()
    wrong[0] = (segments[0] + 1) % 5
    kept = confidence(features, wrong, 5) > 0.2
    assert not kept[0] and kept[1:].all()


def test_prototypes_are_those_of_a_loop_over_masks(pixels):
    rows, segments = unit(pixels[0]), pixels[1]
    known = Prototypes.of(rows, segments, 5)
    for key in range(5):
        own = rows[segments == key]
        torch.testing.assert_close(known.centres[key], own.mean(0))
        spread = (own - own.mean(0)).norm(dim=1).sum() / (len(own) * math.log(len(own) + 10))
        torch.testing.assert_close(known.spread[key], spread)


@pytest.mark.parametrize("per_pixel", [False, True])
def test_contrast_is_that_of_a_loop_over_masks(pixels, per_pixel):
    features, segments = pixels[0][:60], pixels[1][:60]
    least = 11
    rows, kept = unit(features), [k for k in range(5) if (segments == k).sum() > least]
    assert 2 <= len(kept) < 5
    centres = torch.stack([rows[segments == k].mean(0) for k in kept])
    phi = []
    for position, key in enumerate(kept):
        own = rows[segments == key]
        raw = (own - centres[position]).norm(dim=1).sum() / (len(own) * math.log(len(own) + 10))
        phi.append(min(max(10 * float(raw), 0.5), 1))
    total, count = 0.0, 0
    for position, key in enumerate(kept):
        for row in rows[segments == key]:
            shares = [math.exp(float(row @ centres[j]) / phi[j]) for j in range(len(kept))]
            total -= math.log(shares[position] / (sum(shares) + 1e-6))
            count += 1
    positions, places, count_kept = Draw.of(np.arange(60), segments.numpy()).large_masks(least)
    assert count_kept == len(kept)
    loss = contrastive_loss(features[positions], torch.from_numpy(places), count_kept, per_pixel)
    assert float(loss) == pytest.approx(total / (count if per_pixel else len(kept)), rel=1e-5)


def test_a_draw_knows_its_masks_and_which_are_large():
    draw = Draw.of(np.array([9, 2, 5, 7]), np.array([30, 4, 30, 11]))
    assert draw.classes.tolist() == [4, 11, 30] and draw.segments.tolist() == [2, 0, 2, 1]
    positions, places, count = draw.large_masks(1)
    assert positions.tolist() == [0, 2] and places.tolist() == [0, 0] and count == 1
    assert Draw.of(np.arange(9), np.arange(9)).large_masks(1)[2] == 0  # a mask needs some size


def test_a_balanced_draw_has_more_pixels_of_small_masks_and_counts_them_less():
    classes = np.repeat([3, 0, 7], [4, 900, 100])
    masks = MaskPixels.of(np.arange(1000, 2004), classes)
    draws = [Draw.balanced(masks, 84, 0.5, np.random.default_rng(seed)) for seed in range(3)]
    for draw in draws:
        assert draw.classes.tolist() == [0, 3, 7]
        assert np.bincount(draw.segments) == pytest.approx([60, 4, 20], abs=1)  # square roots: 30, 2, 10
        assert (classes[draw.pixels - 1000] == draw.classes[draw.segments]).all()
        assert np.bincount(draw.segments, draw.weights) == pytest.approx(84 / 1004 * np.array([900, 4, 100]), rel=0.3)
    assert not np.array_equal(draws[0].pixels, draws[1].pixels)


@pytest.mark.parametrize("per_pixel", [False, True])
def test_in_a_balanced_contrast_a_mask_of_many_pixels_weighs_like_others(pixels, per_pixel):
    features, segments = pixels[0][:100], pixels[1][:100]
    features = features + 20 * torch.eye(5, 8)[segments]  # so little spread that temperatures are at their least
    large = torch.cat([torch.arange(100), torch.nonzero(segments == 2)[:, 0].repeat(9)])
    losses = [
        [contrastive_loss(features[rows], segments[rows], 5, per_pixel, balance) for rows in (torch.arange(100), large)]
        for balance in (0.0, 1.0)
    ]
    share = 1 if per_pixel else len(large) / 100  # a sum over pixels grows with them
    assert losses[1][1] / share == pytest.approx(float(losses[1][0]), rel=1e-4)
    assert losses[0][1] / share != pytest.approx(float(losses[0][0]), rel=1e-3)


def test_contrast_lets_features_grow_longer(pixels):
    """The norm has no gradient of its own, so that the one left has a part along the feature."""
    features, segments = pixels[0].clone().requires_grad_(), pixels[1]
    contrastive_loss(features, segments, 5).backward()
    along = (features.grad * unit(features.detach())).sum(dim=1)
    assert along.mean() < 0  # down the gradient, they get longer


def test_class_loss_and_its_gradients_are_those_of_cross_entropy(pixels):
    codes = torch.randn(7, 8, dtype=torch.double, requires_grad=True)
    features = pixels[0][:50].double().requires_grad_()
    targets, kept = pixels[1][:50], torch.arange(50) % 3 > 0
    expected = cross_entropy((features @ codes.T)[kept], targets[kept]) / math.log(7)
    wanted = torch.autograd.grad(expected, [codes, features])
    found = class_loss(codes, features, targets, (features @ codes.T).softmax(1).detach(), kept)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(3 * found, [codes, features]), wanted, strict=True):
        torch.testing.assert_close(one, 3 * other)


def test_codes_are_pulled_to_the_features_directions(pixels):
    codes = torch.zeros(1, 8, requires_grad=True)
    optimiser = torch.optim.Adam([codes], lr=0.02)
    features, every = 5 * torch.eye(1, 8).repeat(10, 1), torch.ones(10, dtype=torch.bool)
    for _ in range(200):
        optimiser.zero_grad()
        concentration_loss(codes, features, torch.zeros(10, dtype=torch.long), every).backward()
        optimiser.step()
    np.testing.assert_allclose(codes.detach()[0], np.eye(8)[0], atol=0.03)
    assert float(concentration_loss(torch.eye(1, 8), features, torch.zeros(10, dtype=torch.long), every)) < 1e-5


def test_norm_loss_and_its_gradient_at_nothing():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    loss = norm_loss(features)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((1 + 16) / 2) and torch.isfinite(features.grad).all()
