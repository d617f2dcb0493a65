"""The doctor: what it says of messages and publishers, and of a live graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rig import Rig
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from gs_semantic.gaussians import Camera
from gs_semantic.nodes import conversions, doctor, qos
from gs_semantic.nodes.arguments import plan_segment
from gs_semantic.nodes.camera_input import COLOUR, DEPTH, DEPTH_INFO, INFO, INSTANCE
from gs_semantic.nodes.doctor import Doctor, Setting
from gs_semantic.nodes.faults import Finding, Severity
from gs_semantic.nodes.subscriptions import type_name
from gs_semantic.nodes.transforms import TransformError

CAMERA = Camera(16, 12, 13.0, 13.0, 7.5, 5.5)
PERIOD_NS = 100_000_000


@pytest.fixture
def node(ros_domain_id: int) -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context)
    node = Node("doctor", context=context, enable_rosout=False, start_parameter_services=False)
    yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def setting(**parameters: Any) -> Setting:
    made = Setting.of(plan_segment({"namespace": "robot"})[0])
    made.parameters |= parameters
    return made


def publisher(kind: type[Any], name: str = "camera", profile: QoSProfile = qos.SENSOR_OUTPUT) -> SimpleNamespace:
    """Stands for a TopicEndpointInfo."""
    return SimpleNamespace(
        node_name=name, node_namespace="/robot", topic_type=type_name(kind), qos_profile=profile
    )


class Bench:
    """A doctor that is handed messages instead of a graph."""

    def __init__(self, node: Node, **parameters: Any) -> None:
        self.doctor = Doctor(node, setting(**parameters))
        self.doctor.listened_s = 5.0
        self.start_ns = time.time_ns() - 10 * PERIOD_NS
        for stream in self.doctor.streams.values():
            if stream.role in (COLOUR, DEPTH, INFO, "/tf", "odom", "pose"):
                stream.publishers = [publisher(stream.kinds[0])]

    def send(self, role: str, msg: Any) -> None:
        self.doctor._receiver(self.doctor.streams[role])(msg)

    def frame(self, number: int, **changes: Any) -> dict[str, Any]:
        """Messages of one frame by role."""
        stamp = self.start_ns + number * PERIOD_NS
        header = lambda: conversions.make_header(stamp, "camera")
        transform = TransformStamped(header=conversions.make_header(stamp, "map"), child_frame_id="camera")
        transform.transform = conversions.write_transform(np.eye(4))
        return {
            "/tf": TFMessage(transforms=[transform]),
            INFO: conversions.write_camera(CAMERA, header()),
            DEPTH: conversions.write_image(np.ones((12, 16), np.float32), "32FC1", header()),
            COLOUR: conversions.write_image(np.zeros((12, 16, 3), np.uint8), "rgb8", header()),
            **changes,
        }

    def play(self, change: Any = lambda messages: None, frames: int = 6) -> list[Finding]:
        """Send frames, each after ``change`` has had its way with it; then the verdict."""
        for number in range(frames):
            messages = self.frame(number)
            change(messages)
            for role, msg in messages.items():
                if role in self.doctor.streams:
                    self.send(role, msg)
        self.doctor.due = type(self.doctor.due)((0.0, stamp) for _, stamp in self.doctor.due)
        self.doctor._check_poses()
        return self.doctor.findings()


def faults_of(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings if finding.severity > Severity.OK}


def test_a_healthy_graph_has_no_faults(node: Node) -> None:
    findings = Bench(node).play()
    assert faults_of(findings) == {}
    assert any("in step" in finding.message for finding in findings)
    assert any("pose of 'camera' is known" in finding.message for finding in findings)
    assert any("registered" in finding.message for finding in findings)


def only(findings: list[Finding], name: str, *words: str) -> Finding:
    """The findings hold this one fault, and it says so."""
    found = faults_of(findings)
    assert set(found) == {name}
    assert all(word in f"{found[name].subject} {found[name].message}" for word in words), found[name]
    assert found[name].mend
    return found[name]


def test_no_publisher_names_topics_of_that_type(node: Node) -> None:
    other = node.create_publisher(Image, "/somewhere/image_raw", 1)
    bench = Bench(node)
    bench.doctor.streams[DEPTH].publishers = []
    found = only(bench.play(lambda messages: messages.pop(DEPTH)), "no_publisher", "/robot/depth/image")
    assert "/somewhere/image_raw" in found.mend
    assert "depth_image:=" in found.mend
    node.destroy_publisher(other)


def test_wrong_type(node: Node) -> None:
    bench = Bench(node)
    bench.doctor.streams[DEPTH].publishers = [publisher(PoseStamped, "driver")]
    found = bench.play(lambda messages: messages.pop(DEPTH))
    only(found, "wrong_type", "/robot/depth/image", "/robot/driver", "geometry_msgs/msg/PoseStamped")


def test_incompatible_quality_of_service(node: Node) -> None:
    bench = Bench(node, input_qos="reliable")
    bench.doctor.streams[DEPTH].publishers = [publisher(Image, "driver", qos.sensor_input("best_effort"))]
    only(bench.play(), "qos_incompatible", "/robot/depth/image", "/robot/driver", "reliability best effort")


def test_volatile_static_transforms(node: Node) -> None:
    bench = Bench(node)
    volatile = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
    bench.doctor.streams["/tf_static"].publishers = [publisher(TFMessage, "driver", volatile)]
    only(bench.play(), "qos_incompatible", "/tf_static", "durability volatile")


def test_two_publishers(node: Node) -> None:
    bench = Bench(node)
    bench.doctor.streams[COLOUR].publishers.append(publisher(Image, "bag"))
    only(bench.play(), "two_publishers", "/robot/color/image", "/robot/bag", "/robot/camera")


def test_silent_topic(node: Node) -> None:
    only(Bench(node).play(lambda messages: messages.pop(DEPTH)), "no_message", "/robot/depth/image", "5.0 s")


def test_topic_that_has_stopped(node: Node) -> None:
    bench = Bench(node)
    for number in range(6):
        for role, msg in bench.frame(number).items():
            bench.send(role, msg)
    arrivals = bench.doctor.streams[DEPTH].arrivals
    for at in range(len(arrivals)):
        arrivals[at] -= 10
    only(bench.doctor.findings(), "no_longer", "/robot/depth/image", "10.0 s")


def test_missing_camera_info(node: Node) -> None:
    only(Bench(node).play(lambda messages: messages.pop(INFO)), "camera_info_missing", "/robot/color/camera_info")


def test_uncalibrated_camera(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        messages[INFO].k = np.zeros(9)

    only(Bench(node).play(change), "camera_info_invalid", "/robot/color/camera_info", "fx=0")


def test_camera_info_of_another_size(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        messages[INFO].width, messages[INFO].height = 32, 24

    only(Bench(node).play(change), "camera_info_size", "32x24", "16x12")


def test_unsupported_encoding(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        messages[COLOUR].encoding = "64FC3"

    only(Bench(node).play(change), "encoding", "/robot/color/image", "64FC3")


def test_depth_of_another_size(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        header = messages[DEPTH].header
        messages[DEPTH] = conversions.write_image(np.ones((6, 8), np.float32), "32FC1", header)

    only(Bench(node).play(change), "depth_unregistered", "/robot/depth/image", "8x6", "16x12")


def test_depth_in_another_frame(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        messages[DEPTH].header.frame_id = "depth_camera"

    only(Bench(node).play(change), "depth_unregistered", "'depth_camera'", "'camera'")


def depth_info(messages: dict[str, Any], frame: str) -> None:
    """Depth of a camera with other intrinsics."""
    messages[DEPTH].header.frame_id = frame
    messages[DEPTH_INFO] = conversions.write_camera(Camera(16, 12, 20.0, 20.0, 7.5, 5.5), messages[DEPTH].header)


def test_depth_with_other_intrinsics_and_a_transform_is_registered_by_the_mapper(node: Node) -> None:
    findings = Bench(node).play(lambda messages: depth_info(messages, "camera"))
    assert faults_of(findings) == {}
    assert any("fx 20.0 / 13.0" in f.message and "the mapper registers it" in f.message for f in findings)


def test_depth_of_another_camera_without_a_transform(node: Node) -> None:
    found = Bench(node).play(lambda messages: depth_info(messages, "depth_camera"))
    only(found, "depth_unregistered", "'depth_camera' differs from 'camera'", "no transform from 'depth_camera'")


def test_masks_of_another_size(node: Node) -> None:
    bench = Bench(node)

    def change(messages: dict[str, Any]) -> None:
        header = messages[COLOUR].header
        messages[INSTANCE] = conversions.write_image(np.ones((6, 8), np.uint8), "mono8", header)

    bench.doctor.streams[INSTANCE].publishers = [publisher(Image, "segmenter")]
    only(bench.play(change), "mask_size", "/robot/instance/image", "8x6", "16x12")


def test_empty_frame_id(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        messages[COLOUR].header.frame_id = ""

    only(Bench(node).play(change), "frame_id_empty", "/robot/color/image")


def test_unsynchronised_stamps(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        stamp = conversions.to_ns(messages[DEPTH].header.stamp) + 7_000_000
        messages[DEPTH].header.stamp = conversions.to_stamp(stamp)

    only(Bench(node).play(change), "stamps_apart", "/robot/depth/image", "+7.0 ms")


def test_a_slop_that_is_wide_enough(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        stamp = conversions.to_ns(messages[DEPTH].header.stamp) + 7_000_000
        messages[DEPTH].header.stamp = conversions.to_stamp(stamp)

    assert faults_of(Bench(node, sync_slop_s=0.01).play(change)) == {}


def test_zero_stamps(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        for role in (COLOUR, DEPTH):
            messages[role].header.stamp = conversions.to_stamp(0)

    assert "stamp_zero" in faults_of(Bench(node).play(change))


def test_stamps_that_repeat(node: Node) -> None:
    bench = Bench(node)
    bench.play()
    for role, msg in bench.frame(5).items():
        bench.send(role, msg)
    assert "/robot/color/image" in faults_of(bench.doctor.findings())["stamp_not_newer"].message or (
        "/robot/depth/image" in faults_of(bench.doctor.findings())["stamp_not_newer"].message
    )


def test_stamps_of_the_future(node: Node) -> None:
    bench = Bench(node)
    bench.start_ns += 3600 * 10**9
    only(bench.play(), "stamp_future", "/robot/color/image", "3599.")


def test_a_clock_that_is_not_used(node: Node) -> None:
    clock = node.create_publisher(doctor.Clock, "/clock", 1)
    bench = Bench(node)
    bench.start_ns -= 3600 * 10**9
    only(bench.play(), "clock_unused", "/doctor", "3601 s")
    node.destroy_publisher(clock)


def test_a_clock_without_publisher(node: Node) -> None:
    only(Bench(node, use_sim_time=True).play(), "clock_silent", "/clock has no publisher")


def test_nobody_publishes_transforms(node: Node) -> None:
    bench = Bench(node)
    bench.doctor.streams["/tf"].publishers = []
    only(bench.play(lambda messages: messages.pop("/tf")), "tf_missing", "'camera' to 'map'", "nobody publishes /tf")


def test_unknown_frame(node: Node) -> None:
    found = only(Bench(node, global_frame="world").play(), "tf_missing", "'world' is unknown", "camera, map")
    assert "global_frame" in found.mend


def test_late_transforms(node: Node) -> None:
    bench = Bench(node)
    only(bench.play(lambda messages: bench.start_ns and delay(messages, -400)), "tf_late", "400.0 ms newer")


def test_images_from_before_the_doctor_listened_are_no_fault(node: Node) -> None:
    bench = Bench(node)
    for number in (-3, -2, -1):
        bench.send(COLOUR, bench.frame(number)[COLOUR])
    for role in (DEPTH, INFO):
        bench.send(role, bench.frame(-1)[role])
    found = faults_of(bench.play(frames=20))
    assert "tf_old" not in found


def test_images_of_another_clock(node: Node) -> None:
    bench = Bench(node)
    only(bench.play(lambda messages: delay(messages, 60_000)), "tf_old", "ms older than the oldest")


def delay(messages: dict[str, Any], milliseconds: int) -> None:
    header = messages["/tf"].transforms[0].header
    header.stamp = conversions.to_stamp(conversions.to_ns(header.stamp) + milliseconds * 1_000_000)


def test_damaged_transform(node: Node) -> None:
    def change(messages: dict[str, Any]) -> None:
        messages["/tf"].transforms[0].transform.rotation.w = 0.0

    assert "'camera' in 'map'" in faults_of(Bench(node).play(change))["pose_not_unit"].message


def odometry(stamp_ns: int, frame: str = "odom") -> Odometry:
    msg = Odometry(header=conversions.make_header(stamp_ns, frame), child_frame_id="base")
    msg.pose.pose = conversions.write_pose(np.eye(4))
    return msg


def test_odometry_without_the_camera_on_the_robot(node: Node) -> None:
    bench = Bench(node, pose_source="odom")

    def change(messages: dict[str, Any]) -> None:
        messages["odom"] = odometry(conversions.to_ns(messages[COLOUR].header.stamp))

    only(bench.play(change), "tf_missing", "'camera' to 'base'", "'base' is unknown")


def test_odometry_that_has_stopped(node: Node) -> None:
    bench = Bench(node, pose_source="odom")
    bench.send("odom", odometry(bench.start_ns - 5 * 10**9))
    assert "5.5 s before" in faults_of(bench.play())["pose_lost"].message


def test_odometry_without_frame(node: Node) -> None:
    bench = Bench(node, pose_source="odom")
    bench.send("odom", odometry(bench.start_ns, frame=""))
    assert "/robot/odom" in faults_of(bench.play())["frame_id_empty"].message


def test_pose_topic_that_is_silent(node: Node) -> None:
    found = faults_of(Bench(node, pose_source="pose").play())
    assert set(found) <= {"pose_missing", "no_message"}
    assert "/robot/pose" in found["pose_missing"].message


def test_settings_come_from_the_start_arguments(tmp_path: Any) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**/mapper:\n  ros__parameters:\n    input_qos: reliable\n    sync_slop_s: 0.02\n")
    words = {"namespace": "robot", "color_image": "/camera/image", "pose_source": "odom", "params_file": str(file)}
    made = Setting.of(plan_segment(words)[0])
    assert made.topic(COLOUR) == "/camera/image"
    assert made.topic(DEPTH) == "/robot/depth/image"
    assert made.mapper == "/robot/mapper"
    assert made.parameters["input_qos"] == "reliable"
    assert made.parameters["sync_slop_s"] == 0.02
    assert made.parameters["pose_source"] == "odom"
    assert "odom" in made.streams()
    assert made.streams()[COLOUR].requested.reliability == ReliabilityPolicy.RELIABLE


def test_static_transforms_sent_long_ago_are_heard(node: Node) -> None:
    context = Context()
    rclpy.init(context=context)
    robot = Node("robot", context=context)
    static = robot.create_publisher(TFMessage, "/tf_static", qos.STATIC_TF)
    entry = TransformStamped(header=conversions.make_header(0, "base"), child_frame_id="camera")
    static.publish(TFMessage(transforms=[entry]))
    look = Doctor(node, setting())

    def heard() -> bool:
        with suppress(TransformError):
            return look.transforms.lookup("base", "camera", 5) is not None
        return False

    try:
        look.listen(60.0, until=heard)
        found = look.findings()
        look.close()
    finally:
        robot.destroy_node()
        rclpy.try_shutdown(context=context)
    assert look.transforms.lookup("base", "camera", 5).shape == (4, 4)
    assert any(finding.subject == "/tf_static" and "/robot" in finding.message for finding in found)


def test_a_running_mapper_is_asked_for_its_parameters(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(sync_slop_s=0.02, depth_registered=True, input_qos="reliable")
    rig.map_scene()
    context = Context()
    rclpy.init(context=context)
    node = Node("doctor", context=context)
    try:
        look = Doctor(node, Setting.of(plan_segment({"namespace": "rig"})[0]))
        for _ in range(10):  # ~/status comes once a second, on a busy machine later
            look.listen(2.5)
            found = look.findings()
            if any("state 'mapping'" in finding.message for finding in found):
                break
        look.close()
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    assert look.found_mapper
    assert look.setting.parameters["sync_slop_s"] == 0.02
    assert look.setting.parameters["depth_registered"] is True
    assert look.setting.parameters["input_qos"] == "reliable"
    assert look.setting.parameters["cameras"] == []
    assert look.streams[COLOUR].requested.reliability == ReliabilityPolicy.RELIABLE
    assert any(finding.subject == "/rig/mapper" and "state 'mapping'" in finding.message for finding in found)
    # the rig's camera is silent by now; the doctor listens for what comes
    assert {"no_message", "camera_info_missing"} & {finding.name for finding in found}
