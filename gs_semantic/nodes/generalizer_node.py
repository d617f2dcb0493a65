"""The generalizer node: learning from many rooms, and labelling scenes, as a ROS action, a plain service, or from the start.

One run at a time: a new one cancels that which is under way and begins when it has ended.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.action import ActionClient

from gs_semantic.action import Generalize
from gs_semantic.errors import ErrorCode, GsSemanticError, InvalidRequestError
from gs_semantic.nodes.live_generalizing import apply_options, labelled
from gs_semantic.nodes.parameters import parameter
from gs_semantic.nodes.runs import POLL_S, Asked, Outcome, Run, RunNode, Tell, absolute, in_words, known
from gs_semantic.segmentation.config import PRESETS, parse_overrides
from gs_semantic.segmentation.generalization.apply import ApplyJob, apply
from gs_semantic.segmentation.generalization.checkpoints import shipped
from gs_semantic.segmentation.generalization.trainer import LearningJob, learn
from gs_semantic.segmentation.progress import Progress

TASKS = ("apply", "train")
SERVER_S = 10.0  # a mapper may take so long to start


@dataclass
class GeneralizerParameters:
    task: str = parameter("apply", "of runs that are started without an action", choices=TASKS)
    method: str = parameter("gnesf", "method to train, or whose shipped checkpoint is applied where none is named")
    checkpoint: str = parameter("", "what was learned, to apply; when training: weights to start from")
    sequence: str = parameter("", "posed images of the scene to label; not empty: it is labelled at once")
    map: str = parameter("", "map folder of the scene; empty: the sequence is mapped first")
    mapper: str = parameter("", "mapper node whose live map is labelled at once, e.g. mapper")
    rooms: str = parameter("", "folders of rooms separated by commas; not empty: training begins at once")
    validation: str = parameter("", "scenes to choose the checkpoint at, separated by commas")
    output: str = parameter("generalized", "map folder, or folder for checkpoints and metrics")
    stage: str = parameter("", "part of the training; empty: the first")
    preset: str = parameter("standard", "options of a training to start from", choices=PRESETS)
    options: str = parameter("", "further options, NAME=VALUE separated by commas")
    resume: bool = parameter(False, "go on from the last checkpoint in output")
    stay: bool = parameter(False, "wait for further goals when the run that began at once has ended")
    status_hz: float = parameter(1.0, "rate of /diagnostics", 0.1, 100.0)


class GeneralizerNode(RunNode):
    """See the module."""

    def __init__(self, **options: Any) -> None:
        self._mappers: dict[str, ActionClient] = {}
        super().__init__("generalizer", GeneralizerParameters, Generalize, "generalizing", **options)

    @property
    def at_once(self) -> bool:
        p = self.parameters
        return bool(p.sequence or p.mapper if p.task == "apply" else p.rooms)

    def goal_of_parameters(self) -> Generalize.Goal:
        names = ("task", "method", "checkpoint", "sequence", "map", "output", "stage", "preset")
        goal = Generalize.Goal(**{name: str(self.get_parameter(name).value) for name in names})
        for name in ("rooms", "validation", "options"):
            setattr(goal, name, self.words_of(name))
        goal.resume = bool(self.get_parameter("resume").value)
        return goal

    def prepare(self, goal: Generalize.Goal) -> Run:
        mapper = str(self.get_parameter("mapper").value)
        if mapper and (goal.task or "apply") == "apply" and not goal.sequence:
            return self._relayed(goal, mapper)
        return prepare(goal)

    def _relayed(self, goal: Generalize.Goal, mapper: str) -> Run:
        """A run of the mapper's own ``~/generalize``, with its feedback, and cancelled with ours."""
        checkpoint = _checkpoint(goal.checkpoint or goal.method)

        def work(tell: Tell, cancelled: Asked) -> Outcome:
            if mapper not in self._mappers:
                self._mappers[mapper] = ActionClient(self, Generalize, f"{mapper}/generalize")
            client = self._mappers[mapper]
            if not client.wait_for_server(SERVER_S):
                raise InvalidRequestError(
                    f"mapper: nobody serves {mapper}/generalize; start segment.launch.py, or name the mapper's node"
                )
            sent = client.send_goal_async(
                Generalize.Goal(checkpoint=str(checkpoint), options=goal.options),
                lambda message: tell(message.feedback),
            )
            asked, reply = False, None
            while reply is None or not reply.done():
                time.sleep(POLL_S)
                if not client.server_is_ready():
                    raise GsSemanticError(f"mapper: {mapper} has ended")
                if reply is None and sent.done():
                    reply = sent.result().get_result_async()
                if reply is not None and cancelled() and not asked:
                    sent.result().cancel_goal_async()
                    asked = True
            result = reply.result().result
            if result.error_code:
                error = GsSemanticError(result.error_msg)
                error.code = ErrorCode(result.error_code)
                raise error
            return Outcome(result, labelled(result))

        return Run(f"labels the live map of {mapper} by {checkpoint}", "", work)


def prepare(goal: Generalize.Goal) -> Run:
    """What a goal asks for; InvalidRequestError says what is wrong with it, before a running one is ended."""
    task = goal.task or "apply"
    if task not in TASKS:
        raise InvalidRequestError(f"task: '{task}' is not one of {', '.join(TASKS)}")
    for name in ("sequence", "output") if task == "apply" else ("method", "rooms", "output"):
        if not getattr(goal, name):
            live = " (a live map: parameter mapper)" if name == "sequence" else ""
            raise InvalidRequestError(f"{name}: is empty; task '{task}' needs it{live}")
    return _apply_run(goal) if task == "apply" else _train_run(goal)


def _checkpoint(text: str) -> Path:
    """A file, or by a method's name the checkpoint that is shipped for it."""
    return shipped(Path(text).expanduser()).absolute()


def _apply_run(goal: Generalize.Goal) -> Run:
    if not (goal.checkpoint or goal.method):
        raise InvalidRequestError(
            "checkpoint: is empty; task 'apply' needs one, or a method whose checkpoint is shipped (gnesf, rt_gs2)"
        )
    output = absolute(goal.output)
    job = ApplyJob(
        _checkpoint(goal.checkpoint or goal.method),
        absolute(goal.sequence),
        output,
        absolute(goal.map) if goal.map else None,
        **apply_options(goal.options),  # type: ignore[arg-type]  # views and width
    )

    def work(tell: Tell, cancelled: Asked) -> Outcome:
        def advance(done: int, total: int) -> None:
            tell(Generalize.Feedback(iteration=done, iterations=total, miou=math.nan))

        found = apply(job, advance, cancelled)
        result = Generalize.Result(
            cancelled=found.cancelled,
            output_path="" if found.cancelled else str(output),
            iterations=found.views,
            gaussians=found.gaussians,
            labelled_share=found.labelled_share,
            minutes=found.seconds / 60,
            metric_names=list(found.metrics),
            metric_values=list(found.metrics.values()),
        )
        where = [] if found.cancelled else [f"map in {output}"]
        return Outcome(result, ", ".join([labelled(result), *in_words(found.metrics), *where]))

    return Run(f"labels {job.sequence} by {job.checkpoint}", str(output), work)


def _train_run(goal: Generalize.Goal) -> Run:
    job = LearningJob(
        goal.method,
        tuple(map(absolute, goal.rooms)),
        absolute(goal.output),
        tuple(map(absolute, goal.validation)),
        goal.stage,
        goal.preset or "standard",
        None,
        parse_overrides(goal.options),
        _checkpoint(goal.checkpoint) if goal.checkpoint else None,
        goal.resume,
    )
    job.config()

    def work(tell: Tell, cancelled: Asked) -> Outcome:
        found = learn(job, [lambda progress: tell(_feedback(progress))], cancelled)
        where = (
            "no checkpoint, for nothing was evaluated yet"
            if found.checkpoint is None
            else f"best in {found.checkpoint}"
        )
        return Outcome(
            Generalize.Result(
                cancelled=found.cancelled,
                output_path="" if found.checkpoint is None else str(found.checkpoint),
                iterations=found.iteration,
                minutes=found.minutes,
                metric_names=list(found.metrics),
                metric_values=list(found.metrics.values()),
            ),
            ", ".join([f"iteration {found.iteration}", *in_words(found.metrics), where]),
        )

    more = f" and {len(job.rooms) - 1} more" if len(job.rooms) > 1 else ""
    return Run(f"learns {job.method} from {job.rooms[0]}{more}", str(job.output), work)


def _feedback(progress: Progress) -> Generalize.Feedback:
    return Generalize.Feedback(
        iteration=progress.iteration,
        iterations=progress.iterations,
        it_per_s=progress.it_per_s,
        eta_s=progress.eta_s,
        memory_mb=progress.memory_mb,
        miou=known(progress.miou),
        best_iteration=progress.best_iteration,
        loss_names=list(progress.losses),
        loss_values=list(progress.losses.values()),
    )
