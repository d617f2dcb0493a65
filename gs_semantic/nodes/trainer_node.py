"""The trainer node: training runs of recorded sequences as a ROS action, as a plain service, or from the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from gs_semantic.action import Train
from gs_semantic.errors import InvalidRequestError
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.parameters import declare, parameter
from gs_semantic.nodes.process import SpinThread, StopSignal
from gs_semantic.nodes.training import Run, TrainingServer
from gs_semantic.nodes.turns import Cancel
from gs_semantic.segmentation.config import PRESETS, parse_overrides
from gs_semantic.segmentation.trainer import TrainingJob, train

POLL_S = 0.05


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


class TrainerNode(Node):
    """See the module; ``run`` works until it is told to stop."""

    def __init__(self, **options: Any) -> None:
        super().__init__("trainer", **options)
        self.parameters = declare(self, TrainerParameters)
        self.training = TrainingServer(self, self._prepare, self._goal_of_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1 / self.parameters.status_hz, self.publish_diagnostics, clock=steady)

    def run(self, stop: StopSignal) -> None:
        """Serve until asked to stop; with the parameter ``sequence``, train it first and end unless ``stay`` is set.

        Raises the error of that run.
        """
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        with SpinThread(executor):
            try:
                if self.parameters.sequence:
                    self.training.run(self._goal_of_parameters(), Cancel(lambda: bool(stop)))
                    if not self.parameters.stay:
                        return
                self.get_logger().info("waits for goals of ~/train, or for ~/start_training")
                while not stop:
                    stop.event.wait(POLL_S)
            finally:
                self.training.stop()

    def destroy_node(self) -> None:
        self.training.close()
        super().destroy_node()

    def _goal_of_parameters(self) -> Train.Goal:
        names = ("method", "sequence", "output", "evaluation", "preset")
        goal = Train.Goal(**{name: str(self.get_parameter(name).value) for name in names})
        if not goal.sequence:
            raise InvalidRequestError("parameter sequence: set the folder of the recording to train on")
        goal.options = [pair.strip() for pair in str(self.get_parameter("options").value).split(",") if pair.strip()]
        goal.resume = bool(self.get_parameter("resume").value)
        return goal

    @staticmethod
    def _prepare(goal: Train.Goal) -> Run:
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
            Path(goal.output).expanduser().absolute(),
            goal.preset or "standard",
            None,
            parse_overrides(goal.options),
            Path(goal.evaluation).expanduser() if goal.evaluation else None,
            goal.resume,
        )
        job.config()  # mistakes in the options must not end the run under way
        return Run(
            job.method, str(job.sequence), str(job.output), lambda listeners, cancelled: train(job, listeners, cancelled)
        )

    def publish_diagnostics(self) -> None:
        """What is being trained, how far it is, and what went wrong last."""
        training = self.training
        values = {} if training.progress is None else training.progress.as_dict()
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if training.error else DiagnosticStatus.OK,
            name=f"{self.get_fully_qualified_name()}: training",
            message=training.error or training.state,
            hardware_id=self.get_fully_qualified_name(),
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        header = conversions.make_header(self.get_clock().now().nanoseconds, "")
        self._diagnostics.publish(DiagnosticArray(header=header, status=[status]))
