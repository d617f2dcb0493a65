"""The table from which every overlap score is computed: pixels by true and predicted id."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np


def mean(values: Iterable[float]) -> float:
    """NaN without any."""
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else float("nan")


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Contingency:
    """``pixels`` (T, P) that true id ``truths[t]`` shares with predicted id ``predictions[p]``; all int64, ids rise.

    Ids are whatever the images hold, also far apart or negative; only those that occur have a row or column.
    Tables of several views add up.
    """

    truths: np.ndarray = field(default_factory=_none)
    predictions: np.ndarray = field(default_factory=_none)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    @classmethod
    def of(cls, predicted: np.ndarray, truth: np.ndarray, ignore: Collection[int] = ()) -> Contingency:
        """Table of two id images of one shape (ValueError); pixels whose truth is in ``ignore`` are left out."""
        if predicted.shape != truth.shape:
            raise ValueError(f"predicted {predicted.shape} and truth {truth.shape} must have the same shape")
        counted = np.ones(truth.shape, bool)
        for key in ignore:
            counted &= truth != key
        truth, predicted = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
        if not len(truth):
            return cls()
        first, low = int(truth.min()), int(predicted.min())
        height, width = int(truth.max()) - first + 1, int(predicted.max()) - low + 1
        if height * width <= 4 * len(truth):
            every = np.bincount((truth - first) * width + (predicted - low), minlength=height * width)
            every = every.reshape(height, width)
            rows, columns = np.flatnonzero(every.any(axis=1)), np.flatnonzero(every.any(axis=0))
            return cls(rows + first, columns + low, every[np.ix_(rows, columns)])
        # ids far apart: a table of all numbers between them would be too large
        truths, row = np.unique(truth, return_inverse=True)
        predictions, column = np.unique(predicted, return_inverse=True)
        pixels = np.bincount(row * len(predictions) + column, minlength=len(truths) * len(predictions))
        return cls(truths, predictions, pixels.reshape(len(truths), len(predictions)))

    def __add__(self, other: Contingency) -> Contingency:
        truths, predictions = np.union1d(self.truths, other.truths), np.union1d(self.predictions, other.predictions)
        pixels = np.zeros((len(truths), len(predictions)), np.int64)
        for table in (self, other):
            place = np.ix_(np.searchsorted(truths, table.truths), np.searchsorted(predictions, table.predictions))
            pixels[place] += table.pixels
        return Contingency(truths, predictions, pixels)

    def without_prediction(self, key: int) -> Contingency:
        """The table without the column of a predicted id; rows then sum to less than ``truth_pixels``."""
        kept = self.predictions != key
        return Contingency(self.truths, self.predictions[kept], self.pixels[:, kept])

    @property
    def truth_pixels(self) -> np.ndarray:
        """(T,) pixels of each true id."""
        return self.pixels.sum(axis=1)

    @property
    def predicted_pixels(self) -> np.ndarray:
        """(P,) pixels of each predicted id."""
        return self.pixels.sum(axis=0)

    @property
    def iou(self) -> np.ndarray:
        """(T, P) intersection over union, float64."""
        return self.pixels / (self.truth_pixels[:, None] + self.predicted_pixels[None] - self.pixels)


@dataclass
class ViewMeans:
    """IoU of every pair of ids, view by view: the mean over the views that show the true id, whether or not they show
    the predicted one."""

    _sums: dict[tuple[int, int], float] = field(default_factory=dict, init=False)
    _views: dict[int, int] = field(default_factory=dict, init=False)

    def update(self, table: Contingency) -> None:
        """Take the table of one view."""
        for truth in table.truths.tolist():
            self._views[truth] = self._views.get(truth, 0) + 1
        iou = table.iou
        for row, column in zip(*np.nonzero(table.pixels), strict=True):
            pair = int(table.truths[row]), int(table.predictions[column])
            self._sums[pair] = self._sums.get(pair, 0.0) + float(iou[row, column])

    @property
    def truths(self) -> list[int]:
        """True ids that any view shows, rising."""
        return sorted(self._views)

    def iou(self, truth: int, predicted: int) -> float:
        """Mean IoU of a true id (that occurs) with a predicted one; 0 when they never meet."""
        return self._sums.get((truth, predicted), 0.0) / self._views[truth]
