"""The segmenter node: colour (and depth) images in, an image of 2D masks with the same stamp out.

The executor's thread matches images by stamp and hands over; one worker segments the newest and drops what it
overtakes. Nothing is computed while nobody listens to the masks. The model is loaded in that worker, too, so that the
node is there, and says what it does, from the first second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Any, TypeVar, get_type_hints

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from gs_semantic.errors import GsSemanticError, InvalidInputError
from gs_semantic.gaussians import Camera, Frame
from gs_semantic.labels import palette
from gs_semantic.msg import LabelMap
from gs_semantic.msg import MaskInfo as MaskInfoMsg
from gs_semantic.nodes import conversions, faults, qos
from gs_semantic.nodes.camera_input import COLOUR, DEPTH, ImageTopic
from gs_semantic.nodes.mapper_parameters import TRANSPORTS
from gs_semantic.nodes.parameters import declare, parameter
from gs_semantic.nodes.process import SpinThread, StopSignal
from gs_semantic.nodes.stamps import CLOCK_JUMP_NS, StampWatch
from gs_semantic.nodes.statistics import Statistics
from gs_semantic.nodes.subscriptions import Subscriptions
from gs_semantic.nodes.synchronizer import Match, Synchronizer
from gs_semantic.nodes.worker import Worker
from gs_semantic.segmenters.base import Segmentation, Segmenter
from gs_semantic.segmenters.registry import KINDS, Options, kind_of

POLL_S = 0.02
LOOK_S = 0.5  # how often the graph is asked which transport there is
LOG_PERIOD_S = 5.0  # the same trouble is logged once in this time
MOST_MASKS = 65535  # ids of MaskInfo are 16 bit

T = TypeVar("T")


@dataclass
class SegmenterParameters:
    segmenter: str = parameter("geometric", "source of the masks", choices=tuple(KINDS))
    model: str = parameter("", "folder of the weights, or their name in the cache; empty: the usual ones")
    mask_model: str = parameter("", "the same for the SAM 2 that 'grounded' makes masks with")
    words: str = parameter("", "things that 'grounded' looks for, separated by commas")
    download: bool = parameter(False, "get weights that are not there from the Hugging Face Hub")
    device: str = parameter("auto", "where models run", choices=("auto", "cpu", "cuda"))
    max_hz: float = parameter(15.0, "frames segmented per second at most", 0.01, 1000.0)
    color_transport: str = parameter(
        "auto", "colour images come raw, compressed, or as somebody publishes them", choices=TRANSPORTS
    )
    depth_transport: str = parameter("auto", "the same for depth images", choices=TRANSPORTS)
    depth_registered: bool = parameter(False, "depth shows the same pixels as colour, whatever its frame_id says")
    input_qos: str = parameter("best_effort", "reliability requested of inputs", choices=("best_effort", "reliable"))
    sync_slop_s: float = parameter(0.0, "stamps of colour and depth may differ by this; 0: exactly equal", 0.0, 1.0)
    sync_wait_s: float = parameter(0.5, "a colour image waits so long for its depth", 0.0, 10.0)
    status_hz: float = parameter(1.0, "rate of /diagnostics", 0.1, 100.0)
    niceness: int = parameter(2, "segmenting gives way to answers on a shared core (Linux nice value)", 0, 19)


def with_prefix(kind: type[T], prefix: str) -> type[T]:
    """A dataclass of settings whose fields are parameters ``prefix.<field>``."""
    hints = get_type_hints(kind)
    entries = []
    for spec in fields(kind):  # type: ignore[arg-type]
        assert spec.default is not MISSING
        metadata = {**spec.metadata, "name": f"{prefix}.{spec.name}"}
        entries.append((spec.name, hints[spec.name], field(default=spec.default, metadata=metadata)))
    return make_dataclass(kind.__name__, entries, bases=(kind,), frozen=True)


def settings_of(name: str) -> type[Any]:
    """The settings of a segmenter as a dataclass of parameters."""
    kind = kind_of(name)
    return with_prefix(kind.config_class, kind.module)


class SegmenterNode(Node):
    """See the module; ``run`` works until it is told to stop."""

    def __init__(self, **options: object) -> None:
        super().__init__("segmenter", **options)
        self.parameters = p = declare(self, SegmenterParameters)
        self.kind = kind_of(p.segmenter)
        self._options = Options(
            p.model, p.mask_model, p.words.split(","), p.download, p.device, declare(self, settings_of(p.segmenter))
        )
        self._segmenter: Segmenter | None = None
        self._failed: GsSemanticError | None = None
        self.statistics = Statistics()
        self.segmented = self.skipped = 0  # skipped: because of max_hz, or nobody listened
        self._next_ns = 0
        self._told: dict[str, float] = {}
        self.topics = {name: self.resolve_topic_name(name) for name in (COLOUR, DEPTH)}
        self._masks = self.create_publisher(Image, "instance/image", qos.SENSOR_OUTPUT)
        self._info = self.create_publisher(MaskInfoMsg, "instance/info", qos.SENSOR_OUTPUT)
        self._labels = self.create_publisher(LabelMap, "label_map", qos.LATCHED) if self.kind.has_classes else None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        self._worker: Worker[Match] = Worker("segmenting", self._segment, niceness=p.niceness)
        self._synchronizer = Synchronizer(
            self.topics[COLOUR],
            (self.topics[DEPTH],) if self.kind.needs_depth else (),
            slop_ns=int(p.sync_slop_s * 1e9),
            wait_ns=int(p.sync_wait_s * 1e9),
        )
        self._stamps = StampWatch()
        self._drops_told = 0
        self._inputs = Subscriptions(self)
        listened = [(COLOUR, p.color_transport)] + ([(DEPTH, p.depth_transport)] if self.kind.needs_depth else [])
        sensor = qos.sensor_input(p.input_qos)
        self._images = [
            ImageTopic(self, self._inputs, role, self.topics[role], transport, self._taker(role), sensor)
            for role, transport in listened
        ]
        # on the steady clock: a simulator that stands still must not stop us from saying so
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._poll_timer = self.create_timer(POLL_S, self._poll, clock=steady)
        self.create_timer(LOOK_S, self._look, clock=steady)
        self.create_timer(1 / p.status_hz, self.publish_diagnostics, clock=steady)

    def run(self, stop: StopSignal) -> None:
        """Segment until asked to stop, or until the model turns out not to be there; that error is raised."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        self._worker.start()
        self._worker.call(self._load)
        try:
            with SpinThread(executor):
                while not stop and self._failed is None:
                    stop.event.wait(0.1)
        finally:
            self._worker.stop()
        if self._failed is not None:
            raise self._failed

    # --- in the executor's thread -----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Raw or compressed images may have appeared."""
        for topic in self._images:
            topic.look()

    def _taker(self, name: str) -> Callable[[Image], None]:
        return lambda msg: self._take(self.topics[name], msg)

    def _take(self, topic: str, msg: Image) -> None:
        stamp = conversions.to_ns(msg.header.stamp)
        if topic == self.topics[COLOUR]:
            self.statistics.received()
        try:
            self._stamps.check(topic, stamp)
        except InvalidInputError as error:
            self._problem(topic, error)
            return
        newest = self._synchronizer.newest.get(topic, stamp)
        if newest - stamp > CLOCK_JUMP_NS:  # whichever topic shows it first; the others then find nothing left to clear
            self._synchronizer.clear()
            if (jump := self._stamps.tell_jump(topic, newest - stamp)) is not None:
                self._problem("clock", jump)
        self._hand_over(self._synchronizer.add(topic, stamp, msg, time.monotonic_ns()))

    def _poll(self) -> None:
        if self._synchronizer.waiting:
            self._hand_over(self._synchronizer.poll(time.monotonic_ns()))

    def _hand_over(self, matches: list[Match]) -> None:
        for match in matches:
            if not self._wanted() or match.arrived_ns < self._next_ns:
                self.skipped += 1
                continue
            # the next one a period after the last was due, so that the rate is met on average, but never two at once
            period = int(1e9 / self.parameters.max_hz)
            self._next_ns = max(self._next_ns + period, match.arrived_ns + period // 2)
            self._worker.submit(match)
        dropped = self._synchronizer.counts.dropped
        if dropped > self._drops_told:
            self._drops_told = dropped
            self._problem("sync", InvalidInputError(self._synchronizer.last_drop))

    def _wanted(self) -> bool:
        return self._segmenter is not None and self._masks.get_subscription_count() > 0

    # --- in the worker's thread -------------------------------------------------------------------------------------

    def _load(self) -> None:
        started = time.perf_counter()
        try:
            segmenter = self.kind.make(self._options)
        except GsSemanticError as error:
            self._failed = error
            return
        except Exception as error:  # noqa: BLE001 - the process must end with a sentence, not hang without a model
            self._failed = GsSemanticError(f"segmenter {self.kind.name} cannot be made: {error!r}")
            return
        if self._labels is not None and segmenter.labels is not None:
            names = segmenter.labels
            header = conversions.make_header(self.get_clock().now().nanoseconds, "")
            self._labels.publish(conversions.write_label_map(names, palette(max(names.names) + 1), header))
        self.get_logger().info(f"segmenter {self.kind.name} is ready after {time.perf_counter() - started:.1f} s")
        self._segmenter = segmenter

    def _segment(self, match: Match) -> None:
        assert self._segmenter is not None  # no match is handed over before
        started = time.perf_counter()
        try:
            frame = self.frame(match)
            found = self._segmenter.segment(frame)
            self._publish(found, match.items[self.topics[COLOUR]])
        except GsSemanticError as error:
            self._problem("frame", error)
            return
        except Exception as error:  # noqa: BLE001 - one frame must not end the node
            self._problem("segment", GsSemanticError(f"frame at {match.stamp_ns / 1e9:.6f} s: {error!r}"))
            return
        self.segmented += 1
        self.statistics.time_stage("segment", (time.perf_counter() - started) * 1e3)
        self.statistics.answered((time.monotonic_ns() - match.arrived_ns) / 1e6)

    def frame(self, match: Match) -> Frame:
        """The frame of a match; its camera is made up: segmenters do not look at it. InvalidInputError names the topic."""
        colour, depth = match.items[self.topics[COLOUR]], None
        rgb = conversions.read_colour(colour, self.topics[COLOUR])
        height, width = rgb.shape[:2]
        if (msg := match.items.get(self.topics[DEPTH])) is not None:
            depth = conversions.read_depth(msg, self.topics[DEPTH])
            frames = msg.header.frame_id, colour.header.frame_id
            if depth.shape != rgb.shape[:2]:
                raise self._unregistered(f"size {depth.shape[1]}x{depth.shape[0]} differs from {width}x{height}")
            if frames[0] != frames[1] and not self.parameters.depth_registered:
                raise self._unregistered(f"frame '{frames[0]}' differs from '{frames[1]}'")
        return Frame(match.stamp_ns, Camera(width, height, width, width, width / 2, height / 2), rgb, depth)

    def _unregistered(self, what: str) -> InvalidInputError:
        text = faults.DEPTH_UNREGISTERED.text(topic=self.topics[DEPTH], what=what, colour_topic=self.topics[COLOUR])
        return InvalidInputError(text)

    def _publish(self, found: Segmentation, colour: Image) -> None:
        count = int(found.instances.max(initial=0))
        if count > MOST_MASKS:
            raise GsSemanticError(f"{len(found.masks)} masks with numbers up to {count}; {MOST_MASKS} can be sent")
        small = count <= 255
        pixels = found.instances.astype(np.uint8 if small else np.uint16)
        self._info.publish(conversions.write_masks(found.masks, colour.header))
        self._masks.publish(conversions.write_image(pixels, "mono8" if small else "16UC1", colour.header))

    # --- telling ----------------------------------------------------------------------------------------------------

    def _problem(self, key: str, error: Exception) -> None:
        """Count and tell; the log has it once in a while, /diagnostics always. Any thread."""
        self.statistics.failed(error, self.get_clock().now().nanoseconds)
        self.statistics.warn(str(error))
        self.statistics.invalid_inputs += 1
        now = time.monotonic()
        if now - self._told.get(key, -LOG_PERIOD_S) >= LOG_PERIOD_S:
            self._told[key] = now
            self.get_logger().warning(str(error))

    def warnings(self) -> list[str]:
        """What is wrong or missing right now."""
        unfit = [f"{finding.message}. {finding.mend}" for finding in self._inputs.findings()]
        return [*unfit, *self._synchronizer.explain(), *self.statistics.warnings()]

    def publish_diagnostics(self) -> None:
        """One status: rates, latency, and everything that is wrong."""
        s, warnings = self.statistics, self.warnings()
        values = {
            "segmenter": self.kind.name,
            "ready": self._segmenter is not None,
            "input_hz": f"{s.inputs.rate_hz():.1f}",
            "masks_hz": f"{s.answers.rate_hz():.1f}",
            "latency_p50_ms": f"{s.answers.percentile(50):.1f}",
            "latency_p95_ms": f"{s.answers.percentile(95):.1f}",
            "segment_ms": f"{s.take_stages().get('segment', 0.0):.1f}",
            "frames_received": self._synchronizer.counts.received[self.topics[COLOUR]],
            "frames_segmented": self.segmented,
            "frames_skipped": self.skipped,
            "frames_overtaken": self._worker.replaced,
            "frames_unmatched": self._synchronizer.counts.dropped,
            "invalid_inputs": s.invalid_inputs,
            "last_error": s.failure.text,
            "rss_mb": f"{s.rss_mb():.0f}",
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if warnings else DiagnosticStatus.OK,
            name=f"{self.get_fully_qualified_name()}: masks",
            message="; ".join(warnings) or ("segmenting" if self._wanted() else "waits for a subscriber of the masks"),
            hardware_id=self.get_fully_qualified_name(),
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        header = conversions.make_header(self.get_clock().now().nanoseconds, "")
        self._diagnostics.publish(DiagnosticArray(header=header, status=[status]))
