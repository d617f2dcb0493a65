"""The live system for measuring: mapper, replay and a measuring client as processes on a DDS domain of their own."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from gs_semantic.benchmarks import process
from gs_semantic.benchmarks.domains import own_domain
from gs_semantic.benchmarks.timing import Rate, complete_answers, rate, read_publish_log
from gs_semantic.errors import GsSemanticError
from gs_semantic.nodes.arguments import MAPPER, REPLAY, SEGMENTER, plan_segment
from gs_semantic.nodes.launcher import NodeProcesses

CLIENT = "measuring client"
START_PATIENCE_S = 180.0  # a machine under load
WATCH_S = 0.5
LINGER_S = 0.3  # of the replay after its last frame, so that this arrives
LOG_LINES = 12

# how often a stage ran, from the growth of the counters in ~/status
STAGE_CALLS: dict[str, Callable[[Callable[[str], float]], float]] = {
    "answer": lambda growth: growth("frames_answered"),
    "convert": lambda growth: growth("frames_mapped"),
    "publish": lambda growth: growth("frames_answered"),
    "seed": lambda growth: growth("keyframes_integrated"),
    "lift": lambda growth: growth("keyframes_integrated"),
    "keyframe": lambda growth: growth("keyframes_integrated"),
    "optimise": lambda growth: growth("iterations") - growth("identity_iterations"),
    "optimise+identity": lambda growth: growth("identity_iterations"),
}


@dataclass(frozen=True)
class Recording:
    """What the measuring client saw. Times are monotonic ns.

    answered: stamp -> when the last of the label images had come. published: stamp -> publish call of the replay.
    status: one row per ~/status message, with ``t_ns``. task: what the client's task returned. core_ms_per_frame: by
    process, processor time per frame published, ms of one core.
    """

    start_ns: int
    stop_ns: int
    answered: dict[int, int]
    published: dict[int, int]
    status: list[dict[str, Any]]
    task: dict[str, Any] = field(default_factory=dict)
    core_ms_per_frame: dict[str, float] = field(default_factory=dict)

    def rate(self, settle_s: float = 0.0) -> Rate:
        """Rate and latency of the whole recording, without its first seconds."""
        return rate(self.published, self.answered, self.start_ns + int(settle_s * 1e9), self.stop_ns)

    def growth(self, name: str) -> float:
        """How much a counter of ~/status grew."""
        return float(self.status[-1][name] - self.status[0][name]) if self.status else float("nan")

    @property
    def status_s(self) -> float:
        """Time between the first and the last status."""
        return (self.status[-1]["t_ns"] - self.status[0]["t_ns"]) / 1e9 if len(self.status) > 1 else float("nan")

    def mapping_results(self) -> dict[str, float]:
        """keyframes_per_s and iterations_per_keyframe, from ~/status; none before a second status has come."""
        if len(self.status) < 2:
            return {}
        keyframes = self.growth("keyframes_integrated")
        results = {"keyframes_per_s": keyframes / self.status_s}
        if keyframes > 0:
            results["iterations_per_keyframe"] = self.growth("iterations") / keyframes
        return results

    def stage_results(self) -> dict[str, float]:
        """Processor time of each stage that ~/status names, ms of one core: mean per call, and per frame received."""
        seen: dict[str, list[float]] = {}
        for row in self.status:
            for name, value in zip(row["stage_names"], row["stage_ms"], strict=True):
                seen.setdefault(name, []).append(value)
        means = {name: sum(values) / len(values) for name, values in sorted(seen.items())}
        results = {f"stage_{name.replace('+', '_')}_core_ms": mean for name, mean in means.items()}
        frames = self.growth("frames_received")
        for name, mean in means.items():
            if name in STAGE_CALLS and frames > 0:
                calls = STAGE_CALLS[name](self.growth)
                results[f"stage_{name.replace('+', '_')}_core_ms_per_frame"] = mean * calls / frames
        return results

    def cpu_results(self) -> dict[str, float]:
        """Processor time of each process per frame published, ms of one core."""
        return {f"{name}_core_ms_per_frame": value for name, value in self.core_ms_per_frame.items()}


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of processor time by process, at a moment."""

    t_ns: int
    cpu_s: dict[str, float]


class LiveSystem(AbstractContextManager["LiveSystem"]):
    """Starts the processes, hears the client out, and ends everything; a context manager.

    ``folder`` holds their logs and parameter files. Errors quote the end of the log of the node that failed.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Mapping[str, Any],
        parameters: Mapping[str, Any] | None = None,
        domain_id: int | None = None,
    ) -> None:
        """``arguments`` are start arguments of ``segment``; ``parameters`` mapper parameters beside them.

        domain_id: default one of its own, so that neither topics nor TF of others are met.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        domain = self._held.enter_context(own_domain()) if domain_id is None else domain_id
        self.processes = NodeProcesses({"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"})
        self.arguments = {name: str(value) for name, value in arguments.items()}
        self.namespace = self.arguments.setdefault("namespace", f"live_{os.getpid()}")
        self.parameters = dict(parameters or {})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if CLIENT in self.processes.processes:  # after an error; it has nothing to save, and may not hear SIGINT
            self.processes.processes[CLIENT].kill()
        self.processes.stop()
        self._held.close()

    @property
    def publish_log(self) -> Path:
        return self.folder / "published.csv"

    def pid(self, name: str) -> int:
        return self.processes.processes[name].pid

    def start(self, nodes: tuple[str, ...]) -> None:
        """Start some of mapper, segmenter and replay."""
        file = self.folder / "parameters.yaml"
        layers = {
            "/**/mapper": {"ros__parameters": self.parameters},
            "/**/replay": {"ros__parameters": {"publish_log": str(self.publish_log), "linger_s": LINGER_S}},
        }
        file.write_text(yaml.safe_dump({key: value for key, value in layers.items() if value["ros__parameters"]}))
        for node in plan_segment({**self.arguments, "params_file": str(file)}):
            if node.name in nodes:
                with (self.folder / f"{node.name}.log").open("wb") as log:
                    self.processes.start(node, log)

    def record(
        self, task: str, on_event: Callable[[dict[str, Any]], object] = lambda _: None, **options: Any
    ) -> Recording:
        """Start mapper, then the client with a task, then, when both have met, the replay; wait for the client."""
        self.publish_log.unlink(missing_ok=True)
        if MAPPER not in self.processes.processes:
            self.start((MAPPER,))
        result = self.folder / f"{task}.json"
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", "gs_semantic.benchmarks.measure", "--namespace", self.namespace]
        command += ["--task", task, "--result", str(result), *words]
        first = last = self._processor_time()
        with (self.folder / "client.log").open("wb") as log:
            client = subprocess.Popen(
                command,
                env=self.processes.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
                bufsize=1,
            )
            self.processes.processes[CLIENT] = client
            for event in self._events(client):
                if event["event"] == "ready":
                    self.start((REPLAY,))
                elif event["event"] == "started":
                    first = last = self._processor_time()
                elif self._alive(REPLAY):
                    last = self._processor_time()
                on_event(event)
        self._fail_if(client.wait() != 0, CLIENT, "client.log")
        self._end_replay()
        data = json.loads(result.read_text(encoding="utf-8"))
        published = read_publish_log(self.publish_log)
        frames = sum(first.t_ns <= when < last.t_ns for when in published.values())
        return Recording(
            start_ns=data["start_ns"],
            stop_ns=data["stop_ns"],
            answered=complete_answers([{int(k): v for k, v in topic.items()} for topic in data["images"].values()]),
            published=published,
            status=data["status"],
            task=data["task"],
            core_ms_per_frame={
                name.split()[-1]: 1e3 * (seconds - first.cpu_s[name]) / frames
                for name, seconds in last.cpu_s.items()
                if frames and name in first.cpu_s
            },
        )

    def _processor_time(self) -> ProcessorTime:
        names = [name for name in (MAPPER, SEGMENTER, REPLAY, CLIENT) if self._alive(name)]
        return ProcessorTime(time.monotonic_ns(), {name: process.cpu_s(self.pid(name)) for name in names})

    def _alive(self, name: str) -> bool:
        return name in self.processes.processes and self.processes.processes[name].poll() is None

    def _end_replay(self) -> None:
        """The replay writes its log when it ends."""
        self.processes.interrupt(REPLAY)
        code = self.processes.processes[REPLAY].wait(timeout=START_PATIENCE_S)
        self._fail_if(code != 0 or not self.publish_log.is_file(), REPLAY, "replay.log")
        del self.processes.processes[REPLAY], self.processes.processes[CLIENT]

    def _events(self, client: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
        """JSON lines of the client; watches the other processes meanwhile."""
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_read_lines, args=(client, lines), daemon=True).start()
        ready, started = False, time.monotonic()
        while True:
            try:
                line = lines.get(timeout=WATCH_S)
            except queue.Empty:
                line = None
            if line == "":
                return
            if line:
                event = json.loads(line)
                ready |= event["event"] == "ready"
                yield event
            for name in (MAPPER, SEGMENTER, REPLAY):
                running = self.processes.processes.get(name)
                self._fail_if(running is not None and running.poll() not in (None, 0), name, f"{name}.log")
            self._fail_if(not ready and time.monotonic() - started > START_PATIENCE_S, MAPPER, "mapper.log")

    def _fail_if(self, failed: bool, name: str, log: str) -> None:
        if failed:
            lines = (self.folder / log).read_text(encoding="utf-8", errors="replace").splitlines()
            tail = "\n    ".join(lines[-LOG_LINES:]) or "(nothing)"
            raise GsSemanticError(f"{name} has failed or does not answer; its last words:\n    {tail}")


def _read_lines(client: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Puts every line of a process into the queue, and "" at its end."""
    assert client.stdout is not None
    for line in client.stdout:
        lines.put(line)
    lines.put("")
