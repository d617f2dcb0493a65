"""Sensor noise in depth images: how much there is, and less of it."""

from __future__ import annotations

import cv2
import numpy as np

WINDOW = 5  # px
RANGE = 3.0  # standard deviations that count as the same surface
QUIET = 1e-4  # 1/m: depth with less noise is left alone


def inverse_depth_noise(inverse: np.ndarray) -> float:
    """Standard deviation (1/m) of an inverse depth image (H, W), 0 = none.

    Stereo and structured light have noise that grows with depth squared, which is constant in inverse depth; and
    inverse depth is linear along any line on a plane, so that its second difference is noise nearly everywhere.
    """
    before, here, after = inverse[::2, :-2], inverse[::2, 1:-1], inverse[::2, 2:]
    known = (before > 0) & (here > 0) & (after > 0)
    if not known.any():
        return 0.0
    bend = np.abs((before - 2 * here + after)[known])
    return float(1.4826 * np.median(bend) / np.sqrt(6))


def smooth_depth(depth: np.ndarray) -> np.ndarray:
    """Depth (H, W) m, 0 = none, smoothed within surfaces as far as it is noisy; steps beyond the noise stay as they are."""
    inverse = np.zeros_like(depth)
    np.divide(1.0, depth, out=inverse, where=depth > 0)
    sigma = inverse_depth_noise(inverse)
    if sigma < QUIET:
        return depth
    smooth = cv2.bilateralFilter(inverse, WINDOW, RANGE * sigma, WINDOW / 2)
    result = np.zeros_like(depth)
    np.divide(1.0, smooth, out=result, where=depth > 0)
    return result
