"""Poses and stamps that cannot be right: told with topic, frames and amount, and the next good frame is mapped right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gs_semantic.msg import Status
from nav_msgs.msg import Odometry
from rig import START_NS, Rig

from gs_semantic.nodes import conversions, qos

S = 1_000_000_000


def at(x: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix


def send_at(rig: Rig, x: float) -> int:
    """A good frame, but for a camera that is said to be at x."""
    stamp = rig.next_stamp()
    messages = rig.messages(stamp)
    messages["/tf"] = rig.transform(stamp, at(x))
    rig.publish(messages)
    return stamp


def test_a_pose_jump_of_10_m_is_not_mapped(rig: Rig) -> None:
    rig.map_scene()
    gaussians = rig.status_after().gaussians
    rig.answer(send_at(rig, 10.0))
    rig.told("/tf: camera 'camera'", "jumped by 10.00 m in 0.10 s", "~/reset")
    rig.answer(send_at(rig, 0.0))
    rig.settled()
    assert rig.status_after().gaussians == gaussians  # nothing was seeded over there
    rig.still_works()


def test_a_jump_that_stays_is_believed(rig: Rig) -> None:
    rig.map_scene()
    rig.settled()
    before = rig.mapper.statistics.frames_mapped
    for _ in range(4):
        rig.answer(send_at(rig, 10.0))
    rig.until(lambda: rig.mapper.statistics.frames_mapped >= before + 2, "frames after three in a row")
    rig.settled()
    means = rig.mapper.view.gaussians.means.numpy()
    assert (means[:, 0] > 5).any() and (means[:, 0] < 5).any()


def test_a_loop_of_transforms(rig: Rig) -> None:
    rig.map_scene()
    loop = rig.transform(rig.next_stamp())
    loop.transforms[0].header.frame_id, loop.transforms[0].child_frame_id = "camera", "map"
    rig.publishers["/tf"].publish(loop)
    rig.told("/tf: 'map' in 'camera' would close a loop of frames: map -> camera -> map")
    rig.still_works()


def test_a_late_transform(rig: Rig) -> None:
    rig.map_scene()
    messages = rig.messages(rig.next_stamp())
    del messages["/tf"]
    rig.publish(messages)
    rig.told("transform from 'camera' to 'map'", "100.0 ms newer than the newest", "sync_wait_s")
    rig.still_works()


def test_an_image_older_than_the_transforms(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(sync_wait_s=0.1)
    messages = rig.messages(rig.next_stamp())
    messages["/tf"] = rig.transform(rig.next_stamp() + 400_000_000)
    rig.publish(messages)
    rig.told("transform from 'camera' to 'map'", "500.0 ms older than the oldest", "one clock")
    rig.number += 10
    rig.still_works()


def test_a_stamp_of_zero(rig: Rig) -> None:
    rig.publish(rig.messages(0))
    rig.told("/rig/color/image: header.stamp is zero", "Let the publisher set the time")
    rig.still_works()


def test_a_transform_with_a_stamp_of_zero(rig: Rig) -> None:
    rig.publishers["/tf"].publish(rig.transform(0))
    rig.told("/tf ('camera'): header.stamp is zero")
    rig.still_works()


def test_a_stamp_in_the_future(rig: Rig) -> None:
    rig.map_scene()
    now = rig.node.get_clock().now().nanoseconds
    stamp = now + 3600 * S
    rig.publish(rig.messages(stamp))
    rig.told("/rig/color/image: the stamp is 3600", "s ahead of this node's clock", "use_sim_time")
    rig.check(rig.answer(stamp))  # its pose is known: it is used
    rig.still_works()  # and what follows is no older message for it


def test_a_stamp_that_is_a_little_older(rig: Rig) -> None:
    stamp = rig.map_scene()
    rig.publish(rig.messages(stamp - 50_000_000))
    rig.told("/rig/color/image", "is not newer than the one before", "second publisher")
    rig.still_works()


def test_a_bag_that_starts_again_is_told_once(rig: Rig) -> None:
    rig.map_scene()
    rig.number = -50
    for _ in range(3):
        rig.answer(rig.send())
    rig.told("jumped back by 5.", "cleared")
    assert rig.mapper.inputs.stamps.jumps == 1
    assert rig.mapper.inputs.poses._transforms.newest_ns < START_NS  # only those of the new time
    rig.settled()
    rig.still_works()


def test_an_orientation_that_is_no_rotation(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(pose_source="odom")
    rig.publishers["odom"] = rig.node.create_publisher(Odometry, "odom", qos.POSE)
    rig.matched("odom")

    def odometry(stamp: int, w: float = 1.0) -> Odometry:
        msg = Odometry(header=conversions.make_header(stamp, "map"), child_frame_id="camera")
        msg.pose.pose = conversions.write_pose(np.eye(4))
        msg.pose.pose.orientation.w = w
        return msg

    rig.publishers["odom"].publish(odometry(rig.next_stamp(), 3.0))
    rig.told("/rig/odom: pose.pose", "length 3", "Normalise it")
    stamp = rig.next_stamp()
    messages = rig.messages(stamp)
    del messages["/tf"]
    rig.publish({**messages, "odom": odometry(stamp)})
    rig.answer(stamp)


def test_odometry_that_stops_and_comes_back(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(pose_source="odom", sync_wait_s=0.1)
    rig.publishers["odom"] = rig.node.create_publisher(Odometry, "odom", qos.POSE)
    rig.matched("odom")

    def send(pose: bool) -> int:
        stamp = rig.next_stamp()
        messages = rig.messages(stamp)
        del messages["/tf"]
        if pose:
            msg = Odometry(header=conversions.make_header(stamp, "map"), child_frame_id="camera")
            msg.pose.pose = conversions.write_pose(np.eye(4))
            messages["odom"] = msg
        rig.publish(messages)
        return stamp

    send(pose=False)
    rig.told("/rig/odom: no message has come", "pose_source")
    rig.answer(send(pose=True))
    rig.number += 30
    send(pose=False)
    rig.told("/rig/odom: poses have stopped", "3.1 s before the newest image")
    rig.answer(send(pose=True))
    status: Status = rig.status_when(lambda status: status.frames_mapped >= 2, "the second mapped frame")
    assert status.pose_missing == 2 and status.frames_mapped == 2
