"""An error in one callback does not end the node."""

from __future__ import annotations

import threading

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from gs_semantic.nodes.process import SpinThread


def test_an_error_in_a_callback_does_not_end_the_executor(ros_domain_id: int) -> None:
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("test", context=context)
    calls = 0
    thrice = threading.Event()

    def fail() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            thrice.set()
        raise RuntimeError("this callback is broken")

    node.create_timer(0.01, fail)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    with SpinThread(executor):
        assert thrice.wait(60)
    node.destroy_node()
    rclpy.try_shutdown(context=context)
