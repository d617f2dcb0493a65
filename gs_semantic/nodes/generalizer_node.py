"""The generalizer node: learning from many rooms, and labelling scenes, as a ROS action, a plain service, or from the start.

One run at a time: a new one cancels that which is under way and begins when it has ended.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from gs_semantic.action import Generalize
from gs_semantic.errors import ErrorCode, GsSemanticError, InvalidRequestError
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.parameters import declare, parameter
from gs_semantic.nodes.process import SpinThread, StopSignal
from gs_semantic.nodes.turns import Cancel, Turns
from gs_semantic.segmentation.config import PRESETS, parse_overrides
from gs_semantic.segmentation.generalization.apply import ApplyJob, apply
from gs_semantic.segmentation.generalization.checkpoints import shipped
from gs_semantic.segmentation.generalization.trainer import LearningJob, learn
from gs_semantic.segmentation.progress import Progress

TASKS = ("apply", "train")
THREADS = 6  # of the executor: a run keeps one, another one waits for it, the rest answer
POLL_S = 0.05
TELL_EVERY_S = 10.0  # progress of a run that nobody gets feedback of
APPLY_OPTIONS = ("views", "width")

Tell = Callable[[Generalize.Feedback], object]
Asked = Callable[[], bool]


@dataclass
class GeneralizerParameters:
    task: str = parameter("apply", "of runs that are started without an action", choices=TASKS)
    method: str = parameter("gnesf", "method to train, or whose shipped checkpoint is applied where none is named")
    checkpoint: str = parameter("", "what was learned, to apply; when training: weights to start from")
    sequence: str = parameter("", "posed images of the scene to label; not empty: it is labelled at once")
    map: str = parameter("", "map folder of the scene; empty: the sequence is mapped first")
    rooms: str = parameter("", "folders of rooms separated by commas; not empty: training begins at once")
    validation: str = parameter("", "scenes to choose the checkpoint at, separated by commas")
    output: str = parameter("generalized", "map folder, or folder for checkpoints and metrics")
    stage: str = parameter("", "part of the training; empty: the first")
    preset: str = parameter("standard", "options of a training to start from", choices=PRESETS)
    options: str = parameter("", "further options, NAME=VALUE separated by commas")
    resume: bool = parameter(False, "go on from the last checkpoint in output")
    stay: bool = parameter(False, "wait for further goals when the run that began at once has ended")
    status_hz: float = parameter(1.0, "rate of /diagnostics", 0.1, 100.0)


@dataclass(frozen=True)
class Run:
    """A run that can begin: what it does, in words, and the work itself."""

    text: str
    work: Callable[[Tell, Asked], Generalize.Result]


class GeneralizerNode(Node):
    """See the module; ``run`` works until it is told to stop."""

    def __init__(self, **options: Any) -> None:
        super().__init__("generalizer", **options)
        self.parameters = declare(self, GeneralizerParameters)
        self.feedback: Generalize.Feedback | None = None  # of the run under way, or the last one
        self.state, self.error = "waits for a goal", ""
        self._turns = Turns()
        self._closing = threading.Event()
        group = ReentrantCallbackGroup()
        self._action = ActionServer(
            self,
            Generalize,
            "~/generalize",
            self._execute,
            goal_callback=lambda goal: GoalResponse.ACCEPT,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
            callback_group=group,
        )
        self.create_service(Trigger, "~/start_generalizing", self._start, callback_group=group)
        self.create_service(Trigger, "~/cancel_generalizing", self._cancel, callback_group=group)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1 / self.parameters.status_hz, self.publish_diagnostics, callback_group=group, clock=steady)

    def run(self, stop: StopSignal) -> None:
        """Serve until asked to stop; with the parameter ``sequence`` or ``rooms``, do that first and end unless ``stay``.

        Raises the error of that run.
        """
        executor = MultiThreadedExecutor(THREADS, context=self.context)
        executor.add_node(self)
        p = self.parameters
        with SpinThread(executor):
            try:
                if p.sequence if p.task == "apply" else p.rooms:
                    self._do(prepare(self._goal_of_parameters()), Cancel(lambda: bool(stop)), self._tell)
                    if not p.stay:
                        return
                self.get_logger().info("waits for goals of ~/generalize, or for ~/start_generalizing")
                while not stop:
                    stop.event.wait(POLL_S)
            finally:
                self._closing.set()
                self._turns.wait()

    def destroy_node(self) -> None:
        self._action.destroy()
        super().destroy_node()

    # --- runs -------------------------------------------------------------------------------------------------------

    def _goal_of_parameters(self) -> Generalize.Goal:
        names = ("task", "method", "checkpoint", "sequence", "map", "output", "stage", "preset")
        goal = Generalize.Goal(**{name: str(self.get_parameter(name).value) for name in names})
        for name in ("rooms", "validation", "options"):
            words = str(self.get_parameter(name).value).split(",")
            setattr(goal, name, [word.strip() for word in words if word.strip()])
        goal.resume = bool(self.get_parameter("resume").value)
        return goal

    def _do(self, run: Run, cancel: Cancel, tell: Tell) -> Generalize.Result:
        """One run in this thread. Raises GsSemanticError."""

        def keep(feedback: Generalize.Feedback) -> None:
            self.feedback = feedback
            tell(feedback)

        with self._turns.own(cancel):
            self.state, self.error, self.feedback = run.text, "", None
            self.get_logger().info(run.text)
            try:
                result = run.work(keep, lambda: cancel() or self._closing.is_set())
            except Exception as error:
                self.state = "the last run failed"
                self.error = str(error) if isinstance(error, GsSemanticError) else repr(error)
                raise
            ended = "was cancelled" if result.cancelled else "has ended"
            self.state = f"{run.text}: {ended}"
            scores = zip(result.metric_names, result.metric_values, strict=True)
            self.get_logger().info(f"{self.state}; {', '.join(f'{name} {value:.4g}' for name, value in scores)}")
            return result

    def _tell(self, feedback: Generalize.Feedback) -> None:
        self.get_logger().info(f"{feedback.iteration} of {feedback.iterations}", throttle_duration_sec=TELL_EVERY_S)

    # --- action and services ----------------------------------------------------------------------------------------

    def _execute(self, handle: Any) -> Generalize.Result:
        try:
            cancel = Cancel(lambda: handle.is_cancel_requested)
            result = self._do(prepare(handle.request), cancel, handle.publish_feedback)
        except GsSemanticError as error:
            handle.abort()
            return Generalize.Result(error_code=int(error.code), error_msg=str(error))
        except Exception as error:  # noqa: BLE001 - one run must not end the node
            handle.abort()
            return Generalize.Result(error_code=int(ErrorCode.UNKNOWN), error_msg=repr(error))
        if handle.is_cancel_requested:
            handle.canceled()
        elif result.cancelled:
            handle.abort()  # another run took its place
        else:
            handle.succeed()
        return result

    def _start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            run = prepare(self._goal_of_parameters())
        except GsSemanticError as error:
            response.success, response.message = False, str(error)
            return response
        threading.Thread(target=self._run_alone, args=(run,), name="generalizing", daemon=True).start()
        response.success, response.message = True, f"{run.text}; see /diagnostics"
        return response

    def _run_alone(self, run: Run) -> None:
        try:
            self._do(run, Cancel(), self._tell)
        except Exception as error:  # noqa: BLE001 - told here, and in /diagnostics
            self.get_logger().error(str(error) if isinstance(error, GsSemanticError) else repr(error))

    def _cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._turns.cancel()
        response.message = "the run ends in a moment" if response.success else "nothing is under way"
        return response

    def publish_diagnostics(self) -> None:
        """What is under way, how far it is, and what went wrong last."""
        found, values = self.feedback, {}
        if found is not None:
            values = {name: getattr(found, name) for name in ("iteration", "iterations", "it_per_s", "miou")}
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if self.error else DiagnosticStatus.OK,
            name=f"{self.get_fully_qualified_name()}: generalizing",
            message=self.error or self.state,
            hardware_id=self.get_fully_qualified_name(),
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        header = conversions.make_header(self.get_clock().now().nanoseconds, "")
        self._diagnostics.publish(DiagnosticArray(header=header, status=[status]))


def prepare(goal: Generalize.Goal) -> Run:
    """What a goal asks for; InvalidRequestError says what is wrong with it, before a running one is ended."""
    task = goal.task or "apply"
    if task not in TASKS:
        raise InvalidRequestError(f"task: '{task}' is not one of {', '.join(TASKS)}")
    for name in ("sequence", "output") if task == "apply" else ("method", "rooms", "output"):
        if not getattr(goal, name):
            raise InvalidRequestError(f"{name}: is empty; task '{task}' needs it")
    return _apply_run(goal) if task == "apply" else _train_run(goal)


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _checkpoint(text: str) -> Path:
    """A file, or by a method's name the checkpoint that is shipped for it."""
    return shipped(Path(text).expanduser()).absolute()


def _apply_run(goal: Generalize.Goal) -> Run:
    if not (goal.checkpoint or goal.method):
        raise InvalidRequestError(
            "checkpoint: is empty; task 'apply' needs one, or a method whose checkpoint is shipped (gnesf, rt_gs2)"
        )
    values = parse_overrides(goal.options)
    for name, value in values.items():
        if name not in APPLY_OPTIONS or not isinstance(value, int):
            raise InvalidRequestError(f"option '{name}={value}': expected whole numbers of {', '.join(APPLY_OPTIONS)}")
    output = _path(goal.output)
    job = ApplyJob(
        _checkpoint(goal.checkpoint or goal.method),
        _path(goal.sequence),
        output,
        _path(goal.map) if goal.map else None,
        **values,
    )

    def work(tell: Tell, cancelled: Asked) -> Generalize.Result:
        def advance(done: int, total: int) -> None:
            tell(Generalize.Feedback(iteration=done, iterations=total, miou=math.nan))

        found = apply(job, advance, cancelled)
        return Generalize.Result(
            cancelled=found.cancelled,
            output_path="" if found.cancelled else str(output),
            iterations=found.views,
            gaussians=found.gaussians,
            labelled_share=found.labelled_share,
            minutes=found.seconds / 60,
            metric_names=list(found.metrics),
            metric_values=list(found.metrics.values()),
        )

    return Run(f"labels {job.sequence} by {job.checkpoint}", work)


def _train_run(goal: Generalize.Goal) -> Run:
    job = LearningJob(
        goal.method,
        tuple(map(_path, goal.rooms)),
        _path(goal.output),
        tuple(map(_path, goal.validation)),
        goal.stage,
        goal.preset or "standard",
        None,
        parse_overrides(goal.options),
        _checkpoint(goal.checkpoint) if goal.checkpoint else None,
        goal.resume,
    )
    job.config()

    def work(tell: Tell, cancelled: Asked) -> Generalize.Result:
        found = learn(job, [lambda progress: tell(_feedback(progress))], cancelled)
        return Generalize.Result(
            cancelled=found.cancelled,
            output_path="" if found.checkpoint is None else str(found.checkpoint),
            iterations=found.iteration,
            minutes=found.minutes,
            metric_names=list(found.metrics),
            metric_values=list(found.metrics.values()),
        )

    return Run(f"learns {job.method} from {len(job.rooms)} folders into {job.output}", work)


def _feedback(progress: Progress) -> Generalize.Feedback:
    return Generalize.Feedback(
        iteration=progress.iteration,
        iterations=progress.iterations,
        it_per_s=progress.it_per_s,
        eta_s=progress.eta_s,
        memory_mb=progress.memory_mb,
        miou=math.nan if progress.miou is None else progress.miou,
        best_iteration=progress.best_iteration,
        loss_names=list(progress.losses),
        loss_values=list(progress.losses.values()),
    )
