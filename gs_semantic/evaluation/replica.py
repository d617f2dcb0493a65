"""The Replica protocol of Gaga and Unified-Lift: objects matched over all views, mean IoU and F-score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from gs_semantic.evaluation.contingency import Contingency, ViewMeans

HIT = 0.5  # IoU above which a matched object counts as found


@dataclass(frozen=True)
class ReplicaResult:
    """iou: by true id, of the predicted id matched to it (0 without one). miou: their mean.

    precision: matched pairs with IoU > 0.5 per predicted id. recall: the same per true id. f_score: their harmonic mean.
    NaN without any view.
    """

    iou: dict[int, float]
    match: dict[int, int]
    miou: float
    precision: float
    recall: float
    f_score: float


@dataclass
class ReplicaScore:
    """IoU of a pair of ids is the mean over the views that show the true one; pairs are chosen to make the sum of IoUs
    largest. Id 0 is an id like the others, as published; every id that a prediction shows anywhere counts as one."""

    _means: ViewMeans = field(default_factory=ViewMeans, init=False)
    _predicted: set[int] = field(default_factory=set, init=False)

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """One view: id images (H, W) of one shape."""
        table = Contingency.of(predicted, truth)
        self._means.update(table)
        self._predicted |= set(table.predictions.tolist())

    def result(self) -> ReplicaResult:
        """Scores of all views so far."""
        truths, predictions = self._means.truths, sorted(self._predicted)
        if not truths:
            return ReplicaResult({}, {}, *[float("nan")] * 4)
        table = np.array([[self._means.iou(truth, predicted) for predicted in predictions] for truth in truths])
        iou, match = dict.fromkeys(truths, 0.0), dict[int, int]()
        for row, column in zip(*linear_sum_assignment(table, maximize=True), strict=True):
            if table[row, column] > 0:
                iou[truths[row]], match[truths[row]] = float(table[row, column]), predictions[column]
        hits = sum(value > HIT for value in iou.values())
        precision, recall = hits / len(predictions), hits / len(truths)
        f_score = 2 * precision * recall / (precision + recall) if hits else 0.0
        return ReplicaResult(iou, match, _mean(iou.values()), precision, recall, f_score)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
