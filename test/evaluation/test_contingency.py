"""The table of shared pixels against counting one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from gs_semantic.evaluation.contingency import Contingency


def as_counter(table: Contingency) -> Counter:
    rows, columns = np.nonzero(table.pixels)
    return Counter(
        {
            (int(table.truths[t]), int(table.predictions[p])): int(table.pixels[t, p])
            for t, p in zip(rows, columns, strict=True)
        }
    )


@pytest.mark.parametrize("spread", [1, 10**8], ids=["dense", "sparse"])
def test_counts_are_those_of_the_pixels(spread):
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(-1, 7, (20, 30)) * spread, rng.integers(-2, 9, (20, 30)) * spread
    table = Contingency.of(predicted, truth, ignore=(3 * spread,))
    pairs = Counter(zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True))
    assert as_counter(table) == Counter({key: n for key, n in pairs.items() if key[0] != 3 * spread})
    assert (np.diff(table.truths) > 0).all() and (np.diff(table.predictions) > 0).all()


def test_tables_of_views_add_up():
    rng = np.random.default_rng(0)
    views = [(rng.integers(low, low + 4, (5, 6)), rng.integers(2 * low, 9, (5, 6))) for low in range(3)]
    total = Contingency()
    for predicted, truth in views:
        total += Contingency.of(predicted, truth)
    together = Contingency.of(*(np.concatenate(images) for images in zip(*views, strict=True)))
    assert as_counter(total) == as_counter(together)
    assert total.iou == pytest.approx(together.iou)


def test_iou_and_a_column_left_out():
    table = Contingency.of(np.array([5, 5, 0, 6]), np.array([1, 1, 1, 2]))
    assert table.iou == pytest.approx(np.array([[1 / 3, 2 / 3, 0], [0, 0, 1]]))
    objects = table.without_prediction(0)
    assert objects.predictions.tolist() == [5, 6] and objects.pixels.tolist() == [[2, 0], [0, 1]]
