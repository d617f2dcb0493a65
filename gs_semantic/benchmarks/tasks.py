"""What a measuring client does while the live system runs; times are monotonic ns unless a name says otherwise."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import Image

from gs_semantic.benchmarks.timing import read_publish_log
from gs_semantic.client import SemanticMap, SplatStream
from gs_semantic.errors import GsSemanticError
from gs_semantic.nodes import qos
from gs_semantic.nodes.conversions import to_ns

if TYPE_CHECKING:
    from gs_semantic.benchmarks.measure import Recorder

FIRST_ANSWER_PATIENCE_S = 120.0
LAST_ANSWER_PATIENCE_S = 20.0


def say(event: str, **values: Any) -> None:
    """One JSON line for the parent."""
    print(json.dumps({"event": event, **values}), flush=True)


class Task:
    """What one run of the client does; ``start_ns`` to ``stop_ns`` is the time that is measured."""

    def __init__(self, recorder: Recorder, planner: SemanticMap, options: argparse.Namespace) -> None:
        self.recorder, self.planner, self.options = recorder, planner, options
        self.start_ns = self.stop_ns = 0

    def run(self) -> dict[str, Any]:
        raise NotImplementedError

    def first_answer(self) -> None:
        """Start to measure at the first answer."""
        say("ready")
        if not self.recorder.wait(lambda: self.recorder.answers > 0, FIRST_ANSWER_PATIENCE_S):
            raise GsSemanticError(f"no label image came within {FIRST_ANSWER_PATIENCE_S:g} s of the start of the replay")
        self.start_ns = time.monotonic_ns()
        say("started")

    def restart(self) -> None:
        """Start to measure anew."""
        self.recorder.clear()
        self.start_ns = time.monotonic_ns()
        say("started")

    def measured(self) -> None:
        self.stop_ns = time.monotonic_ns()
        say("measured")


class Once(Task):
    """The recording played once: the map is frozen when the answer to the last frame has come, and saved."""

    def run(self) -> dict[str, Any]:
        self.first_answer()
        self.start_ns = min(min(times.values()) for times in self.recorder.images.values() if times)
        reported, deadline = 0, float("inf")
        last_ns: int | None = None  # stamp of the last frame, known when the replay has ended
        while self.recorder.answers < self.options.frames and time.monotonic() < deadline:
            answers = self.recorder.wait_for_answers(reported + 1, 0.2)
            for _ in range(answers - reported):
                say("answer")
            if answers > reported:
                self.answered(answers)
            reported = answers
            if last_ns is None and self.options.publish_log.exists():
                last_ns = max(read_publish_log(self.options.publish_log))
                deadline = time.monotonic() + LAST_ANSWER_PATIENCE_S
            if last_ns is not None and self.recorder.last_answer_ns >= last_ns:
                break  # frames before the last one were not answered
        self.played()
        self.planner.pause()
        self.measured()
        self.stop_ns = max(max(times.values()) for times in self.recorder.images.values() if times)  # not the waiting
        self.planner.save(str(self.options.save))
        return {"answers": self.recorder.answers}

    def played(self) -> None:
        """Called when the last answer has come, before the map is frozen."""

    def answered(self, answers: int) -> None:
        """Called while the recording plays, when so many of its frames have been answered."""


class Steady(Task):
    """A steady stream for some seconds."""

    def run(self) -> dict[str, Any]:
        self.first_answer()
        time.sleep(self.options.settle)
        self.restart()
        for _ in self.seconds():
            pass
        self.measured()
        return {}

    def seconds(self) -> Iterator[int]:
        """Every second of the measured time."""
        for second in range(int(self.options.duration)):
            time.sleep(max(0.0, self.start_ns / 1e9 + second + 1 - time.monotonic()))
            say("second")
            yield second


class Masks(Steady):
    """A steady stream; notes when the masks of a segmenter node come."""

    def run(self) -> dict[str, Any]:
        came: dict[int, int] = {}

        def note(image: Image) -> None:
            came[to_ns(image.header.stamp)] = time.monotonic_ns()

        topic = f"/{self.options.namespace}/instance/image"
        self.recorder.create_subscription(Image, topic, note, qos.sensor_input("reliable"))
        super().run()
        return {"masks": came}


class Services(Steady):
    """A steady stream while list_objects and get_object are asked in turn; times from the call to the decoded reply."""

    def run(self) -> dict[str, Any]:
        self.first_answer()
        time.sleep(self.options.settle)
        objects = self.planner.list_objects()
        target = min(objects, key=lambda obj: abs(obj.num_gaussians - self.options.object_gaussians))
        self.restart()
        times: dict[str, list[float]] = {"list_objects": [], "get_object": []}
        gaussians = 0
        for _ in self.seconds():
            for _ in range(4):
                times["list_objects"].append(timed(self.planner.list_objects))
                start = time.perf_counter()
                answer = self.planner.get_object(target.id, gaussians=True)
                times["get_object"].append((time.perf_counter() - start) * 1e3)
                gaussians = max(gaussians, len(answer.gaussians))
                time.sleep(0.02)
        self.measured()
        result: dict[str, Any] = {"objects": len(objects), "object_gaussians": gaussians}
        for name, values in times.items():
            result |= {f"{name}_p50_ms": float(np.percentile(values, 50))}
            result |= {f"{name}_p95_ms": float(np.percentile(values, 95)), f"{name}_calls": len(values)}
        return result


class Query(Steady):
    """A steady stream while a short list, a long list and one object with its Gaussians are asked for in turn."""

    def run(self) -> dict[str, Any]:
        self.first_answer()
        time.sleep(self.options.settle)
        few = [self.options.class_name]
        objects = self.planner.list_objects()
        target = min(objects, key=lambda obj: abs(obj.num_gaussians - self.options.object_gaussians))
        calls: dict[str, Callable[[], object]] = {
            "list": lambda: self.planner.list_objects(classes=few),
            "list_1000": self.planner.list_objects,
            "get": lambda: self.planner.get_object(target.id, gaussians=True),
            "nearest": lambda: self.planner.query_nearest((0.0, 0.0, 1.0), max_results=10),
        }
        counts = {
            "list_objects": len(self.planner.list_objects(classes=few)),
            "list_1000_objects": len(self.planner.list_objects()),
            "get_gaussians": len(self.planner.get_object(target.id, gaussians=True).gaussians),
        }
        self.restart()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in self.seconds():
            for _ in range(4):
                for name, call in calls.items():
                    times[name].append(timed(call))
                    time.sleep(0.01)
        self.measured()
        result: dict[str, Any] = {}
        for name, values in times.items():
            result |= {f"{name}_p{share}_ms": float(np.percentile(values, share)) for share in (95, 50)}
        return {**result, **counts, "calls": len(times["list"])}


class Traffic(Steady):
    """A steady stream with ~/splats subscribed, too; counts what comes."""

    def run(self) -> dict[str, Any]:
        self.first_answer()
        with SplatStream(f"/{self.options.namespace}/mapper") as stream:
            time.sleep(self.options.settle)
            self.restart()
            images, splats = self.recorder.bytes_received, stream.bytes_received
            for _ in self.seconds():
                pass
            self.measured()
            return {
                "image_bytes": self.recorder.bytes_received - images,
                "splat_bytes": stream.bytes_received - splats,
                "splats": len(stream),
                "complete": stream.complete,
            }


def timed(call: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3
