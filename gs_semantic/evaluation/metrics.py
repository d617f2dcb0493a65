"""Image, class and depth metrics."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over the whole frame, holes included; uint8, or float 0..1 (clamped)."""
    difference = _unit(image) - _unit(truth)
    error = float(np.mean(np.square(difference)))
    return float("inf") if error == 0 else -10.0 * float(np.log10(error))


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11, sigma 1.5, mean over channels and over the
    pixels whose window lies inside the image. uint8, or float 0..1; (H, W) or (H, W, C), at least 11x11."""
    a, b = _unit(image), _unit(truth)
    if min(a.shape[:2]) < 11:
        raise ValueError(f"ssim needs at least 11x11 pixels, got {a.shape[1]}x{a.shape[0]}")

    def blur(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)[5:-5, 5:-5]

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(similarity / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))))


def _unit(image: np.ndarray) -> np.ndarray:
    """Values 0..1 as float64."""
    if image.dtype == np.uint8:
        return image.astype(np.float64) / 255.0
    return np.clip(image.astype(np.float64), 0.0, 1.0)


class ClassScore:
    """Confusion matrix over all views; pixels whose ground truth is in ``ignore`` (void) are left out.

    Classes that the ground truth never shows do not enter the means, but predicting them costs accuracy and the IoU
    of the class that is there.
    """

    def __init__(self, ignore: Collection[int] = (0,)) -> None:
        self.ignore = tuple(ignore)
        self.matrix = np.zeros((0, 0), np.int64)  # [ground truth, predicted]

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """One view: class ids (H, W), not negative."""
        if predicted.shape != truth.shape:
            raise ValueError(f"predicted {predicted.shape} and truth {truth.shape} must have the same shape")
        counted = ~np.isin(truth, self.ignore)
        truth, predicted = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
        if not len(truth):
            return
        size = max(len(self.matrix), int(truth.max()) + 1, int(predicted.max()) + 1)
        matrix = np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)
        matrix[: len(self.matrix), : len(self.matrix)] += self.matrix
        self.matrix = matrix

    @property
    def iou(self) -> dict[int, float]:
        """IoU of every class that the ground truth shows."""
        hits, truth, predicted = self._sums()
        return {int(c): float(hits[c] / (truth[c] + predicted[c] - hits[c])) for c in np.flatnonzero(truth)}

    @property
    def miou(self) -> float:
        values = list(self.iou.values())
        return float(np.mean(values)) if values else float("nan")

    @property
    def mean_accuracy(self) -> float:
        """Mean over classes of the share of a class's pixels that is right."""
        hits, truth, _ = self._sums()
        shown = truth > 0
        return float(np.mean(hits[shown] / truth[shown])) if shown.any() else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of all pixels that is right."""
        total = self.matrix.sum()
        return float(np.trace(self.matrix) / total) if total else float("nan")

    def _sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.diag(self.matrix), self.matrix.sum(axis=1), self.matrix.sum(axis=0)


@dataclass(frozen=True)
class DepthErrors:
    """Errors over valid pixels (0 < truth < max_depth, predicted > 0), the ground truth in the denominators.

    abs_rel, sq_rel (m), abs_diff (m), rmse (m); delta: shares with max(d/t, t/d) below 1.25, 1.25^2, 1.25^3;
    completeness: share of the pixels with valid truth that have a prediction. NaN where nothing is valid.
    """

    abs_rel: float
    abs_diff: float
    sq_rel: float
    rmse: float
    delta: tuple[float, float, float]
    completeness: float


def depth_errors(predicted: np.ndarray, truth: np.ndarray, max_depth: float = 10.0) -> DepthErrors:
    """Errors of a depth image in metres (H, W); 0 or NaN is no depth."""
    known = np.isfinite(truth) & (truth > 0) & (truth < max_depth)
    valid = known & np.isfinite(predicted) & (predicted > 0)
    nan = float("nan")
    if not valid.any():
        return DepthErrors(nan, nan, nan, nan, (nan, nan, nan), 0.0 if known.any() else nan)
    d, t = predicted[valid].astype(np.float64), truth[valid].astype(np.float64)
    difference, ratio = np.abs(d - t), np.maximum(d / t, t / d)
    return DepthErrors(
        abs_rel=float(np.mean(difference / t)),
        abs_diff=float(np.mean(difference)),
        sq_rel=float(np.mean(difference**2 / t)),
        rmse=float(np.sqrt(np.mean(difference**2))),
        delta=(float(np.mean(ratio < 1.25)), float(np.mean(ratio < 1.25**2)), float(np.mean(ratio < 1.25**3))),
        completeness=float(valid.sum() / known.sum()),
    )
