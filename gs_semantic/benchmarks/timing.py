"""Matching of what was published with what was answered, by stamp. Times are the machine's monotonic clock, ns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Rate:
    """answer_hz: answers per second of the window. answered_pct: share of its frames that were answered.
    Latencies, ms: publish call to the client's callback (NaN without any answer)."""

    answer_hz: float
    answered_pct: float
    latency_p50_ms: float
    latency_p95_ms: float
    frames: int


def complete_answers(times: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Stamp -> time at which the last of all images of that stamp had come; stamps that lack one are left out."""
    topics = list(times)
    common = set(topics[0]).intersection(*topics[1:]) if topics else set()
    return {stamp: max(topic[stamp] for topic in topics) for stamp in common}


def rate(published: Mapping[int, int], answered: Mapping[int, int], start_ns: int, stop_ns: int) -> Rate:
    """Both map stamps to times. Frames count by their publish time in [start, stop), answers by their arrival in it."""
    frames = [stamp for stamp, when in published.items() if start_ns <= when < stop_ns]
    answers = [stamp for stamp, when in answered.items() if start_ns <= when < stop_ns and stamp in published]
    latencies = [(answered[stamp] - published[stamp]) / 1e6 for stamp in answers]
    p50, p95 = np.percentile(latencies, [50, 95]) if latencies else (float("nan"), float("nan"))
    return Rate(
        answer_hz=len(answers) / ((stop_ns - start_ns) / 1e9),
        answered_pct=100.0 * sum(stamp in answered for stamp in frames) / len(frames) if frames else float("nan"),
        latency_p50_ms=float(p50),
        latency_p95_ms=float(p95),
        frames=len(frames),
    )


def read_publish_log(path: Path) -> dict[int, int]:
    """Lines ``stamp_ns,monotonic_ns`` that the replay wrote."""
    pairs = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isdigit())
    return {int(stamp): int(when) for stamp, when in pairs}
