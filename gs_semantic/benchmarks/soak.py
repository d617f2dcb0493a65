"""Memory of the mapper over a long run: a sequence looped, all label images subscribed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gs_semantic.benchmarks import process
from gs_semantic.benchmarks.live import LiveSystem
from gs_semantic.nodes.arguments import MAPPER

STEADY_SHARE = 2 / 3  # of the run, at its end, counts for the slope


def slope_mb_per_min(seconds: np.ndarray, rss: np.ndarray) -> float:
    """Least-squares slope over the last two thirds of the samples."""
    late = seconds >= seconds[0] + (1 - STEADY_SHARE) * (seconds[-1] - seconds[0])
    if late.sum() < 2:
        return float("nan")
    return float(np.polyfit(seconds[late] / 60, rss[late], 1)[0])


def run_soak(
    sequence: Path,
    folder: Path,
    minutes: float,
    rate_hz: float,
    masks: str,
    seed: int,
    parameters: dict[str, object],
    progress: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Run for ``minutes`` and sample the mapper's memory once a second; ``progress`` is called every second."""
    seconds: list[float] = []
    samples: list[float] = []
    arguments = {"sequence": sequence, "rate_hz": rate_hz, "loop": "true", "masks": masks, "seed": seed}
    with LiveSystem(folder, arguments, parameters) as live:

        def sample(event: dict[str, object]) -> None:
            if event["event"] == "second":
                seconds.append(time.monotonic())
                samples.append(process.rss_mb(live.pid(MAPPER)))
                progress()

        recording = live.record("steady", sample, duration=minutes * 60, settle=0.0)
        peak = process.peak_rss_mb(live.pid(MAPPER))
    times, rss = np.array(seconds), np.array(samples)
    return {
        "minutes": minutes,
        "rss_mb_start": float(rss[0]),
        "rss_mb_end": float(rss[-1]),
        "rss_mb_max": float(rss.max()),
        "peak_rss_mb": peak,
        "rss_slope_mb_per_min": slope_mb_per_min(times, rss),
        "gaussians": recording.status[-1]["gaussians"],
        "objects": recording.status[-1]["objects"],
        "answer_hz": recording.rate().answer_hz,
    }
