"""Instance scores on images small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_semantic.evaluation.instances import InstanceScore, RawMaskScore, by_largest_overlap


def score(predicted, truth, **kwargs):
    total = InstanceScore(**kwargs)
    total.update(np.atleast_2d(predicted), np.atleast_2d(truth))
    return total.result()


def test_known_answer():
    truth = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    predicted = [7, 7, 7, 0, 7, 9, 9, 9, 9, 0]
    result = score(predicted, truth)
    assert result.iou == pytest.approx({1: 3 / 5, 2: 3 / 5, 3: 0.0})  # 9 fits 2 better than 3; 3 stays unmatched
    assert result.match == {1: 7, 2: 9} and result.pixels == {1: 4, 2: 4, 3: 2}
    assert result.miou == pytest.approx(0.4)


def test_the_best_assignment_is_not_the_greedy_one():
    truth = [1] * 10 + [2] * 10
    predicted = [5] * 10 + [5] * 4 + [6] * 1 + [0] * 5
    assert score(predicted, truth).match == {1: 5, 2: 6}
    # id 5 prefers 1 (6/10), but giving it to 2 lets both be matched well
    truth = [1] * 9 + [2] * 6
    predicted = [5] * 5 + [6] * 4 + [5] * 6
    result = score(predicted, truth)
    assert result.match == {1: 6, 2: 5} and result.iou == pytest.approx({1: 4 / 9, 2: 6 / 11})


def test_views_are_pooled_before_matching():
    total = InstanceScore()
    total.update(np.array([[4, 4, 4, 8]]), np.array([[1, 1, 1, 1]]))
    total.update(np.array([[8, 0]]), np.array([[1, 1]]))
    assert total.result().iou == pytest.approx({1: 3 / 6})


def test_unlabelled_and_ignored_pixels_are_left_out_altogether():
    truth = [1, 1, 0, 0, 9, 9]
    predicted = [5, 5, 5, 6, 5, 6]
    result = score(predicted, truth, ignore={9})
    assert result.iou == {1: 1.0} and result.pixels == {1: 2} and result.duplicates_pct == 0.0
    assert score(predicted, truth).iou == pytest.approx({1: 2 / 3, 9: 1 / 2})


def test_large_instances():
    truth = np.concatenate([np.full(2000, 1), np.full(1999, 2)])
    predicted = np.where(truth == 1, 5, 0)
    result = score(predicted, truth)
    assert result.miou == 0.5 and result.miou_large == 1.0


def test_duplicates():
    truth = [1] * 10 + [2] * 10
    predicted = [3] * 5 + [4] * 3 + [5] * 2 + [6] * 10
    total = InstanceScore()
    total.update(np.array([predicted]), np.array([truth]))
    assert total.result().duplicates_pct == pytest.approx(100 * 2 / 2)  # 4 and 5 repeat 3
    assert total.result(duplicate_ids={3, 4, 6}).duplicates_pct == pytest.approx(100 * 1 / 2)


def test_nothing_seen_and_nothing_predicted():
    assert np.isnan(InstanceScore().result().miou)
    result = score([0, 0], [1, 1])
    assert result.miou == 0.0 and result.match == {} and result.duplicates_pct == 0.0


def test_different_sizes_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        InstanceScore().update(np.zeros((2, 2)), np.zeros((2, 3)))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_names_of_map_ids_do_not_matter_and_a_perfect_map_scores_one(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, (12, 12))
    predicted = rng.integers(0, 6, (12, 12))
    renamed = np.array([0, *(rng.choice(10**6, 5, replace=False) + 1)])
    assert score(renamed[predicted], truth).miou == pytest.approx(score(predicted, truth).miou)
    assert score(renamed[truth], truth).miou == 1.0
    assert 0.0 <= score(predicted, truth).miou <= 1.0


def test_masks_take_the_id_they_overlap_most():
    masks = np.array([[4, 4, 4, 0, 7, 7, 8]])
    truth = np.array([[1, 1, 2, 2, 0, 3, 0]])
    assert by_largest_overlap(masks, truth).tolist() == [[1, 1, 1, 0, 3, 3, 0]]


def test_raw_masks_need_no_matching_and_halves_count_together():
    raw = RawMaskScore()
    raw.update(np.array([[4, 4, 5, 5, 6, 6]]), np.array([[1, 1, 1, 1, 2, 2]]))  # 1 was split in two
    raw.update(np.array([[4, 4, 4, 0, 0, 0]]), np.array([[2, 2, 2, 1, 1, 1]]))  # ids mean something else here
    result = raw.result()
    assert result.iou == pytest.approx({1: 4 / 7, 2: 1.0})
