"""Mask IoU and boundary IoU: known values, and erosion step by step as the definition says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gs_semantic.evaluation.boundary import MaskPairScore, band_width, boundary_band, boundary_iou, mask_iou

NOTHING, ALL = np.zeros((100, 100), bool), np.ones((100, 100), bool)


def square(low: int, high: int, size: int = 100) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[low:high, low:high] = True
    return mask


def test_a_full_mask_has_a_frame_for_a_band():
    assert band_width(100, 100) == 3
    band = boundary_band(ALL)
    assert band.sum() == 1164 and not band[3:-3, 3:-3].any()


@pytest.mark.parametrize(("size", "width"), [((480, 640), 16), ((240, 320), 8), ((728, 986), 25), ((4, 4), 1)])
def test_the_band_grows_with_the_diagonal(size, width):
    assert band_width(*size) == width


def test_the_band_is_what_single_erosions_take_away():
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.standard_normal((90, 120)), 5) > 0
    width = band_width(90, 120)
    inside = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)
    assert width > 1 and inside.any()
    assert np.array_equal(boundary_band(mask), mask & ~inside)


def test_known_ious():
    a, b = square(20, 60), square(25, 65)
    assert mask_iou(a, b) == pytest.approx(35**2 / (2 * 40**2 - 35**2))
    # frames 3 wide of equal squares, five pixels apart: they cross in two 3x3 spots
    assert boundary_iou(a, b) == pytest.approx(2 * 9 / (2 * (40**2 - 34**2) - 2 * 9))
    assert boundary_iou(a, b, width=40) == mask_iou(a, b)  # a band wider than the masks is all of them
    assert boundary_iou(a, a) == mask_iou(a, a) == 1.0
    assert boundary_iou(a, NOTHING) == mask_iou(a, NOTHING) == 0.0


def test_two_empty_masks_have_no_score():
    assert mask_iou(NOTHING, NOTHING) is None and boundary_iou(NOTHING, NOTHING) is None


def test_a_shift_costs_more_at_the_border_than_inside():
    a, b = square(20, 80), square(21, 81)
    assert boundary_iou(a, b) < 0.8 and mask_iou(a, b) > 0.9


def test_views_then_names_are_averaged_and_what_is_missing_scores_zero():
    score = MaskPairScore()
    score.update("mug", square(20, 60), square(20, 60))
    score.update("mug", None, square(20, 60))
    score.update("mug", square(20, 60), NOTHING)  # not annotated there: no view of the mug
    score.update("spoon", square(20, 60), square(20, 60))
    assert score.by_name() == {"mug": (0.5, 0.5), "spoon": (1.0, 1.0)}
    assert score.miou == 0.75 and score.mean_boundary_iou == 0.75
    assert np.isnan(MaskPairScore().miou) and np.isnan(MaskPairScore().mean_boundary_iou)


def test_id_images():
    truth = np.where(square(20, 60), 4, 0)
    truth[:10] = 9
    predicted = truth.copy()
    predicted[70:] = 4  # where nobody knows
    predicted[:10] = 0
    score = MaskPairScore()
    score.update_ids(predicted, truth)
    assert score.by_name() == {4: (1.0, 1.0), 9: (0.0, 0.0)}
    without = MaskPairScore()
    without.update_ids(predicted, truth, ignore=(9,))
    assert without.by_name() == {4: (1.0, 1.0)}


@pytest.mark.parametrize("compare", [mask_iou, boundary_iou, MaskPairScore().update_ids])
def test_different_sizes_are_refused(compare):
    with pytest.raises(ValueError, match="same shape"):
        compare(ALL, np.ones((50, 100), bool))
