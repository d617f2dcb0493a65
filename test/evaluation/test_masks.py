from __future__ import annotations

import math

import numpy as np
import pytest

from gs_semantic.evaluation.masks import MaskScore

TRUTH = np.zeros((40, 40), int)
TRUTH[:20], TRUTH[20:, :20] = 1, 2


def results_of(masks, truth=TRUTH, **options):
    score = MaskScore(**options)
    score.update(masks, truth)
    return score.results()


def test_perfect_masks():
    results = results_of(np.where(TRUTH > 0, TRUTH + 6, 0))
    assert results["best_iou"] == results["masks_per_instance"] == 1
    assert results["foreign_pixels_pct"] == 0 and results["labelled_pct"] == 100
    assert math.isnan(results["best_iou_large"])  # no instance has so many pixels


def test_over_segmentation():
    masks = TRUTH.copy()
    masks[:20, 10:] = 5  # a quarter of instance 1 keeps its number
    results = results_of(masks)
    assert results["best_iou"] == pytest.approx((0.75 + 1) / 2)
    assert results["masks_per_instance"] == 1.5 and results["foreign_pixels_pct"] == 0


def test_under_segmentation():
    results = results_of(np.ones_like(TRUTH))
    assert results["best_iou"] == pytest.approx((800 / 1200 + 400 / 1200) / 2)
    assert results["foreign_pixels_pct"] == pytest.approx(100 / 3)
    assert results["masks_per_instance"] == 0.5


def test_unlabelled_ground_truth_and_groups_do_not_count():
    masks = np.full_like(TRUTH, 3)
    masks[TRUTH == 2] = 4
    results = results_of(masks, ignore={1})
    assert results["best_iou"] == 1 and results["foreign_pixels_pct"] == 0


def test_no_masks():
    results = results_of(np.zeros_like(TRUTH))
    assert results["best_iou"] == 0 and results["labelled_pct"] == 0 and math.isnan(results["foreign_pixels_pct"])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="same shape"):
        MaskScore().update(np.zeros((2, 2), int), TRUTH)
