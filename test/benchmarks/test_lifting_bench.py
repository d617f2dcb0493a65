"""The bench of lifting methods counts what it says, on a few steps."""

from __future__ import annotations

import pytest

from gs_semantic.benchmarks.lifting import run_lifting_bench
from gs_semantic.share import share_path


@pytest.mark.parametrize("method", ["grouping", "unified_lift"])
def test_a_few_steps_are_measured(method):
    overrides = {"width": 80, "masks": "shuffled", "iterations": 300}
    found = run_lifting_bench(method, share_path("sample", "house"), 500, 3, "quick", overrides)
    assert found["gaussians"] <= 500 and (found["width"], found["height"]) == (80, 60)
    assert found["it_per_s"] > 0 and found["schedule_minutes"] == pytest.approx(300 / found["it_per_s"] / 60)
    assert 80 * 60 * 16 * 4 / 1e6 < found["loss_peak_mb"] < 100  # at least the gradient of the rendered features
