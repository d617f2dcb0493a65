"""Depth errors against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.evaluation.depth import depth_errors


def test_depth_errors_known_answer():
    truth = np.array([2.0, 4.0, 1.0, 0.0, np.nan, 20.0])
    predicted = np.array([1.0, 5.0, 0.0, 3.0, 3.0, 3.0])
    errors = depth_errors(predicted, truth)
    assert errors.abs_rel == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert errors.abs_diff == pytest.approx(1.0) and errors.rmse == pytest.approx(1.0)
    assert errors.sq_rel == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert errors.delta == (0.0, 0.5, 0.5)  # ratios 2 and exactly 1.25
    assert errors.completeness == pytest.approx(2 / 3)
    assert depth_errors(np.zeros(2), np.ones(2)).completeness == 0.0
    assert np.isnan(depth_errors(np.ones(2), np.zeros(2)).completeness)
