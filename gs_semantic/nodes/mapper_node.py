"""The mapper node: posed images in, label images, objects and answers out.

Seven threads. The executor's takes messages and hands them over. ``answering`` draws label images, and ``asking`` answers
questions that need none, both from a view of the map that nobody changes. ``mapping`` alone reads and changes the map,
and makes a new view now and then. The disk's reads and writes map folders. ``geometry`` answers
questions of distance from what ``looking`` makes of views in the background. A training of the live map, or its labelling by a
checkpoint, adds one while it lasts, and works on a copy.

The node is a lifecycle node. Configured, it has a map and answers questions; active, it listens.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from geometry_msgs.msg import PointStamped
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Header

from gs_semantic.errors import (
    GsSemanticError,
    InvalidInputError,
    InvalidRequestError,
    MapFrameMismatchError,
    MissingExtraError,
)
from gs_semantic.gaussians import Camera, Frame, GaussianMap
from gs_semantic.gaussians.gaussian_map import Anchor
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.events import Events, LabelImages
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.semantics import SemanticSource
from gs_semantic.mapping.view import MapView, pack_registry
from gs_semantic.msg import Status
from gs_semantic.nodes import conversions, faults, qos
from gs_semantic.nodes.diagnostics import Diagnostics
from gs_semantic.nodes.governor import Governor
from gs_semantic.nodes.inputs import Inputs
from gs_semantic.nodes.lifecycle import ManagedNode
from gs_semantic.nodes.live_generalizing import LiveGeneralizer
from gs_semantic.nodes.live_training import LiveTrainer
from gs_semantic.nodes.mapper_parameters import LIVE_MAPPING, NodeParameters, check
from gs_semantic.nodes.outputs import Answerer, MapPublisher, StatusPublisher, Wire
from gs_semantic.nodes.parameters import LiveChanges, declare
from gs_semantic.nodes.process import SpinThread, StopSignal
from gs_semantic.nodes.services import Services
from gs_semantic.nodes.splat_output import SplatPublisher
from gs_semantic.nodes.statistics import Statistics
from gs_semantic.nodes.synchronizer import Match
from gs_semantic.nodes.transforms import JumpWatch, TransformError, inverse
from gs_semantic.nodes.worker import Worker
from gs_semantic.objects.events import EventWatch
from gs_semantic.objects.registry import MapObject, ObjectRegistry, ObjectState
from gs_semantic.rendering.cpu import CpuRasterizer

if TYPE_CHECKING:
    from gs_semantic.segmenters.language import LanguageFeatures

T = TypeVar("T")

ANCHOR_M, ANCHOR_DEG = 0.1, 3.0  # an anchor farther off means another map frame
MAPPING_QUEUE, SHORT_MAPPING_QUEUE = 8, 2  # frames that may wait for a slice of mapping to end; within a budget of memory
LOG_PERIOD_S = 5.0  # the same trouble is logged once in this time
STATES = {
    Status.STATE_WAITING: "waiting",
    Status.STATE_MAPPING: "mapping",
    Status.STATE_PAUSED: "paused",
    Status.STATE_UNCONFIGURED: "unconfigured",
    Status.STATE_INACTIVE: "inactive",
    Status.STATE_FINALIZED: "finalized",
}
LIFECYCLE_STATES = {
    "unconfigured": Status.STATE_UNCONFIGURED,
    "inactive": Status.STATE_INACTIVE,
    "finalized": Status.STATE_FINALIZED,
}


@dataclass(frozen=True)
class Saved:
    """What was written."""

    gaussians: GaussianMap
    objects: list[MapObject]


class MapperNode(ManagedNode):
    """See the module; ``run`` works until it is told to stop.

    What ``configure`` makes exists until ``cleanup``: the attributes below, services and publishers of the map.
    """

    configured = False
    mapper: Mapper
    view: MapView
    rasterizer: CpuRasterizer  # of the answering thread; it keeps the view packed
    inputs: Inputs
    answering: Worker[Match]
    mapping: Worker[Frame]
    answerers: dict[str, Answerer]  # by name of the camera
    map_services: Services
    training: LiveTrainer
    generalizing: LiveGeneralizer
    governor: Governor

    def __init__(self, **options: object) -> None:
        super().__init__("mapper", **options)
        self.parameters = declare(self, NodeParameters)
        self.config = declare(self, MapperConfig, LIVE_MAPPING)
        check(self.parameters, self.config)
        LiveChanges(
            self,
            targets=lambda: (self.parameters, self.config),
            live=LIVE_MAPPING,
            may_change_all=lambda: not self.configured,
            check=check,
            changed=self._parameters_changed,
        )
        self.statistics = Statistics()
        self._paused = False
        self._told: dict[str, float] = {}
        self._status = StatusPublisher(self)
        # on the steady clock: a simulator that stands still must not stop us from saying so
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.diagnostics = Diagnostics(self)
        self.create_timer(1 / self.parameters.status_hz, self._publish_status, clock=self._steady)
        self.create_timer(1 / self.parameters.diagnostics_hz, self.diagnostics.publish, clock=self._steady)
        if self.parameters.autostart:
            try:
                self.start()
            except BaseException:
                self.destroy_node()
                raise

    # --- transitions --------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Load the map, open the services."""
        if self.parameters.device == "cuda":
            raise MissingExtraError.for_module("gsplat", "cuda", "parameter device = cuda")
        self.mapper = self._make_mapper(replace(self.config))  # budgets may lower its limits
        self.rasterizer = CpuRasterizer(self.config.raster_settings)
        self.last_camera: Camera | None = None
        self._newest: dict[str, Frame] = {}  # the newest frame of each camera
        self._last_frame_time = 0.0
        self._mapped_stamp_ns = 0
        self._answers: deque[tuple[str, LabelImages]] = deque()
        self._paused = False
        self._jumps = JumpWatch()
        self._disk = ThreadPoolExecutor(1, "disk")
        self._asking = ThreadPoolExecutor(1, "asking")
        self.answering = Worker(
            "answering", self._answer, queue=self.parameters.frame_queue * max(1, len(self.parameters.cameras))
        )
        self.mapping = Worker(
            "mapping", self._map, self._slice, queue=MAPPING_QUEUE, niceness=self.parameters.mapping_niceness
        )
        cameras = [name.strip("/") for name in self.parameters.cameras] or [""]
        self.governor = Governor(self.parameters, self.config, self.statistics)
        wires = {name: Wire(name, self.governor.bandwidth, self.statistics) for name in ("answers", "map")}
        self.answerers = {name: Answerer(self, wires["answers"], name) for name in cameras}
        self._map_publisher = MapPublisher(self, self.parameters, wires["map"])
        self._splats = SplatPublisher(self, self.parameters, wires["map"])
        self.inputs = Inputs(self, self.parameters, self.statistics, self._take_frame, self._take_labels, self.report)
        self._objects_key = 0
        self._packed = pack_registry(self.mapper.objects)
        self._objects_changed = False
        self._stepping = False
        self._watch, self._told_key = EventWatch(), 0
        self.selected = 0
        self._view_time = 0.0
        self._refresh_view()
        self.map_services = Services(self)
        self.training, self.generalizing = LiveTrainer(self), LiveGeneralizer(self)
        self._clicks = self.create_subscription(PointStamped, "/clicked_point", self._take_click, qos.CLICKS)
        self._map_publisher.labels(self.mapper.objects.labels, self._map_header())
        self.configured = True
        self.answering.start()
        self.mapping.start()

    def activate(self) -> None:
        """Listen to the sensors."""
        self.inputs.subscribe()

    def deactivate(self) -> None:
        """Listen no more. What has come is mapped to its end; questions are answered as before."""
        self.inputs.unsubscribe()

    def cleanup(self) -> None:
        """Save the map if a folder is set, and free it; when it cannot be saved, it stays."""
        self.inputs.unsubscribe()
        self._save_on_exit()
        self._free()

    def shutdown(self, state: str) -> None:
        """Stop, and save the map if a folder is set."""
        if not self.configured:
            return
        self.inputs.unsubscribe()
        try:
            self._save_on_exit()
        finally:
            self._free()

    def _free(self) -> None:
        """Undo ``configure``."""
        if not self.configured:
            return
        self.configured = False
        self.training.close()
        self.generalizing.close()
        self.answering.stop()
        self.mapping.stop()
        self._asking.shutdown(wait=True)
        self._disk.shutdown(wait=True)
        self.inputs.close()
        self.destroy_subscription(self._clicks)
        for part in (self.map_services, self._map_publisher, self._splats):
            part.close(self)
        for answerer in self.answerers.values():
            answerer.close(self)
        self._answers.clear()
        self._newest.clear()
        self.last_camera = None
        del self.mapper, self.view, self.rasterizer, self.inputs, self._packed
        del self.answering, self.mapping, self.answerers, self._map_publisher, self.map_services
        del self.governor, self._splats, self.training, self.generalizing

    def destroy_node(self) -> None:
        self._free()
        super().destroy_node()

    def _make_mapper(self, config: MapperConfig) -> Mapper:
        rasterizer = CpuRasterizer(config.raster_settings)
        semantics = self._semantics(rasterizer)
        self.language = self._language()
        labels = semantics.labels if semantics is not None else None
        if not self.parameters.load_map:
            return Mapper(config, rasterizer, labels=labels, semantics=semantics, language=self.language, live=True)
        gaussians, objects = load_map(self.parameters.load_map)
        self.get_logger().info(f"loaded {len(gaussians)} Gaussians and {len(objects)} objects")
        return Mapper(config, rasterizer, gaussians, objects, semantics=semantics, language=self.language, live=True)

    def _language(self) -> LanguageFeatures | None:
        """What puts objects and words into one space, if anything does."""
        if not self.parameters.language:
            return None
        from gs_semantic.segmenters.language import LanguageFeatures  # torch networks: only when used
        from gs_semantic.segmenters.weights import Weights

        return LanguageFeatures(Weights(self.parameters.language), self.parameters.device)

    def _semantics(self, rasterizer: CpuRasterizer) -> SemanticSource | None:
        """What labels frames without masks, if anything does."""
        if not self.parameters.semantics:
            return None
        from gs_semantic.segmentation.generalization.apply import live_source  # torch networks: only when used

        return live_source(Path(self.parameters.semantics).expanduser(), rasterizer)

    def _save_on_exit(self) -> None:
        if self.parameters.save_on_exit:
            path = Path(self.parameters.save_on_exit).expanduser().absolute()
            saved = self.save(path)
            self.get_logger().info(f"saved {len(saved.gaussians)} Gaussians to {path}")

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self, stop: StopSignal) -> None:
        """Work until asked to stop; then shut down, which saves the map when a folder is set."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        try:
            with SpinThread(executor):
                self.get_logger().info("ready" if self.configured else "waits to be configured")
                stop.event.wait()
        finally:
            self.end()

    def _parameters_changed(self, names: set[str]) -> None:
        """Live changes have been written into ``parameters`` and ``config``; hand them on."""
        if not self.configured:
            return
        for name in names & LIVE_MAPPING:
            setattr(self.mapper.config, name, getattr(self.config, name))
        self.governor.bandwidth.limit_mbps = self.parameters.budget_mbps
        self.inputs.retime()

    # --- in the executor's thread -------------------------------------------------------------------------------------

    def _take_frame(self, match: Match) -> None:
        if not self._paused:
            self.answering.submit(match)

    def _take_labels(self, labels: LabelSet) -> None:
        self.mapping.call(lambda: self.use_labels(labels))

    def _take_click(self, msg: PointStamped) -> None:
        """A point that was clicked in RViz selects the object there."""

        def find() -> None:
            try:
                found = self.map_services.queries.clicked(msg)
            except GsSemanticError as error:
                self.report("clicked_point", InvalidInputError(f"/clicked_point: {error}"))
                return
            self.mapping.call(lambda: self.select(found))

        self.answering.call(find)

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

    def ask(self, task: Callable[[], None]) -> None:
        """Run a task that answers a question without drawing: it does not wait for the answers of frames."""
        self._asking.submit(task)

    def _publish_status(self) -> None:
        if not self.configured:
            state = LIFECYCLE_STATES.get(self.lifecycle_state, Status.STATE_UNCONFIGURED)
            header = conversions.make_header(self._now_ns(), "")
            self._status.publish(
                Status(header=header, state=state, state_text=STATES[state], rss_mb=self.statistics.rss_mb())
            )
            return
        s, inputs, mapper = self.statistics, self.inputs, self.mapper
        objects = self.view.objects.records
        tentative = int((objects["state"] == ObjectState.TENTATIVE).sum())
        removed = int((objects["state"] == ObjectState.REMOVED).sum())
        state = Status.STATE_MAPPING if s.frames_mapped else Status.STATE_WAITING
        state = Status.STATE_PAUSED if self._paused else state
        state = LIFECYCLE_STATES.get(self.lifecycle_state, state)
        stages = s.take_stages()
        self._status.publish(
            Status(
                header=conversions.make_header(self._now_ns(), self.frame_id),
                state=state,
                state_text=STATES[state],
                map_id=mapper.gaussians.map_id,
                map_revision=mapper.gaussians.revision,
                gaussians=len(mapper.gaussians),
                objects=len(objects) - tentative - removed,
                objects_tentative=tentative,
                frames_received=inputs.received,
                frames_answered=s.frames_answered,
                frames_mapped=s.frames_mapped,
                frames_dropped=inputs.dropped + self.answering.replaced,
                sync_matched=inputs.matched,
                sync_unmatched=inputs.unmatched,
                sync_without_masks=inputs.without_masks,
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
                sent_mbps=s.sent_mbps(),
                given_up=self.governor.given_up,
                stage_names=list(stages),
                stage_ms=list(stages.values()),
                last_error_code=s.failure.code,
                last_error=s.failure.text,
                last_error_stamp=conversions.to_stamp(s.failure.time_ns),
                warnings=list(dict.fromkeys([*inputs.explain(), *self.diagnostics.faults, *s.warnings()])),
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
        self.last_camera = frame.camera
        if not self._jumped(frame, self.inputs.camera_of(match).name):
            self.mapping.submit(frame)
        self.statistics.time_stage("convert", (converted - start) * 1e3)
        name = self.inputs.camera_of(match).name
        self._newest[name] = frame
        answerer = self.answerers[name]
        if not (answerer.wanted and self.governor.may_answer()):
            return
        view = self.view
        try:
            answer = view.render_labels(self.rasterizer, frame.camera, frame.stamp_ns)
            rendered = time.perf_counter()
            self._keep(name, answer)
            answerer.publish(answer, frame, view)
        except Exception as error:  # noqa: BLE001 - one frame must not end the node
            self.report("answer", error)
            self.get_logger().error(f"frame at {match.stamp_ns / 1e9:.6f} s: {error!r}")
            return
        self.statistics.time_stage("answer", (rendered - converted) * 1e3)
        self.statistics.time_stage("publish", (time.perf_counter() - rendered) * 1e3)
        self.statistics.answered((time.monotonic_ns() - match.arrived_ns) / 1e6)

    def _jumped(self, frame: Frame, camera: str) -> bool:
        """Has the camera a pose that cannot be? Such a frame is answered, but not mapped."""
        position = frame.camera.T_world_camera[:3, 3]
        jump = self._jumps.jump(camera, frame.stamp_ns, position, self.parameters.pose_jump_m)
        if jump is None:
            return False
        what = f"{self.inputs.poses.source}: camera '{frame.frame_id}' at {frame.stamp_ns / 1e9:.3f} s"
        self.report("jump", InvalidInputError(faults.POSE_JUMP.text(what=what, metres=jump[0], seconds=jump[1])))
        return True

    def _keep(self, camera: str, answer: LabelImages) -> None:
        """For questions about this frame's pixels. In the answering thread."""
        self._answers.append((camera, answer))
        while len(self._answers) > self.governor.answers_kept:
            self._answers.popleft()

    def answer_at(self, stamp_ns: int, camera: str = "") -> LabelImages:
        """The answer of a camera (empty: of any) with a stamp; with 0 the newest, drawn now when nobody listened.

        InvalidRequestError when there is none.
        """
        camera = camera.strip("/")
        if camera and camera not in self.answerers:
            raise InvalidRequestError(f"camera '{camera}' is none of those in the parameter cameras")
        kept = [answer for name, answer in self._answers if camera in ("", name)]
        if stamp_ns == 0:
            frames = [(frame.stamp_ns, name) for name, frame in self._newest.items() if camera in ("", name)]
            if not frames:
                raise InvalidRequestError("stamp is 0, and no frame has come yet; use render_view with a camera")
            newest_ns, name = max(frames)
            for known, answer in self._answers:
                if (known, answer.stamp_ns) == (name, newest_ns):
                    return answer
            answer = self.view.render_labels(self.rasterizer, self._newest[name].camera, newest_ns)
            self._keep(name, answer)
            return answer
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
        self.governor.splats_waiting = self._splats.waiting
        answering = any(answerer.wanted for answerer in self.answerers.values())
        self.mapping.queue = SHORT_MAPPING_QUEUE if self.parameters.budget_mb else MAPPING_QUEUE
        self.governor.tick(self.mapper, answering, len(self._answers), self._answer_mb)
        self._map_publisher.update(
            self.view, self.mapper.objects, self._objects_key, self._map_header(), self.selected
        )
        self._splats.update(self.view, self._map_header())
        self.map_services.geometry.update()
        fresh = time.monotonic() - self._last_frame_time < self.parameters.idle_optimise_s
        if self._paused or not (self.mapper.pending or (fresh and self.mapper.can_optimise)):
            if self._view_is_old:
                self._refresh_view()
            return False
        start = time.monotonic()
        worked = self._step(None)
        if rest := self.governor.rest_s(time.monotonic() - start):
            time.sleep(rest)
        return worked

    @property
    def _answer_mb(self) -> float:
        """Memory that an answer takes; 0 before the first."""
        if not self._answers:
            return 0.0
        images = self._answers[-1][1]
        size = sum(image.nbytes for image in (images.instance, images.semantic, images.confidence, images.depth))
        return size / 1e6

    def _step(self, frame: Frame | None) -> bool:
        """False when it failed."""
        self._stepping = True
        try:
            events = self.mapper.step(frame, answer=False)
            self._note(events)
        except Exception as error:  # noqa: BLE001 - what waits for integration is lost, the node goes on
            self.report("mapping", error)
            self.get_logger().error(f"mapping: {error!r}")
            return False
        finally:
            self._stepping = False
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
        self.view = MapView.of(self.mapper.gaussians, self.mapper.objects, self._mapped_stamp_ns, self._packed)
        self._objects_changed = False  # only now: who waits until the view is up to date reads this in another thread
        if self._told_key != self._objects_key:  # after the view: who hears of an object can ask for it
            self._told_key = self._objects_key
            events = self._watch.update(self.mapper.objects, self.mapper.gaussians.map_id)
            self._map_publisher.events(events, self.view.revision, self._map_header())
        self._view_time = time.monotonic()
        self.statistics.time_stage("view", (time.perf_counter() - start) * 1e3)

    @property
    def settled(self) -> bool:
        """Has all that was given to the map found its way into the view?"""
        # in this order: what a step ends to be pending makes the view old before the step is over
        return not (self.mapping.busy or self.mapper.pending or self._stepping or self._view_is_old)

    def use_labels(self, labels: LabelSet) -> None:
        """Names of classes from a segmenter, or learned. In the mapping thread."""
        learned = self.mapper.semantics.labels.names if self.mapper.semantics is not None else {}
        names = {**self.mapper.objects.labels.names, **labels.names, **learned}
        if names != self.mapper.objects.labels.names:
            self.mapper.objects.labels = LabelSet(names)
            self._objects_changed = True
            self._refresh_view()
            self._map_publisher.labels(self.mapper.objects.labels, self._map_header())

    def select(self, object_id: int) -> None:
        """Highlight an object and tell ~/selected_object; 0: none. In the mapping thread."""
        self.selected = object_id
        self._objects_changed = True
        self._refresh_view()
        self._map_publisher.selected(self.view, object_id, self._map_header())

    def objects_edited(self) -> None:
        """Show at once what was changed by hand. In the mapping thread."""
        self._objects_changed = True
        self._refresh_view()

    def pause(self) -> None:
        """Freeze the map; the view is brought up to date."""
        self._paused = True
        self._refresh_view()

    def send_splats(self) -> None:
        """Send the whole map on ~/splats again."""
        self._splats.send_all()

    def resume(self) -> None:
        self._paused = False

    def reset(self) -> None:
        """Forget map and objects."""
        self.mapper.reset()
        self._forget()

    def _forget(self) -> None:
        self._jumps.clear()
        self._answers.clear()
        self._newest.clear()
        self._mapped_stamp_ns = 0
        self.statistics.reset()
        self._objects_changed = True
        self._refresh_view()

    # --- in the disk's thread -----------------------------------------------------------------------------------------

    def save(self, path: Path) -> Saved:
        """Write a copy of the map, while mapping goes on."""

        def copied() -> tuple[GaussianMap, ObjectRegistry]:
            self.mapper.gaussians.frame_id = self.frame_id
            self.mapper.gaussians.anchor = self._anchor()
            gaussians = self.mapper.gaussians.snapshot()
            gaussians.views = tuple(self.mapper.views.values())
            return gaussians, copy.deepcopy(self.mapper.objects)

        gaussians, objects = self.while_mapping_waits(copied)
        save_map(path, gaussians, objects)
        return Saved(gaussians, objects.present())

    def load(self, path: Path) -> tuple[GaussianMap, ObjectRegistry]:
        """Replace the map; the present one stays when the folder cannot be read."""
        gaussians, objects = load_map(path)
        frame = self.inputs.poses.map_frame
        if frame and gaussians.frame_id != frame:
            raise MapFrameMismatchError(
                f"{path}: the map is in frame '{gaussians.frame_id}', this node maps in '{frame}'; set global_frame"
            )

        self._check_anchor(gaussians, str(path))

        def swap() -> None:
            labels = self.mapper.objects.labels
            self.mapper.load(gaussians, objects)
            self._forget()
            self.use_labels(labels)

        self.while_mapping_waits(swap)
        return gaussians, objects

    def _anchor(self) -> Anchor | None:
        """What ties the map to the world now; None without parameters that say so."""
        name, frame = self.parameters.localization_map, self.parameters.anchor_frame
        if not (name or frame):
            return None
        return Anchor(name, frame, self._anchor_pose(frame) if frame else np.eye(4))

    def _anchor_pose(self, frame: str) -> np.ndarray:
        """Where the anchor frame is in the map (4, 4)."""
        try:
            return self.inputs.poses.newest(self.frame_id, frame)
        except TransformError as error:
            raise MapFrameMismatchError(f"parameter anchor_frame = '{frame}': {error}") from error

    def _check_anchor(self, gaussians: GaussianMap, what: str) -> None:
        """MapFrameMismatchError when a map was made in another localisation map, or its anchor stood elsewhere."""
        saved, name, frame = gaussians.anchor, self.parameters.localization_map, self.parameters.anchor_frame
        if saved is None:
            if name or frame:
                raise MapFrameMismatchError(
                    f"{what}: map {gaussians.map_id} has no anchor, so that nobody knows whether it fits; save it again "
                    "with localization_map or anchor_frame set, or clear both to load it all the same"
                )
            return
        if name and saved.localization_map != name:
            raise MapFrameMismatchError(
                f"{what}: map {gaussians.map_id} was made in localisation map '{saved.localization_map}', this node's is "
                f"'{name}' (parameter localization_map)"
            )
        if frame and saved.frame != frame:
            raise MapFrameMismatchError(
                f"{what}: map {gaussians.map_id} is anchored at frame '{saved.frame}', this node at '{frame}' "
                "(parameter anchor_frame)"
            )
        if frame:
            change = inverse(saved.T_map_frame) @ self._anchor_pose(frame)
            metres = float(np.linalg.norm(change[:3, 3]))
            degrees = float(np.degrees(np.arccos(np.clip((np.trace(change[:3, :3]) - 1) / 2, -1, 1))))
            if metres > ANCHOR_M or degrees > ANCHOR_DEG:
                raise MapFrameMismatchError(
                    f"{what}: map {gaussians.map_id} does not fit: anchor '{frame}' is {metres:.2f} m and {degrees:.1f} "
                    "degrees from where it was in the map; localise the robot in the map's frame first"
                )

    def while_mapping_waits(self, task: Callable[[], T]) -> T:
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
        return self.inputs.poses.map_frame or self.mapper.gaussians.frame_id

    def _map_header(self) -> Header:
        return conversions.make_header(self._mapped_stamp_ns, self.frame_id)

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds
