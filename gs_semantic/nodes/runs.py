"""Long runs as an action and as plain services, for any node: one at a time, each in a thread of its own.

A new run cancels that which is under way and begins when it has ended. Nothing here waits in the executor's thread, so
that a node with a single one goes on answering.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from gs_semantic.errors import ErrorCode, GsSemanticError
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.parameters import declare
from gs_semantic.nodes.process import SpinThread, StopSignal
from gs_semantic.nodes.turns import Cancel, Turns

POLL_S = 0.05
TELL_EVERY_S = 10.0  # progress of a run that nobody gets feedback of

Tell = Callable[[Any], object]  # takes the action's feedback
Asked = Callable[[], bool]  # should the run end?


@dataclass(frozen=True)
class Outcome:
    """What came of a run: the action's result, in words, and what the user should know besides."""

    result: Any
    text: str
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Run:
    """A run that can begin: what it does, in words, where it writes, and the work itself."""

    text: str
    output: str
    work: Callable[[Tell, Asked], Outcome]


class RunServer:
    """An action ``~/<verb>``, and for callers without an action client ``~/start_<doing>`` and ``~/cancel_<doing>``.

    prepare: makes a run of a goal, quickly; GsSemanticError says what is wrong with it, and ends no other run.
    settings: the goal of a run that is started without an action. niceness: of the runs' threads (Linux).
    """

    def __init__(
        self,
        node: Node,
        action: Any,
        doing: str,
        prepare: Callable[[Any], Run],
        settings: Callable[[], Any],
        niceness: int = 0,
    ) -> None:
        self.node, self.doing, self.prepare, self.settings = node, doing, prepare, settings
        self.kind, self._niceness = action, niceness
        self.feedback: Any = None  # of the run under way, or the last one
        self.state = "waits for a goal"
        self.error = ""
        self._logged = -math.inf  # when progress was last told
        self._turns = Turns()
        self._threads: set[threading.Thread] = set()
        self._closing = threading.Event()
        self._action = ActionServer(
            node,
            action,
            f"~/{action.__name__.lower()}",
            lambda handle: action.Result(),  # goals are run by ``_accepted``
            goal_callback=lambda goal: GoalResponse.ACCEPT,
            handle_accepted_callback=self._accepted,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )
        self._services = [
            node.create_service(Trigger, f"~/start_{doing}", self._start),
            node.create_service(Trigger, f"~/cancel_{doing}", self._cancel),
        ]

    @property
    def values(self) -> dict[str, Any]:
        """How far the run is, by name."""
        feedback = self.feedback  # read once: a run that begins takes it away
        if feedback is None:
            return {}
        losses = dict(zip(feedback.loss_names, feedback.loss_values, strict=True))
        names = [name for name in feedback.get_fields_and_field_types() if not name.startswith("loss_")]
        return {f"loss_{name}": value for name, value in losses.items()} | {
            name: getattr(feedback, name) for name in names
        }

    # --- runs -------------------------------------------------------------------------------------------------------

    def run(self, run: Run, cancel: Cancel, tell: Tell | None = None) -> Any:
        """Do it in this thread; the action's result. Raises GsSemanticError. tell: gets feedback; without, the log does."""
        logger = self.node.get_logger()

        def keep(feedback: Any) -> None:
            self.feedback = feedback
            (tell or self._log)(feedback)

        with self._turns.own(cancel):
            self.state, self.error, self.feedback, self._logged = run.text, "", None, -math.inf
            logger.info(f"{run.text} into {run.output}" if run.output else run.text)
            try:
                outcome = run.work(keep, lambda: cancel() or self._closing.is_set())
            except Exception as error:
                self.state, self.error = "the last run failed", _told(error)
                raise
            self.state = f"{run.text}: {'was cancelled' if outcome.result.cancelled else 'has ended'}"
            logger.info(f"{self.state}; {outcome.text}" if outcome.text else self.state)
            for warning in outcome.warnings:
                logger.warning(warning)
            return outcome.result

    def stop(self) -> None:
        """End the run under way, and wait until it has ended."""
        self._closing.set()
        for thread in list(self._threads):
            thread.join()
        self._turns.wait()

    def close(self) -> None:
        """Stop, and leave the node."""
        self.stop()
        self._action.destroy()
        for service in self._services:
            self.node.destroy_service(service)

    def _in_thread(self, task: Callable[[], None]) -> None:
        def work() -> None:
            if self._niceness and sys.platform == "linux":  # elsewhere it would be that of the whole process
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
            try:
                task()
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=work, name=self.doing, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _log(self, feedback: Any) -> None:
        text = f"{feedback.iteration} of {feedback.iterations}"
        if len(feedback.loss_values):
            text += (
                f": loss {sum(feedback.loss_values):.4f}, {feedback.it_per_s:.1f} it/s, {feedback.eta_s:.0f} s to go"
            )
        now = time.monotonic()
        if now - self._logged >= TELL_EVERY_S or feedback.iteration >= feedback.iterations:
            self._logged = now
            self.node.get_logger().info(text)

    # --- action and services ----------------------------------------------------------------------------------------

    def _accepted(self, handle: Any) -> None:
        """Run a goal. Its state becomes final when the run has ended; until then it is 'accepted', or 'canceling'."""
        self._in_thread(lambda: self._execute(handle))

    def _execute(self, handle: Any) -> None:
        failed = False
        try:
            cancel = Cancel(lambda: handle.is_cancel_requested)
            result = self.run(self.prepare(handle.request), cancel, handle.publish_feedback)
        except Exception as error:  # noqa: BLE001 - one run must not end the node
            code = error.code if isinstance(error, GsSemanticError) else ErrorCode.UNKNOWN
            failed, result = True, self.kind.Result(error_code=int(code), error_msg=_told(error))
            self.node.get_logger().error(_told(error))

        def finish(handle: Any) -> Any:
            if not failed and handle.is_cancel_requested:
                handle.canceled()
            elif failed or result.cancelled:
                handle.abort()  # it failed, or another run took its place
            else:
                handle.succeed()
            return result

        if not self._closing.is_set():
            handle.execute(finish)  # by the executor, in a moment

    def _start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            run = self.prepare(self.settings())
        except GsSemanticError as error:
            response.success, response.message = False, str(error)
            return response
        self._in_thread(lambda: self._run_alone(run))
        response.success, response.message = True, f"{run.text}; see /diagnostics"
        return response

    def _run_alone(self, run: Run) -> None:
        try:
            self.run(run, Cancel())
        except Exception as error:  # noqa: BLE001 - told here, and in /diagnostics
            self.node.get_logger().error(_told(error))

    def _cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._turns.cancel()
        response.message = "the run ends in a moment" if response.success else "nothing is under way"
        return response


class RunNode(Node):
    """A node that does nothing but runs; ``run`` works until it is told to stop.

    A subclass says what a goal asks for (``prepare``), which goal its parameters describe (``goal_of_parameters``), and
    whether that one begins at once (``at_once``). Its parameters have ``stay`` and ``status_hz``.
    """

    def __init__(self, name: str, parameters: Any, action: Any, doing: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.parameters = declare(self, parameters)
        self.runs = RunServer(self, action, doing, self.prepare, self.goal_of_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1 / self.parameters.status_hz, self._publish_diagnostics, clock=steady)

    def prepare(self, goal: Any) -> Run:
        raise NotImplementedError

    def goal_of_parameters(self) -> Any:
        raise NotImplementedError

    @property
    def at_once(self) -> bool:
        raise NotImplementedError

    def run(self, stop: StopSignal) -> None:
        """Serve until asked to stop; do first what the parameters say if they say so, and end unless ``stay`` is set.

        Raises the error of that run.
        """
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        with SpinThread(executor):
            try:
                if self.at_once:
                    self.runs.run(self.prepare(self.goal_of_parameters()), Cancel(lambda: bool(stop)))
                    if not self.parameters.stay:
                        return
                verb, doing = self.runs.kind.__name__.lower(), self.runs.doing
                self.get_logger().info(f"waits for goals of ~/{verb}, or for ~/start_{doing}")
                while not stop:
                    stop.event.wait(POLL_S)
            finally:
                self.runs.stop()

    def destroy_node(self) -> None:
        self.runs.close()
        super().destroy_node()

    def words_of(self, name: str) -> list[str]:
        """The words of a parameter that are separated by commas."""
        return [word.strip() for word in str(self.get_parameter(name).value).split(",") if word.strip()]

    def _publish_diagnostics(self) -> None:
        """What is under way, how far it is, and what went wrong last."""
        runs, name = self.runs, self.get_fully_qualified_name()
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if runs.error else DiagnosticStatus.OK,
            name=f"{name}: {runs.doing}",
            message=runs.error or runs.state,
            hardware_id=name,
            values=[KeyValue(key=key, value=str(value)) for key, value in runs.values.items()],
        )
        header = conversions.make_header(self.get_clock().now().nanoseconds, "")
        self._diagnostics.publish(DiagnosticArray(header=header, status=[status]))


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, GsSemanticError) else repr(error)


def absolute(text: str) -> Path:
    """The path that a goal means."""
    return Path(text).expanduser().absolute()


def known(value: float | None) -> float:
    """NaN for what is not known yet."""
    return math.nan if value is None else value


def in_words(metrics: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in metrics.items()]
