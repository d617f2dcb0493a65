"""What every training run keeps, of one scene or of many: the files of its folder, and where its loop is."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.files import reason

CHECKPOINT, BEST, OPTIONS, METRICS = "checkpoint.pt", "best.pt", "config.yaml", "metrics.jsonl"
# what torch.load raises of files that are damaged, or no checkpoints at all
UNREADABLE = (
    OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, struct.error,
    pickle.UnpicklingError,
)  # fmt: skip


@dataclass
class LoopState:
    """Where a loop is; saved with every checkpoint. metrics: of the last evaluation. seconds: that it ran so far."""

    iteration: int = 0
    best: float = -math.inf  # a score may be a negative error
    best_iteration: int = 0  # 0: nothing was evaluated yet
    best_metrics: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def take_best(self, score: float, metrics: dict[str, float]) -> None:
        """The state of this iteration is the best one so far."""
        self.best, self.best_iteration, self.best_metrics = score, self.iteration, dict(metrics)

    def kept(self, folder: Path | None) -> str:
        """What an error says of the checkpoints in the run's folder."""
        if folder is None or not self.best_iteration:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {folder / CHECKPOINT}, the best one is of iteration {self.best_iteration}"


def out_of_memory(error: BaseException) -> bool:
    """Does it come from a lack of memory, of Python, torch or a GPU?"""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def load_content(path: str | Path, when_missing: str) -> Any:
    """What torch saved in a file, on the CPU. InvalidInputError names the file, and tells ``when_missing`` what to do."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise InvalidInputError(f"{path}: no such checkpoint; {when_missing}") from None
    except UNREADABLE as error:
        raise InvalidInputError(f"{path}: is not a readable checkpoint: {reason(error)}") from error


def link_checkpoint(path: Path, other: Path) -> None:
    """Give a checkpoint a second name that stays when the first one is replaced."""
    temporary = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # not every file system has second names
        shutil.copyfile(path, temporary)
    os.replace(temporary, other)
