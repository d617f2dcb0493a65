"""Matching of publishing and answers."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from gs_semantic.benchmarks import process
from gs_semantic.benchmarks.live import Recording
from gs_semantic.benchmarks.soak import slope_mb_per_min
from gs_semantic.benchmarks.timing import complete_answers, rate, read_publish_log

MS = 1_000_000


def test_an_answer_is_complete_with_its_last_image():
    assert complete_answers([{1: 10, 2: 20}, {1: 15, 3: 30}]) == {1: 15}
    assert complete_answers([]) == {}


def test_rate_and_latency():
    published = {k: k * 100 * MS for k in range(10)}
    answered = {k: when + (10 + k) * MS for k, when in published.items() if k != 4}
    seen = rate(published, answered, 0, 1000 * MS)
    assert seen.frames == 10
    assert seen.answer_hz == pytest.approx(9.0)
    assert seen.answered_pct == pytest.approx(90.0)
    assert seen.latency_p50_ms == pytest.approx(15.0)  # of 10 11 12 13 15 16 17 18 19
    assert seen.latency_p95_ms == pytest.approx(np.percentile([10, 11, 12, 13, 15, 16, 17, 18, 19], 95))


def test_only_the_window_counts():
    published = {k: k * 100 * MS for k in range(10)}
    answered = {k: when + 10 * MS for k, when in published.items()}
    seen = rate(published, answered, 500 * MS, 1000 * MS)
    assert seen.frames == 5 and seen.answer_hz == pytest.approx(10.0) and seen.answered_pct == 100.0


def test_without_answers_nothing_is_made_up():
    seen = rate({1: 0}, {}, 0, 1000 * MS)
    assert seen.answer_hz == 0 and seen.answered_pct == 0 and math.isnan(seen.latency_p95_ms)


def test_keyframes_and_iterations_come_from_the_status():
    rows = [
        {"t_ns": second * 1_000_000_000, "keyframes_integrated": 3 * second, "iterations": 15 * second}
        | {"stage_names": ["seed", "objects"], "stage_ms": [10.0 + second, 2.0], "frames_received": 10 * second}
        for second in range(5)
    ]
    recording = Recording(0, 1, {}, {1: 0, 2: 0}, rows, core_ms_per_frame={"mapper": 50.0})
    assert recording.mapping_results() == {"keyframes_per_s": 3.0, "iterations_per_keyframe": 5.0}
    assert recording.stage_results() == {
        "stage_seed_core_ms": 12.0,
        "stage_objects_core_ms": 2.0,
        "stage_seed_core_ms_per_frame": pytest.approx(12.0 * 12 / 40),
    }
    assert recording.cpu_results() == {"mapper_core_ms_per_frame": 50.0}


def test_publish_log(tmp_path):
    file = tmp_path / "published.csv"
    file.write_text("stamp_ns,monotonic_ns\n100,7\n200,9\n")
    assert read_publish_log(file) == {100: 7, 200: 9}


def test_slope_is_that_of_the_last_two_thirds():
    seconds = np.arange(90.0)
    rss = np.where(seconds < 30, seconds * 10, 300 + (seconds - 30) / 60 * 2)
    assert slope_mb_per_min(seconds, rss) == pytest.approx(2.0, abs=0.2)


def test_own_memory_and_time_are_read():
    block = np.ones(30_000_000 // 8)
    assert process.peak_rss_mb(os.getpid()) >= process.rss_mb(os.getpid()) * 0.99 > block.nbytes / 1e6
    assert process.cpu_s(os.getpid()) > 0


def test_an_ended_process_is_named():
    from gs_semantic.errors import GsSemanticError

    with pytest.raises(GsSemanticError, match="process 4194304 cannot be measured"):
        process.rss_mb(4194304)  # above the kernel's largest pid
