"""What the mapper listens to: subscriptions, synchronisation, poses; and their conversion into a Frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Frame, MaskInfo
from gs_semantic.msg import LabelMap
from gs_semantic.msg import MaskInfo as MaskInfoMsg
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.statistics import Statistics
from gs_semantic.nodes.synchronizer import Match, Synchronizer
from gs_semantic.nodes.transforms import TransformBuffer, TransformError

COLOUR, DEPTH, INSTANCE, MASKS = "color/image", "depth/image", "instance/image", "instance/info"
INFO, LABELS, ODOM, POSE = "color/camera_info", "label_map", "odom", "pose"
CLOCK_JUMP_NS = 1_000_000_000  # a stamp so much older than the last one means that the clock has started anew
POLL_S = 0.01


class Inputs:
    """Hands every complete frame to ``on_match``, from the executor's thread and in no time; the rest is counted.

    ``on_problem`` gets every error with a key that names its source; errors name the topic (as remapped) and the field.
    """

    def __init__(
        self,
        node: Node,
        parameters: NodeParameters,
        statistics: Statistics,
        on_match: Callable[[Match], None],
        on_labels: Callable[[LabelMap], None],
        on_problem: Callable[[str, Exception], None],
    ) -> None:
        self._node, self._parameters, self._statistics = node, parameters, statistics
        self._on_match, self._on_labels, self._on_problem = on_match, on_labels, on_problem
        names = (COLOUR, DEPTH, INSTANCE, MASKS, INFO, LABELS, ODOM, POSE, "/tf", "/tf_static")
        self.topics = {name: node.resolve_topic_name(name) for name in names}
        self._transforms = TransformBuffer()  # /tf and /tf_static
        self._poses = TransformBuffer()  # odom or pose
        self._pose_frames: tuple[str, str] | None = None  # frame of the pose messages, and the one they speak of
        self._pose_lock = threading.Lock()
        self._info: CameraInfo | None = None
        self._info_problem = "no message has come"
        self.synchronizer = Synchronizer(
            self.topics[COLOUR],
            (self.topics[DEPTH],) if parameters.use_depth else (),
            (self.topics[INSTANCE], self.topics[MASKS]),
            slop_ns=int(parameters.sync_slop_s * 1e9),
            wait_ns=int(parameters.sync_wait_s * 1e9),
            optional_wait_ns=int(parameters.mask_wait_s * 1e9),
            gate=self._gate,
        )
        self._drops_told = 0
        self._newest_colour_ns = -1
        self._subscriptions = [
            self._subscribe(Image, COLOUR, self._on_colour),
            self._subscribe(Image, INSTANCE, self._on_stamped(INSTANCE)),
            self._subscribe(MaskInfoMsg, MASKS, self._on_stamped(MASKS)),
            self._subscribe(CameraInfo, INFO, self._on_info),
            self._subscribe(LabelMap, LABELS, self._on_labels, qos.LATCHED_INPUT),
            self._subscribe(TFMessage, "/tf", self._on_tf(static=False), qos.POSE),
            self._subscribe(TFMessage, "/tf_static", self._on_tf(static=True), qos.STATIC_TF),
        ]
        if parameters.use_depth:
            self._subscriptions.append(self._subscribe(Image, DEPTH, self._on_stamped(DEPTH)))
        if parameters.pose_source == "odom":
            self._subscriptions.append(self._subscribe(Odometry, ODOM, self._on_odometry, qos.POSE))
        if parameters.pose_source == "pose":
            self._subscriptions.append(self._subscribe(PoseStamped, POSE, self._on_pose, qos.POSE))
        self._poll_timer = node.create_timer(POLL_S, self._poll)
        self._poll_timer.cancel()  # runs only while a frame waits

    def _subscribe(
        self, kind: type[Any], name: str, callback: Callable[[Any], None], profile: QoSProfile | None = None
    ) -> Any:
        def incompatible(event: QoSRequestedIncompatibleQoSInfo) -> None:
            self._problem(
                name,
                f"a publisher offers a weaker quality of service than is requested (policy {event.last_policy_kind}); "
                "change it there, or set the parameter input_qos to best_effort",
            )

        events = SubscriptionEventCallbacks(incompatible_qos=incompatible)
        profile = profile or qos.sensor_input(self._parameters.input_qos)
        return self._node.create_subscription(kind, name, callback, profile, event_callbacks=events)

    def _problem(self, name: str, text: str) -> None:
        self._on_problem(name, InvalidInputError(f"{self.topics[name]}: {text}"))

    # --- callbacks: every one hands over and returns ------------------------------------------------------------------

    def _on_colour(self, msg: Image) -> None:
        self._statistics.received()
        stamp = conversions.to_ns(msg.header.stamp)
        if stamp < self._newest_colour_ns - CLOCK_JUMP_NS:
            self._problem(
                COLOUR,
                f"the stamp jumped back by {(self._newest_colour_ns - stamp) / 1e9:.1f} s; transforms and queues are cleared",
            )
            self.synchronizer.clear()
            self._newest_colour_ns = stamp
        self._newest_colour_ns = max(stamp, self._newest_colour_ns)
        self._take(COLOUR, stamp, msg)

    def _on_stamped(self, name: str) -> Callable[[Any], None]:
        return lambda msg: self._take(name, conversions.to_ns(msg.header.stamp), msg)

    def _take(self, name: str, stamp_ns: int, msg: Any) -> None:
        self._hand_over(self.synchronizer.add(self.topics[name], stamp_ns, msg, time.monotonic_ns()))

    def _poll(self) -> None:
        self._hand_over(self.synchronizer.poll(time.monotonic_ns()))

    def _hand_over(self, matches: list[Match]) -> None:
        for match in matches:
            self._on_match(match)
        dropped = self.synchronizer.counts.dropped
        if dropped > self._drops_told:
            self._drops_told = dropped
            self._on_problem("sync", InvalidInputError(f"{self.synchronizer.last_drop}; the frame is dropped"))
        if self.synchronizer.waiting == self._poll_timer.is_canceled():
            if self.synchronizer.waiting:
                self._poll_timer.reset()
            else:
                self._poll_timer.cancel()

    def _on_info(self, msg: CameraInfo) -> None:
        try:
            conversions.read_camera(msg, self.topics[INFO])
        except InvalidInputError as error:
            self._info_problem = str(error).removeprefix(f"{self.topics[INFO]}: ")
            self._info = None
            self._on_problem(INFO, error)
            return
        if self._info is None and any(msg.d):
            self._problem(INFO, "d is not zero: the images are used as if they were rectified; send rectified ones")
        self._info = msg
        self._retry()

    def _on_tf(self, static: bool) -> Callable[[TFMessage], None]:
        topic = self.topics["/tf_static" if static else "/tf"]

        def take(msg: TFMessage) -> None:
            for entry in msg.transforms:
                parent, child = entry.header.frame_id, entry.child_frame_id
                try:
                    matrix = conversions.read_transform(entry.transform, f"{topic}: transform of '{child}' in '{parent}'")
                    with self._pose_lock:
                        self._transforms.insert(parent, child, conversions.to_ns(entry.header.stamp), matrix, static)
                except InvalidInputError as error:
                    self._on_problem(topic, error)
            self._retry()

        return take

    def _on_odometry(self, msg: Odometry) -> None:
        self._on_moved(ODOM, msg, msg.pose.pose, msg.child_frame_id, "pose.pose")

    def _on_pose(self, msg: PoseStamped) -> None:
        self._on_moved(POSE, msg, msg.pose, self._parameters.pose_child_frame, "pose")

    def _on_moved(self, name: str, msg: Any, pose: Any, child: str, field: str) -> None:
        try:
            if not msg.header.frame_id:
                raise InvalidInputError(f"{self.topics[name]}: header.frame_id is empty")
            matrix = conversions.read_pose(pose, f"{self.topics[name]}: {field}")
        except InvalidInputError as error:
            self._on_problem(name, error)
            return
        with self._pose_lock:
            self._pose_frames = (msg.header.frame_id, child)
            self._poses.insert(msg.header.frame_id, "moved", conversions.to_ns(msg.header.stamp), matrix)
        self._retry()

    def _retry(self) -> None:
        if self.synchronizer.waiting:
            self._poll()

    # --- poses ------------------------------------------------------------------------------------------------------

    @property
    def map_frame(self) -> str:
        """Frame of the map; empty while it is not known yet."""
        if self._parameters.global_frame:
            return self._parameters.global_frame
        if self._parameters.pose_source == "tf":
            return "map"
        return self._pose_frames[0] if self._pose_frames else ""

    def camera_pose(self, camera_frame: str, stamp_ns: int) -> np.ndarray:
        """T_map_camera at a stamp; TransformError says what is missing."""
        with self._pose_lock:
            if self._parameters.pose_source == "tf":
                return self._transforms.lookup(self.map_frame, camera_frame, stamp_ns)
            if self._pose_frames is None:
                topic = self.topics[ODOM if self._parameters.pose_source == "odom" else POSE]
                raise TransformError(f"{topic}: no message has come")
            frame, child = self._pose_frames
            pose = self._poses.lookup(frame, "moved", stamp_ns)
            if child and child != camera_frame:
                pose = pose @ self._transforms.lookup(child, camera_frame, stamp_ns)
            return self._transforms.lookup(self.map_frame, frame, stamp_ns) @ pose

    def transform(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """T_target_source from /tf."""
        with self._pose_lock:
            return self._transforms.lookup(target, source, stamp_ns)

    def _gate(self, stamp_ns: int, msg: Image) -> str | None:
        """Why a colour image has to wait."""
        if self._info is None:
            return f"{self.topics[INFO]}: {self._info_problem}"
        try:
            self.camera_pose(msg.header.frame_id, stamp_ns)
        except TransformError as error:
            return f"pose ({self._parameters.pose_source}): {error}"
        return None

    # --- conversion, in the worker's thread -------------------------------------------------------------------------

    def frame(self, match: Match) -> Frame:
        """The frame of a match. InvalidInputError names topic and field."""
        image, info = match.items[self.topics[COLOUR]], self._info
        assert info is not None  # the gate has seen to that
        rgb = conversions.read_colour(image, self.topics[COLOUR])
        pose = self.camera_pose(image.header.frame_id, match.stamp_ns)
        camera = conversions.read_camera(info, self.topics[INFO], pose)
        self._same_size(rgb, INFO, camera.width, camera.height)
        depth = instances = None
        masks: dict[int, MaskInfo] = {}
        if (msg := match.items.get(self.topics[DEPTH])) is not None:
            depth = conversions.read_depth(msg, self.topics[DEPTH])
            self._same_size(rgb, DEPTH, msg.width, msg.height)
        if (msg := match.items.get(self.topics[INSTANCE])) is not None:
            try:
                instances, masks = self._read_masks(msg, match.items.get(self.topics[MASKS]), rgb)
            except InvalidInputError as error:  # a frame without masks is a normal frame
                self._on_problem(INSTANCE, error)
        return Frame(match.stamp_ns, camera, rgb, depth, instances, masks, frame_id=image.header.frame_id)

    def _read_masks(self, msg: Image, info: MaskInfoMsg | None, rgb: np.ndarray) -> tuple[np.ndarray, dict[int, MaskInfo]]:
        instances = conversions.read_instances(msg, self.topics[INSTANCE])
        self._same_size(rgb, INSTANCE, msg.width, msg.height)
        return instances, conversions.read_masks(info, self.topics[MASKS]) if info is not None else {}

    def _same_size(self, rgb: np.ndarray, name: str, width: int, height: int) -> None:
        if (height, width) != rgb.shape[:2]:
            raise InvalidInputError(
                f"{self.topics[name]}: size {width}x{height} differs from that of {self.topics[COLOUR]}, "
                f"{rgb.shape[1]}x{rgb.shape[0]}; both must show the same pixels (register it to the colour camera)"
            )
