"""Options that every learner of many scenes has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gs_semantic.segmentation.config import RunConfig, option

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class GeneralizationConfig(RunConfig):
    """Optimiser, schedule and reports. AdamW; the learning rate rises linearly, then falls as a power of what is left."""

    lr: float = option(1e-3, "largest learning rate", low=0)
    weight_decay: float = option(1e-4, "decay of weights (AdamW)", low=0)
    warmup: int = option(1500, "iterations in which the learning rate rises", low=0, schedule=True)
    decay: float = option(0.9, "power with which the learning rate falls; 0: it stays", low=0)
    clip: float = option(1.0, "largest norm of a gradient; 0: no limit", low=0)

    minutes: float = option(
        0.0, "the run ends after so many minutes at the latest, the learning rate falling in time; 0: no limit", low=0
    )

    accelerator: str = option("auto", "where to train", choices=("auto", "cpu", "cuda"))
    precision: str = option("auto", "numbers: 32 bit on a CPU, mixed with bfloat16 on a GPU", choices=PRECISIONS)
    graphs: str = option(
        "auto",
        "record the step as a CUDA graph; auto: on one GPU, where the method's batches have one shape",
        choices=("auto", "on", "off"),
    )

    report_every: int = option(50, "iterations between two reports of progress", low=1)
    evaluate_every: int = option(
        3000, "iterations between two evaluations, each with a checkpoint", low=1, schedule=True
    )
    evaluate_views: int = option(4, "views of each validation scene that are scored in training; 0: all", low=0)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"iterations": 2000},
        "standard": {"iterations": 10_000},
        "paper": {},
    }
