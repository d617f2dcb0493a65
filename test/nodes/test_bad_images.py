"""Images, masks and calibrations that cannot be used: the error names topic and field, the next frame is right again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rclpy
from rig import CAMERA, HEIGHT, WIDTH, Rig, scene
from sensor_msgs.msg import Image

from gs_semantic.gaussians import Camera
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.conversions import to_bytes_field


def test_zero_size(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    image = messages["color/image"]
    image.width = image.height = image.step = 0
    image.data = to_bytes_field(b"")
    rig.publish(messages)
    rig.told("/rig/color/image: width x height is 0x0", "the image is empty", "[image_empty]")
    rig.still_works()


def test_huge_frame(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    image = messages["color/image"]
    image.width = image.height = 100_000
    image.step = 300_000
    rig.publish(messages)
    rig.told("/rig/color/image: width x height is 100000x100000, more than", "[image_huge]")
    rig.still_works()


def test_big_endian(rig: Rig) -> None:
    """Is no fault: the same map comes of it."""
    for _ in range(4):
        stamp = rig.next_stamp()
        messages = rig.messages(stamp)
        depth, header = scene()[1], messages["depth/image"].header
        message = conversions.write_image((depth * 1000).astype(np.uint16), "16UC1", header)
        message.is_bigendian, message.data = 1, to_bytes_field((depth * 1000).astype(">u2"))
        messages["depth/image"] = message
        rig.publish(messages)
        semantic = rig.answer(stamp)
        rig.settled()
    rig.check(semantic)
    depths = rig.mapper.mapper.gaussians.means[:, 2].numpy()
    assert np.abs(depths[:, None] - [1.8, 2.0]).min(1).max() < 0.1


def test_empty_frame_id_of_colour(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["color/image"].header.frame_id = ""
    rig.publish(messages)
    rig.told("/rig/color/image: header.frame_id is empty", "[frame_id_empty]")
    rig.still_works()


def test_empty_frame_id_of_depth(rig: Rig) -> None:
    """Told, and taken for the colour image's frame, since the sizes are equal."""
    stamp = rig.next_stamp()
    messages = rig.messages(stamp)
    messages["depth/image"].header.frame_id = ""
    rig.publish(messages)
    rig.told("/rig/depth/image: header.frame_id is empty", "[frame_id_empty]")
    rig.answer(stamp)
    rig.still_works()


def masks_of(messages: dict[str, Any], ids: np.ndarray, encoding: str) -> None:
    messages["instance/image"] = conversions.write_image(ids, encoding, messages["instance/image"].header)


def test_masks_with_unknown_ids(rig: Rig) -> None:
    """Used; their classes are unknown."""
    messages = rig.messages(rig.next_stamp())
    ids = scene()[2].copy()
    ids[ids == 22] = 200
    masks_of(messages, ids, "mono8")
    rig.publish(messages)
    rig.told("/rig/instance/image: mask ids 200 are not in /rig/instance/info", "[mask_ids_unknown]")
    rig.still_works()


def test_more_masks_than_sixteen_bits_can_number(rig: Rig) -> None:
    stamp = rig.next_stamp()
    messages = larger(rig.messages(stamp), 4)  # so many do not fit an image of the rig's size
    masks_of(messages, np.arange(16 * HEIGHT * WIDTH, dtype=np.int32).reshape(4 * HEIGHT, 4 * WIDTH), "32SC1")
    rig.publish(messages)
    rig.told("/rig/instance/image: 307199 mask ids, 65534 at most", "without its masks", "[mask_ids_too_many]")
    rig.answer(stamp)  # the frame is not lost
    rig.still_works()


def larger(messages: dict[str, Any], factor: int) -> dict[str, Any]:
    """The same frame of a camera with more pixels."""
    for name, encoding in (("color/image", "rgb8"), ("depth/image", "32FC1"), ("instance/image", "mono8")):
        pixels = conversions.read_image(messages[name], name, (encoding,))
        pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
        messages[name] = conversions.write_image(np.ascontiguousarray(pixels), encoding, messages[name].header)
    camera = CAMERA.resized(factor * WIDTH, factor * HEIGHT)
    messages["color/camera_info"] = conversions.write_camera(camera, messages["color/image"].header)
    return messages


def test_one_mask_everywhere(rig: Rig) -> None:
    stamp = rig.next_stamp()
    messages = rig.messages(stamp)
    masks_of(messages, np.full((HEIGHT, WIDTH), 11, np.uint8), "mono8")
    rig.publish(messages)
    rig.told("/rig/instance/image: one mask fills the whole image", "without its masks", "[mask_only_one]")
    rig.answer(stamp)
    rig.settled()
    assert rig.status_after().objects == 0
    rig.still_works()


def test_negative_mask_ids(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    masks_of(messages, scene()[2].astype(np.int32) - 1, "32SC1")
    rig.publish(messages)
    rig.told("/rig/instance/image: data holds negative mask ids", "[mask_ids_negative]")
    rig.still_works()


def test_camera_info_that_changes_in_between(rig: Rig) -> None:
    """Told; every frame uses the calibration of its own stamp, so the map stays right."""
    rig.map_scene()
    before = rig.status_after().objects
    for _ in range(3):
        stamp = rig.next_stamp()
        rig.publish(larger(rig.messages(stamp), 2))
        semantic = rig.answer(stamp)
        rig.settled()
    rig.told("/rig/color/camera_info: the intrinsics have changed", "160x120", "320x240", "[camera_info_changed]")
    assert semantic.shape == (2 * HEIGHT, 2 * WIDTH)
    rig.check(semantic[::2, ::2])
    rig.still_works()  # and back
    assert rig.status_after().objects == before  # no second box beside the first


def test_camera_info_of_another_size(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    header = messages["color/image"].header
    messages["color/camera_info"] = conversions.write_camera(Camera(80, 60, 65.0, 65.0, 39.5, 29.5), header)
    rig.publish(messages)
    rig.told("/rig/color/camera_info: size 80x60 differs from that of /rig/color/image, 160x120", "[camera_info_size]")
    rig.still_works()


@pytest.mark.parametrize("values", [[float("nan")] * 5, [1e9] * 5])
def test_camera_info_with_impossible_distortion(rig: Rig, values: list[float]) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["color/camera_info"].d = values
    rig.publish(messages)
    rig.told("/rig/color/camera_info: d", "[camera_info_invalid]")
    rig.still_works()


def test_two_publishers_on_one_topic(rig: Rig) -> None:
    other = rclpy.create_node("second_camera", context=rig.context, namespace="rig")
    try:
        other.create_publisher(Image, "color/image", qos.SENSOR_OUTPUT)
        rig.told("/rig/color/image: published by 2 nodes at once", "/rig/camera", "/rig/second_camera")
    finally:
        other.destroy_node()
    rig.still_works()
