"""The mapper's subscriptions: made when it is activated, gone when it is not, and watched all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # its name in Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

from gs_semantic.nodes import conversions, faults
from gs_semantic.nodes.faults import Finding
from gs_semantic.nodes.statistics import Window

POLICIES = ("reliability", "durability")  # those that make a connection fail


def type_name(kind: type[Any]) -> str:
    """``sensor_msgs/msg/Image`` of a message class."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def node_name(info: TopicEndpointInfo) -> str:
    """``/namespace/name`` of an endpoint's node."""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


@dataclass
class Traffic:
    """What came on one topic. Latency: arrival after the stamp, by this node's clock."""

    topic: str
    kind: type[Any]
    profile: QoSProfile
    count: int = 0
    last: float = 0.0  # time.monotonic of the newest, 0: none yet
    since: float = field(default_factory=time.monotonic)
    latency_ms: Window = field(default_factory=Window)

    def note(self, latency_ms: float) -> None:
        self.count += 1
        self.last = time.monotonic()
        self.latency_ms.add(latency_ms)


class Subscriptions:
    """Creates subscriptions, counts what they bring, and finds out why one brings nothing."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._made: list[Subscription] = []
        self._lock = threading.Lock()
        self.traffic: dict[str, Traffic] = {}

    def add(self, kind: type[Any], topic: str, callback: Callable[[Any], None], profile: QoSProfile) -> Subscription:
        """Subscribe; ``topic`` may be relative."""
        full = self._node.resolve_topic_name(topic)
        traffic = Traffic(full, kind, profile)
        with self._lock:
            self.traffic[full] = traffic
        stamped = hasattr(kind, "header")

        def take(msg: Any) -> None:
            now = self._node.get_clock().now().nanoseconds
            traffic.note((now - conversions.to_ns(msg.header.stamp)) / 1e6 if stamped else 0.0)
            callback(msg)

        # rclpy's own handler only warns that there is something; ``findings`` says who and what
        quiet = SubscriptionEventCallbacks(incompatible_qos=lambda event: None, use_default_callbacks=False)
        try:
            made = self._node.create_subscription(kind, topic, take, profile, event_callbacks=quiet)
        except UnsupportedEventTypeError:
            made = self._node.create_subscription(kind, topic, take, profile)
        self._made.append(made)
        return made

    def remove(self, subscription: Subscription) -> None:
        """End one subscription."""
        self._made.remove(subscription)
        with self._lock:
            self.traffic.pop(subscription.topic_name, None)
        self._node.destroy_subscription(subscription)

    def clear(self) -> None:
        """End all subscriptions."""
        for subscription in self._made:
            self._node.destroy_subscription(subscription)
        self._made.clear()
        with self._lock:
            self.traffic = {}

    def watched(self) -> list[Traffic]:
        with self._lock:
            return list(self.traffic.values())

    def findings(self) -> list[Finding]:
        """Publishers that do not get through to us, by topic: their type or their quality of service does not fit."""
        return [finding for traffic in self.watched() for finding in self._examine(traffic)]

    def _examine(self, traffic: Traffic) -> list[Finding]:
        found = []
        for info in self._node.get_publishers_info_by_topic(traffic.topic):
            if (offered_type := info.topic_type) != type_name(traffic.kind):
                details = {"node": node_name(info), "found": offered_type, "expected": type_name(traffic.kind)}
                argument = traffic.topic.strip("/").replace("/", "_")
                found.append(faults.WRONG_TYPE.found(traffic.topic, topic=traffic.topic, argument=argument, **details))
            else:
                found += incompatible(traffic.topic, traffic.profile, info)
        return found

    def publishers(self, traffic: Traffic) -> list[str]:
        return sorted(node_name(info) for info in self._node.get_publishers_info_by_topic(traffic.topic))


def incompatible(topic: str, requested: QoSProfile, info: TopicEndpointInfo) -> list[Finding]:
    """Why a publisher's offer does not satisfy a request, by policy."""
    if qos_check_compatible(info.qos_profile, requested)[0] != QoSCompatibility.ERROR:
        return []
    found = []
    for policy in POLICIES:
        offered, wanted = getattr(info.qos_profile, policy), getattr(requested, policy)
        one = QoSProfile(depth=1, **{policy: offered}), QoSProfile(depth=1, **{policy: wanted})
        if qos_check_compatible(*one)[0] == QoSCompatibility.ERROR:
            words = {"offered": offered.name.lower(), "requested": wanted.name.lower()}
            details = {key: word.replace("_", " ") for key, word in words.items()}
            found.append(
                faults.QOS_INCOMPATIBLE.found(topic, topic=topic, node=node_name(info), policy=policy, **details)
            )
    return found


def strangers(node: Node, name: str, namespace: str) -> list[Finding]:
    """Subscribers of the topics that a node publishes which expect another type, and so get nothing."""
    found = []
    for topic, kinds in node.get_publisher_names_and_types_by_node(name, namespace):
        for info in node.get_subscriptions_info_by_topic(topic):
            if info.topic_type not in kinds:
                details = {"node": node_name(info), "found": info.topic_type, "expected": " or ".join(kinds)}
                found.append(faults.SUBSCRIBER_TYPE.found(topic, topic=topic, **details))
    return found
