"""Pose sources, encodings and synchronisation as the running mapper sees them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rig import BOX_PIXEL, CAMERA, Rig
from tf2_msgs.msg import TFMessage

from gs_semantic.nodes import conversions, qos

MOVED = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])


def box_centre(rig: Rig) -> np.ndarray:
    with rig.planner() as planner:
        return next(obj for obj in planner.list_objects() if obj.label == "box").centroid


def expected(matrix: np.ndarray) -> np.ndarray:
    local = np.array([(BOX_PIXEL[0] - CAMERA.cx) / CAMERA.fx, (BOX_PIXEL[1] - CAMERA.cy) / CAMERA.fy, 1.0]) * 1.8
    return matrix[:3, :3] @ local + matrix[:3, 3]


def send_moved(rig: Rig, name: str, message: Callable[[int], object]) -> None:
    """Frames with another kind of pose than TF."""
    rig.matched(name)
    for _ in range(3):
        stamp = rig.next_stamp()
        messages = rig.messages(stamp)
        del messages["/tf"]
        messages[name] = message(stamp)
        rig.publish(messages)
        rig.answer(stamp)
        rig.settled()


def test_poses_of_the_camera(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(pose_source="pose")
    rig.publishers["pose"] = rig.node.create_publisher(PoseStamped, "pose", qos.POSE)
    send_moved(
        rig,
        "pose",
        lambda stamp: PoseStamped(
            header=conversions.make_header(stamp, "world"), pose=conversions.write_pose(MOVED)
        ),
    )
    np.testing.assert_allclose(box_centre(rig), expected(MOVED), atol=0.05)
    assert rig.status_after().header.frame_id == "world"  # the map is where the poses are


def test_odometry_of_a_body_with_the_camera_by_static_tf(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(pose_source="odom")
    T_body_camera = np.eye(4)
    T_body_camera[:3, 3] = [0.3, 0, 1]
    static = rig.node.create_publisher(TFMessage, "/tf_static", qos.STATIC_TF)
    transform = rig.transform(0, T_body_camera)
    transform.transforms[0].header.frame_id = "body"
    static.publish(transform)
    rig.publishers["odom"] = rig.node.create_publisher(Odometry, "odom", qos.POSE)

    def odometry(stamp: int) -> Odometry:
        msg = Odometry(header=conversions.make_header(stamp, "odom"), child_frame_id="body")
        msg.pose.pose = conversions.write_pose(MOVED)
        return msg

    send_moved(rig, "odom", odometry)
    np.testing.assert_allclose(box_centre(rig), expected(MOVED @ T_body_camera), atol=0.05)


def test_odometry_with_nan(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(pose_source="odom")
    rig.publishers["odom"] = rig.node.create_publisher(Odometry, "odom", qos.POSE)

    def odometry(stamp: int, x: float = 5.0) -> Odometry:
        msg = Odometry(header=conversions.make_header(stamp, "odom"), child_frame_id="camera")
        msg.pose.pose = conversions.write_pose(MOVED)
        msg.pose.pose.position.x = x
        return msg

    rig.matched("odom")
    rig.publishers["odom"].publish(odometry(rig.next_stamp(), float("nan")))
    rig.told("/rig/odom: pose.pose: contains NaN")
    send_moved(rig, "odom", odometry)
    np.testing.assert_allclose(box_centre(rig), expected(MOVED), atol=0.05)


def test_pose_between_two_transforms(make_rig: Callable[..., Rig]) -> None:
    """TF at other stamps than the images': interpolated, and waited for."""
    rig = make_rig()
    for _ in range(3):
        stamp = rig.next_stamp()
        messages = rig.messages(stamp)
        del messages["/tf"]
        rig.publishers["/tf"].publish(rig.transform(stamp - 20_000_000, np.diag([1.0, 1, 1, 1])))
        rig.publish(messages)
        assert not rig.answered(stamp)
        later = np.eye(4)
        rig.publishers["/tf"].publish(rig.transform(stamp + 20_000_000, later))
        rig.answer(stamp)
        rig.settled()
    np.testing.assert_allclose(box_centre(rig), expected(np.eye(4)), atol=0.05)


def test_stamps_within_the_slop(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(sync_slop_s=0.02)
    for _ in range(4):
        stamp = rig.next_stamp()
        messages = rig.messages(stamp)
        messages["depth/image"].header.stamp = conversions.to_stamp(stamp + 9_000_000)
        messages["instance/image"].header.stamp = conversions.to_stamp(stamp + 3_000_000)
        messages["instance/info"].header.stamp = conversions.to_stamp(stamp + 3_000_000)
        rig.publish(messages)
        rig.answer(stamp)
        rig.settled()
    rig.check(rig.answer(stamp))


@pytest.mark.parametrize(("colour", "depth", "instance"), [("bgra8", "16UC1", "16UC1"), ("bgr8", "mono16", "32SC1")])
def test_other_encodings(make_rig: Callable[..., Rig], colour: str, depth: str, instance: str) -> None:
    rig = make_rig()
    for _ in range(4):
        stamp = rig.next_stamp()
        messages = rig.messages(stamp)
        header = messages["color/image"].header
        rgb = conversions.read_colour(messages["color/image"], "t")
        pixels = rgb[..., ::-1] if colour == "bgr8" else np.dstack([rgb[..., ::-1], rgb[..., :1]])
        messages["color/image"] = conversions.write_image(np.ascontiguousarray(pixels), colour, header)
        metres = conversions.read_depth(messages["depth/image"], "t")
        messages["depth/image"] = conversions.write_image((metres * 1000).round().astype(np.uint16), depth, header)
        ids = conversions.read_instances(messages["instance/image"], "t")
        kind = np.uint16 if instance == "16UC1" else np.int32
        messages["instance/image"] = conversions.write_image(ids.astype(kind), instance, header)
        rig.publish(messages)
        rig.answer(stamp)
        rig.settled()
    rig.check(rig.answer(stamp))
    np.testing.assert_allclose(box_centre(rig), expected(np.eye(4)), atol=0.05)


def test_without_depth_labels_come_from_a_map_that_was_there(make_rig: Callable[..., Rig], tmp_path) -> None:
    first = make_rig()
    first.map_scene()
    first.mapper.save(tmp_path / "map")
    first.close()
    rig = make_rig(use_depth="never", load_map=str(tmp_path / "map"), keyframe_interval_s=3600.0)
    messages = rig.messages(rig.next_stamp(), masks=False)
    del messages["depth/image"]
    rig.publish(messages)
    stamp = conversions.to_ns(messages["color/image"].header.stamp)
    rig.check(rig.answer(stamp))
