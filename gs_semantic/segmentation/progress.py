"""Live metrics of a training run, and who shows them."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from gs_semantic.errors import TrainingError

LossTerms = Mapping[str, float | torch.Tensor]  # weighted, by name; tensors are scalars on a device


@dataclass(frozen=True)
class Progress:
    """Where a run is. losses: mean of each weighted term since the last report; psnr_db and miou: of the last
    evaluation at held-out views, None before it; best_iteration: that of the best checkpoint, 0 before the first."""

    iteration: int
    iterations: int
    losses: dict[str, float]
    gaussians: int
    it_per_s: float
    eta_s: float
    memory_mb: float
    psnr_db: float | None = None
    miou: float | None = None
    best_iteration: int = 0

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return {**{f"loss_{name}": value for name, value in values.pop("losses").items()}, **values}


Listener = Callable[[Progress], object]


def check_finite(losses: Mapping[str, float], iteration: int, view: str) -> None:
    """TrainingError naming the first term that is not finite."""
    for name, value in losses.items():
        if not math.isfinite(value):
            raise TrainingError(f"the loss term '{name}' is {value} at iteration {iteration}, on {view}")


class LossLog:
    """Terms of the steps since the last report. Those on a device are fetched all at once, and checked then."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, str, LossTerms]] = []
        self._known: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, iteration: int, view: str, terms: LossTerms) -> None:
        self._steps.append((iteration, view, terms))

    def check(self) -> None:
        """Fetch what was added since the last time. TrainingError names the first step that is not finite."""
        waiting = [term for _, _, terms in self._steps for term in terms.values() if isinstance(term, torch.Tensor)]
        fetched = iter(torch.stack([term.reshape(()) for term in waiting]).cpu().tolist() if waiting else [])
        for iteration, view, terms in self._steps:
            numbers = {name: next(fetched) if isinstance(t, torch.Tensor) else t for name, t in terms.items()}
            check_finite(numbers, iteration, view)
            for name, value in numbers.items():
                self._known[name].append(value)
        self._steps.clear()

    def means(self) -> dict[str, float]:
        """Of every term since the last call; forgets them."""
        self.check()
        means = {name: float(np.mean(values)) for name, values in self._known.items()}
        self._known.clear()
        return means


@dataclass
class Clock:
    """Speed and remaining time of a run from its last reports."""

    iterations: int
    _at: float = field(default_factory=time.perf_counter)
    _iteration: int = 0
    _rate: float = 0.0

    def start(self, iteration: int) -> None:
        self._at, self._iteration = time.perf_counter(), iteration

    def read(self, iteration: int) -> tuple[float, float]:
        """Iterations per second since the last call, smoothed; seconds to go."""
        now = time.perf_counter()
        rate = (iteration - self._iteration) / max(now - self._at, 1e-9)
        self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate
        self._at, self._iteration = now, iteration
        return self._rate, (self.iterations - iteration) / max(self._rate, 1e-9)

    def pause(self, seconds: float) -> None:
        """Leave so many seconds out."""
        self._at += seconds


def memory_mb() -> float:
    """Resident memory of this process."""
    return psutil.Process().memory_info().rss / 1e6


class MetricsFile:
    """One JSON object per report in a file, a line each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, progress: Progress) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(progress.as_dict()) + "\n")


class ProgressBar:
    """A bar on stderr with the newest metrics."""

    def __init__(self, text: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, TextColumn("{task.fields[metrics]}"), console=Console(stderr=True))
        self._task = self._bar.add_task(text, total=None, metrics="")

    @contextmanager
    def shown(self, visible: bool = True) -> Iterator[ProgressBar]:
        """The bar is on the screen meanwhile, if it is to be ``visible``."""
        with self._bar if visible else nullcontext():
            yield self

    def __call__(self, progress: Progress) -> None:
        parts = [f"loss {sum(progress.losses.values()):.4f}"]
        if progress.psnr_db is not None:
            parts.append(f"PSNR {progress.psnr_db:.1f} dB")
        if progress.miou is not None:
            parts.append(f"mIoU {progress.miou:.3f}")
        parts += [f"{progress.gaussians:,} G"] if progress.gaussians else []
        parts += [f"{progress.it_per_s:.3g} it/s", f"{progress.memory_mb:,.0f} MB"]
        self._bar.update(self._task, total=progress.iterations, completed=progress.iteration, metrics="  ".join(parts))


class TensorBoardWriter:
    """Every metric as a scalar of TensorBoard. ``make`` gives None where TensorBoard is not installed."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    @classmethod
    def make(cls, folder: Path) -> TensorBoardWriter | None:
        try:
            return cls(folder)
        except ImportError:
            return None

    def __call__(self, progress: Progress) -> None:
        for name, value in progress.as_dict().items():
            if value is not None and name not in ("iteration", "iterations"):
                self._writer.add_scalar(name, value, progress.iteration)
        self._writer.flush()
