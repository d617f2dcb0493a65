"""Metrics against numbers worked out by hand or by an independent formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import convolve2d

from gs_semantic.evaluation.image_quality import psnr, ssim


def test_psnr():
    black = np.zeros((4, 5, 3), np.uint8)
    assert psnr(black, black) == float("inf")
    assert psnr(np.full((4, 5, 3), 255, np.uint8), black) == pytest.approx(0.0)
    assert psnr(np.full((4, 5), 0.1), np.zeros((4, 5))) == pytest.approx(20.0)
    half = black.copy()
    half[:2] = 51  # 0.2 on half of the frame: holes are not left out
    assert psnr(half, black) == pytest.approx(-10 * np.log10(0.02))
    assert psnr(np.full((4, 5), 7.0), np.ones((4, 5))) == float("inf")  # rendered colours are clamped


def test_ssim_against_the_formula_written_out():
    rng = np.random.default_rng(0)
    a = rng.random((24, 30))
    b = np.clip(a + 0.2 * rng.standard_normal((24, 30)), 0, 1)
    offset = np.arange(11) - 5
    window = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values):
        return convolve2d(values, window, mode="valid")

    ma, mb = mean(a), mean(b)
    va, vb, cab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    expected = ((2 * ma * mb + 1e-4) * (2 * cab + 9e-4)) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    assert ssim(a, b) == pytest.approx(expected.mean(), abs=1e-9)
    colour_a, colour_b = np.stack([a, b, a], axis=2), np.stack([b, b, b], axis=2)
    assert ssim(colour_a, colour_b) == pytest.approx((2 * expected.mean() + 1) / 3, abs=1e-9)
    assert ssim(a, a) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="11x11"):
        ssim(a[:10], b[:10])
