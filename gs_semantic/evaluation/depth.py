"""Errors of depth images, as RT-GS2 and the depth completion literature report them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
