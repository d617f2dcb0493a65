"""Counters, rates and latencies of the mapper node, as ~/status tells them. Knows no ROS; safe to use from any thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import psutil

from gs_semantic.errors import ErrorCode, GsSemanticError

WINDOW_S = 5.0
WARNING_LIFETIME_S = 5.0


class Window:
    """Values of the last seconds."""

    def __init__(self, seconds: float = WINDOW_S) -> None:
        self._seconds = seconds
        self._entries: deque[tuple[float, float]] = deque()
        self._start = time.monotonic()

    def add(self, value: float = 0.0) -> None:
        self._entries.append((time.monotonic(), value))
        self._trim()

    def _trim(self) -> None:
        limit = time.monotonic() - self._seconds
        while self._entries and self._entries[0][0] < limit:
            self._entries.popleft()

    def rate_hz(self) -> float:
        self._trim()
        return len(self._entries) / max(min(self._seconds, time.monotonic() - self._start), 1e-3)

    def sum_per_s(self) -> float:
        self._trim()
        return sum(value for _, value in self._entries) / max(min(self._seconds, time.monotonic() - self._start), 1e-3)

    def percentile(self, percent: float) -> float:
        self._trim()
        return float(np.percentile([value for _, value in self._entries], percent)) if self._entries else 0.0


@dataclass
class Failure:
    """The last error."""

    code: int = 0
    text: str = ""
    time_ns: int = 0


@dataclass
class Statistics:
    frames_answered: int = 0
    frames_mapped: int = 0
    pose_missing: int = 0
    invalid_inputs: int = 0
    keyframes: int = 0
    keyframes_integrated: int = 0
    iterations: int = 0
    identity_iterations: int = 0
    failure: Failure = field(default_factory=Failure)
    inputs: Window = field(default_factory=Window)
    answers: Window = field(default_factory=Window)
    integrated: Window = field(default_factory=Window)
    bytes_sent: Window = field(default_factory=Window)  # label images, clouds, splats; once per subscriber

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._warnings: dict[str, float] = {}
        self._stages: dict[str, list[float]] = {}
        self._process = psutil.Process()

    def answered(self, latency_ms: float) -> None:
        with self._lock:
            self.frames_answered += 1
            self.answers.add(latency_ms)

    def sent(self, size: int) -> None:
        with self._lock:
            self.bytes_sent.add(size)

    def sent_mbps(self) -> float:
        with self._lock:
            return self.bytes_sent.sum_per_s() * 8e-6

    def received(self) -> None:
        with self._lock:
            self.inputs.add()

    def keyframe_done(self, count: int) -> None:
        with self._lock:
            self.keyframes_integrated += count
            for _ in range(count):
                self.integrated.add()

    def failed(self, error: BaseException, time_ns: int) -> None:
        code = error.code if isinstance(error, GsSemanticError) else ErrorCode.UNKNOWN
        with self._lock:
            self.failure = Failure(int(code), str(error), time_ns)

    def warn(self, text: str) -> None:
        """A sentence that ~/status repeats for some seconds."""
        with self._lock:
            self._warnings[text] = time.monotonic()

    def warnings(self) -> list[str]:
        limit = time.monotonic() - WARNING_LIFETIME_S
        with self._lock:
            self._warnings = {text: when for text, when in self._warnings.items() if when >= limit}
            return list(self._warnings)

    def time_stage(self, name: str, milliseconds: float) -> None:
        with self._lock:
            self._stages.setdefault(name, []).append(milliseconds)

    def take_stages(self) -> dict[str, float]:
        """Mean time of each stage since the last call."""
        with self._lock:
            stages, self._stages = self._stages, {}
        return {name: sum(values) / len(values) for name, values in sorted(stages.items())}

    def rss_mb(self) -> float:
        return self._process.memory_info().rss / 1e6

    def reset(self) -> None:
        """Counters from zero."""
        with self._lock:
            for name in (
                *("frames_answered", "frames_mapped", "pose_missing", "invalid_inputs", "keyframes"),
                *("keyframes_integrated", "iterations", "identity_iterations"),
            ):
                setattr(self, name, 0)
            self.failure = Failure()
            self._warnings.clear()
