"""How close rendered colour is to a photograph: PSNR and SSIM."""

from __future__ import annotations

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
