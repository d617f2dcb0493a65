"""Mask IoU and boundary IoU: known values, and erosion step by step as the definition says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gs_semantic.evaluation.boundary import (
    ErrorPlaces,
    MaskPairScore,
    ObjectMaskScore,
    band_width,
    boundary_band,
    boundary_bands,
    boundary_iou,
    mask_iou,
)

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


def test_bands_of_all_ids_at_once_are_those_of_single_masks():
    rng = np.random.default_rng(0)
    ids = (ndimage.gaussian_filter(rng.standard_normal((90, 120)), 6) * 30).astype(int) * 70_000
    assert len(np.unique(ids)) > 4
    bands = boundary_bands(ids)
    for key in np.setdiff1d(ids, 0):
        assert np.array_equal(bands == key, boundary_band(ids == key))


def test_objects_of_id_images_score_as_their_masks_do():
    rng = np.random.default_rng(1)
    views = []
    for _ in range(3):
        truth = (ndimage.gaussian_filter(rng.standard_normal((60, 80)), 6) * 20).astype(int).clip(0)
        views.append((np.where(rng.random(truth.shape) < 0.9, truth, 0), truth))
    objects, pairs = ObjectMaskScore(), MaskPairScore()
    for predicted, truth in views:
        objects.update(np.where(predicted > 0, predicted + 100, 0), truth)
        for key in np.setdiff1d(truth, 0).tolist():
            pairs.update(key, (predicted == key) & (truth > 0), truth == key)
    result = objects.result({key: key + 100 for key in range(1, 20)})
    expected = pairs.by_name()
    assert len(expected) > 1 and result.iou == pytest.approx({key: mask for key, (mask, _) in expected.items()})
    assert result.boundary_iou == pytest.approx({key: band for key, (_, band) in expected.items()})
    assert result.miou == pytest.approx(pairs.miou)
    assert result.mean_boundary_iou == pytest.approx(pairs.mean_boundary_iou)
    assert 0 < result.mean_boundary_iou < result.miou < 1


def test_objects_without_a_match_and_pixels_without_a_truth():
    truth = np.where(square(20, 60), 4, 0)
    truth[:10] = 9
    predicted = truth.copy()
    predicted[70:] = 4  # where nobody knows
    predicted[:10] = 0
    score = ObjectMaskScore()
    score.update(predicted, truth)
    assert score.result().iou == score.result().boundary_iou == {4: 1.0, 9: 0.0}
    assert score.result({9: 4}).iou == {4: 0.0, 9: 0.0}
    without = ObjectMaskScore(ignore=(9,))
    without.update(predicted, truth)
    assert without.result().iou == {4: 1.0}
    assert np.isnan(ObjectMaskScore().result().miou)


@pytest.mark.parametrize("compare", [mask_iou, boundary_iou, ObjectMaskScore().update])
def test_different_sizes_are_refused(compare):
    with pytest.raises(ValueError, match="same shape"):
        compare(ALL, np.ones((50, 100), bool))


def test_errors_lie_at_borders_or_elsewhere():
    truth = np.zeros((20, 30), int)
    truth[:, :15], truth[:, 15:], truth[:5, :5] = 3, 8, 0  # 0: unlabelled
    predicted = np.where(truth == 3, 1, 2)
    predicted[10:12, 15:17] = 1  # two pixels at the border, two behind them
    predicted[18, 25] = 7
    score = ErrorPlaces()
    score.update(predicted, truth)
    score.update(
        np.where(truth == 3, 1, 2), np.where(truth == 8, 9, truth)
    )  # 9 is ignored nowhere, and matched with nothing
    wrong, at_borders = score.result({3: 1, 8: 2})
    border_of_9 = 20
    assert wrong == pytest.approx((5 + 300) / (2 * 575))
    assert at_borders == pytest.approx((2 + border_of_9) / 305)
    assert ErrorPlaces(ignore=(3, 8)).result({}) == pytest.approx((np.nan, np.nan), nan_ok=True)
