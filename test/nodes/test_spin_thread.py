"""An error in one callback does not end the node."""

from __future__ import annotations

import threading
import time

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation

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


def test_an_end_in_the_middle_of_a_callback_is_no_error(ros_domain_id: int, capfd: pytest.CaptureFixture[str]) -> None:
    """The executor may be gone when a callback returns."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("test", context=context)
    gone = rclpy_implementation.InvalidHandle
    entered = threading.Event()

    def leave_late() -> None:
        entered.set()
        while not spinner._ending:
            time.sleep(0.001)
        raise gone("cannot use Destroyable because destruction was requested")  # as the guard condition then does

    node.create_timer(0.01, leave_late)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    spinner = SpinThread(executor)
    with spinner:
        assert entered.wait(60)
    spinner._thread.join(60)
    node.destroy_node()
    rclpy.try_shutdown(context=context)
    assert "a callback failed" not in capfd.readouterr().err
