"""The table from which every overlap score is computed: pixels by true and predicted id."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Contingency:
    """``pixels`` (T, P) that true id ``truths[t]`` shares with predicted id ``predictions[p]``; all int64, ids rise.

    Ids are whatever the images hold, also far apart or negative; only those that occur have a row or column.
    Tables of several views are added.
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
        codes = (truth - first) * width + (predicted - low)
        if height * width <= 4 * len(codes):
            counts = np.bincount(codes)
            codes = np.flatnonzero(counts)
            counts = counts[codes]
        else:  # ids far apart: a table of all numbers between them would be too large
            codes, counts = np.unique(codes, return_counts=True)
        truths, row = np.unique(codes // width, return_inverse=True)
        predictions, column = np.unique(codes % width, return_inverse=True)
        pixels = np.zeros((len(truths), len(predictions)), np.int64)
        pixels[row, column] = counts
        return cls(truths + first, predictions + low, pixels)

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
