"""One camera: its topics, what is put together from them by stamp, and its frames."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from gs_semantic.data.images import Lens
from gs_semantic.data.register import DepthRegistration
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame, MaskInfo
from gs_semantic.msg import MaskInfo as MaskInfoMsg
from gs_semantic.nodes import conversions, faults, images, qos
from gs_semantic.nodes.calibration import is_rectified
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.poses import Poses
from gs_semantic.nodes.robot_mask import check_size, load_robot_mask
from gs_semantic.nodes.stamps import StampWatch
from gs_semantic.nodes.statistics import Statistics
from gs_semantic.nodes.subscriptions import Subscriptions, type_name
from gs_semantic.nodes.synchronizer import Match, Synchronizer
from gs_semantic.nodes.transforms import TransformError

COLOUR, DEPTH, INSTANCE, MASKS = "color/image", "depth/image", "instance/image", "instance/info"
INFO, DEPTH_INFO = "color/camera_info", "depth/camera_info"
POLL_S = 0.01
DEPTH_PATIENCE_S = 2.0  # of colour images without depth, before use_depth: auto does without
LOOK_S = 0.5  # how often the graph is asked which transport there is
INFO_STOPPED_S = 1.5  # images without camera_info for so long are told
KEPT_LENSES = 20  # camera_info messages remembered by their stamps
SAME_INTRINSICS_PX = 1.0  # cameras that differ less show the same pixels


class CameraInput:
    """Hands every complete set of messages to ``on_match``, from the executor's thread and in no time.

    ``frame`` converts such a set later, in another thread: decoded, undistorted, depth registered to colour.
    ``on_problem`` gets every error with a key that names its source; errors name the topic (as remapped) and the field.
    ``namespace`` of the camera's topics, relative or absolute; empty: they have none of their own. ``name`` is the same
    without leading slash.
    """

    def __init__(
        self,
        node: Node,
        namespace: str,
        parameters: NodeParameters,
        statistics: Statistics,
        subscriptions: Subscriptions,
        stamps: StampWatch,
        poses: Poses,
        on_match: Callable[[Match], None],
        on_problem: Callable[[str, Exception], None],
    ) -> None:
        self.name = namespace.strip("/")
        prefix = f"{namespace}/" if namespace else ""
        self._node, self._parameters, self._statistics = node, parameters, statistics
        self._subscriptions, self._stamps, self._poses = subscriptions, stamps, poses
        self._on_match, self._report = on_match, on_problem
        roles = (COLOUR, DEPTH, INSTANCE, MASKS, INFO, DEPTH_INFO)
        self.topics = {role: node.resolve_topic_name(prefix + role) for role in roles}
        self._lenses = _Lenses(self.topics[INFO], _is_rectified(parameters, self.topics[COLOUR]))
        self._depth_lenses = _Lenses(self.topics[DEPTH_INFO], _is_rectified(parameters, self.topics[DEPTH]))
        self._robot_mask = load_robot_mask(parameters.robot_mask, self.name)
        self._registration: tuple[Lens, Camera, DepthRegistration] | None = None
        self._images: list[ImageTopic] = []
        self.synchronizer = Synchronizer(
            self.topics[COLOUR],
            (self.topics[DEPTH],) if parameters.use_depth != "never" else (),
            (self.topics[INSTANCE], self.topics[MASKS]),
            gate=self._gate,
        )
        self.retime()
        self._drops_told = 0
        self._first_colour = self._newest_colour = 0.0  # time.monotonic
        # on the steady clock: a simulator that stands still must not stop us from saying so
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._poll_timer = node.create_timer(POLL_S, self._poll, clock=steady)
        self._poll_timer.cancel()  # runs only while a frame waits
        self._look_timer = node.create_timer(LOOK_S, self._look, clock=steady)
        self._look_timer.cancel()

    def subscribe(self) -> None:
        """Start to listen."""
        add, sensor, p = self._subscriptions.add, qos.sensor_input(self._parameters.input_qos), self._parameters
        add(CameraInfo, self.topics[INFO], self._on_info(self._lenses, INFO), sensor)
        add(MaskInfoMsg, self.topics[MASKS], self._on_stamped(MASKS), sensor)
        listened = [(INSTANCE, self._on_stamped(INSTANCE), p.mask_transport)]
        if p.use_depth != "never":
            add(CameraInfo, self.topics[DEPTH_INFO], self._on_info(self._depth_lenses, DEPTH_INFO), sensor)
            listened.append((DEPTH, self._on_stamped(DEPTH), p.depth_transport))
        listened.append((COLOUR, self._on_colour, p.color_transport))
        self._images = [
            ImageTopic(self._node, self._subscriptions, role, self.topics[role], transport, callback, sensor)
            for role, callback, transport in listened
        ]
        self._look_timer.reset()

    def unsubscribe(self) -> None:
        """Forget what waits; the subscriptions are ended by their owner."""
        self._poll_timer.cancel()
        self._look_timer.cancel()
        self._images.clear()
        self.synchronizer.clear()

    def close(self) -> None:
        self.unsubscribe()
        self._node.destroy_timer(self._poll_timer)
        self._node.destroy_timer(self._look_timer)

    def retime(self) -> None:
        """Take over changed times to wait."""
        p, s = self._parameters, self.synchronizer
        s.slop_ns, s.wait_ns, s.optional_wait_ns = (
            int(seconds * 1e9) for seconds in (p.sync_slop_s, p.sync_wait_s, p.mask_wait_s)
        )

    def retry(self) -> None:
        """What a waiting frame waits for may have come."""
        if self.synchronizer.waiting:
            self._poll()

    def explain(self) -> list[str]:
        """Sentences about topics that are missing, have stopped or never match, for people."""
        chosen = [faults.NO_DEPTH.text(topic=self.topics[DEPTH])] if self._without_depth else []
        return [*chosen, *self.synchronizer.explain(), *self._lenses.explain(self._newest_colour)]

    @property
    def needs_depth(self) -> bool:
        """Has a frame to have depth of a sensor?"""
        return self.topics[DEPTH] in self.synchronizer.required

    @property
    def _without_depth(self) -> bool:
        return self._parameters.use_depth == "auto" and not self.needs_depth

    def _choose_depth(self) -> None:
        """``use_depth`` auto: depth is not waited for when none came with the first colour images, until the first comes."""
        topic, came = self.topics[DEPTH], self.synchronizer.counts.received.get(self.topics[DEPTH], 0) > 0
        if self._without_depth and came:
            self.synchronizer.require(topic)
            self._node.get_logger().info(f"{topic}: images come, so every frame needs its depth (use_depth is auto)")
        elif self.needs_depth and not came and self._newest_colour - self._first_colour > DEPTH_PATIENCE_S:
            self.synchronizer.release(topic)

    # --- callbacks: every one hands over and returns ------------------------------------------------------------------

    def _on_problem(self, role: str, error: Exception) -> None:
        self._report(f"{self.name}/{role}".lstrip("/"), error)

    def _on_colour(self, msg: Any) -> None:
        self._statistics.received()
        self._newest_colour = time.monotonic()
        self._first_colour = self._first_colour or self._newest_colour
        topic, stamp = self._topic(COLOUR), conversions.to_ns(msg.header.stamp)
        try:
            self._stamps.check(topic, stamp)
            if not msg.header.frame_id:
                raise InvalidInputError(faults.FRAME_ID_EMPTY.text(topic=topic))
        except InvalidInputError as error:
            self._on_problem(COLOUR, error)
            return
        if (ahead := self._stamps.ahead(topic, stamp, self._node.get_clock().now().nanoseconds)) is not None:
            self._on_problem("ahead", ahead)
        if back := self._stamps.jumped_back(topic, stamp):
            self._poses.clear_after(stamp)  # poses of the new time may have come before
            self.synchronizer.restart(stamp)
            if (jump := self._stamps.tell_jump(topic, back)) is not None:
                self._report("clock", jump)
        self._take(COLOUR, stamp, msg)

    def _on_stamped(self, role: str) -> Callable[[Any], None]:
        return lambda msg: self._take(role, conversions.to_ns(msg.header.stamp), msg)

    def _take(self, role: str, stamp_ns: int, msg: Any) -> None:
        self._hand_over(self.synchronizer.add(self.topics[role], stamp_ns, msg, time.monotonic_ns()))

    def _poll(self) -> None:
        self._hand_over(self.synchronizer.poll(time.monotonic_ns()))

    def _hand_over(self, matches: list[Match]) -> None:
        for match in matches:
            self._on_match(match)
        dropped = self.synchronizer.counts.dropped
        if dropped > self._drops_told:
            self._drops_told = dropped
            self._report("sync", InvalidInputError(self.synchronizer.last_drop))
        if self.synchronizer.waiting == self._poll_timer.is_canceled():
            if self.synchronizer.waiting:
                self._poll_timer.reset()
            else:
                self._poll_timer.cancel()

    def _on_info(self, lenses: _Lenses, role: str) -> Callable[[CameraInfo], None]:
        def take(msg: CameraInfo) -> None:
            try:
                change = lenses.take(msg)
            except InvalidInputError as error:
                self._on_problem(role, error)
                return
            if change:
                text = faults.CAMERA_INFO_CHANGED.text(topic=lenses.topic, what=change)
                self._on_problem(role, InvalidInputError(text))
            self.retry()

        return take

    def _look(self) -> None:
        if self._parameters.use_depth == "auto":
            self._choose_depth()
        for topic in self._images:
            topic.look()

    def _gate(self, stamp_ns: int, msg: Any) -> str | None:
        """Why a colour image has to wait."""
        if not self._lenses.known:
            return self._lenses.problem
        return self._poses.missing(msg.header.frame_id, stamp_ns)

    def _topic(self, role: str) -> str:
        """Where the images of a role come from right now."""
        return next((topic.listened for topic in self._images if topic.role == role), self.topics[role])

    # --- conversion, in the worker's thread -------------------------------------------------------------------------

    def frame(self, match: Match) -> Frame:
        """The frame of a match. InvalidInputError names topic and field."""
        image = match.items[self.topics[COLOUR]]
        lens = self._lenses.at(match.stamp_ns)
        rgb = conversions.read_colour(image, self._topic(COLOUR))
        recorded = lens.recorded
        if rgb.shape[:2] != (recorded.height, recorded.width):
            raise InvalidInputError(
                faults.CAMERA_INFO_SIZE.text(
                    topic=self.topics[INFO],
                    found=f"{recorded.width}x{recorded.height}",
                    image_topic=self._topic(COLOUR),
                    expected=_size(rgb),
                )
            )
        camera = lens.camera.at(self._poses.of_camera(image.header.frame_id, match.stamp_ns))
        depth = instances = None
        masks: dict[int, MaskInfo] = {}
        if (msg := match.items.get(self.topics[DEPTH])) is not None:
            depth = self._depth(msg, image.header.frame_id, lens, match.stamp_ns)
        if (msg := match.items.get(self.topics[INSTANCE])) is not None:
            try:
                instances, masks = self._masks(msg, match.items.get(self.topics[MASKS]), lens)
            except InvalidInputError as error:  # a frame without masks is a normal frame
                self._on_problem(INSTANCE, error)
        ignored = self._ignored(rgb, lens)
        if ignored is not None:
            depth = None if depth is None else np.where(ignored, np.float32(0), depth)
            instances = None if instances is None else np.where(ignored, 0, instances)
        frame_id = image.header.frame_id
        return Frame(match.stamp_ns, camera, lens.undistort(rgb), depth, instances, masks, frame_id, ignored)

    def _ignored(self, rgb: np.ndarray, lens: Lens) -> np.ndarray | None:
        """Pixels where the robot is seen, as the map sees the image."""
        if self._robot_mask is None:
            return None
        check_size(self._robot_mask, self._parameters.robot_mask, *rgb.shape[:2])
        return lens.undistort(self._robot_mask.astype(np.uint8), labels=True).astype(bool)

    def _masks(self, msg: Any, info: MaskInfoMsg | None, lens: Lens) -> tuple[np.ndarray, dict[int, MaskInfo]]:
        topic, colour = self._topic(INSTANCE), lens.recorded
        ids = conversions.read_instances(msg, topic)
        if ids.shape != (colour.height, colour.width):
            details = {"found": _size(ids), "expected": f"{colour.width}x{colour.height}"}
            raise InvalidInputError(faults.MASK_SIZE.text(topic=topic, colour_topic=self._topic(COLOUR), **details))
        present = images.check_ids(ids, topic)
        masks = {} if info is None else conversions.read_masks(info, self.topics[MASKS])
        unknown = [] if info is None else [key for key in present.tolist() if key not in masks]
        if unknown:
            shown = ", ".join(map(str, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            text = faults.MASK_IDS_UNKNOWN.text(topic=topic, ids=shown, info_topic=self.topics[MASKS])
            self._on_problem(MASKS, InvalidInputError(text))
        return lens.undistort(ids, labels=True), masks

    # --- depth ------------------------------------------------------------------------------------------------------

    def _depth(self, msg: Any, colour_frame: str, lens: Lens, stamp_ns: int) -> np.ndarray:
        """Depth (H, W) m as the undistorted colour camera sees it."""
        topic = self._topic(DEPTH)
        depth = conversions.read_depth(msg, topic)
        frame = msg.header.frame_id or colour_frame
        if not msg.header.frame_id:
            self._on_problem(DEPTH, InvalidInputError(faults.FRAME_ID_EMPTY.text(topic=topic)))
        depth_lens = self._depth_lenses.at(stamp_ns) if self._depth_lenses.known else None
        what = self._difference(depth, frame, colour_frame, lens, depth_lens)
        if not what:
            return lens.undistort(depth, labels=True)
        if depth_lens is None:
            raise self._unregistered(f"{what}, and {_told(self._depth_lenses.problem)}")
        size = (depth_lens.recorded.height, depth_lens.recorded.width)
        if depth.shape != size:
            info = f"{self.topics[DEPTH_INFO]} says {size[1]}x{size[0]}"
            raise self._unregistered(f"{what}, and {info} where {topic} has {_size(depth)}")
        try:
            T_colour_depth = self._poses.transform(colour_frame, frame, stamp_ns)
        except TransformError as error:
            raise self._unregistered(f"{what}, and there is {_told(str(error))}") from error
        known = self._registration
        if known is None or known[0] is not depth_lens or known[1] is not lens.camera:
            known = self._registration = (depth_lens, lens.camera, DepthRegistration(depth_lens, lens.camera))
        return known[2](depth, T_colour_depth)

    def _difference(
        self, depth: np.ndarray, frame: str, colour_frame: str, lens: Lens, depth_lens: Lens | None
    ) -> str:
        """Why depth does not show the pixels that colour shows; empty when it does."""
        colour = lens.recorded
        if depth.shape != (colour.height, colour.width):
            return f"size {_size(depth)} differs from {colour.width}x{colour.height}"
        if self._parameters.depth_registered:
            return ""
        if frame.lstrip("/") != colour_frame.lstrip("/"):
            return f"frame '{frame}' differs from '{colour_frame}'"
        if depth_lens is None:
            return ""
        other = depth_lens.recorded
        pairs = {name: (getattr(other, name), getattr(colour, name)) for name in ("fx", "fy", "cx", "cy")}
        apart = [f"{k} {a:.1f} / {b:.1f}" for k, (a, b) in pairs.items() if abs(a - b) > SAME_INTRINSICS_PX]
        return f"its intrinsics differ ({', '.join(apart)} px)" if apart else ""

    def _unregistered(self, what: str) -> InvalidInputError:
        return InvalidInputError(
            faults.DEPTH_UNREGISTERED.text(topic=self._topic(DEPTH), what=what, colour_topic=self._topic(COLOUR))
        )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _told(text: str) -> str:
    """What an error says, without advice and name."""
    return faults.of_text("", text, faults.OTHER).message.partition(". ")[0]


def _is_rectified(parameters: NodeParameters, topic: str) -> bool:
    """Whether images are undistorted already: told, or by their name."""
    if parameters.rectified != "auto":
        return parameters.rectified == "yes"
    return is_rectified(topic)


class _Lenses:
    """The calibrations of one camera_info topic: the newest, and those of the last stamps.

    Equal messages share one ``Lens``, which keeps its tables.
    """

    def __init__(self, topic: str, rectified: bool) -> None:
        self.topic, self._rectified = topic, rectified
        self.problem = faults.CAMERA_INFO_MISSING.text(topic=topic)  # why none is known
        self._by_stamp: OrderedDict[int, Lens] = OrderedDict()
        self._made: OrderedDict[tuple[Any, ...], Lens] = OrderedDict()
        self._newest: Lens | None = None
        self._arrivals: deque[float] = deque(maxlen=3)  # time.monotonic

    def explain(self, newest_colour: float) -> list[str]:
        """Has camera_info stopped while images come? One that was sent only once or twice is meant to last."""
        if not self.known or len(self._arrivals) < 3:
            return []
        silence = newest_colour - self._arrivals[-1]
        if silence < max(INFO_STOPPED_S, 3 * (self._arrivals[-1] - self._arrivals[0])):
            return []
        return [faults.CAMERA_INFO_STOPPED.text(topic=self.topic, seconds=silence)]

    @property
    def known(self) -> bool:
        return self._newest is not None

    def take(self, msg: CameraInfo) -> str:
        """Take over a message; what it changes, or nothing. After one that cannot be used, none is known."""
        before = self._newest
        self._arrivals.append(time.monotonic())
        try:
            lens = self._lens(msg)
        except InvalidInputError as error:
            self._newest, self.problem = None, str(error)
            raise
        self._by_stamp[conversions.to_ns(msg.header.stamp)] = lens
        while len(self._by_stamp) > KEPT_LENSES:
            self._by_stamp.popitem(last=False)
        self._newest = lens
        return f"{_words(before)} before, {_words(lens)} now" if before is not None and before is not lens else ""

    def _lens(self, msg: CameraInfo) -> Lens:
        key = (
            *(msg.width, msg.height, msg.distortion_model, msg.binning_x, msg.binning_y),
            *(msg.roi.x_offset, msg.roi.y_offset, msg.roi.width, msg.roi.height),
            *(np.asarray(values, np.float64).tobytes() for values in (msg.k, msg.p, msg.d)),
        )
        if key not in self._made:
            self._made[key] = conversions.read_lens(msg, self.topic, self._rectified)
            if len(self._made) > KEPT_LENSES:
                self._made.popitem(last=False)
        return self._made[key]

    def at(self, stamp_ns: int) -> Lens:
        """The calibration of an image: that with its stamp, else the newest."""
        lens = self._by_stamp.get(stamp_ns) or self._newest
        if lens is None:
            raise InvalidInputError(self.problem)
        return lens


def _words(lens: Lens) -> str:
    c = lens.recorded
    words = f"{c.width}x{c.height} fx={c.fx:.1f} fy={c.fy:.1f} cx={c.cx:.1f} cy={c.cy:.1f}"
    return f"{words} d={np.round(lens.coefficients, 4).tolist()}" if lens.distorts else words


@dataclass
class ImageTopic:
    """A subscription of images, raw or compressed: as told, or (auto) as somebody publishes them."""

    node: Node
    subscriptions: Subscriptions
    role: str
    topic: str
    transport: str
    callback: Callable[[Any], None]
    profile: Any
    listened: str = ""  # the topic subscribed to
    _kind: type[Any] = Image
    _subscription: Subscription | None = None

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Subscribe to what there is."""
        kind, topic = self._choose()
        if self._subscription is not None:
            if (kind, topic) == (self._kind, self.listened):
                return
            self.subscriptions.remove(self._subscription)
        self._kind, self.listened = kind, topic
        self._subscription = self.subscriptions.add(kind, topic, self.callback, self.profile)

    def _choose(self) -> tuple[type[Any], str]:
        named = images.compressed_topic(self.topic, self.role == DEPTH)
        if self.transport == images.COMPRESSED or (self.transport == "auto" and named == self.topic):
            return CompressedImage, named
        if self.transport == images.RAW or self._published(Image, self.topic):
            return Image, self.topic
        for topic in (self.topic, named, images.compressed_topic(self.topic)):
            if self._published(CompressedImage, topic):
                return CompressedImage, topic
        return (self._kind, self.listened) if self.listened else (Image, self.topic)

    def _published(self, kind: type[Any], topic: str) -> bool:
        return any(info.topic_type == type_name(kind) for info in self.node.get_publishers_info_by_topic(topic))
