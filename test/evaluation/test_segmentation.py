"""Class scores against numbers worked out by hand, and against torchmetrics where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.segmentation import ClassScore

VIEWS = (
    (np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 2]])),
    (np.array([[9, 0, 2]]), np.array([[2, 2, 0]])),  # the last pixel is void and left out
)


def scored(views=VIEWS, **options):
    score = ClassScore(**options)
    for predicted, truth in views:
        score.update(predicted, truth)
    return score.result()


def test_pixels_of_all_views_are_summed():
    result = scored()
    assert result.iou == pytest.approx({1: 2 / 3, 2: 1 / 4})
    assert result.miou == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert result.mean_accuracy == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert result.accuracy == pytest.approx(3 / 6)


def test_views_by_themselves():
    result = scored(average="per_view")
    assert result.iou == pytest.approx({1: 2 / 3, 2: (1 / 2 + 0) / 2})
    assert result.miou == pytest.approx(((2 / 3 + 1 / 2) / 2 + 0) / 2)
    assert result.mean_accuracy == pytest.approx(((2 / 3 + 1) / 2 + 0) / 2)
    assert result.accuracy == pytest.approx((3 / 4 + 0) / 2)


def test_classes_that_the_truth_never_shows_are_no_class_of_the_mean():
    result = scored([(np.array([[1, 1, 5, 5]]), np.array([[1, 1, 1, 1]]))])
    assert result.iou == {1: 0.5} and result.miou == 0.5


def test_other_values_mean_void_and_unlabelled():
    result = scored([(np.array([[0, -1, 0, 3]]), np.array([[0, 0, -1, 3]]))], ignore=(-1,))
    assert result.iou == pytest.approx({0: 1 / 2, 3: 1.0})


@pytest.mark.parametrize("average", ["dataset", "per_view"])
def test_without_pixels(average):
    result = scored([(np.zeros((2, 2), int), np.zeros((2, 2), int))], average=average)
    assert np.isnan([result.miou, result.accuracy, result.mean_accuracy]).all() and result.iou == {}


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="same shape"):
        ClassScore().update(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(InvalidRequestError, match="average: 'views' is not one of dataset, per_view"):
        ClassScore(average="views")


def test_against_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    rng = np.random.default_rng(1)
    truth = rng.integers(0, 6, (5, 20, 30))
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 6, truth.shape))
    ours = scored(zip(predicted, truth, strict=True))
    options = {"num_classes": 6, "ignore_index": 0}
    pair = torch.from_numpy(predicted), torch.from_numpy(truth)
    jaccard = classification.multiclass_jaccard_index(*pair, average="none", **options)[1:]
    recall = classification.multiclass_recall(*pair, average="none", **options)[1:]
    accuracy = classification.multiclass_accuracy(*pair, average="micro", **options)
    assert list(ours.iou.values()) == pytest.approx(jaccard.tolist(), abs=1e-6)
    assert ours.mean_accuracy == pytest.approx(float(recall.mean()), abs=1e-6)
    assert ours.accuracy == pytest.approx(float(accuracy), abs=1e-6)
