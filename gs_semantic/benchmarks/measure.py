"""The measuring client: a process that subscribes like a user of the map, notes when answers come, and asks services.

It writes JSON lines to stdout (``ready``, ``answer``, ``measured``) and its record to ``--result``. Times are the
machine's monotonic clock, which the replay's publish log uses, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from gs_semantic.benchmarks.tasks import Masks, Once, Query, Services, Steady, Task, Traffic
from gs_semantic.benchmarks.tour import Tour
from gs_semantic.client import SemanticMap
from gs_semantic.errors import GsSemanticError
from gs_semantic.msg import Status
from gs_semantic.nodes import qos
from gs_semantic.nodes.conversions import to_ns

LABEL_IMAGES = ("semantic/image", "instance/image", "semantic/confidence")
STATUS_NUMBERS = (
    "state",
    "map_revision",
    "gaussians",
    "objects",
    "frames_received",
    "frames_answered",
    "frames_mapped",
    "frames_dropped",
    "sync_unmatched",
    "keyframes",
    "keyframes_integrated",
    "iterations",
    "identity_iterations",
    "rss_mb",
    "latency_p50_ms",
    "latency_p95_ms",
)


class Recorder(Node):
    """Notes the arrival of label images and every status of the mapper ``<namespace>/mapper``."""

    def __init__(self, namespace: str) -> None:
        super().__init__("measure", namespace=namespace)
        self.images: dict[str, dict[int, int]] = {name: {} for name in LABEL_IMAGES}
        self.status: list[dict[str, Any]] = []
        self.answers = 0  # stamps of which all label images have come
        self.bytes_received = 0  # of label images
        self.last_answer_ns = 0
        self.changed = threading.Condition()
        images = qos.sensor_input("reliable")
        self.keep = [
            self.create_subscription(Image, f"mapper/{name}", self._image_callback(name), images)
            for name in LABEL_IMAGES
        ]
        self.keep.append(self.create_subscription(Status, "mapper/status", self._on_status, qos.STATUS))

    def _image_callback(self, name: str) -> Callable[[Image], None]:
        received = self.images[name]
        others = [times for other, times in self.images.items() if other != name]

        def note(image: Image) -> None:
            now = time.monotonic_ns()
            stamp = to_ns(image.header.stamp)
            received[stamp] = now
            self.bytes_received += len(image.data)
            if all(stamp in times for times in others):
                with self.changed:
                    self.answers += 1
                    self.last_answer_ns = max(self.last_answer_ns, stamp)
                    self.changed.notify_all()

        return note

    def _on_status(self, status: Status) -> None:
        row: dict[str, Any] = {name: getattr(status, name) for name in STATUS_NUMBERS}
        row |= {"stage_names": list(status.stage_names), "stage_ms": [float(value) for value in status.stage_ms]}
        row |= {"t_ns": time.monotonic_ns(), "last_error": status.last_error, "warnings": list(status.warnings)}
        with self.changed:
            self.status.append(row)
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds; False when it did not in time."""
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    def wait_for_answers(self, count: int, timeout_s: float) -> int:
        """Wait until so many answers have come, or the time is over; returns how many have."""
        with self.changed:
            self.changed.wait_for(lambda: self.answers >= count, timeout_s)
            return self.answers

    def clear(self) -> None:
        """Forget what came so far."""
        with self.changed:
            self.status.clear()
            self.answers = 0
            for times in self.images.values():
                times.clear()


TASKS: dict[str, type[Task]] = {
    "once": Once,
    "steady": Steady,
    "services": Services,
    "query": Query,
    "traffic": Traffic,
    "masks": Masks,
    "tour": Tour,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gs_semantic.benchmarks.measure", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=0, help="once: frames that the replay plays")
    parser.add_argument("--publish-log", type=Path, help="once: file that the replay writes when it ends")
    parser.add_argument("--save", type=Path, default=Path("map"), help="once: folder for the map")
    parser.add_argument("--sequence", type=Path, help="tour: the recording that is played")
    parser.add_argument("--indices", default="", help="tour: its frames that are played, with commas")
    parser.add_argument("--rate-hz", type=float, default=5.0, help="tour: rate of the replay")
    parser.add_argument("--snapshots", type=int, default=6, help="tour: how many frames to keep pictures of")
    parser.add_argument("--duration", type=float, default=60.0, help="steady, services: seconds")
    parser.add_argument("--settle", type=float, default=3.0, help="steady, services: seconds before measuring")
    parser.add_argument("--object-gaussians", type=int, default=5000, help="services: size of the object asked for")
    parser.add_argument("--class-name", default="", help="query: class of the objects in the short list")
    options = parser.parse_args()

    rclpy.init()
    recorder = Recorder(options.namespace)
    executor = SingleThreadedExecutor()
    executor.add_node(recorder)
    spinner = threading.Thread(target=spin, args=(executor,), daemon=True)
    spinner.start()
    try:
        with SemanticMap(f"/{options.namespace}/mapper") as planner:
            if not recorder.wait(lambda: bool(recorder.status), 60.0):
                raise GsSemanticError("the mapper's status did not come within 60 s")
            task = TASKS[options.task](recorder, planner, options)
            outcome = task.run()
    except GsSemanticError as error:
        print(f"{options.task}: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
        spinner.join(timeout=5)
    record = {
        "start_ns": task.start_ns,
        "stop_ns": task.stop_ns,
        "images": recorder.images,
        "status": recorder.status,
        "task": outcome,
    }
    options.result.write_text(json.dumps(record), encoding="utf-8")
    return 0


def spin(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except ExternalShutdownException:
        return


if __name__ == "__main__":
    sys.exit(main())
