"""The mapper node: posed images in, label images, objects and answers out.

Four threads. The executor's takes messages and hands them over. ``answering`` draws label images and answers questions,
from a view of the map that nobody changes. ``mapping`` alone reads and changes the map, and makes a new view now and
then. The disk's reads and writes map folders.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Header

from gs_semantic.errors import (
    GsSemanticError,
    InvalidInputError,
    InvalidRequestError,
    MapFrameMismatchError,
    MissingExtraError,
)
from gs_semantic.gaussians import Camera, Frame, GaussianMap
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.events import Events, LabelImages
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.view import MapView, pack_registry
from gs_semantic.msg import LabelMap, Status
from gs_semantic.nodes import conversions
from gs_semantic.nodes.inputs import LABELS, Inputs
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.outputs import Answerer, MapPublisher, StatusPublisher
from gs_semantic.nodes.parameters import declare
from gs_semantic.nodes.process import SpinThread, StopSignal
from gs_semantic.nodes.services import Services
from gs_semantic.nodes.statistics import Statistics
from gs_semantic.nodes.synchronizer import Match
from gs_semantic.nodes.worker import Worker
from gs_semantic.objects.registry import MapObject, ObjectRegistry, ObjectState
from gs_semantic.rendering.cpu import CpuRasterizer

T = TypeVar("T")

MAPPING_QUEUE = 8  # frames that may wait for a slice of mapping to end
LOG_PERIOD_S = 5.0  # the same trouble is logged once in this time
STATES = {Status.STATE_WAITING: "waiting", Status.STATE_MAPPING: "mapping", Status.STATE_PAUSED: "paused"}


@dataclass(frozen=True)
class Saved:
    """What was written."""

    gaussians: GaussianMap
    objects: list[MapObject]


class MapperNode(Node):
    """See the module; ``run`` works until it is told to stop."""

    def __init__(self, **options: object) -> None:
        super().__init__("mapper", **options)
        self.parameters = declare(self, NodeParameters)
        config = declare(self, MapperConfig)
        if self.parameters.device == "cuda":
            raise MissingExtraError.for_module("gsplat", "cuda", "parameter device = cuda")
        self.statistics = Statistics()
        self.mapper = self._make_mapper(config)
        self.rasterizer = CpuRasterizer()  # of the answering thread; it keeps the view packed
        self.last_camera: Camera | None = None
        self._last_frame: Frame | None = None  # answered
        self._last_frame_time = 0.0
        self._mapped_stamp_ns = 0
        self._answers: deque[LabelImages] = deque(maxlen=self.parameters.answers_kept)
        self._paused = False
        self._told: dict[str, float] = {}
        self._disk = ThreadPoolExecutor(1, "disk")
        self.answering: Worker[Match] = Worker("answering", self._answer, queue=self.parameters.frame_queue)
        self.mapping: Worker[Frame] = Worker(
            "mapping", self._map, self._slice, queue=MAPPING_QUEUE, niceness=self.parameters.mapping_niceness
        )
        self.answerer = Answerer(self)
        self._map_publisher = MapPublisher(self, self.parameters)
        self._status = StatusPublisher(self)
        self.inputs = Inputs(self, self.parameters, self.statistics, self._take_frame, self._take_labels, self.report)
        self._objects_key = 0
        self._packed = pack_registry(self.mapper.objects)
        self._objects_changed = False
        self._view_time = 0.0
        self._refresh_view()
        self.map_services = Services(self)
        self._map_publisher.labels(self.mapper.objects.labels, self._map_header())
        self.create_timer(1 / self.parameters.status_hz, self._publish_status)

    def _make_mapper(self, config: MapperConfig) -> Mapper:
        rasterizer = CpuRasterizer()
        if not self.parameters.load_map:
            return Mapper(config, rasterizer)
        gaussians, objects = load_map(self.parameters.load_map)
        self.get_logger().info(f"loaded {len(gaussians)} Gaussians and {len(objects)} objects")
        return Mapper(config, rasterizer, gaussians, objects)

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self, stop: StopSignal) -> None:
        """Work until asked to stop; then save the map when a folder is set."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        self.answering.start()
        self.mapping.start()
        try:
            with SpinThread(executor):
                self.get_logger().info("ready")
                stop.event.wait()
        finally:
            self.answering.stop()
            self.mapping.stop()
            self._disk.shutdown(wait=True)
        if self.parameters.save_on_exit:
            path = Path(self.parameters.save_on_exit).expanduser().absolute()
            self.mapper.gaussians.frame_id = self.frame_id
            save_map(path, self.mapper.gaussians, self.mapper.objects)
            self.get_logger().info(f"saved {len(self.mapper.gaussians)} Gaussians to {path}")

    # --- in the executor's thread -------------------------------------------------------------------------------------

    def _take_frame(self, match: Match) -> None:
        if not self._paused:
            self.answering.submit(match)

    def _take_labels(self, msg: LabelMap) -> None:
        try:
            labels = conversions.read_label_map(msg, self.inputs.topics[LABELS])
        except InvalidInputError as error:
            self.report(LABELS, error)
            return
        self.mapping.call(lambda: self._use_labels(labels))

    def report(self, key: str, error: Exception) -> None:
        """Count and tell an input that cannot be used; the log has it once in a while, ~/status always. Any thread."""
        self.statistics.failed(error, self._now_ns())
        self.statistics.warn(str(error))
        if key == "sync":
            self.statistics.pose_missing += str(error).startswith("pose")
        else:
            self.statistics.invalid_inputs += 1
        now = time.monotonic()
        if now - self._told.get(key, -LOG_PERIOD_S) >= LOG_PERIOD_S:
            self._told[key] = now
            self.get_logger().warning(str(error))

    def disk(self, task: Callable[[], None]) -> None:
        """Run a task that reads or writes files."""
        self._disk.submit(task)

    def _publish_status(self) -> None:
        s, counts, mapper = self.statistics, self.inputs.synchronizer.counts, self.mapper
        objects = self.view.objects.records
        tentative = int((objects["state"] == ObjectState.TENTATIVE).sum())
        received = counts.received[self.inputs.synchronizer.leading]
        state = Status.STATE_MAPPING if s.frames_mapped else Status.STATE_WAITING
        state = Status.STATE_PAUSED if self._paused else state
        stages = s.take_stages()
        self._status.publish(
            Status(
                header=conversions.make_header(self._now_ns(), self.frame_id),
                state=state,
                state_text=STATES[state],
                map_id=mapper.gaussians.map_id,
                map_revision=mapper.gaussians.revision,
                gaussians=len(mapper.gaussians),
                objects=len(objects) - tentative,
                objects_tentative=tentative,
                frames_received=received,
                frames_answered=s.frames_answered,
                frames_mapped=s.frames_mapped,
                frames_dropped=counts.dropped + self.answering.replaced,
                sync_matched=counts.matched,
                sync_unmatched=sum(counts.unmatched.values()),
                sync_without_masks=counts.without_optional,
                pose_missing=s.pose_missing,
                invalid_inputs=s.invalid_inputs,
                keyframes=s.keyframes,
                keyframes_integrated=s.keyframes_integrated,
                iterations=s.iterations,
                identity_iterations=s.identity_iterations,
                work_pending=mapper.pending,
                input_hz=s.inputs.rate_hz(),
                answer_hz=s.answers.rate_hz(),
                keyframe_hz=s.integrated.rate_hz(),
                latency_p50_ms=s.answers.percentile(50),
                latency_p95_ms=s.answers.percentile(95),
                rss_mb=s.rss_mb(),
                stage_names=list(stages),
                stage_ms=list(stages.values()),
                last_error_code=s.failure.code,
                last_error=s.failure.text,
                last_error_stamp=conversions.to_stamp(s.failure.time_ns),
                warnings=[*self.inputs.synchronizer.explain(), *s.warnings()],
            )
        )

    # --- answering ----------------------------------------------------------------------------------------------------

    def _answer(self, match: Match) -> None:
        """Answer one frame from the view, and give it to the map."""
        if self._paused:
            return
        start = time.perf_counter()
        try:
            frame = self.inputs.frame(match)
        except GsSemanticError as error:
            self.report("frame", error)
            return
        converted = time.perf_counter()
        self.last_camera, self._last_frame = frame.camera, frame
        self.mapping.submit(frame)
        self.statistics.time_stage("convert", (converted - start) * 1e3)
        if not self.answerer.wanted:
            return
        view = self.view
        try:
            answer = view.render_labels(self.rasterizer, frame.camera, frame.stamp_ns)
            rendered = time.perf_counter()
            self._answers.append(answer)
            self.answerer.publish(answer, frame, view)
        except Exception as error:  # noqa: BLE001 - one frame must not end the node
            self.report("answer", error)
            self.get_logger().error(f"frame at {match.stamp_ns / 1e9:.6f} s: {error!r}")
            return
        self.statistics.time_stage("answer", (rendered - converted) * 1e3)
        self.statistics.time_stage("publish", (time.perf_counter() - rendered) * 1e3)
        self.statistics.answered((time.monotonic_ns() - match.arrived_ns) / 1e6)

    def answer_at(self, stamp_ns: int) -> LabelImages:
        """The answer with a stamp; with 0 the newest, drawn now when nobody listened. InvalidRequestError if unknown."""
        if stamp_ns == 0:
            if self._last_frame is None:
                raise InvalidRequestError("stamp is 0, and no frame has come yet; use render_view with a camera")
            if self._answers and self._answers[-1].stamp_ns == self._last_frame.stamp_ns:
                return self._answers[-1]
            answer = self.view.render_labels(self.rasterizer, self._last_frame.camera, self._last_frame.stamp_ns)
            self._answers.append(answer)
            return answer
        kept = list(self._answers)
        for answer in kept:
            if answer.stamp_ns == stamp_ns:
                return answer
        span = f"{kept[0].stamp_ns / 1e9:.6f} to {kept[-1].stamp_ns / 1e9:.6f} s" if kept else "none"
        raise InvalidRequestError(f"stamp {stamp_ns / 1e9:.6f} s is not that of an answered frame; those kept: {span}")

    # --- mapping ------------------------------------------------------------------------------------------------------

    def _map(self, frame: Frame) -> None:
        """Give one frame to the mapper."""
        if self._paused:
            return
        self._last_frame_time = time.monotonic()
        self._mapped_stamp_ns = frame.stamp_ns
        self._step(frame)
        self.statistics.frames_mapped += 1

    def _slice(self) -> bool:
        """One slice of mapping, and map topics that are due."""
        self._map_publisher.update(self.view, self.mapper.objects, self._objects_key, self._map_header())
        fresh = time.monotonic() - self._last_frame_time < self.parameters.idle_optimise_s
        if self._paused or not (self.mapper.pending or (fresh and self.mapper.can_optimise)):
            if self._view_is_old:
                self._refresh_view()
            return False
        return self._step(None)

    def _step(self, frame: Frame | None) -> bool:
        """False when it failed."""
        try:
            events = self.mapper.step(frame, answer=False)
        except Exception as error:  # noqa: BLE001 - what waits for integration is lost, the node goes on
            self.report("mapping", error)
            self.get_logger().error(f"mapping: {error!r}")
            return False
        self._note(events)
        if self._view_is_old and time.monotonic() - self._view_time >= self.parameters.view_period_s:
            self._refresh_view()
        return True

    def _note(self, events: Events) -> None:
        s = self.statistics
        s.keyframes += events.keyframe
        s.iterations += events.iterations
        s.identity_iterations += events.identity_iterations
        s.keyframe_done(len(events.integrated))
        for name, milliseconds in events.timings_ms.items():
            s.time_stage(name, milliseconds)
        for text in events.warnings:
            s.warn(text)
        self._objects_changed |= bool(events.objects_changed)

    @property
    def _view_is_old(self) -> bool:
        return self._objects_changed or self.view.revision != self.mapper.gaussians.revision

    def _refresh_view(self) -> None:
        """Copy the map for the answering thread."""
        start = time.perf_counter()
        if self._objects_changed or not self._objects_key:
            self._packed = pack_registry(self.mapper.objects)
            self._objects_key += 1
            self._objects_changed = False
        self.view = MapView.of(self.mapper.gaussians, self.mapper.objects, self._mapped_stamp_ns, self._packed)
        self._view_time = time.monotonic()
        self.statistics.time_stage("view", (time.perf_counter() - start) * 1e3)

    @property
    def settled(self) -> bool:
        """Has all that was given to the map found its way into the view?"""
        return not (self.mapping.busy or self.mapper.pending or self._view_is_old)

    def _use_labels(self, labels: LabelSet) -> None:
        names = {**self.mapper.objects.labels.names, **labels.names}
        if names != self.mapper.objects.labels.names:
            self.mapper.objects.labels = LabelSet(names)
            self._objects_changed = True
            self._refresh_view()
            self._map_publisher.labels(self.mapper.objects.labels, self._map_header())

    def pause(self) -> None:
        """Freeze the map; the view is brought up to date."""
        self._paused = True
        self._refresh_view()

    def resume(self) -> None:
        self._paused = False

    def reset(self) -> None:
        """Forget map and objects."""
        self.mapper.reset()
        self._forget()

    def _forget(self) -> None:
        self._answers.clear()
        self._last_frame = None
        self._mapped_stamp_ns = 0
        self.statistics.reset()
        self._objects_changed = True
        self._refresh_view()

    # --- in the disk's thread -----------------------------------------------------------------------------------------

    def save(self, path: Path) -> Saved:
        """Write a copy of the map, while mapping goes on."""

        def copied() -> tuple[GaussianMap, ObjectRegistry]:
            self.mapper.gaussians.frame_id = self.frame_id
            return self.mapper.gaussians.snapshot(), copy.deepcopy(self.mapper.objects)

        gaussians, objects = self._while_mapping_waits(copied)
        save_map(path, gaussians, objects)
        return Saved(gaussians, objects.present())

    def load(self, path: Path) -> tuple[GaussianMap, ObjectRegistry]:
        """Replace the map; the present one stays when the folder cannot be read."""
        gaussians, objects = load_map(path)
        frame = self.inputs.map_frame
        if frame and gaussians.frame_id != frame:
            raise MapFrameMismatchError(
                f"{path}: the map is in frame '{gaussians.frame_id}', this node maps in '{frame}'; set global_frame"
            )

        def swap() -> None:
            labels = self.mapper.objects.labels
            self.mapper.load(gaussians, objects)
            self._forget()
            self._use_labels(labels)

        self._while_mapping_waits(swap)
        return gaussians, objects

    def _while_mapping_waits(self, task: Callable[[], T]) -> T:
        """Run a task in the mapping thread and wait for its result."""
        done: Future[T] = Future()

        def work() -> None:
            try:
                done.set_result(task())
            except Exception as error:  # noqa: BLE001 - goes to the caller
                done.set_exception(error)

        if not self.mapping.call(work):
            raise GsSemanticError("the node is ending")
        return done.result()

    # --- small things -------------------------------------------------------------------------------------------------

    @property
    def frame_id(self) -> str:
        """Frame of the map."""
        return self.inputs.map_frame or self.mapper.gaussians.frame_id

    def _map_header(self) -> Header:
        return conversions.make_header(self._mapped_stamp_ns, self.frame_id)

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds
