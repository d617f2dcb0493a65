"""Other nodes that do wrong: they are named, nothing breaks, and what comes after them is right."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import rclpy
from gs_semantic.msg import LabelMap
from rclpy.context import Context
from rig import LABELS, Rig
from sensor_msgs.msg import Image, PointCloud2

from gs_semantic.labels import palette
from gs_semantic.nodes import conversions, qos


def test_a_subscriber_of_the_wrong_type(rig: Rig) -> None:
    gc.collect()  # participants of earlier tests that still exist could be taken for the stranger's place on the domain
    context = Context()  # a process of its own as far as DDS is concerned
    rclpy.init(context=context)
    stranger = rclpy.create_node("viewer", context=context, namespace="elsewhere")
    stranger.create_subscription(PointCloud2, "/rig/mapper/instance/image", lambda msg: None, qos.IMAGE_OUTPUT)
    rig.told(
        "/rig/mapper/instance/image", "/elsewhere/viewer", "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Image"
    )
    stranger.destroy_node()
    rclpy.try_shutdown(context=context)
    rig.listen("instance/image", Image, qos.IMAGE_OUTPUT)
    stamp = rig.map_scene()
    assert rig.answer(stamp, "instance/image").any()


def test_a_label_map_that_does_not_fit(rig: Rig) -> None:
    header = conversions.make_header(0, "camera")
    rig.publishers["label_map"].publish(LabelMap(header=header, class_ids=[3, 7], names=["box"]))
    rig.told("/rig/label_map", "class_ids has 2 entries", "names has 1")
    rig.publishers["label_map"].publish(conversions.write_label_map(LABELS, palette(8), header))
    rig.still_works()


def test_class_names_of_a_vision_pipeline(rig: Rig) -> None:
    """Names as vision_msgs/LabelInfo are taken; a list that contradicts itself is told and changes nothing."""
    vision = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed")

    def classes(*names: tuple[int, str]) -> object:
        entries = [vision.VisionClass(class_id=key, class_name=name) for key, name in names]
        return vision.LabelInfo(header=conversions.make_header(0, "camera"), class_map=entries)

    rig.publishers["vision/label_info"] = rig.node.create_publisher(vision.LabelInfo, "vision/label_info", qos.LATCHED)
    rig.matched("vision/label_info")
    send = rig.publishers["vision/label_info"].publish
    send(classes((3, "box"), (3, "crate")))
    rig.told("/rig/vision/label_info: class_map names class 3 both 'box' and 'crate'", "[labels_unreadable]")
    send(classes((65535, "unlabelled")))
    rig.told("/rig/vision/label_info: class_map names no class")
    send(classes((7, "floor lamp"), (9, "mug"), (65535, "unlabelled")))
    rig.until(lambda: rig.mapper.mapper.objects.labels.names.get(9) == "mug", "the names")
    assert rig.mapper.mapper.objects.labels.names == {0: "void", 3: "box", 7: "floor lamp", 9: "mug"}
    rig.still_works()


def test_transforms_that_stop_and_come_back(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(sync_wait_s=0.2)
    rig.map_scene()
    for _ in range(3):
        messages = rig.messages(rig.next_stamp())
        del messages["/tf"]
        rig.publish(messages)
    rig.told("'camera' to 'map'", "ms newer than the newest")
    rig.still_works()


def test_masks_of_two_segmenters(rig: Rig) -> None:
    """One of them sends masks of old frames: those match no frame and do no harm."""
    stamp = rig.map_scene()
    second = rig.node.create_publisher(Image, "instance/image", qos.SENSOR_OUTPUT)
    rig.told("/rig/instance/image", "published by 2 nodes")
    second.publish(
        conversions.write_image(np.full((120, 160), 99, np.uint8), "mono8", conversions.make_header(stamp - 1, "camera"))
    )
    rig.node.destroy_publisher(second)
    rig.still_works()
