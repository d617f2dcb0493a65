from __future__ import annotations

import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, Image

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, MaskInfo
from gs_semantic.labels import LabelSet, palette
from gs_semantic.nodes import conversions as c

HEADER = c.make_header(1_234_567_890_123, "camera")
RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def padded(msg: Image, extra: int) -> Image:
    """The same image with unused bytes at the end of each row."""
    rows = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)
    wide = np.pad(rows, ((0, 0), (0, extra)), constant_values=77)
    msg.step, msg.data = msg.step + extra, c.to_bytes_field(wide)
    return msg


@pytest.mark.parametrize("extra", [0, 12])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, np.full((2, 3), 9, np.uint8)])),
        ("bgra8", np.dstack([RGB[..., ::-1], np.full((2, 3), 9, np.uint8)])),
    ],
)
def test_colour(encoding: str, pixels: np.ndarray, extra: int) -> None:
    msg = padded(c.write_image(np.ascontiguousarray(pixels), encoding, HEADER), extra)
    np.testing.assert_array_equal(c.read_colour(msg, "t"), RGB)


def test_grey_is_a_colour() -> None:
    grey = np.array([[0, 255], [7, 8]], np.uint8)
    np.testing.assert_array_equal(c.read_colour(c.write_image(grey, "mono8", HEADER), "t"), np.dstack([grey] * 3))


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize(("encoding", "kind", "unit"), [("16UC1", "u2", 0.001), ("mono16", "u2", 0.001), ("32FC1", "f4", 1.0)])
def test_depth_in_metres(encoding: str, kind: str, unit: float, bigendian: bool) -> None:
    stored = np.array([[0, 1, 1500], [65535, 40000, 256]]).astype(kind)
    msg = c.write_image(stored, encoding, HEADER)
    if bigendian:
        msg.is_bigendian, msg.data = 1, c.to_bytes_field(stored.astype(f">{kind}"))
    found = c.read_depth(padded(msg, 8), "t")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, stored.astype(float) * unit, rtol=1e-6)


@pytest.mark.parametrize(
    ("encoding", "kind", "largest"),
    [("mono8", "u1", 255), ("8UC1", "u1", 255), ("16UC1", "u2", 65535), ("mono16", "u2", 65535), ("32SC1", "i4", 2**31 - 1)],
)
def test_instances(encoding: str, kind: str, largest: int) -> None:
    ids = np.array([[0, 1], [largest, 2]]).astype(kind)
    found = c.read_instances(c.write_image(ids, encoding, HEADER), "t")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, ids)


def test_negative_instances_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="t: data holds negative mask ids"):
        c.read_instances(c.write_image(np.array([[-1]], np.int32), "32SC1", HEADER), "t")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "rgb9"}, "/cam: encoding 'rgb9'.*rgb8"),
        ({"step": 8}, "/cam: step is 8 bytes, a row of 3 rgb8 pixels has 9"),
        ({"height": 3}, "/cam: data has 18 bytes.*9 x 3 = 27"),
        ({"width": 0}, "/cam: width x height is 0x2"),
    ],
)
def test_images_that_cannot_be_read(change: dict, words: str) -> None:
    msg = c.write_image(RGB, "rgb8", HEADER)
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(InvalidInputError, match=words):
        c.read_colour(msg, "/cam")


def test_reading_does_not_copy_and_cannot_write() -> None:
    msg = c.write_image(RGB, "rgb8", HEADER)
    pixels = c.read_colour(msg, "t")
    assert np.shares_memory(pixels, np.frombuffer(msg.data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1


def test_byte_fields_are_arrays() -> None:
    """Any other type would be copied element by element."""
    msg = c.write_image(RGB, "rgb8", HEADER)
    assert isinstance(msg.data, array.array) and msg.data.typecode == "B"
    cloud = c.write_cloud(np.zeros((2, 3), c.POINT), HEADER)
    assert isinstance(cloud.data, array.array) and cloud.data.typecode == "B"


def test_writing_checks_the_type() -> None:
    with pytest.raises(ValueError, match="mono8 is uint8 with 1 channels"):
        c.write_image(RGB, "mono8", HEADER)


@pytest.mark.parametrize(("largest", "encoding"), [(254, "mono8"), (255, "16UC1"), (9000, "16UC1")])
def test_semantic_encoding(largest: int, encoding: str) -> None:
    labels = LabelSet({0: "void", largest: "thing"})
    assert c.semantic_encoding(labels) == encoding
    classes = np.array([[0, largest]], np.uint16)
    msg = c.write_classes(classes, encoding, HEADER)
    assert msg.encoding == encoding
    np.testing.assert_array_equal(c.read_image(msg, "t", (encoding,)), classes)


def test_class_that_mono8_cannot_hold_is_void() -> None:
    msg = c.write_classes(np.array([[256, 5]], np.uint16), "mono8", HEADER)
    assert list(msg.data) == [0, 5]


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_round_trip(stamp_ns: int) -> None:
    assert c.to_ns(c.to_stamp(stamp_ns)) == stamp_ns


def test_camera_round_trip() -> None:
    camera = Camera(640, 480, 500.0, 501.0, 320.5, 240.25)
    found = c.read_camera(c.write_camera(camera, HEADER), "t")
    assert (found.width, found.height, found.fx, found.fy, found.cx, found.cy) == (640, 480, 500.0, 501.0, 320.5, 240.25)


@pytest.mark.parametrize(("change", "words"), [({"k": np.zeros(9)}, "fx=0.0"), ({"width": 0}, "width x height is 0x480")])
def test_camera_that_is_not_calibrated(change: dict, words: str) -> None:
    msg: CameraInfo = c.write_camera(Camera(640, 480, 500.0, 500.0, 320.0, 240.0), HEADER)
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(InvalidInputError, match=f"/info: .*{words}"):
        c.read_camera(msg, "/info")


CALIBRATED = Camera(640, 480, 500.0, 500.0, 320.0, 240.0)


def test_lens_without_distortion() -> None:
    lens = c.read_lens(c.write_camera(CALIBRATED, HEADER), "t")
    assert not lens.distorts and lens.camera.fx == 500


@pytest.mark.parametrize(
    ("model", "d", "fisheye"),
    [
        ("plumb_bob", [0.2, -0.3, 0.001, 0.002, 0.1], False),
        ("rational_polynomial", [0.25, 0.1, 0.001, 0.0, 0.02, 0.05, 0.02, 0.01], False),
        ("equidistant", [0.05, -0.02, 0.003, 0.0], True),
        ("fisheye", [0.05, -0.02, 0.003, 0.0], True),
    ],
)
def test_lens_with_distortion(model: str, d: list[float], fisheye: bool) -> None:
    msg = c.write_camera(CALIBRATED, HEADER)
    msg.distortion_model, msg.d = model, d
    lens = c.read_lens(msg, "t")
    assert lens.distorts and lens.fisheye == fisheye and lens.coefficients.tolist() == d


def test_rectified_images_have_the_intrinsics_of_p() -> None:
    msg = c.write_camera(CALIBRATED, HEADER)
    msg.distortion_model, msg.d = "plumb_bob", [0.2, -0.3, 0.001, 0.002, 0.1]
    msg.p = [450.0, 0, 310, 0, 0, 451, 250, 0, 0, 0, 1, 0]
    lens = c.read_lens(msg, "t", rectified=True)
    assert not lens.distorts
    assert (lens.camera.fx, lens.camera.fy, lens.camera.cx, lens.camera.cy) == (450, 451, 310, 250)
    msg.p = np.zeros(12)  # drivers that leave it out
    assert c.read_lens(msg, "t", rectified=True).camera.fx == 500


def test_cropped_and_binned_images() -> None:
    """A point is seen at the pixel that cropping and averaging 2x2 pixels lead to."""
    msg = c.write_camera(CALIBRATED, HEADER)
    msg.roi.x_offset, msg.roi.y_offset, msg.roi.width, msg.roi.height = 100, 60, 400, 300
    msg.binning_x = msg.binning_y = 2
    camera = c.read_camera(msg, "t")
    assert (camera.width, camera.height) == (200, 150)
    u = 500.0 * 0.1 + 320.0  # of the full image, of a point with x / z = 0.1
    assert camera.fx * 0.1 + camera.cx == pytest.approx((u - 100 + 0.5) / 2 - 0.5)


@pytest.mark.parametrize(("model", "count"), [("squid", 5), ("plumb_bob", 3), ("equidistant", 5), ("", 4)])
def test_unknown_distortion(model: str, count: int) -> None:
    msg = c.write_camera(CALIBRATED, HEADER)
    msg.distortion_model, msg.d = model, [0.1] * count
    with pytest.raises(InvalidInputError, match=rf"/info: distortion_model '{model}' with {count} coefficients"):
        c.read_lens(msg, "/info")
    msg.d = [0.0] * count  # no distortion: whatever it is called
    assert not c.read_lens(msg, "/info").distorts


def test_pose_round_trip() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    matrix[:3, 3] = [1, 2, 3]
    np.testing.assert_allclose(c.read_pose(c.write_pose(matrix), "t"), matrix, atol=1e-12)
    np.testing.assert_allclose(c.read_transform(c.write_transform(matrix), "t"), matrix, atol=1e-12)


def test_masks_round_trip() -> None:
    masks = {5: MaskInfo(3, 0.5), 65535: MaskInfo(0, 1.0)}
    assert c.read_masks(c.write_masks(masks, HEADER), "t") == masks


def test_labels_round_trip() -> None:
    labels = LabelSet({0: "void", 300: "Stuhl", 7: "lamp"})
    msg = c.write_label_map(labels, palette(301), HEADER)
    assert c.read_label_map(msg, "t").names == labels.names
    assert len(msg.colors) == 3 * len(msg.class_ids)


def test_labels_that_do_not_fit() -> None:
    msg = c.write_label_map(LabelSet({0: "void", 1: "a"}), palette(2), HEADER)
    msg.names = ["void"]
    with pytest.raises(InvalidInputError, match="/labels: class_ids has 2 entries, names has 1"):
        c.read_label_map(msg, "/labels")


def test_cloud_fields_lie_where_they_are_announced() -> None:
    points = np.zeros(2, c.POINT)
    points["x"], points["label"], points["instance"], points["confidence"] = [1, 2], [7, 65535], [9, 2**32 - 1], [0.5, 1]
    points["rgb"] = c.packed_rgb(np.array([[255, 1, 2], [0, 0, 3]], np.uint8))
    msg = c.write_cloud(points, HEADER)
    kinds = {7: "<f4", 4: "<u2", 6: "<u4"}
    for field in msg.fields:
        view = np.ndarray(2, kinds[field.datatype], bytes(msg.data), field.offset, (msg.point_step,))
        expected = points[field.name].view("<f4") if field.name == "rgb" else points[field.name]
        np.testing.assert_array_equal(view, expected)
    assert points["rgb"].tolist() == [0xFF0102, 0x000003]


def test_poses_are_those_of_tf_transformations() -> None:
    theirs = pytest.importorskip("tf_transformations", reason="tf_transformations is not installed")
    for quaternion in np.random.default_rng(4).normal(size=(20, 4)):
        expected = theirs.quaternion_matrix(quaternion / np.linalg.norm(quaternion))
        expected[:3, 3] = quaternion[:3]
        pose = c.write_pose(expected)
        np.testing.assert_allclose(c.read_pose(pose, "t"), expected, atol=1e-12)
        written = [pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w]
        unsigned = theirs.quaternion_from_matrix(expected)
        np.testing.assert_allclose(abs(np.dot(written, unsigned)), 1.0, atol=1e-12)  # q and -q are the same rotation
