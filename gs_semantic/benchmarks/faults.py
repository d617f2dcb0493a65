"""The fault drill: a running graph is given one fault after the other, and has to name each and get over it.

Mapper and camera are processes of their own on a DDS domain of their own; this one listens, as an operator would, to the
mapper's ~/status and to /diagnostics.
"""

from __future__ import annotations

import json
import os
import queue
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import yaml

from gs_semantic.benchmarks.faulty_camera import (
    BAD_ENCODING,
    CAMERA_FRAME,
    COLOUR,
    DEPTH,
    INFO,
    JUMP_S,
    MAP_FRAME,
    MASKS,
    STAMP_OFFSET_S,
    UNKNOWN_FRAME,
    WELL,
)
from gs_semantic.errors import GsSemanticError, InvalidRequestError
from gs_semantic.nodes import faults
from gs_semantic.nodes.arguments import MAPPER, plan_segment
from gs_semantic.nodes.launcher import NodeProcesses

CAMERA = "camera"
START_PATIENCE_S = 90.0
NAMING_PATIENCE_S = 10.0
RECOVERY_PATIENCE_S = 10.0
QUIET_PATIENCE_S = 15.0  # until a status of a healthy graph warns of nothing any more
TARGET_S = 3.0  # naming


@dataclass(frozen=True)
class Case:
    """One fault of the camera, and what the mapper must say of it.

    names: the faults of the catalogue that name it. words: what one text must hold, topics relative to the namespace.
    amount: a pattern with one number, and the range that this must lie in. follows: faults that may be named with it.
    """

    fault: str
    names: tuple[str, ...]
    words: tuple[str, ...]
    amount: tuple[str, float, float] | None = None
    follows: tuple[str, ...] = ()


CASES = (
    Case("depth_qos", ("qos_incompatible",), (DEPTH, CAMERA, "reliability", "best effort"), follows=("no_longer", "no_message", "unmatched")),
    Case("camera_info", ("camera_info_stopped", "camera_info_missing"), (INFO,), follows=("no_longer",)),
    Case("tf_missing", ("tf_missing",), (UNKNOWN_FRAME, MAP_FRAME)),
    Case("tf_late", ("tf_late",), (CAMERA_FRAME, MAP_FRAME), (r"stamp is ([\d.]+) ms newer", 50.0, 1500.0)),
    Case(
        "stamps",
        ("stamps_apart",),
        (DEPTH, COLOUR),
        (r"([+-][\d.]+) ms apart", 1e3 * STAMP_OFFSET_S - 1, 1e3 * STAMP_OFFSET_S + 1),
        ("unmatched",),
    ),
    Case("encoding", ("encoding",), (COLOUR, BAD_ENCODING)),
    Case("unregistered", ("depth_unregistered",), (DEPTH, COLOUR)),
    Case("frame_id", ("frame_id_empty",), (COLOUR, "frame_id")),
    Case(
        "clock_back",
        ("clock_back",),
        ("jumped back",),
        (r"back by ([\d.]+) s", JUMP_S - 1, JUMP_S + 1),
        ("unmatched",),
    ),
    Case("mask_size", ("mask_size",), (MASKS, COLOUR)),
)


@dataclass(frozen=True)
class Outcome:
    """named_s: from the first faulty frame until it was named, NaN when it was not in time. recovered_s: from the first
    good frame until one taken after it was answered. text: what was said. others: faults named that were not there."""

    fault: str
    named_s: float
    recovered_s: float
    text: str
    others: tuple[str, ...]

    @property
    def correct(self) -> bool:
        return self.named_s <= TARGET_S and not self.others

    @property
    def recovered(self) -> bool:
        return self.recovered_s <= RECOVERY_PATIENCE_S


@dataclass
class Heard:
    """What the mapper says at present."""

    texts: set[str] = field(default_factory=set)
    number: int = 0  # of messages so far
    answered: dict[int, int] = field(default_factory=dict)  # stamp -> time of the answer, monotonic ns


class FaultDrill(AbstractContextManager["FaultDrill"]):
    """Starts camera and mapper; ``run`` goes through the cases. ``folder`` keeps their logs."""

    def __init__(self, sequence: Path, folder: Path, rate_hz: float = 5.0, domain_id: int | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        domain = random.SystemRandom().randint(1, 100) if domain_id is None else domain_id
        self.namespace = f"drill_{os.getpid()}"
        self._ros = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        self.processes = NodeProcesses(self._ros)
        self.heard = Heard()
        self._changed = threading.Condition()
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._start_mapper()
        self._start_camera(sequence, rate_hz)
        self._listen(domain)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_listening()
        if self._camera.stdin is not None:
            self._camera.stdin.close()
        self.processes.stop()

    # --- processes ----------------------------------------------------------------------------------------------------

    def _start_mapper(self) -> None:
        file = self.folder / "parameters.yaml"
        # reliable inputs, because best effort ones have no incompatible publisher
        file.write_text(yaml.safe_dump({"/**/mapper": {"ros__parameters": {"input_qos": "reliable"}}}))
        start = plan_segment({"namespace": self.namespace, "params_file": str(file)})[0]
        with (self.folder / "mapper.log").open("wb") as log:
            self.processes.start(start, log)

    def _start_camera(self, sequence: Path, rate_hz: float) -> None:
        command = [sys.executable, "-m", "gs_semantic.benchmarks.faulty_camera", "--sequence", str(sequence)]
        command += ["--namespace", f"/{self.namespace}", "--rate-hz", str(rate_hz)]
        with (self.folder / "camera.log").open("wb") as log:
            self._camera = subprocess.Popen(
                command,
                env=self.processes.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
                bufsize=1,
            )
        self.processes.processes[CAMERA] = self._camera
        threading.Thread(target=self._read_events, daemon=True).start()

    def _read_events(self) -> None:
        assert self._camera.stdout is not None
        for line in self._camera.stdout:
            self._events.put(json.loads(line))

    def _listen(self, domain: int) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        from gs_semantic.msg import Status
        from gs_semantic.nodes import qos
        from gs_semantic.nodes.conversions import to_ns
        from gs_semantic.nodes.environment import ros_environment
        from gs_semantic.nodes.process import SpinThread

        self._context = Context()
        with _environment({**self._ros, **ros_environment()}):
            rclpy.init(context=self._context, domain_id=domain)
            node = rclpy.create_node("drill", context=self._context, namespace=self.namespace)
        self._diagnosed: dict[str, set[str]] = {}
        self._warned: set[str] = set()
        self._last_error: tuple[int, str] = (0, "")

        def on_status(msg: Status) -> None:
            self._warned = set(msg.warnings)
            self._last_error = to_ns(msg.last_error_stamp), msg.last_error
            self._update()

        def on_diagnostics(msg: DiagnosticArray) -> None:
            for status in msg.status:
                self._diagnosed[status.name] = {status.message, *(pair.value for pair in status.values)}
            self._update()

        def on_image(msg: Image) -> None:
            with self._changed:
                self.heard.answered[to_ns(msg.header.stamp)] = time.monotonic_ns()
                self._changed.notify_all()

        node.create_subscription(Status, f"{MAPPER}/status", on_status, qos.STATUS)
        node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, qos.STATUS)
        node.create_subscription(Image, f"{MAPPER}/semantic/image", on_image, qos.IMAGE_OUTPUT)
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(node)
        self._spin = SpinThread(executor)
        self._spin.__enter__()

    def _stop_listening(self) -> None:
        import rclpy

        self._spin.__exit__()
        rclpy.try_shutdown(context=self._context)

    def _update(self) -> None:
        with self._changed:
            self.heard.texts = self._warned.union(*self._diagnosed.values())
            self.heard.number += 1
            self._changed.notify_all()

    # --- the drill ----------------------------------------------------------------------------------------------------

    def run(self, cases: Iterable[Case] = CASES, progress: Callable[[str], object] = lambda name: None) -> list[Outcome]:
        """Go through the cases; GsSemanticError when the graph does not even work without a fault."""
        self._event()  # ready
        if not self._wait(lambda: len(self.heard.answered) >= 5, START_PATIENCE_S):
            raise GsSemanticError(f"the mapper does not answer; it says: {self.heard.texts or 'nothing'} {self._tail()}")
        outcomes = []
        for case in cases:
            self._quiet()
            outcomes.append(self._one(case))
            progress(case.fault)
        return outcomes

    def _one(self, case: Case) -> Outcome:
        named_before = self._named()
        begun = self._command(case.fault)
        text = self._until_named(case, begun["t_ns"])
        named_s = (time.monotonic_ns() - begun["t_ns"]) / 1e9 if text else float("nan")
        allowed = {*case.names, *case.follows, *named_before}
        others = tuple(sorted(self._named() - allowed))
        good = self._command(WELL)
        back = self._wait(lambda: self._answered_since(good["stamp_ns"], good["t_ns"]), RECOVERY_PATIENCE_S)
        recovered_s = (time.monotonic_ns() - good["t_ns"]) / 1e9 if back else float("nan")
        return Outcome(case.fault, named_s, recovered_s, text, others)

    def _answered_since(self, stamp_ns: int, t_ns: int) -> bool:
        """Was a frame from after the fault answered? (Stamps alone do not tell: the clock may have jumped.)"""
        return any(stamp >= stamp_ns and when >= t_ns for stamp, when in self.heard.answered.items())

    def _until_named(self, case: Case, begun_ns: int) -> str:
        """The text that names it; empty when none comes in time."""
        before = set(self.heard.texts)
        found: list[str] = []

        def named() -> bool:
            found[:] = [text for text in self.heard.texts - before if names(case, text)]
            return bool(found)

        patience = NAMING_PATIENCE_S - (time.monotonic_ns() - begun_ns) / 1e9
        return found[0] if self._wait(named, patience) else ""

    def _named(self) -> set[str]:
        """Faults that are spoken of now."""
        found = (faults.named_in(text) for text in self.heard.texts)
        return {fault.name for fault in found if fault is not None and fault.severity > faults.Severity.OK}

    def _quiet(self) -> None:
        """Wait until the last fault is spoken of no more, so that what is named next is the next one."""
        self._wait(lambda: not self._named(), QUIET_PATIENCE_S)

    def _command(self, word: str) -> dict[str, Any]:
        assert self._camera.stdin is not None
        self._camera.stdin.write(word + "\n")
        self._camera.stdin.flush()
        return self._event()

    def _event(self) -> dict[str, Any]:
        try:
            return self._events.get(timeout=START_PATIENCE_S)
        except queue.Empty:
            raise GsSemanticError(f"the camera of the drill does not answer; {self._tail()}") from None

    def _wait(self, condition: Callable[[], bool], patience_s: float) -> bool:
        """False when it does not hold in time; GsSemanticError when a process has ended."""
        end = time.monotonic() + patience_s
        with self._changed:
            while not condition():
                if time.monotonic() > end:
                    return False
                self._changed.wait(0.1)
                self.processes.check()
        return True

    def _tail(self) -> str:
        logs = [(self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-5:] for name in (MAPPER, CAMERA)]
        return "\n    ".join(["", *logs[0], *logs[1]])


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables of this process while the block lasts: DDS reads them when a node is made."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def names(case: Case, text: str) -> bool:
    """Does this text name the fault rightly: kind, topic or frame, and amount?"""
    fault = faults.named_in(text)
    if fault is None or fault.name not in case.names or not all(word in text for word in case.words):
        return False
    if case.amount is None:
        return True
    pattern, low, high = case.amount
    found = re.search(pattern, text)
    return found is not None and low <= float(found[1]) <= high


def cases_of(wanted: Iterable[str]) -> list[Case]:
    """The cases of these names, all for none; InvalidRequestError for an unknown one."""
    known = {case.fault: case for case in CASES}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InvalidRequestError(f"--only {unknown[0]}: no such fault; there are {', '.join(known)}")
    return [known[name] for name in wanted] or list(CASES)


def results(outcomes: list[Outcome]) -> dict[str, Any]:
    """What ``--json`` holds."""
    named = [outcome.named_s for outcome in outcomes]
    recovered = [outcome.recovered_s for outcome in outcomes]
    out: dict[str, Any] = {
        "faults": len(outcomes),
        "named_correctly": sum(outcome.correct for outcome in outcomes),
        "slowest_s": float(np.max(named)),  # NaN when one was not named
        "recovered": sum(outcome.recovered for outcome in outcomes),
        "slowest_recovery_s": float(np.max(recovered)),
    }
    for outcome in outcomes:
        out[f"{outcome.fault}_named_s"] = outcome.named_s
        out[f"{outcome.fault}_recovery_s"] = outcome.recovered_s
    return out
