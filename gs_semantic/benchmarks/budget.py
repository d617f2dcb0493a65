"""Do the mapper's budgets hold? A sequence looped, label images and ~/splats subscribed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gs_semantic.benchmarks import process
from gs_semantic.benchmarks.live import LiveSystem
from gs_semantic.nodes.arguments import MAPPER

MB_PER_MIB = 1.048576
SETTLE_S = 5.0  # before the traffic counts: first chunks, discovery


def run_budget(
    sequence: Path,
    folder: Path,
    minutes: float,
    rate_hz: float,
    masks: str,
    seed: int,
    budget_mb: float,
    budget_mbps: float,
    parameters: dict[str, object],
    progress: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Run for ``minutes``; memory is sampled once a second from the first answer on, traffic at the receiver."""
    samples: list[float] = []
    arguments = {"sequence": sequence, "rate_hz": rate_hz, "loop": "true", "masks": masks, "seed": seed}
    budgets = {"budget.mb": float(budget_mb), "budget.mbps": float(budget_mbps)}
    with LiveSystem(folder, arguments, {**parameters, **budgets}) as live:

        def sample(event: dict[str, object]) -> None:
            if event["event"] in ("started", "second"):
                samples.append(MB_PER_MIB * process.rss_mb(live.pid(MAPPER)))
            if event["event"] == "second":
                progress()

        recording = live.record("traffic", sample, duration=minutes * 60, settle=SETTLE_S)
        (folder / "resident_mb.txt").write_text("".join(f"{value:.1f}\n" for value in samples))
        peak = MB_PER_MIB * process.peak_rss_mb(live.pid(MAPPER))
    seconds = (recording.stop_ns - recording.start_ns) / 1e9
    received = recording.task["image_bytes"] + recording.task["splat_bytes"]
    mbps = 8e-6 * received / seconds
    rss, last = np.array(samples), recording.status[-1]
    results = {
        "minutes": minutes,
        "budget_mb": budget_mb,
        "resident_mb_max": float(rss.max()),
        "resident_mb_mean": float(rss.mean()),
        "resident_mb_peak": peak,
        "budget_mbps": budget_mbps,
        "mbps_mean": mbps,
        "splats_mbps_mean": 8e-6 * recording.task["splat_bytes"] / seconds,
        "splats": recording.task["splats"],
        "gaussians": last["gaussians"],
        "objects": last["objects"],
        "answer_hz": recording.rate().answer_hz,
    }
    # by how much at most; negative: held with room
    if budget_mb:
        results["resident_over_pct"] = 100 * (float(rss.max()) / budget_mb - 1)
    if budget_mbps:
        results["mbps_over_pct"] = 100 * (mbps / budget_mbps - 1)
    return results
