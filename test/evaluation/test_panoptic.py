"""PQ^scene against numbers worked out by hand, and against torchmetrics where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.evaluation.panoptic import BACKGROUND, FOREGROUND, VOID, PanopticScore, two_classes


def scored(views, **options):
    """Views of (predicted instances, true instances); 0 is background."""
    score = PanopticScore(things=[FOREGROUND], stuff=[BACKGROUND], **options)
    for predicted, truth in views:
        predicted, truth = np.atleast_2d(predicted), np.atleast_2d(truth)
        score.update(two_classes(predicted), predicted, two_classes(truth), truth)
    return score.result()


def one_object(covered: int) -> tuple[np.ndarray, np.ndarray]:
    """An object of 100 pixels, of which the prediction covers the first ones, before 300 of background."""
    truth = np.r_[np.full(100, 1), np.zeros(300, int)]
    return np.where(np.arange(400) < covered, 7, 0), truth


def test_more_than_half_is_found():
    thing = scored([one_object(60)]).by_class[FOREGROUND]
    assert (thing.pq, thing.sq, thing.rq) == pytest.approx((0.6, 0.6, 1.0))


def test_half_is_neither_found_nor_right():
    thing = scored([one_object(50)]).by_class[FOREGROUND]
    assert (thing.pq, thing.rq) == (0.0, 0.0)


def test_stuff_is_one_segment_and_the_mean_is_over_classes():
    result = scored([one_object(60)])
    assert result.by_class[BACKGROUND].pq == pytest.approx(300 / 340)
    assert result.mean.pq == pytest.approx((0.6 + 300 / 340) / 2)


def test_an_id_that_changes_between_views_is_not_found():
    view = one_object(100)
    assert scored([view, view]).mean.pq == 1.0
    changed = scored([view, (np.where(view[0] == 7, 8, 0), view[1])]).by_class[FOREGROUND]
    assert changed.pq == 0.0  # each of the two ids covers half of the object's pixels


def test_false_and_missed_segments_weigh_half_each():
    truth = np.r_[np.full(100, 1), np.full(100, 2), np.full(100, 3)]
    predicted = np.r_[np.full(100, 5), np.full(50, 6), np.full(50, 8), np.full(100, 9)]
    thing = scored([(predicted, truth)]).by_class[FOREGROUND]
    assert (thing.sq, thing.rq) == pytest.approx((1.0, 2 / (2 + 1 / 2 + 2 / 2)))


def test_void_is_forgiven_on_both_sides():
    truth = np.r_[np.full(100, 1), np.full(100, 2), np.zeros(100, int)]
    void = np.arange(300) >= 200
    predicted = np.r_[np.full(60, 5), np.zeros(140, int), np.full(100, 6)]
    score = PanopticScore(things=[FOREGROUND])  # background is no class here: it is void
    score.update(two_classes(predicted), predicted, two_classes(truth, void), truth)
    thing = score.result().by_class[FOREGROUND]
    # 1: its unpredicted rest leaves the union. 2 lies in void: not missed. 6 lies where nobody knows: not false.
    assert (thing.pq, thing.sq, thing.rq) == pytest.approx((1.0, 1.0, 1.0))


def test_rare_classes_do_not_count_as_published():
    truth, nothing = np.r_[np.full(100, 1), np.zeros(300, int)], np.zeros(400, int)
    assert set(scored([(nothing, truth)]).by_class) == {BACKGROUND}
    kept = scored([(nothing, truth)], keep_missed=True)
    assert kept.by_class[FOREGROUND].pq == 0.0
    tiny = np.r_[[1], np.zeros(399, int)]
    assert set(scored([(tiny, tiny)], keep_missed=True).by_class) == {BACKGROUND}
    assert np.isnan(PanopticScore(things=[FOREGROUND]).result().mean.pq)


def test_classes_must_agree_and_other_classes_are_void():
    score = PanopticScore(things=[3, 4], stuff=[5])
    classes, instances = np.array([[3, 3, 4, 4, 5, 5, 8, 8]]), np.array([[1, 1, 1, 1, 1, 2, 1, 1]])
    score.update(np.where(classes == 4, 3, classes), instances, classes, instances)
    result = score.result()
    assert set(result.by_class) == {3, 5} and result.by_class[5].pq == 1.0
    # 3.1 grew over 4.1: of its four pixels two are right, which is no hit
    assert result.by_class[3].pq == 0.0
    with pytest.raises(ValueError, match="same shape"):
        score.update(classes, instances, classes[:, :2], instances[:, :2])
    with pytest.raises(ValueError, match="same shape"):
        score.update(classes, instances[:, :2], classes, instances)


def test_against_torchmetrics():
    detection = pytest.importorskip("torchmetrics.functional.detection")
    import torch

    rng = np.random.default_rng(3)
    instances = np.kron(rng.integers(1, 9, (6, 8)), np.ones((8, 8), int))
    classes = np.array([VOID, 1, 1, 1, 2, 2, 2, 3, 3])[instances]
    wrong = rng.random(instances.shape) < 0.3
    predicted = np.where(wrong, rng.integers(1, 9, instances.shape), instances)
    predicted_classes = np.array([VOID, 1, 1, 1, 2, 2, 2, 3, 3])[predicted]
    score = PanopticScore(things=[1, 2], stuff=[3])
    score.update(predicted_classes, predicted, classes, instances)
    pair = (
        torch.from_numpy(np.stack(images, axis=2))[None]
        for images in ((predicted_classes, predicted), (classes, instances))
    )
    expected = detection.panoptic_quality(*pair, things={1, 2}, stuffs={3}, return_sq_and_rq=True)
    mean = score.result().mean
    assert (mean.pq, mean.sq, mean.rq) == pytest.approx(expected.tolist(), abs=1e-6)
