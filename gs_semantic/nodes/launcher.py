"""Starts nodes as processes without ROS's launch: sets the environment, passes SIGINT on, ends all of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from gs_semantic.errors import GsSemanticError
from gs_semantic.nodes.arguments import NodeStart

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.05


class NodeProcesses(AbstractContextManager["NodeProcesses"]):
    """A group of node processes, ended together; a context manager.

    Each runs in a process group of its own, so that Ctrl-C in a terminal reaches it once only, through ``interrupt``.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        from gs_semantic.nodes.environment import ros_environment

        self.environment = {**os.environ, **ros_environment(), **(environment or {})}
        # the modules that run here also run there, from whatever folder
        paths = [str(PACKAGE_ROOT), *filter(None, self.environment.get("PYTHONPATH", "").split(os.pathsep))]
        self.environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        self._essential: set[str] = set()
        self._ended_by_us: set[str] = set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, node: NodeStart, log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
        """Start one node; its output goes to ``log``, or to this terminal."""
        return self.start_command(node.name, command_of(node), log, essential=node.essential)

    def start_command(
        self, name: str, command: list[str], log: IO[bytes] | None = None, essential: bool = True
    ) -> subprocess.Popen[bytes]:
        """Start any program in the nodes' environment under ``name``."""
        process = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,
        )
        self.processes[name] = process
        if essential:
            self._essential.add(name)
        return process

    def check(self) -> None:
        """GsSemanticError naming the node when one has failed."""
        for name, process in self.processes.items():
            code = process.poll()
            if code not in (None, 0) and name not in self._ended_by_us:
                raise GsSemanticError(f"{name} ended with exit code {code}; its output says why")

    def wait(self, signals: Sequence[int] = ()) -> int:
        """Wait until an essential node has ended, any has failed, or ``signals`` has an entry; then end the rest.

        Returns the exit code: that of the first failure, else 0.
        """
        while not signals:
            codes = {name: process.poll() for name, process in self.processes.items()}
            if any(code is not None and (code != 0 or name in self._essential) for name, code in codes.items()):
                break
            time.sleep(POLL_S)
        self.stop()
        codes = {name: process.returncode for name, process in self.processes.items()}
        return next((code if code > 0 else 128 - code for code in codes.values() if code), 0)

    def interrupt(self, name: str) -> None:
        """SIGINT to one node, as Ctrl-C would."""
        process = self.processes[name]
        if process.poll() is None:
            self._ended_by_us.add(name)
            process.send_signal(signal.SIGINT)

    def stop(self, patience_s: float = 30.0) -> None:
        """SIGINT to all, and SIGKILL to those that have not ended in time (a mapper may have to save its map)."""
        for name in self.processes:
            self.interrupt(name)
        deadline = time.monotonic() + patience_s
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def command_of(node: NodeStart) -> list[str]:
    """The command line of a node: our own run by this Python, others from the PATH."""
    if node.package == "gs_semantic":
        program = [sys.executable, "-m", f"gs_semantic.nodes.{node.executable}"]
    else:
        path = shutil.which(node.executable)
        if path is None:
            raise GsSemanticError(
                f"{node.executable}: not found on PATH; install ROS package '{node.package}', or start without it"
            )
        program = [path]
    return [*program, *node.arguments, *node.ros_arguments()]


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are put into the list instead of ending this process."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda got, _: caught.append(got)) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run(nodes: Iterable[NodeStart]) -> int:
    """Start nodes in the foreground; SIGINT and SIGTERM are passed on and are a normal end. Returns the exit code."""
    with caught_signals() as signals, NodeProcesses() as processes:
        for node in nodes:
            processes.start(node)
        return processes.wait(signals)
