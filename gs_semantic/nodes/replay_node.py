"""Plays a recorded sequence as a camera: colour, depth, camera_info, masks with their classes, and the pose; or a
ROS 2 bag on the topics it was recorded from.

Starts when everything it sends is listened to, and ends by itself after the last frame, unless it loops.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from gs_semantic.data.bag import find_topics
from gs_semantic.data.bag_files import Bag
from gs_semantic.data.formats import open_sequence
from gs_semantic.data.noise import SensorNoise
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.data.trajectory import camera_on_body
from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.files import atomic_write
from gs_semantic.labels import palette
from gs_semantic.msg import LabelMap
from gs_semantic.msg import MaskInfo as MaskInfoMsg
from gs_semantic.nodes import conversions, faults, qos
from gs_semantic.nodes.bag_player import BagPlayer
from gs_semantic.nodes.parameters import declare, parameter
from gs_semantic.nodes.process import SpinThread, StopSignal
from gs_semantic.nodes.transforms import inverse

TELL_AFTER_S = 3.0  # say what is waited for
DAMAGE_OF = {"perfect": "none", "shuffled": "shuffled", "damaged": "damaged"}


@dataclass
class ReplayParameters:
    sequence: str = parameter("", "recorded sequence of any format (docs/data.md)")
    bag: str = parameter("", "ROS 2 bag to play on its own topics instead of a sequence")
    bag_topics: str = parameter("", "bag: topics to play, separated by commas; empty: all")
    bag_speed: float = parameter(1.0, "bag: speed relative to the recording", 0.01, 100.0)
    bag_stamps: str = parameter(
        "now", "bag: stamps moved to the present, or as recorded with /clock", choices=("now", "recorded")
    )
    rate_hz: float = parameter(5.0, "frames per second", 0.01, 1000.0)
    loop: bool = parameter(False, "play again and again, with rising stamps")
    start_frame: int = parameter(0, "first frame", 0, 10_000_000)
    stop_frame: int = parameter(-1, "frame to stop before, -1: the end", -1, 10_000_000)
    skip_every: int = parameter(0, "withhold every k-th frame, 0: none", 0, 1_000_000)
    masks: str = parameter(
        "shuffled", "masks sent: as recorded, with ids redrawn per frame, or damaged", choices=("none", *DAMAGE_OF)
    )
    seed: int = parameter(0, "seed of mask damage and noise", 0, 2**31 - 1)
    depth_noise: bool = parameter(False, "add noise of 1.5 mm x z^2 and 5 % holes to the depth")
    pose_noise: bool = parameter(False, "add noise of 1 cm and 0.5 degrees to the poses")
    send_depth: bool = parameter(True, "send the recorded depth; false: colour and poses only")
    depth_encoding: str = parameter("16UC1", "depth images in mm (16UC1) or m (32FC1)", choices=("16UC1", "32FC1"))
    pose_source: str = parameter("tf", "how poses are sent", choices=("tf", "odom", "pose"))
    global_frame: str = parameter("map", "frame of the poses")
    body_frame: str = parameter("base_link", "robot frame that TF and Odometry move")
    camera_frame: str = parameter("camera_color_optical_frame", "optical frame of all images")
    wait_for_subscriber_s: float = parameter(30.0, "wait so long for subscribers of all that is sent", 0.0, 3600.0)
    start_delay_s: float = parameter(0.5, "pause between the last of these subscribers and the first frame", 0.0, 60.0)
    linger_s: float = parameter(1.0, "stay so long after the last frame, so that it arrives", 0.0, 60.0)
    cache_mb: int = parameter(600, "memory for frames that are ready to be sent", 0, 100_000)
    publish_log: str = parameter("", "file for 'stamp_ns,monotonic_ns' of every frame, written at the end")


@dataclass(frozen=True)
class _Ready:
    """Messages of one frame, without stamps."""

    colour: Image
    depth: Image | None
    info: CameraInfo
    instance: Image | None
    masks: MaskInfoMsg | None
    T_world_camera: np.ndarray

    @property
    def size(self) -> int:
        return sum(len(image.data) for image in (self.colour, self.depth, self.instance) if image is not None)


class FrameCache:
    """Frames decoded ahead by one thread; the last used ones stay within a memory limit."""

    def __init__(self, prepare: Callable[[int], _Ready], limit_bytes: int) -> None:
        self._prepare, self._limit = prepare, limit_bytes
        self._kept: OrderedDict[int, _Ready] = OrderedDict()
        self._bytes = 0
        self._coming: dict[int, Future[_Ready]] = {}
        self._pool = ThreadPoolExecutor(1, "decode")

    def expect(self, index: int) -> None:
        """Decode this frame soon."""
        if index not in self._kept and index not in self._coming:
            self._coming[index] = self._pool.submit(self._prepare, index)

    def take(self, index: int) -> _Ready:
        self.expect(index)
        if index in self._kept:
            return self._kept[index]
        ready = self._coming.pop(index).result()
        if self._bytes + ready.size <= self._limit:  # a looping sequence is kept from its beginning
            self._kept[index] = ready
            self._bytes += ready.size
        return ready

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class ReplayNode(Node):
    """Publishers of one recorded sequence; ``play`` sends it frame by frame at its rate."""

    def __init__(self, **options: object) -> None:
        super().__init__("replay", **options)
        self.parameters = p = declare(self, ReplayParameters)
        self.published: list[tuple[int, int]] = []  # (stamp, monotonic time of the publish call), ns
        self._needed: list[Publisher] = []  # each wants a subscriber before playing begins
        self._player: BagPlayer | None = None
        if bool(p.sequence) == bool(p.bag):
            raise InvalidRequestError(
                "parameter sequence: give the folder of a recorded sequence, or a bag as parameter bag"
            )
        if p.bag:
            self._open_bag()
        else:
            self._open_sequence()

    def _open_bag(self) -> None:
        p = self.parameters
        self._bag = Bag(p.bag)
        for sentence in self._bag.damage:
            self._warn(sentence)
        chosen = [name.strip() for name in p.bag_topics.split(",") if name.strip()]
        topics = None
        try:
            topics = find_topics(self._bag)
        except InvalidInputError as error:  # no camera: there may be other uses
            self._warn(str(error))
        if topics is not None and not p.send_depth:
            chosen = [name for name in chosen or self._bag.topics if name != topics.depth]
        self._player = player = BagPlayer(self, self._bag, chosen, clock=p.bag_stamps == "recorded")
        if topics is None:
            return
        self._colour_topic = topics.color
        names = [topics.color, topics.camera_info, topics.depth, topics.instance]
        self._needed = [publisher for name in names if (publisher := player.publisher(name)) is not None]

    def _open_sequence(self) -> None:
        p = self.parameters
        default = SensorNoise()
        noise = SensorNoise(
            depth_sigma=default.depth_sigma * p.depth_noise,
            holes=default.holes * p.depth_noise,
            pose_m=default.pose_m * p.pose_noise,
            pose_deg=default.pose_deg * p.pose_noise,
            seed=p.seed,
        )
        self.sequence: FrameSequence = open_sequence(p.sequence, noise=noise if p.depth_noise or p.pose_noise else None)
        self.indices = frames_to_play(len(self.sequence), p.start_frame, p.stop_frame, p.skip_every)
        self._damage = None if p.masks == "none" else Damage(DAMAGE_OF[p.masks], p.seed)  # type: ignore[arg-type]
        self._cache = FrameCache(self._prepare, p.cache_mb * 1_000_000)
        self._body_camera = camera_on_body() if p.pose_source != "pose" else np.eye(4)
        self._make_publishers()

    def _make_publishers(self) -> None:
        p = self.parameters
        self._colour = self.create_publisher(Image, "color/image", qos.SENSOR_OUTPUT)
        self._info = self.create_publisher(CameraInfo, "color/camera_info", qos.SENSOR_OUTPUT)
        self._depth = self.create_publisher(Image, "depth/image", qos.SENSOR_OUTPUT)
        if self._damage is not None:  # else these topics are a segmenter's
            self._instance = self.create_publisher(Image, "instance/image", qos.SENSOR_OUTPUT)
            self._masks = self.create_publisher(MaskInfoMsg, "instance/info", qos.SENSOR_OUTPUT)
        self._labels = self.create_publisher(LabelMap, "label_map", qos.LATCHED)
        labels = self.sequence.labels
        header = conversions.make_header(self._now_ns(), p.camera_frame)
        self._labels.publish(conversions.write_label_map(labels, palette(max(labels.names) + 1), header))
        if p.pose_source == "tf":
            self._tf = self.create_publisher(TFMessage, "/tf", qos.POSE)
        elif p.pose_source == "odom":
            self._odom = self.create_publisher(Odometry, "odom", qos.POSE)
        else:
            self._pose = self.create_publisher(PoseStamped, "pose", qos.POSE)
        if p.pose_source != "pose":  # the camera's place on the robot
            self._static = self.create_publisher(TFMessage, "/tf_static", qos.STATIC_TF)
            self._static.publish(self._transform(p.body_frame, p.camera_frame, self._body_camera, self._now_ns()))
        moving = {"tf": "_tf", "odom": "_odom", "pose": "_pose"}[p.pose_source]
        self._needed = [self._colour, self._info, getattr(self, moving)]
        self._needed += [self._depth] if self.sequence.has_depth and p.send_depth else []
        self._needed += [self._instance] if self.sequence.has_instances and self._damage is not None else []

    # --- frames -----------------------------------------------------------------------------------------------------

    def _prepare(self, index: int) -> _Ready:
        """Everything about a frame that does not depend on when it is sent."""
        frame = self.sequence[index]
        header = conversions.make_header(0, self.parameters.camera_frame)
        depth = instance = masks = None
        if frame.depth is not None and self.parameters.send_depth:
            pixels = np.where(np.isfinite(frame.depth), frame.depth, 0)
            if self.parameters.depth_encoding == "16UC1":
                millimetres = np.round(pixels * 1000)
                pixels = np.where(millimetres <= 65535, millimetres, 0).astype(np.uint16)
            depth = conversions.write_image(pixels, self.parameters.depth_encoding, header)
        if frame.instances is not None and self._damage is not None:
            ids, infos = self._damage.apply(frame.instances, frame.masks, index)
            small = ids.max(initial=0) <= 255
            pixels = ids.astype(np.uint8 if small else np.uint16)
            instance = conversions.write_image(pixels, "mono8" if small else "16UC1", header)
            masks = conversions.write_masks(infos, header)
        colour = conversions.write_image(frame.rgb, "rgb8", header)
        info = conversions.write_camera(frame.camera, header)
        return _Ready(colour, depth, info, instance, masks, frame.camera.T_world_camera)

    def send(self, ready: _Ready, stamp_ns: int) -> None:
        """Publish one frame: its pose first, its colour image last, so that all is there when that one comes."""
        self.published.append((stamp_ns, time.monotonic_ns()))
        self._send_pose(ready.T_world_camera, stamp_ns)
        stamp = conversions.to_stamp(stamp_ns)
        for publisher, message in (
            (self._info, ready.info),
            *(((self._masks, ready.masks), (self._instance, ready.instance)) if self._damage is not None else ()),
            (self._depth, ready.depth),
            (self._colour, ready.colour),
        ):
            if message is not None:
                message.header.stamp = stamp
                publisher.publish(message)

    def _send_pose(self, T_world_camera: np.ndarray, stamp_ns: int) -> None:
        p = self.parameters
        T_world_body = T_world_camera @ inverse(self._body_camera)
        if p.pose_source == "tf":
            self._tf.publish(self._transform(p.global_frame, p.body_frame, T_world_body, stamp_ns))
        elif p.pose_source == "odom":
            odometry = Odometry(header=conversions.make_header(stamp_ns, p.global_frame), child_frame_id=p.body_frame)
            odometry.pose.pose = conversions.write_pose(T_world_body)
            self._odom.publish(odometry)
        else:
            header = conversions.make_header(stamp_ns, p.global_frame)
            self._pose.publish(PoseStamped(header=header, pose=conversions.write_pose(T_world_camera)))

    def _transform(self, parent: str, child: str, matrix: np.ndarray, stamp_ns: int) -> TFMessage:
        header = conversions.make_header(stamp_ns, parent)
        transform = conversions.write_transform(matrix)
        return TFMessage(transforms=[TransformStamped(header=header, child_frame_id=child, transform=transform)])

    # --- playing ----------------------------------------------------------------------------------------------------

    def run(self, stop: StopSignal) -> None:
        """Play, with parameter services running beside it; the publish log is written at the end."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        try:
            with SpinThread(executor):
                self.play(stop)
        finally:
            self.close()

    def play(self, stop: StopSignal) -> None:
        """Send everything; returns at the end of the recording or when asked to stop."""
        p = self.parameters
        if self._player is None:
            self._cache.expect(self.indices[0])
        self._wait_for_subscribers(stop)
        stop.event.wait(p.start_delay_s)
        if self._player is None:
            self._play_frames(stop)
        elif not stop:
            self.get_logger().info(
                f"playing {p.bag} at {p.bag_speed:g} times its speed: {', '.join(self._player.topics)}"
            )
            self._player.play(stop, p.bag_speed, p.loop, self._note)
            for sentence in self._bag.damage:
                self._warn(sentence)
        stop.event.wait(p.linger_s)

    def _note(self, topic: str, stamp_ns: int) -> None:
        """The publish log of a bag is that of its colour images."""
        if self._needed and topic == self._colour_topic:
            self.published.append((stamp_ns, time.monotonic_ns()))

    def _play_frames(self, stop: StopSignal) -> None:
        p = self.parameters
        self.get_logger().info(f"playing {len(self.indices)} frames of {p.sequence} at {p.rate_hz:g} Hz")
        period_ns = round(1e9 / p.rate_hz)
        first_stamp, first_time = self._now_ns(), time.monotonic_ns()
        for number, (index, following) in enumerate(_pairs(self.indices, p.loop)):
            ready = self._cache.take(index)
            if following is not None:
                self._cache.expect(following)
            late_ns = time.monotonic_ns() - (first_time + number * period_ns)
            if late_ns < 0:
                stop.event.wait(-late_ns / 1e9)
            if stop:
                return
            self.send(ready, first_stamp + number * period_ns)

    def _wait_for_subscribers(self, stop: StopSignal) -> None:
        """Until somebody listens to each of the inputs of a mapper, or the patience is at its end."""
        began, told = time.monotonic(), False
        while not stop and (missing := [p.topic_name for p in self._needed if not p.get_subscription_count()]):
            waited = time.monotonic() - began
            if waited >= self.parameters.wait_for_subscriber_s:
                self._warn(faults.NO_SUBSCRIBER.text(topic=", ".join(missing), seconds=waited))
                return
            if waited >= TELL_AFTER_S and not told:
                told = True
                self._tell(f"waiting for a subscriber of {', '.join(missing)}")
            stop.event.wait(0.05)

    def _tell(self, text: str) -> None:
        self.get_logger().info(text)

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text)

    def close(self) -> None:
        """Write the publish log."""
        if self._player is None:
            self._cache.close()
        else:
            self._bag.close()
        if self.parameters.publish_log:
            lines = "".join(f"{stamp},{when}\n" for stamp, when in self.published)
            with atomic_write(Path(self.parameters.publish_log)) as file:
                file.write(lines.encode())

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds


def frames_to_play(count: int, start: int, stop: int, skip_every: int) -> list[int]:
    """Indices of the frames; with ``skip_every`` k the last of every k frames of the recording is withheld."""
    end = count if stop < 0 else min(stop, count)
    indices = [i for i in range(start, end) if not (skip_every and i % skip_every == skip_every - 1)]
    if not indices:
        raise InvalidRequestError(
            f"parameters start_frame={start}, stop_frame={stop}, skip_every={skip_every}: "
            f"nothing is left of {count} frames"
        )
    return indices


def _pairs(indices: list[int], loop: bool) -> Iterator[tuple[int, int | None]]:
    """Every frame with the one that follows it."""
    while True:
        yield from zip(indices, [*indices[1:], indices[0] if loop else None], strict=True)
        if not loop:
            return
