"""The Replica protocol against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.evaluation.replica import ReplicaScore


def scored(*views):
    score = ReplicaScore()
    for predicted, truth in views:
        score.update(np.atleast_2d(predicted), np.atleast_2d(truth))
    return score.result()


def test_equal_in_one_view_and_absent_in_the_other_is_no_hit():
    result = scored(([7, 7], [1, 1]), ([8, 8], [1, 1]))
    assert result.iou == {1: 0.5} and result.f_score == 0.0
    assert result.miou == 0.5


def test_iou_is_a_mean_over_views_not_over_pixels():
    result = scored(([7] * 10, [1] * 10), ([7, 0, 0, 0], [1, 1, 1, 1]))
    assert result.iou[1] == pytest.approx((1 + 1 / 4) / 2)


def test_views_without_the_true_id_do_not_count():
    result = scored(([7, 7], [1, 1]), ([7, 7], [2, 2]))
    assert result.iou == {1: 1.0, 2: 0.0} and result.match == {1: 7}


def test_precision_and_recall_count_ids():
    truth = [0, 0, 1, 1, 2, 2]
    predicted = [0, 0, 5, 5, 6, 9]
    result = scored((predicted, truth))
    assert result.match[0] == 0  # nobody is an id, too
    assert result.iou == pytest.approx({0: 1.0, 1: 1.0, 2: 0.5})
    assert (result.precision, result.recall) == pytest.approx((2 / 4, 2 / 3))
    assert result.f_score == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))


def test_the_sum_of_ious_is_largest():
    truth = [1] * 9 + [2] * 6
    predicted = [5] * 5 + [6] * 4 + [5] * 6
    assert scored((predicted, truth)).match == {1: 6, 2: 5}


def test_more_true_ids_than_predicted_ones_and_no_view():
    result = scored(([3, 3, 3], [1, 2, 4]))
    assert result.miou == pytest.approx((1 / 3 + 0 + 0) / 3) and len(result.match) == 1
    assert np.isnan(ReplicaScore().result().miou)
