"""config/segment.rviz against the running nodes: every display finds its topic, type, QoS, frame and colours."""

from __future__ import annotations

import os
import time

import pytest
import rclpy
import yaml
from rclpy.qos import (
    DurabilityPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from sensor_msgs.msg import PointCloud2
from tf2_msgs.msg import TFMessage

from gs_semantic.benchmarks.live import LiveSystem
from gs_semantic.nodes import qos
from gs_semantic.nodes.arguments import MAPPER, NAMESPACE, REPLAY, rviz_topics
from gs_semantic.share import share_path

PATIENCE_S = 120.0
TYPES = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
}
WITHOUT_TOPIC = {"rviz_default_plugins/Grid", "rviz_default_plugins/TF"}
CONFIG = yaml.safe_load(share_path("config", "segment.rviz").read_text())["Visualization Manager"]
DISPLAYS = {display["Name"]: display for display in CONFIG["Displays"]}


def wait_until(condition, what: str, patience_s: float = PATIENCE_S):
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Mapper and replay as the launch file starts them, and a node to look at their graph."""
    arguments = {"namespace": NAMESPACE, "sequence": share_path("sample", "house"), "loop": "true", "rate_hz": 5}
    domain_id = int(os.environ["ROS_DOMAIN_ID"])  # that of the tests
    with LiveSystem(tmp_path_factory.mktemp("live"), arguments, domain_id=domain_id) as live:
        live.start((MAPPER, REPLAY))
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node("rviz_check", context=context)
        try:
            yield node
        finally:
            node.destroy_node()
            rclpy.try_shutdown(context=context)


def receive(node, kind, topic, profile, wanted=lambda message: True):
    """The first wanted message of a topic."""
    got = []
    subscription = node.create_subscription(kind, topic, lambda m: got.append(m) if wanted(m) else None, profile)
    executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    deadline = time.monotonic() + PATIENCE_S
    while not got:
        assert time.monotonic() < deadline, f"{topic}: no message came"
        executor.spin_once(timeout_sec=0.2)
    executor.remove_node(node)
    node.destroy_subscription(subscription)
    return got[0]


def test_everything_is_switched_on():
    assert DISPLAYS
    for name, display in DISPLAYS.items():
        assert display["Enabled"] is True and display["Value"] is True, name
        assert display["Class"] in {*TYPES, *WITHOUT_TOPIC}, name


@pytest.mark.parametrize("name", [name for name, display in DISPLAYS.items() if display["Class"] in TYPES])
def test_display_fits_the_running_topic(name, running):
    display = DISPLAYS[name]
    topic = display["Topic"]
    (publisher,) = wait_until(lambda: running.get_publishers_info_by_topic(topic["Value"]), topic["Value"])
    assert publisher.topic_type == TYPES[display["Class"]]
    request = QoSProfile(
        depth=topic["Depth"],
        liveliness=LivelinessPolicy.AUTOMATIC,
        reliability=ReliabilityPolicy[topic["Reliability Policy"].upper().replace(" ", "_")],
        durability=DurabilityPolicy[topic["Durability Policy"].upper().replace(" ", "_")],
    )
    compatibility, reason = qos_check_compatible(publisher.qos_profile, request)
    assert compatibility == QoSCompatibility.OK, reason
    # a display of a latched topic must ask for what was sent before RViz was opened
    latched = publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert (topic["Durability Policy"] == "Transient Local") == latched


def test_the_map_comes_in_the_fixed_frame_with_its_colours(running):
    display = DISPLAYS["Map"]
    assert display["Color Transformer"] == "RGB8"
    cloud = receive(running, PointCloud2, display["Topic"]["Value"], qos.LATCHED, lambda c: c.width * c.height > 0)
    assert {"x", "y", "z", "rgb"} <= {field.name for field in cloud.fields}
    assert cloud.header.frame_id == CONFIG["Global Options"]["Fixed Frame"]


def test_the_cameras_pose_is_in_the_tree_of_the_fixed_frame(running):
    fixed = CONFIG["Global Options"]["Fixed Frame"]
    moving = receive(running, TFMessage, "/tf", qos.POSE).transforms[0]
    static = receive(running, TFMessage, "/tf_static", qos.STATIC_TF).transforms[0]
    assert moving.header.frame_id == fixed
    assert static.header.frame_id == moving.child_frame_id


def test_every_topic_is_checked():
    shown = {display["Topic"]["Value"] for display in DISPLAYS.values() if display["Class"] in TYPES}
    assert shown == set(rviz_topics({"Visualization Manager": CONFIG}))
