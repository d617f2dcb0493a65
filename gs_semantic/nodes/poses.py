"""Where the camera is: /tf, Odometry or PoseStamped, looked up at the stamp of an image and never guessed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from tf2_msgs.msg import TFMessage

from gs_semantic.errors import InvalidInputError
from gs_semantic.nodes import conversions, faults, qos
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.stamps import StampWatch
from gs_semantic.nodes.subscriptions import Subscriptions
from gs_semantic.nodes.transforms import TooNewError, TransformBuffer, TransformError, make_buffer

TF, STATIC_TF, ODOM, POSE = "/tf", "/tf_static", "odom", "pose"
LOST_NS = 1_000_000_000  # a source that is so far behind the images has stopped rather than being late


class Poses:
    """Takes the messages of the pose source and answers where a frame was at a stamp.

    ``on_problem`` gets every error with a key that names its source; ``on_new`` is called after every pose that came.
    """

    def __init__(
        self,
        node: Node,
        parameters: NodeParameters,
        stamps: StampWatch,
        on_problem: Callable[[str, Exception], None],
        on_new: Callable[[], None],
    ) -> None:
        self._parameters, self._stamps = parameters, stamps
        self._on_problem, self._on_new = on_problem, on_new
        self.topics = {name: node.resolve_topic_name(name) for name in (TF, STATIC_TF, ODOM, POSE)}
        self._transforms = make_buffer()  # /tf and /tf_static
        self._poses = TransformBuffer()  # odom or pose
        self._frames: tuple[str, str] | None = None  # frame of the pose messages, and the one they speak of
        self._lock = threading.Lock()

    def subscribe(self, subscriptions: Subscriptions) -> None:
        add, topics = subscriptions.add, self.topics
        add(TFMessage, topics[TF], self._on_tf(TF), qos.POSE)
        add(TFMessage, topics[STATIC_TF], self._on_tf(STATIC_TF), qos.STATIC_TF)
        if self._parameters.pose_source == ODOM:
            add(Odometry, topics[ODOM], self._on_odometry, qos.POSE)
        if self._parameters.pose_source == POSE:
            add(PoseStamped, topics[POSE], self._on_pose, qos.POSE)

    def clear(self) -> None:
        """Forget all that moves (after a jump of the clock)."""
        with self._lock:
            self._transforms.clear()
            self._poses.clear()

    def clear_after(self, stamp_ns: int) -> None:
        """Forget all that moves if it is of a time after this stamp, that is from before the clock jumped back."""
        with self._lock:
            for buffer in (self._transforms, self._poses):
                if buffer.newest_ns > stamp_ns + LOST_NS:
                    buffer.clear()

    # --- messages -----------------------------------------------------------------------------------------------------

    def _on_tf(self, name: str) -> Callable[[TFMessage], None]:
        topic, static = self.topics[name], name == STATIC_TF

        def take(msg: TFMessage) -> None:
            for entry in msg.transforms:
                parent, child = entry.header.frame_id, entry.child_frame_id
                stamp, what = conversions.to_ns(entry.header.stamp), f"transform of '{child}' in '{parent}'"
                try:
                    matrix = conversions.read_transform(entry.transform, f"{topic}: {what}")
                    if not static:
                        self._note_stamp(f"{topic} ('{child}')", stamp)
                    with self._lock:
                        self._transforms.insert(parent, child, stamp, matrix, static)
                except InvalidInputError as error:
                    named = str(error).startswith(topic)
                    self._on_problem(topic, error if named else InvalidInputError(f"{topic}: {error}"))
            self._on_new()

        return take

    def _on_odometry(self, msg: Odometry) -> None:
        self._on_moved(ODOM, msg, msg.pose.pose, msg.child_frame_id, "pose.pose")

    def _on_pose(self, msg: PoseStamped) -> None:
        self._on_moved(POSE, msg, msg.pose, self._parameters.pose_child_frame, "pose")

    def _on_moved(self, name: str, msg: Any, pose: Any, child: str, field: str) -> None:
        topic, stamp = self.topics[name], conversions.to_ns(msg.header.stamp)
        try:
            if not msg.header.frame_id:
                raise InvalidInputError(faults.FRAME_ID_EMPTY.text(topic=topic))
            matrix = conversions.read_pose(pose, f"{topic}: {field}")
            self._note_stamp(topic, stamp)
        except InvalidInputError as error:
            self._on_problem(name, error)
            return
        with self._lock:
            self._frames = (msg.header.frame_id, child)
            self._poses.insert(msg.header.frame_id, "moved", stamp, matrix)
        self._on_new()

    def _note_stamp(self, topic: str, stamp_ns: int) -> None:
        self._stamps.check(topic, stamp_ns)
        back = self._stamps.jumped_back(topic, stamp_ns)
        if back:
            self.clear()
            if (error := self._stamps.tell_jump(topic, back)) is not None:
                self._on_problem("clock", error)

    # --- lookups ------------------------------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """The topic that poses come from."""
        return self.topics[{"tf": TF, "odom": ODOM, "pose": POSE}[self._parameters.pose_source]]

    @property
    def map_frame(self) -> str:
        """Frame of the map; empty while it is not known yet."""
        if self._parameters.global_frame:
            return self._parameters.global_frame
        if self._parameters.pose_source == "tf":
            return "map"
        return self._frames[0] if self._frames else ""

    def of_camera(self, camera_frame: str, stamp_ns: int) -> np.ndarray:
        """T_map_camera at a stamp; TransformError says what is missing."""
        with self._lock:
            if self._parameters.pose_source == "tf":
                return self._transforms.lookup(self.map_frame, camera_frame, stamp_ns)
            if self._frames is None:
                raise TransformError(faults.POSE_MISSING.text(topic=self.source))
            frame, child = self._frames
            try:
                pose = self._poses.lookup(frame, "moved", stamp_ns)
            except TooNewError as error:
                behind = (stamp_ns - self._poses.newest_ns) / 1e9
                if behind * 1e9 > LOST_NS:
                    raise TooNewError(faults.POSE_LOST.text(topic=self.source, seconds=behind)) from None
                raise TooNewError(f"{self.source}: {error}") from None
            except TransformError as error:
                raise TransformError(f"{self.source}: {error}") from None
            if child and child != camera_frame:
                pose = pose @ self._transforms.lookup(child, camera_frame, stamp_ns)
            return self._transforms.lookup(self.map_frame, frame, stamp_ns) @ pose

    def transform(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """T_target_source from /tf."""
        with self._lock:
            return self._transforms.lookup(target, source, stamp_ns)

    def newest(self, target: str, source: str) -> np.ndarray:
        """T_target_source as /tf knows it last."""
        with self._lock:
            return self._transforms.lookup(target, source, self._transforms.newest_ns)

    def missing(self, camera_frame: str, stamp_ns: int) -> str | None:
        """Why there is no pose of a camera at a stamp, or None; starts with ``pose`` and the source."""
        try:
            self.of_camera(camera_frame, stamp_ns)
        except TransformError as error:
            return f"pose ({self._parameters.pose_source}): {error}"
        return None
