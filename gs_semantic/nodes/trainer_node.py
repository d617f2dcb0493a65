"""The trainer node: training runs of recorded sequences as a ROS action, as a plain service, or from the start.

One run at a time: a new one cancels that which is under way and begins when it has ended, within a second.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from gs_semantic.action import Train
from gs_semantic.errors import ErrorCode, GsSemanticError, InvalidRequestError
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.parameters import declare, parameter
from gs_semantic.nodes.process import SpinThread, StopSignal
from gs_semantic.segmentation.config import PRESETS, parse_overrides
from gs_semantic.segmentation.progress import Listener, Progress
from gs_semantic.segmentation.trainer import TrainingJob, TrainingResult, train

THREADS = 6  # of the executor: a run keeps one, another one waits for it, the rest answer
POLL_S = 0.05
TELL_EVERY_S = 10.0  # progress of a run that nobody gets feedback of


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


class _Cancel:
    """Why a run should end, if it should."""

    def __init__(self, asked: Callable[[], bool] = lambda: False) -> None:
        self._event, self._asked = threading.Event(), asked

    def set(self) -> None:
        self._event.set()

    def __call__(self) -> bool:
        return self._event.is_set() or self._asked()


class TrainerNode(Node):
    """See the module; ``run`` works until it is told to stop."""

    def __init__(self, **options: Any) -> None:
        super().__init__("trainer", **options)
        self.parameters = declare(self, TrainerParameters)
        self.progress: Progress | None = None  # of the run under way, or the last one
        self.state = "waits for a goal"
        self.error = ""
        self._turn = threading.Lock()  # held by the run under way
        self._guard = threading.Lock()
        self._current: _Cancel | None = None
        self._closing = threading.Event()
        group = ReentrantCallbackGroup()
        self._action = ActionServer(
            self,
            Train,
            "~/train",
            self._execute,
            goal_callback=lambda goal: GoalResponse.ACCEPT,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
            callback_group=group,
        )
        self.create_service(Trigger, "~/start_training", self._start, callback_group=group)
        self.create_service(Trigger, "~/cancel_training", self._cancel, callback_group=group)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1 / self.parameters.status_hz, self.publish_diagnostics, callback_group=group, clock=steady)

    def run(self, stop: StopSignal) -> None:
        """Serve until asked to stop; with the parameter ``sequence``, train it first and end unless ``stay`` is set.

        Raises the error of that run.
        """
        executor = MultiThreadedExecutor(THREADS, context=self.context)
        executor.add_node(self)
        with SpinThread(executor):
            try:
                if self.parameters.sequence:
                    self._train(self._job_of_parameters(), _Cancel(lambda: bool(stop)), self._tell)
                    if not self.parameters.stay:
                        return
                while not stop:
                    stop.event.wait(POLL_S)
            finally:
                self._closing.set()
                with self._turn:  # a run that is under way ends first
                    pass

    def destroy_node(self) -> None:
        self._action.destroy()
        super().destroy_node()

    # --- runs -------------------------------------------------------------------------------------------------------

    def _job_of_parameters(self) -> TrainingJob:
        p = self.parameters
        names = ("method", "sequence", "output", "evaluation", "preset", "options")
        method, sequence, output, evaluation, preset, options = (str(self.get_parameter(n).value) for n in names)
        if not sequence:
            raise InvalidRequestError("parameter sequence: set the folder of the recording to train on")
        pairs = [pair.strip() for pair in options.split(",") if pair.strip()]
        resume = bool(self.get_parameter("resume").value)
        return _job(method, sequence, output, evaluation, preset or p.preset, pairs, resume)

    @contextmanager
    def _own_turn(self, cancel: _Cancel) -> Iterator[None]:
        """End the run under way, wait for it, and be the run under way meanwhile."""
        with self._guard:
            if self._current is not None:
                self._current.set()
            self._current = cancel
        with self._turn:
            try:
                yield
            finally:
                with self._guard:
                    if self._current is cancel:
                        self._current = None

    def _train(self, job: TrainingJob, cancel: _Cancel, listener: Listener) -> TrainingResult:
        """One run in this thread. Raises GsSemanticError."""
        job.config()  # mistakes in the options must not end the run under way
        with self._own_turn(cancel):
            self.state, self.error, self.progress = f"trains {job.method} on {job.sequence}", "", None
            self.get_logger().info(f"{self.state} into {job.output}")
            try:
                result = train(job, [self._keep, listener], lambda: cancel() or self._closing.is_set())
            except GsSemanticError as error:
                self.state, self.error = "the last run failed", str(error)
                raise
            except Exception as error:
                self.state, self.error = "the last run failed", repr(error)
                raise
            ended = "was cancelled" if result.cancelled else "has ended"
            self.state = f"{job.method} on {job.sequence} {ended} at iteration {result.iteration}"
            self.get_logger().info(f"{self.state}: {_in_words(result)}")
            for warning in result.warnings:
                self.get_logger().warning(warning)
            return result

    def _keep(self, progress: Progress) -> None:
        self.progress = progress

    def _tell(self, progress: Progress) -> None:
        loss = sum(progress.losses.values())
        self.get_logger().info(
            f"iteration {progress.iteration} of {progress.iterations}: loss {loss:.4f}, "
            f"{progress.it_per_s:.0f} it/s, {progress.eta_s:.0f} s to go",
            throttle_duration_sec=TELL_EVERY_S,
        )

    # --- action and services ----------------------------------------------------------------------------------------

    def _execute(self, handle: Any) -> Train.Result:
        goal = handle.request
        try:
            job = _job(
                goal.method, goal.sequence, goal.output, goal.evaluation, goal.preset, list(goal.options), goal.resume
            )
            cancel = _Cancel(lambda: handle.is_cancel_requested)
            outcome = self._train(job, cancel, lambda progress: handle.publish_feedback(_feedback(progress)))
        except GsSemanticError as error:
            handle.abort()
            return Train.Result(error_code=int(error.code), error_msg=str(error))
        except Exception as error:  # noqa: BLE001 - one run must not end the node
            handle.abort()
            return Train.Result(error_code=int(ErrorCode.UNKNOWN), error_msg=repr(error))
        if handle.is_cancel_requested:
            handle.canceled()
        elif outcome.cancelled:
            handle.abort()  # another run took its place
        else:
            handle.succeed()
        return _result(outcome)

    def _start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            job = self._job_of_parameters()
            job.config()
        except GsSemanticError as error:
            response.success, response.message = False, str(error)
            return response
        threading.Thread(target=self._run_job, args=(job,), name="training", daemon=True).start()
        response.success, response.message = True, f"trains {job.method} on {job.sequence}; see /diagnostics"
        return response

    def _run_job(self, job: TrainingJob) -> None:
        try:
            self._train(job, _Cancel(), self._tell)
        except Exception as error:  # noqa: BLE001 - told here, and in /diagnostics
            self.get_logger().error(str(error) if isinstance(error, GsSemanticError) else repr(error))

    def _cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._guard:
            running = self._current
        if running is not None:
            running.set()
        response.success = running is not None
        response.message = "the run ends within a second" if running is not None else "nothing is being trained"
        return response

    def publish_diagnostics(self) -> None:
        """What is being trained, how far it is, and what went wrong last."""
        values = {} if self.progress is None else self.progress.as_dict()
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if self.error else DiagnosticStatus.OK,
            name=f"{self.get_fully_qualified_name()}: training",
            message=self.error or self.state,
            hardware_id=self.get_fully_qualified_name(),
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        header = conversions.make_header(self.get_clock().now().nanoseconds, "")
        self._diagnostics.publish(DiagnosticArray(header=header, status=[status]))


def _job(
    method: str, sequence: str, output: str, evaluation: str, preset: str, options: list[str], resume: bool
) -> TrainingJob:
    for name, value in (("method", method), ("sequence", sequence), ("output", output)):
        if not value:
            raise InvalidRequestError(f"{name}: is empty")
    return TrainingJob(
        method,
        Path(sequence).expanduser(),
        Path(output).expanduser().absolute(),
        preset or "standard",
        None,
        parse_overrides(options),
        Path(evaluation).expanduser() if evaluation else None,
        resume,
    )


def _in_words(outcome: TrainingResult) -> str:
    scores = [f"{name} {value:.4g}" for name, value in outcome.metrics.items()]
    where = "no map, for nothing was evaluated yet" if outcome.map is None else f"map in {outcome.map}"
    return ", ".join([*scores, where])


def _result(outcome: TrainingResult) -> Train.Result:
    return Train.Result(
        cancelled=outcome.cancelled,
        map_path="" if outcome.map is None else str(outcome.map),
        iterations=outcome.iteration,
        gaussians=outcome.gaussians,
        minutes=outcome.minutes,
        metric_names=list(outcome.metrics),
        metric_values=list(outcome.metrics.values()),
    )


def _feedback(progress: Progress) -> Train.Feedback:
    def known(value: float | None) -> float:
        return math.nan if value is None else value

    return Train.Feedback(
        iteration=progress.iteration,
        iterations=progress.iterations,
        gaussians=progress.gaussians,
        it_per_s=progress.it_per_s,
        eta_s=progress.eta_s,
        memory_mb=progress.memory_mb,
        psnr_db=known(progress.psnr_db),
        miou=known(progress.miou),
        best_iteration=progress.best_iteration,
        loss_names=list(progress.losses),
        loss_values=list(progress.losses.values()),
    )
