"""The trainer node: training runs of recorded sequences as a ROS action, as a plain service, or from the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gs_semantic.action import Train
from gs_semantic.errors import InvalidRequestError
from gs_semantic.nodes.parameters import parameter
from gs_semantic.nodes.runs import Run, RunNode, absolute
from gs_semantic.nodes.training import training_run
from gs_semantic.segmentation.config import PRESETS, parse_overrides
from gs_semantic.segmentation.trainer import TrainingJob, train


@dataclass
class TrainerParameters:
    method: str = parameter("gradiseg", "lifting method of runs that are started without an action")
    sequence: str = parameter("", "recording to train on; not empty: training begins at once")
    output: str = parameter("trained", "folder for map, checkpoints and metrics")
    evaluation: str = parameter("", "labelled recording to score at; empty: views of the recording are held out")
    preset: str = parameter("standard", "options to start from", choices=PRESETS)
    options: str = parameter("", "further options, NAME=VALUE separated by commas")
    resume: bool = parameter(False, "go on from the last checkpoint in output")
    stay: bool = parameter(False, "wait for further goals when the run that began at once has ended")
    status_hz: float = parameter(1.0, "rate of /diagnostics", 0.1, 100.0)


class TrainerNode(RunNode):
    """See the module."""

    def __init__(self, **options: Any) -> None:
        super().__init__("trainer", TrainerParameters, Train, "training", **options)

    @property
    def at_once(self) -> bool:
        return bool(self.parameters.sequence)

    def goal_of_parameters(self) -> Train.Goal:
        names = ("method", "sequence", "output", "evaluation", "preset")
        goal = Train.Goal(**{name: str(self.get_parameter(name).value) for name in names})
        if not goal.sequence:
            raise InvalidRequestError("parameter sequence: set the folder of the recording to train on")
        goal.options = self.words_of("options")
        goal.resume = bool(self.get_parameter("resume").value)
        return goal

    def prepare(self, goal: Train.Goal) -> Run:
        if not goal.sequence:
            raise InvalidRequestError(
                "sequence: is empty; this node trains recordings (the map of a running mapper: its own ~/train)"
            )
        for name in ("method", "output"):
            if not getattr(goal, name):
                raise InvalidRequestError(f"{name}: is empty")
        job = TrainingJob(
            goal.method,
            Path(goal.sequence).expanduser(),
            absolute(goal.output),
            goal.preset or "standard",
            None,
            parse_overrides(goal.options),
            Path(goal.evaluation).expanduser() if goal.evaluation else None,
            goal.resume,
        )
        job.config()  # mistakes in the options must not end the run under way
        return training_run(
            job.method,
            str(job.sequence),
            str(job.output),
            lambda listeners, cancelled: train(job, listeners, cancelled),
        )
