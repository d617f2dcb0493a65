"""Start and end of a node's process: arguments, signals, errors and exit codes. Imports nothing heavy.

The main thread only waits for signals, because Python handles them there; a thread of its own runs the ROS executor.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from gs_semantic.errors import GsSemanticError

if TYPE_CHECKING:
    from rclpy.executors import Executor

SIGNALS = (signal.SIGINT, signal.SIGTERM)


GIL_SWITCH_S = 0.001  # a thread that computes in Python gives way to one with a message after this, not after 5 ms


class StopSignal:
    """Set by SIGINT and SIGTERM from the first moment on; a node ends in its own order when it sees it.

    Until ``started`` nothing is there that would have to be ended in order: a signal ends the process at once, with code 0.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._started = False
        for number in SIGNALS:
            signal.signal(number, self._take)

    def _take(self, *_: object) -> None:
        if not self._started:
            os._exit(0)  # an exception could be caught by what is being imported
        self.event.set()

    def started(self) -> None:
        self._started = True

    @staticmethod
    def ignore() -> None:
        """From now on: once Python itself shuts down our handler is gone, and a signal would kill the process."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def __bool__(self) -> bool:
        return self.event.is_set()


def run_process(module: str, node_class: str) -> int:
    """Run a node in this process until it ends or is interrupted; returns the exit code.

    node_class: in ``module``; its ``run(stop: StopSignal)`` works until its work is done or ``stop`` is set.

    An error that the user can mend is told in one sentence (code 1); an interrupt at any moment is a normal end (0).
    """
    stop = StopSignal()  # before the imports, which take seconds, on a busy machine minutes
    make = getattr(importlib.import_module(module), node_class)
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    stop.started()
    sys.setswitchinterval(GIL_SWITCH_S)
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        node = make()
        node.run(stop)
        return 0
    except GsSemanticError as error:
        logger = node.get_logger() if node else rclpy.logging.get_logger(module.rpartition(".")[2])
        logger.fatal(str(error))
        return 1
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        stop.ignore()


class SpinThread:
    """Runs an executor in a thread while the ``with`` block lasts; an error in a callback is logged, and it goes on."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._ending = False
        self._thread = threading.Thread(target=self._spin, name="executor", daemon=True)

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException, ShutdownException
        from rclpy.impl.implementation_singleton import rclpy_implementation
        from rclpy.logging import get_logger

        while not self._ending:
            try:
                self._executor.spin()
                return
            except (ExternalShutdownException, ShutdownException):
                return
            except Exception as error:  # noqa: BLE001 - one callback must not end the node
                if self._ending and isinstance(error, rclpy_implementation.InvalidHandle):
                    return  # the executor went while it was in a callback
                get_logger("executor").error(f"a callback failed:\n{traceback.format_exc()}")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._executor.shutdown()
        self._thread.join(timeout=5)
