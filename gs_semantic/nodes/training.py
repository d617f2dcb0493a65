"""Training runs as an action and as plain services, for any node: one run at a time, each in a thread of its own.

A new run cancels that which is under way and begins when it has ended, within a second. Nothing here waits in the
executor's thread, so that a node with a single one goes on answering.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from std_srvs.srv import Trigger

from gs_semantic.action import Train
from gs_semantic.errors import ErrorCode, GsSemanticError
from gs_semantic.nodes.turns import Cancel, Turns
from gs_semantic.segmentation.progress import Listener, Progress
from gs_semantic.segmentation.trainer import TrainingResult

TELL_EVERY_S = 10.0  # progress of a run that nobody gets feedback of


@dataclass(frozen=True)
class Run:
    """A run that can begin: ``method``, what it trains, where it writes, and the work itself."""

    method: str
    subject: str
    output: str
    work: Callable[[Sequence[Listener], Callable[[], bool]], TrainingResult]


class TrainingServer:
    """``~/train``, ``~/start_training`` and ``~/cancel_training`` of a node.

    prepare: makes a run of a goal, quickly; GsSemanticError says what is wrong with it, and ends no other run.
    settings: the goal of a run that is started without an action. niceness: of the runs' threads (Linux).
    """

    def __init__(
        self,
        node: Node,
        prepare: Callable[[Train.Goal], Run],
        settings: Callable[[], Train.Goal],
        niceness: int = 0,
    ) -> None:
        self._node, self._prepare, self._settings, self._niceness = node, prepare, settings, niceness
        self.progress: Progress | None = None  # of the run under way, or the last one
        self.state = "waits for a goal"
        self.error = ""
        self._told = 0.0
        self._turns = Turns()
        self._threads: set[threading.Thread] = set()
        self._closing = threading.Event()
        self._action = ActionServer(
            node,
            Train,
            "~/train",
            lambda handle: Train.Result(),  # goals are run by ``_accepted``
            goal_callback=lambda goal: GoalResponse.ACCEPT,
            handle_accepted_callback=self._accepted,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )
        self._services = [
            node.create_service(Trigger, "~/start_training", self._start),
            node.create_service(Trigger, "~/cancel_training", self._cancel),
        ]

    # --- runs -------------------------------------------------------------------------------------------------------

    def run(self, goal: Train.Goal, cancel: Cancel, listener: Listener | None = None) -> TrainingResult:
        """One run in this thread. Raises GsSemanticError. ``listener``: gets its progress; without, the log does."""
        prepared = self._prepare(goal)
        logger = self._node.get_logger()
        with self._turns.own(cancel):
            self.state, self.error, self.progress = f"trains {prepared.method} on {prepared.subject}", "", None
            logger.info(f"{self.state} into {prepared.output}")
            try:
                result = prepared.work(
                    [self._keep, listener or self._tell], lambda: cancel() or self._closing.is_set()
                )
            except GsSemanticError as error:
                self.state, self.error = "the last run failed", str(error)
                raise
            except Exception as error:
                self.state, self.error = "the last run failed", repr(error)
                raise
            ended = "was cancelled" if result.cancelled else "has ended"
            self.state = f"{prepared.method} on {prepared.subject} {ended} at iteration {result.iteration}"
            logger.info(f"{self.state}: {_in_words(result)}")
            for warning in result.warnings:
                logger.warning(warning)
            return result

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
            self._node.destroy_service(service)

    def _in_thread(self, task: Callable[[], None]) -> None:
        def work() -> None:
            if self._niceness and sys.platform == "linux":  # elsewhere it would be that of the whole process
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
            try:
                task()
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=work, name="training", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _keep(self, progress: Progress) -> None:
        self.progress = progress

    def _tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._told and now - self._told < TELL_EVERY_S and progress.iteration < progress.iterations:
            return
        self._told = now
        loss = sum(progress.losses.values())
        self._node.get_logger().info(
            f"iteration {progress.iteration} of {progress.iterations}: loss {loss:.4f}, "
            f"{progress.it_per_s:.0f} it/s, {progress.eta_s:.0f} s to go"
        )

    # --- action and services ----------------------------------------------------------------------------------------

    def _accepted(self, handle: Any) -> None:
        """Run a goal. Its state becomes final when the run has ended; until then it is 'accepted', or 'canceling'."""
        self._in_thread(lambda: self._execute(handle))

    def _execute(self, handle: Any) -> None:
        outcome, result = None, Train.Result()
        try:
            cancel = Cancel(lambda: handle.is_cancel_requested)
            outcome = self.run(handle.request, cancel, lambda progress: handle.publish_feedback(_feedback(progress)))
            result = _result(outcome)
        except GsSemanticError as error:
            result.error_code, result.error_msg = int(error.code), str(error)
        except Exception as error:  # noqa: BLE001 - one run must not end the node
            result.error_code, result.error_msg = int(ErrorCode.UNKNOWN), repr(error)

        def finish(handle: Any) -> Train.Result:
            if outcome is not None and handle.is_cancel_requested:
                handle.canceled()
            elif outcome is None or outcome.cancelled:
                handle.abort()  # it failed, or another run took its place
            else:
                handle.succeed()
            return result

        if not self._closing.is_set():
            handle.execute(finish)  # by the executor, in a moment

    def _start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            goal = self._settings()
            prepared = self._prepare(goal)
        except GsSemanticError as error:
            response.success, response.message = False, str(error)
            return response
        self._in_thread(lambda: self._run_goal(goal))
        response.success, response.message = True, f"trains {prepared.method} on {prepared.subject}; see /diagnostics"
        return response

    def _run_goal(self, goal: Train.Goal) -> None:
        try:
            self.run(goal, Cancel())
        except Exception as error:  # noqa: BLE001 - told here, and in /diagnostics
            self._node.get_logger().error(str(error) if isinstance(error, GsSemanticError) else repr(error))

    def _cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._turns.cancel()
        response.message = "the run ends within a second" if response.success else "nothing is being trained"
        return response


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
