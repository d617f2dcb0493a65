"""Cameras as they come: compressed, distorted, with depth beside colour, and several at once."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from rclpy.parameter import Parameter
from rig import BOX_PIXEL, CAMERA, HEIGHT, LAMP_PIXEL, MASKS, PATIENCE_S, WIDTH, Rig, StopEvent, scene
from sensor_msgs.msg import CameraInfo, CompressedImage

from gs_semantic.data.images import Lens
from gs_semantic.data.sequence import RgbdSequence
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.mapper_parameters import NodeParameters, check
from gs_semantic.nodes.replay_node import ReplayNode
from gs_semantic.share import share_path

PLUMB_BOB = [0.2, -0.3, 0.001, -0.002, 0.1]
RATIONAL = [0.25, 0.1, 0.001, 0.0, 0.02, 0.05, 0.02, 0.01]
FISHEYE = [0.05, -0.02, 0.003, 0.0]


def box_centre(rig: Rig) -> np.ndarray:
    with rig.planner() as planner:
        return next(obj for obj in planner.list_objects() if obj.label == "box").centroid


def expected(pixel: tuple[int, int] = BOX_PIXEL) -> np.ndarray:
    return np.array([(pixel[0] - CAMERA.cx) / CAMERA.fx, (pixel[1] - CAMERA.cy) / CAMERA.fy, 1.0]) * 1.8


def feed(rig: Rig, change: Callable[[dict[str, Any]], None], answer: str = "semantic/image") -> np.ndarray:
    """Frames with changed messages; the answer to the last of them."""
    for _ in range(4):
        stamp = rig.next_stamp()
        messages = rig.messages(stamp)
        change(messages)
        rig.publish(messages)
        found = rig.answer(stamp, answer)
        rig.settled()
    return found


# --- transports -------------------------------------------------------------------------------------------------------


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def compress(messages: dict[str, Any]) -> None:
    """Replace the images by what image_transport's compressed publishers send."""
    rgb = conversions.read_colour(messages["color/image"], "t")
    depth = conversions.read_depth(messages["depth/image"], "t")
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes()
    millimetres = (depth * 1000).round().astype(np.uint16)
    for name, ending, data, text in (
        ("depth/image", "/compressedDepth", bytes(12) + png(millimetres), "16UC1; compressedDepth png"),
        ("instance/image", "/compressed", png(scene()[2]), "mono8; png compressed "),
        ("color/image", "/compressed", jpeg, "rgb8; jpeg compressed bgr8"),
    ):
        header = messages.pop(name).header
        messages[name + ending] = CompressedImage(header=header, format=text, data=conversions.to_bytes_field(data))


COMPRESSED = ("depth/image/compressedDepth", "instance/image/compressed", "color/image/compressed")


@pytest.mark.parametrize("transport", ["auto", "compressed"])
def test_compressed_images(make_rig: Callable[..., Rig], transport: str) -> None:
    """auto: taken when nobody publishes raw ones, also when the camera starts after the mapper."""
    told = {f"{name}_transport": transport for name in ("color", "depth", "mask")}
    rig = make_rig(connect=transport == "auto", **told)
    for name in COMPRESSED:
        rig.node.destroy_publisher(rig.publishers.pop(name.rpartition("/")[0]))
        rig.publishers[name] = rig.node.create_publisher(CompressedImage, name, qos.SENSOR_OUTPUT)
    rig.matched(*COMPRESSED)
    rig.check(feed(rig, compress))
    np.testing.assert_allclose(box_centre(rig), expected(), atol=0.05)


def test_jpeg_that_is_not_one(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(connect=False, color_transport="compressed")
    rig.node.destroy_publisher(rig.publishers.pop("color/image"))
    name = "color/image/compressed"
    rig.publishers[name] = rig.node.create_publisher(CompressedImage, name, qos.SENSOR_OUTPUT)
    rig.matched(name, "depth/image", "instance/image", "instance/info", "color/camera_info", "/tf")

    def colour(messages: dict[str, Any], data: bytes) -> None:
        header = messages.pop("color/image").header
        messages[name] = CompressedImage(header=header, format="jpeg", data=conversions.to_bytes_field(data))

    messages = rig.messages(rig.next_stamp())
    colour(messages, b"\xff\xd8 this is no picture")
    rig.publish(messages)
    rig.told("/rig/color/image/compressed", "data with format 'jpeg' cannot be decoded", "[compressed]")
    jpeg = cv2.imencode(".jpg", scene()[0][..., ::-1])[1].tobytes()
    rig.check(feed(rig, lambda messages: colour(messages, jpeg)))


# --- distortion -------------------------------------------------------------------------------------------------------


def distort(messages: dict[str, Any], model: str, coefficients: list[float]) -> None:
    """What a camera with a lens sees of the scene; registered depth and masks, too."""
    lens = Lens(CAMERA, np.array(coefficients), model == "equidistant")
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    pixels = np.stack([u.ravel(), v.ravel()], 1)[:, None]
    make = cv2.fisheye.undistortPoints if lens.fisheye else cv2.undistortPoints
    ideal = make(pixels, CAMERA.K, lens.coefficients)[:, 0] * [CAMERA.fx, CAMERA.fy] + [CAMERA.cx, CAMERA.cy]
    maps = ideal.reshape(HEIGHT, WIDTH, 2).astype(np.float32)
    for name, kind in (("color/image", "rgb8"), ("depth/image", "32FC1"), ("instance/image", "mono8")):
        pixels = conversions.read_image(messages[name], name, (kind,))
        seen = cv2.remap(pixels, maps, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        messages[name] = conversions.write_image(seen, kind, messages[name].header)
    messages["color/camera_info"].distortion_model = model
    messages["color/camera_info"].d = coefficients


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [("plumb_bob", PLUMB_BOB), ("rational_polynomial", RATIONAL), ("equidistant", FISHEYE)],
)
def test_distorted_cameras_are_undistorted(make_rig: Callable[..., Rig], model: str, coefficients: list[float]) -> None:
    rig = make_rig()
    rig.listen("semantic/camera_info", CameraInfo, qos.IMAGE_OUTPUT)
    semantic = feed(rig, lambda messages: distort(messages, model, coefficients))
    camera = conversions.read_camera(rig.received["semantic/camera_info"][-1], "t")  # of the label images
    lens = Lens(CAMERA, np.array(coefficients), model == "equidistant")
    assert (camera.fx, camera.cx) == (lens.camera.fx, lens.camera.cx)
    for pixel, class_id in ((BOX_PIXEL, 3), (LAMP_PIXEL, 7)):
        ray = (np.array(pixel) - [CAMERA.cx, CAMERA.cy]) / [CAMERA.fx, CAMERA.fy]
        u, v = np.round(ray * [camera.fx, camera.fy] + [camera.cx, camera.cy]).astype(int)
        assert semantic[v, u] == class_id
    np.testing.assert_allclose(box_centre(rig), expected(), atol=0.05)


def test_distortion_matters(make_rig: Callable[..., Rig]) -> None:
    """The same images, taken for undistorted ones, put the box elsewhere: the test above tests something."""
    rig = make_rig(rectified="yes")
    feed(rig, lambda messages: distort(messages, "plumb_bob", [0.8, 0.0, 0.0, 0.0, 0.0]))
    wrong = box_centre(rig)
    rig.close()
    rig = make_rig()
    feed(rig, lambda messages: distort(messages, "plumb_bob", [0.8, 0.0, 0.0, 0.0, 0.0]))
    assert np.linalg.norm(wrong - expected()) > 2 * np.linalg.norm(box_centre(rig) - expected())


def test_unknown_distortion_model(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["color/camera_info"].distortion_model, messages["color/camera_info"].d = "squid", [0.1, 0.2]
    rig.publish(messages)
    rig.told("/rig/color/camera_info", "distortion_model 'squid' with 2 coefficients", "plumb_bob", "[distortion]")
    rig.still_works()


# --- depth beside colour ----------------------------------------------------------------------------------------------

DEPTH_CAMERA = Camera(200, 150, 140.0, 140.0, 99.5, 74.5)
T_COLOUR_DEPTH = np.eye(4)
T_COLOUR_DEPTH[:3, 3] = [0.05, 0.0, 0.0]


def aside(messages: dict[str, Any], info: bool = True) -> None:
    """Depth from a camera 5 cm to the right of the colour camera."""
    stamp = conversions.to_ns(messages["color/image"].header.stamp)
    header = conversions.make_header(stamp, "depth_camera")
    v, u = np.mgrid[0:150, 0:200]
    x, y = (u - DEPTH_CAMERA.cx) / DEPTH_CAMERA.fx, (v - DEPTH_CAMERA.cy) / DEPTH_CAMERA.fy
    depth = np.full((150, 200), 2.0, np.float32)
    for pixel in (BOX_PIXEL, LAMP_PIXEL):  # the squares stand 1.8 m ahead
        low = (np.array(pixel) - 20 - [CAMERA.cx, CAMERA.cy]) / CAMERA.fx * 1.8
        high = (np.array(pixel) + 20 - [CAMERA.cx, CAMERA.cy]) / CAMERA.fx * 1.8
        seen = (x * 1.8 + 0.05 > low[0]) & (x * 1.8 + 0.05 < high[0]) & (y * 1.8 > low[1]) & (y * 1.8 < high[1])
        depth[seen] = 1.8
    messages["depth/image"] = conversions.write_image(depth, "32FC1", header)
    if info:
        messages["depth/camera_info"] = conversions.write_camera(DEPTH_CAMERA, header)


def with_depth_camera(rig: Rig, transform: bool = True) -> None:
    rig.publishers["depth/camera_info"] = rig.node.create_publisher(CameraInfo, "depth/camera_info", qos.SENSOR_OUTPUT)
    rig.matched("depth/camera_info")
    if transform:
        with_extrinsics(rig)


def with_extrinsics(rig: Rig) -> None:
    """The depth camera's place, sent again and again as by a joint that moves."""
    original = rig.transform

    def both(stamp_ns: int, matrix: np.ndarray | None = None) -> Any:
        message = original(stamp_ns, matrix)
        extra = original(stamp_ns, T_COLOUR_DEPTH).transforms[0]
        extra.header.frame_id, extra.child_frame_id = "camera", "depth_camera"
        message.transforms.append(extra)
        return message

    rig.transform = both  # type: ignore[method-assign]


def test_depth_beside_colour_is_registered(rig: Rig) -> None:
    with_depth_camera(rig)
    rig.check(feed(rig, aside))
    np.testing.assert_allclose(box_centre(rig), expected(), atol=0.05)
    gaussians = rig.mapper.mapper.gaussians
    assert len(gaussians) > 1000
    distance = np.abs(gaussians.means[:, 2].numpy()[:, None] - [1.8, 2.0]).min(1)
    assert np.quantile(distance, 0.95) < 0.01  # on the two planes, not in between


def test_calibration_of_the_depth_camera_that_changes(rig: Rig) -> None:
    """Only its distortion: the next frame is registered with it."""
    with_depth_camera(rig)
    rig.check(feed(rig, aside))

    def recalibrated(messages: dict[str, Any]) -> None:
        aside(messages)
        messages["depth/camera_info"].d = [0.001, 0.0, 0.0, 0.0, 0.0]

    rig.check(feed(rig, recalibrated))
    rig.told("/rig/depth/camera_info: the intrinsics have changed", "d=[0.001, 0.0", "[camera_info_changed]")
    np.testing.assert_allclose(box_centre(rig), expected(), atol=0.05)


def test_depth_unregistered_without_camera_info(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    aside(messages, info=False)
    rig.publish(messages)
    rig.told("/rig/depth/image", "200x150", "/rig/depth/camera_info: no message has come", "[depth_unregistered]")
    rig.still_works()


def test_depth_unregistered_without_transform(rig: Rig) -> None:
    with_depth_camera(rig, transform=False)
    messages = rig.messages(rig.next_stamp())
    aside(messages)
    rig.publish(messages)
    rig.told("/rig/depth/image", "no transform from 'depth_camera' to 'camera'", "[depth_unregistered]")
    with_extrinsics(rig)
    rig.check(feed(rig, aside))


def test_depth_in_another_frame_of_the_same_size(rig: Rig) -> None:
    messages = rig.messages(rig.next_stamp())
    messages["depth/image"].header.frame_id = "depth_camera"
    rig.publish(messages)
    rig.told("/rig/depth/image", "frame 'depth_camera' differs from 'camera'", "[depth_unregistered]")
    rig.still_works()


def test_depth_that_is_said_to_be_registered(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(depth_registered=True)

    def other_frame(messages: dict[str, Any]) -> None:
        messages["depth/image"].header.frame_id = "depth_camera"

    rig.check(feed(rig, other_frame))


# --- several cameras --------------------------------------------------------------------------------------------------

BEHIND = np.diag([-1.0, 1.0, -1.0, 1.0])


def test_two_cameras_feed_one_map(make_rig: Callable[..., Rig]) -> None:
    """One looks ahead, one back, at the same stamps; each gets its answers, the map holds what both saw."""
    rig = make_rig("front/semantic/image", "rear/semantic/image", cameras=["front", "rear"])
    rig.listen("rear/semantic/camera_info", CameraInfo, qos.IMAGE_OUTPUT)
    poses = {"front": np.eye(4), "rear": BEHIND}
    for _ in range(4):
        stamp = rig.next_stamp()
        for camera, pose in poses.items():
            messages = {f"{camera}/{name}": msg for name, msg in rig.messages(stamp).items() if name != "/tf"}
            transform = rig.transform(stamp, pose)
            transform.transforms[0].child_frame_id = camera
            for msg in messages.values():
                msg.header.frame_id = camera
            if camera == "rear":  # sees the same scene in mirrored colours and only the box
                del messages["rear/instance/info"]
                messages["rear/instance/info"] = conversions.write_masks({11: MASKS[11]}, messages["rear/color/image"].header)
                ids = np.where(scene()[2] == 11, 11, 0).astype(np.uint8)
                messages["rear/instance/image"] = conversions.write_image(ids, "mono8", messages["rear/color/image"].header)
            rig.publish({"/tf": transform, **messages})
        front, rear = (rig.answer(stamp, f"{camera}/semantic/image") for camera in poses)
        rig.settled()
    rig.check(front)
    assert rear[BOX_PIXEL[::-1]] == 3 and rear[LAMP_PIXEL[::-1]] == 0
    assert {msg.header.frame_id for msg in rig.received["rear/semantic/image"]} == {"rear"}
    assert rig.received["rear/semantic/camera_info"][-1].width == WIDTH
    with rig.planner() as planner:
        boxes = [obj for obj in planner.list_objects() if obj.label == "box"]
        assert [obj.label for obj in planner.list_objects()].count("lamp") == 1
        ahead, back = sorted(boxes, key=lambda obj: -obj.centroid[2])
        np.testing.assert_allclose(ahead.centroid, expected(), atol=0.05)
        np.testing.assert_allclose(back.centroid, expected() * [-1, 1, -1], atol=0.05)
        # equal stamps: the camera tells which answer is meant
        assert planner.query_pixel(*BOX_PIXEL, stamp_ns=stamp, camera="front").object.id == ahead.id
        assert planner.query_pixel(*BOX_PIXEL, stamp_ns=stamp, camera="rear").object.id == back.id
    status = rig.status_when(lambda status: status.frames_answered >= 8, "eight counted answers")
    assert status.frames_received == 8 and status.frames_answered == 8


def test_two_recordings_played_as_two_cameras_feed_one_map(make_rig: Callable[..., Rig]) -> None:
    """Each replay has the namespace and the frames of its camera; the map holds what both saw."""
    rig = make_rig("front/semantic/image", "rear/semantic/image", cameras=["front", "rear"], keyframe_queue=100)
    parts = {"front": (0, 4), "rear": (20, 24)}
    house = str(share_path("sample", "house"))
    replays, stop = [], StopEvent()
    for camera, (first, last) in parts.items():
        values = {"sequence": house, "start_frame": first, "stop_frame": last, "rate_hz": 2.0, "masks": "perfect"}
        values |= {"camera_frame": f"{camera}_optical", "body_frame": f"{camera}_base"}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        replay = ReplayNode(context=rig.context, namespace=f"rig/{camera}", parameter_overrides=overrides)
        runner = threading.Thread(target=replay.run, args=(stop,), daemon=True)
        replays.append((replay, runner))
    try:
        for _, runner in replays:
            runner.start()
        for (replay, runner), camera in zip(replays, parts, strict=True):
            runner.join(PATIENCE_S)
            assert not runner.is_alive()
            stamp = replay.published[-1][0]
            shown = rig.answer(stamp, f"{camera}/semantic/image")
            assert shown.shape == replay.sequence[0].rgb.shape[:2]
        rig.settled()
    finally:
        stop.event.set()
        for replay, _ in replays:
            replay.destroy_node()
    sequence = RgbdSequence(house)
    for _, last in parts.values():
        frame = sequence[last - 1]
        labels = rig.mapper.mapper.render_labels(frame.camera, tentative=True)
        assert (labels.instance > 0).mean() > 0.8
        assert len(np.unique(labels.instance)) > 4
    status = rig.status_when(lambda status: status.frames_received >= 8, "eight frames")
    assert status.frames_received == 8


def test_one_camera_that_is_silent_does_not_stop_the_other(make_rig: Callable[..., Rig]) -> None:
    """The first is named relative to the mapper's namespace, the second with an absolute name."""
    rig = make_rig("front/semantic/image", cameras=["front", "/rear"])

    def rename(messages: dict[str, Any]) -> None:
        for name in [name for name in messages if name != "/tf"]:
            messages[f"front/{name}"] = messages.pop(name)

    rig.check(feed(rig, rename, "front/semantic/image"))
    rig.told("/rear/color/image: no message has come")
    assert "/rig/mapper/rear/semantic/image" in dict(rig.node.get_topic_names_and_types())


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"cameras": ["front", "/front"]}, "cameras: .*are not different names"),
        ({"cameras": ["front", ""]}, "cameras: .*are not different names"),
        ({"cameras": ["front", "rear"], "pose_source": "pose"}, "pose_child_frame is empty: with several cameras"),
    ],
)
def test_cameras_that_cannot_be_told_apart(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"parameter {words}"):
        check(NodeParameters(**parameters), MapperConfig())
