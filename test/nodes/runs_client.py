"""A node that serves runs, and a caller of its action and its services, in one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor
from rclpy.parameter import Parameter
from rig import StopEvent
from std_srvs.srv import Trigger

PATIENCE_S = 120.0
SUCCEEDED, CANCELED, ABORTED = 4, 5, 6  # of action_msgs/GoalStatus


class RunsClient:
    """node: class of the node; action: type of its action; parameters: of the node."""

    def __init__(self, node: type, action: Any, **parameters: Any) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.served = node(context=self.context, namespace="rig", parameter_overrides=overrides)
        self.name = self.served.get_name()
        self.stop = StopEvent()
        self.runner = threading.Thread(target=self.served.run, args=(self.stop,), daemon=True)
        self.runner.start()
        self.node = rclpy.create_node("caller", context=self.context, namespace="rig")
        self.kind = action
        self.action = ActionClient(self.node, action, f"{self.name}/{action.__name__.lower()}")
        self.executor = MultiThreadedExecutor(2, context=self.context)
        self.executor.add_node(self.node)
        self.spinner = threading.Thread(target=self.executor.spin, daemon=True)
        self.spinner.start()
        assert self.action.wait_for_server(PATIENCE_S)
        self.feedback: list[Any] = []

    def send(self, **fields: Any) -> Any:
        goal = self.kind.Goal(**fields)
        handle = self.wait(self.action.send_goal_async(goal, lambda message: self.feedback.append(message.feedback)))
        assert handle.accepted
        return handle

    def result(self, handle: Any) -> tuple[int, Any]:
        reply = self.wait(handle.get_result_async())
        return reply.status, reply.result

    def call(self, name: str) -> Trigger.Response:
        client = self.node.create_client(Trigger, f"{self.name}/{name}")
        assert client.wait_for_service(PATIENCE_S)
        return self.wait(client.call_async(Trigger.Request()))

    def set(self, **values: Any) -> None:
        """Parameters of the node."""
        self.served.set_parameters([Parameter(name, value=str(value)) for name, value in values.items()])

    def wait(self, future: Any) -> Any:
        self.until(future.done)
        return future.result()

    def until(self, holds: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    def close(self) -> None:
        self.stop.event.set()
        self.runner.join(PATIENCE_S)
        self.executor.shutdown()
        self.spinner.join(PATIENCE_S)
        self.action.destroy()
        self.node.destroy_node()
        self.served.destroy_node()
        rclpy.try_shutdown(context=self.context)
        assert not self.runner.is_alive()
