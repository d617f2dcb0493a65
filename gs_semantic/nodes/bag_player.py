"""Plays a ROS 2 bag on the topics it was recorded from: the recorded bytes, with rising stamps.

The bag is read by ``gs_semantic.data.bag_files``, so neither rosbag2 nor an undamaged bag is needed. Stamps are moved
to now, all by the same amount (``stamps: now``), or kept and accompanied by /clock (``stamps: recorded``, for nodes
with use_sim_time); each further round of a loop goes on where the one before ended. Static transforms are latched.
"""

from __future__ import annotations

import importlib
import struct
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from tf2_msgs.msg import TFMessage

from gs_semantic.data.bag import TF_TYPE, is_static
from gs_semantic.data.bag_files import Bag, Topic
from gs_semantic.errors import InvalidInputError
from gs_semantic.nodes import conversions, qos

if TYPE_CHECKING:
    from rclpy.publisher import Publisher

    from gs_semantic.nodes.process import StopSignal

ROUND_GAP_NS = 100_000_000  # between the last message of a round and the first of the next
CLOCK_PERIOD_NS = 10_000_000
SAME_CLOCK_NS = 60_000_000_000
SECOND_NS = 1_000_000_000


class Timeline:
    """When a recorded message is due, and which stamp it gets.

    first_ns, last_ns: times of the first and last message. start_ns: when playing begins. speed 2: twice as fast.
    keep_stamps: stamps are not changed but for later rounds, which go on after the first.
    """

    def __init__(self, first_ns: int, last_ns: int, start_ns: int, speed: float, keep_stamps: bool) -> None:
        self._first, self._start, self._speed, self._keep = first_ns, start_ns, speed, keep_stamps
        self._length = last_ns - first_ns + ROUND_GAP_NS
        self._stamp_origin = first_ns
        self.round = 0

    def anchor(self, stamp_ns: int) -> None:
        """Tell the first stamp: in a recording of a simulator stamps are of another clock than times."""
        if abs(stamp_ns - self._first) > SAME_CLOCK_NS:
            self._stamp_origin = stamp_ns

    def due_ns(self, time_ns: int) -> int:
        """Nanoseconds after the beginning at which a message recorded at some time is sent."""
        return round((time_ns - self._first + self.round * self._length) / self._speed)

    def stamp_ns(self, recorded_ns: int) -> int:
        """New stamp for a recorded one."""
        if self._keep:
            return recorded_ns + self.round * self._length
        elapsed = recorded_ns - self._stamp_origin + self.round * self._length
        return self._start + round(elapsed / self._speed)

    def clock_ns(self, elapsed_ns: int) -> int:
        """What /clock shows some time after the beginning, when stamps are kept."""
        return self._stamp_origin + round(elapsed_ns * self._speed)


class BagPlayer:
    """Publishers of the topics of one bag; ``play`` sends all messages in their order."""

    def __init__(self, node: Node, bag: Bag, topics: Collection[str], clock: bool) -> None:
        """``topics``: those to play, none: all whose types are installed. ``clock``: keep stamps and send /clock."""
        self._node, self._bag = node, bag
        for name in topics:
            if name not in bag.topics:
                raise InvalidInputError(
                    f"parameter bag_topics: {bag.path} has no topic {name}; it has {', '.join(bag.topics)}"
                )
        self._publishers: dict[str, Publisher] = {}
        self._static: Publisher | None = None
        for topic in bag.topics.values():
            if topic.count != 0 and (not topics or topic.name in topics) and topic.name not in ("/clock", "/rosout"):
                self._add(topic)
        self._clock = node.create_publisher(Clock, "/clock", qos.STATUS) if clock else None
        self._ticked_ns = 0
        self._has_header = {name for name in self._publishers if bag.begins_with_header(name)}

    @property
    def topics(self) -> list[str]:
        """Names of the topics that are played, as other nodes see them."""
        return [publisher.topic_name for publisher in self._publishers.values()]

    def publisher(self, name: str) -> Publisher | None:
        """Publisher of a recorded topic, None when it is not played."""
        return self._publishers.get(name)

    def _add(self, topic: Topic) -> None:
        package, _, kind = topic.type.partition("/msg/")
        try:
            message_type = getattr(importlib.import_module(f"{package}.msg"), kind)
        except (ImportError, AttributeError):
            self._node.get_logger().warning(f"{topic.name} is not played: its type {topic.type} is not installed here")
            return
        if topic.type == TF_TYPE and is_static(topic):
            if self._static is None:
                self._static = self._node.create_publisher(TFMessage, "/tf_static", qos.STATIC_TF)
            self._publishers[topic.name] = self._static
            return
        profile = qos.LATCHED if topic.latched else qos.POSE if topic.type == TF_TYPE else qos.SENSOR_OUTPUT
        self._publishers[topic.name] = self._node.create_publisher(message_type, topic.name, profile)

    def play(self, stop: StopSignal, speed: float, loop: bool, sent: Callable[[str, int], None]) -> None:
        """Send everything at the pace of the recording; ``sent`` is told topic and new stamp of every message."""
        first, last = self._bag.span
        timeline = Timeline(first, last, self._node.get_clock().now().nanoseconds, speed, self._clock is not None)
        stamp = next(self._recorded_stamps(), None)
        if stamp is not None:
            timeline.anchor(stamp)
        self._latch(timeline, first if stamp is None else stamp)
        began, self._ticked_ns = time.monotonic_ns(), -CLOCK_PERIOD_NS
        while True:
            count = 0
            for name, time_ns, data in self._bag.messages(self._publishers):
                count += 1
                self._wait(stop, timeline, began, timeline.due_ns(time_ns))
                if stop:
                    return
                if self._publishers[name] is not self._static:
                    stamped, stamp_ns = self._stamped(name, data, timeline, time_ns)
                    self._publishers[name].publish(stamped)
                    sent(name, stamp_ns)
            if not count:
                raise InvalidInputError(f"{self._bag.path}: holds no message that can be played")
            if not loop:
                return
            timeline.round += 1

    def _wait(self, stop: StopSignal, timeline: Timeline, began_ns: int, due_ns: int) -> None:
        """Until a message is due; /clock goes on meanwhile."""
        while not stop:
            elapsed = time.monotonic_ns() - began_ns
            self._tick(timeline, min(elapsed, due_ns))
            if elapsed >= due_ns:
                return
            wait = due_ns - elapsed
            stop.event.wait((wait if self._clock is None else min(wait, CLOCK_PERIOD_NS)) / 1e9)

    def _tick(self, timeline: Timeline, elapsed_ns: int) -> None:
        """/clock, every few milliseconds and never backwards."""
        if self._clock is not None and elapsed_ns - self._ticked_ns >= CLOCK_PERIOD_NS:
            self._clock.publish(Clock(clock=conversions.to_stamp(timeline.clock_ns(elapsed_ns))))
            self._ticked_ns = elapsed_ns

    def _recorded_stamps(self) -> Iterator[int]:
        """Stamps of the messages with a header that are not latched."""
        for name, _, data in self._bag.messages(self._has_header):
            stamp = _stamp(data)
            if stamp and not self._bag.topics[name].latched:
                yield stamp

    def _latch(self, timeline: Timeline, stamp_ns: int) -> None:
        """All static transforms of the bag in one latched message, stamped with the beginning."""
        if self._static is None:
            return
        names = [name for name, publisher in self._publishers.items() if publisher is self._static]
        transforms: dict[str, Any] = {}
        for name, _, data in self._bag.messages(names):
            for item in self._bag.decode(name, data).transforms:
                item.header.stamp.sec, item.header.stamp.nanosec = divmod(timeline.stamp_ns(stamp_ns), SECOND_NS)
                transforms[item.child_frame_id] = item
        message = self._bag.make(TF_TYPE, transforms=list(transforms.values()))
        self._static.publish(self._bag.encode(TF_TYPE, message))

    def _stamped(self, name: str, data: bytes, timeline: Timeline, time_ns: int) -> tuple[bytes, int]:
        """The bytes with their stamps moved, and the new stamp (of a message without: as if of its time)."""
        if self._bag.topics[name].type == TF_TYPE:
            message, stamp_ns = self._bag.decode(name, data), timeline.stamp_ns(time_ns)
            for item in message.transforms:
                stamp = item.header.stamp
                stamp_ns = timeline.stamp_ns(stamp.sec * SECOND_NS + stamp.nanosec)
                stamp.sec, stamp.nanosec = divmod(stamp_ns, SECOND_NS)
            return self._bag.encode(TF_TYPE, message), stamp_ns
        if name not in self._has_header or len(data) < STAMP.stop:
            return data, timeline.stamp_ns(time_ns)
        stamp_ns = timeline.stamp_ns(_stamp(data) or time_ns)
        return data[: STAMP.start] + struct.pack(_layout(data), *divmod(stamp_ns, SECOND_NS)) + data[
            STAMP.stop :
        ], stamp_ns


STAMP = slice(4, 12)  # of a message that begins with a header, after the four bytes that tell the encoding


def _layout(data: bytes) -> str:
    return "<iI" if data[1] & 1 else ">iI"


def _stamp(data: bytes) -> int:
    seconds, nanoseconds = struct.unpack_from(_layout(data), data, STAMP.start)
    return int(seconds * SECOND_NS + nanoseconds)
