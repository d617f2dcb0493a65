"""Pixels of raw and compressed image messages, in every encoding that cameras use."""

from __future__ import annotations

import io
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Pillow
from sensor_msgs.msg import CompressedImage, Image

from gs_semantic.errors import InvalidInputError
from gs_semantic.nodes import conversions as c
from gs_semantic.nodes import images

HEADER = c.make_header(5, "camera")
RNG = np.random.default_rng(3)
COLOUR = RNG.integers(0, 256, (8, 12, 3), np.uint8)


def raw(samples: np.ndarray, encoding: str, width: int, height: int, padding: int = 0, bigendian: bool = False) -> Image:
    """A message of rows of samples (rows, samples per row)."""
    rows = samples.reshape(samples.shape[0], -1)
    data = rows.astype(rows.dtype.newbyteorder(">" if bigendian else "<"))
    bytes_ = np.pad(data.view(np.uint8), ((0, 0), (0, padding)), constant_values=99)
    return Image(
        header=HEADER,
        width=width,
        height=height,
        encoding=encoding,
        is_bigendian=int(bigendian),
        step=bytes_.shape[1],
        data=c.to_bytes_field(bytes_),
    )


def compressed(data: bytes, format: str) -> CompressedImage:
    return CompressedImage(header=HEADER, format=format, data=c.to_bytes_field(data))


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def smooth() -> np.ndarray:
    """A picture that JPEG hardly changes, with different colours on all sides."""
    v, u = np.mgrid[0:32, 0:48]
    return np.stack([u * 5, v * 7, 255 - 3 * u - 2 * v], axis=-1).astype(np.uint8)


# --- raw colours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize(("encoding", "order"), [("rgb16", [0, 1, 2]), ("bgr16", [2, 1, 0]), ("rgba16", [0, 1, 2, 1]), ("bgra16", [2, 1, 0, 1])])
def test_sixteen_bit_colours(encoding: str, order: list[int], padding: int, bigendian: bool) -> None:
    samples = COLOUR[..., order].astype(np.uint16) * 257
    found = c.read_colour(raw(samples, encoding, 12, 8, padding, bigendian), "t")
    np.testing.assert_array_equal(found, COLOUR)


@pytest.mark.parametrize(("encoding", "order"), [("8UC3", [2, 1, 0]), ("8UC4", [2, 1, 0, 0])])
def test_nameless_channels_are_blue_green_red(encoding: str, order: list[int]) -> None:
    np.testing.assert_array_equal(c.read_colour(raw(COLOUR[..., order], encoding, 12, 8), "t"), COLOUR)


@pytest.mark.parametrize(("encoding", "kind"), [("8UC1", np.uint8), ("mono16", np.uint16)])
def test_grey(encoding: str, kind: type) -> None:
    grey = COLOUR[..., 0]
    samples = grey if kind is np.uint8 else grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(c.read_colour(raw(samples, encoding, 12, 8), "t"), np.dstack([grey] * 3))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(pattern: str, bits: int) -> None:
    """The mosaic of a picture of one colour is that picture again."""
    colour = {"r": 200, "g": 120, "b": 40}
    tile = np.array([[colour[pattern[0]], colour[pattern[1]]], [colour[pattern[2]], colour[pattern[3]]]])
    mosaic = np.tile(tile, (4, 6)).astype(np.uint8)
    samples = mosaic if bits == 8 else mosaic.astype(np.uint16) * 257
    found = c.read_colour(raw(samples, f"bayer_{pattern}{bits}", 12, 8, padding=6), "t")
    np.testing.assert_array_equal(found, np.broadcast_to(np.array([200, 120, 40], np.uint8), (8, 12, 3)))


def yuv(rgb: tuple[int, int, int]) -> np.ndarray:
    """Y, U, V of a colour by the definition (ITU-R BT.601, 16..235)."""
    r, g, b = np.array(rgb) / 255
    y = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    u = 128 - 37.797 * r - 74.203 * g + 112.0 * b
    v = 128 + 112.0 * r - 93.786 * g - 18.214 * b
    return np.round([y, u, v]).astype(np.uint8)


@pytest.mark.parametrize(
    ("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")]
)
def test_yuv_422(encoding: str, order: str) -> None:
    rgb = (200, 120, 40)
    values = dict(zip("yuv", yuv(rgb), strict=True))
    samples = np.tile(np.array([values[letter] for letter in order], np.uint8), (8, 6))
    found = c.read_colour(raw(samples, encoding, 12, 8, padding=4), "t")
    assert found.shape == (8, 12, 3)
    assert np.abs(found.astype(int) - rgb).max() <= 3


@pytest.mark.parametrize(("encoding", "order"), [("nv12", "uv"), ("nv21", "vu")])
def test_yuv_420(encoding: str, order: str) -> None:
    rgb = (200, 120, 40)
    values = dict(zip("yuv", yuv(rgb), strict=True))
    chroma = np.tile(np.array([values[letter] for letter in order], np.uint8), (4, 6))
    samples = np.concatenate([np.full((8, 12), values["y"], np.uint8), chroma])
    found = c.read_colour(raw(samples, encoding, 12, 8), "t")
    assert found.shape == (8, 12, 3)
    assert np.abs(found.astype(int) - rgb).max() <= 3


@pytest.mark.parametrize(("encoding", "width", "height"), [("uyvy", 3, 2), ("nv12", 4, 3)])
def test_yuv_of_odd_size(encoding: str, width: int, height: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"/cam: width x height is {width}x{height}.*\[image_odd\]"):
        c.read_colour(raw(np.zeros((height, 2 * width), np.uint8), encoding, width, height), "/cam")


def test_huge_image_is_refused_before_anything_is_allocated() -> None:
    msg = Image(header=HEADER, encoding="mono8", width=1_000_000, height=1_000_000, step=1_000_000)
    with pytest.raises(InvalidInputError, match=r"/cam: width x height is 1000000x1000000.*\[image_huge\]"):
        c.read_colour(msg, "/cam")


# --- compressed colours and masks -------------------------------------------------------------------------------------


def test_jpeg() -> None:
    picture = smooth()
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    found = c.read_colour(compressed(data, "rgb8; jpeg compressed bgr8"), "t")
    assert found.dtype == np.uint8 and np.abs(found.astype(int) - picture).mean() < 3


def test_grey_jpeg() -> None:
    grey = np.ascontiguousarray(smooth()[..., 0])
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    found = c.read_colour(compressed(data, "mono8; jpeg compressed "), "t")
    assert np.abs(found.astype(int) - grey[..., None]).mean() < 2


@pytest.mark.parametrize("alpha", [False, True])
def test_png(alpha: bool) -> None:
    pixels = np.dstack([COLOUR, np.full((8, 12), 5, np.uint8)]) if alpha else COLOUR
    np.testing.assert_array_equal(c.read_colour(compressed(png(pixels), "png"), "t"), COLOUR)


def test_png_of_a_mosaic() -> None:
    """What image_transport makes of Bayer images when told to use PNG."""
    tile = np.tile(np.array([[200, 120], [120, 40]], np.uint8), (4, 6))
    found = c.read_colour(compressed(png(tile), "bayer_rggb8; png compressed "), "t")
    np.testing.assert_array_equal(found, np.broadcast_to(np.array([200, 120, 40], np.uint8), (8, 12, 3)))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_masks_as_png(kind: type) -> None:
    ids = np.array([[0, 7], [np.iinfo(kind).max, 1]], kind)
    found = c.read_instances(compressed(png(ids), "png"), "t")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, ids)


def test_masks_as_jpeg_are_refused() -> None:
    data = cv2.imencode(".jpg", smooth()[..., 0])[1].tobytes()
    with pytest.raises(InvalidInputError, match="/mask: .*JPEG blurs mask ids, use PNG"):
        c.read_instances(compressed(data, "jpeg"), "/mask")


JPEG = cv2.imencode(".jpg", smooth())[1].tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "neither a JPEG nor a PNG"),
        (b"not a picture at all", "neither a JPEG nor a PNG"),
        (JPEG[:-40], "cut short"),
        (JPEG[: len(JPEG) // 3], ""),
        (png(COLOUR)[:60], ""),
        (png(COLOUR)[:100] + bytes(40), ""),
    ],
)
def test_pictures_that_are_none(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"/cam: data with format 'jpeg'.*{reason}.*\[compressed\]"):
        c.read_colour(compressed(data, "jpeg"), "/cam")


# --- compressed depth -------------------------------------------------------------------------------------------------

MILLIMETRES = np.array([[0, 1, 1500, 1501], [65535, 40000, 0, 256]], np.uint16)


def encode_rvl(depth: np.ndarray) -> bytes:
    """RVL by its description, value by value."""
    nibbles: list[int] = []

    def number(value: int) -> None:
        while True:
            value, low = value >> 3, value & 7
            nibbles.append(low | (8 if value else 0))
            if not value:
                return

    flat, at, before = depth.ravel().tolist(), 0, 0
    while at < len(flat):
        zeros = at
        while zeros < len(flat) and flat[zeros] == 0:
            zeros += 1
        end = zeros
        while end < len(flat) and flat[end] != 0:
            end += 1
        number(zeros - at)
        number(end - zeros)
        for value in flat[zeros:end]:
            delta = value - before
            number(2 * delta if delta >= 0 else -2 * delta - 1)
            before = value
        at = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    return struct.pack(f"<ii{len(words)}I", depth.shape[1], depth.shape[0], *words)


@settings(max_examples=60)
@given(arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 0, 1, 7, 8, 900, 65535])))
def test_run_lengths(depth: np.ndarray) -> None:
    np.testing.assert_array_equal(images.decode_rvl(memoryview(encode_rvl(depth))), depth)


@pytest.mark.parametrize("cut", [4, 8, 12])
def test_run_lengths_that_are_cut_short(cut: int) -> None:
    depth = RNG.integers(500, 4000, (6, 8)).astype(np.uint16)
    with pytest.raises(InvalidInputError, match=r"/depth: .*16UC1; compressedDepth rvl.*\[compressed\]"):
        c.read_depth(compressed(bytes(12) + encode_rvl(depth)[:cut], "16UC1; compressedDepth rvl"), "/depth")


@pytest.mark.parametrize(
    "message",
    [
        compressed(png(MILLIMETRES), "16UC1; png compressed "),
        compressed(bytes(12) + png(MILLIMETRES), "16UC1; compressedDepth png"),
        compressed(bytes(12) + png(MILLIMETRES), "16UC1; compressedDepth"),
        compressed(bytes(12) + encode_rvl(MILLIMETRES), "16UC1; compressedDepth rvl"),
    ],
    ids=["png", "compressedDepth png", "compressedDepth", "compressedDepth rvl"],
)
def test_compressed_depth(message: Any) -> None:
    found = c.read_depth(message, "t")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, MILLIMETRES * 0.001, rtol=1e-6)


@pytest.mark.parametrize("coding", ["png", "rvl"])
def test_compressed_floating_point_depth(coding: str) -> None:
    """Stored as A / depth + B: fine near by, coarse far away."""
    metres = np.array([[0.5, 1.0, 2.5], [4.0, 0.0, 9.0]], np.float32)
    a, b = 100.0 * 101.0, 1.0 - 101.0 * 100.0 / 10.0  # for 100 mm steps at 100 m and depth up to 10 m
    with np.errstate(divide="ignore"):
        stored = np.where(metres > 0, a / metres + b, 0).round().astype(np.uint16)
    data = png(stored) if coding == "png" else encode_rvl(stored)
    message = compressed(struct.pack("<iff", 0, a, b) + data, f"32FC1; compressedDepth {coding}")
    found = c.read_depth(message, "t")
    np.testing.assert_allclose(found, metres, rtol=0.01)
    assert found[1, 1] == 0


@pytest.mark.parametrize(
    ("data", "format"),
    [(JPEG, "jpeg"), (png(COLOUR), "png"), (bytes(12) + png(COLOUR), "16UC1; compressedDepth png"), (b"abc", "16UC1; compressedDepth")],
)
def test_depth_that_is_none(data: bytes, format: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"/depth: data with format '{format}'.*\[compressed\]"):
        c.read_depth(compressed(data, format), "/depth")


# --- masks ------------------------------------------------------------------------------------------------------------


def test_ids_that_occur() -> None:
    assert images.check_ids(np.array([[0, 5], [70_000, 5]]), "t").tolist() == [5, 70_000]
    assert images.check_ids(np.zeros((2, 2), np.int32), "t").tolist() == []


def test_more_ids_than_can_be_used() -> None:
    with pytest.raises(InvalidInputError, match=r"/mask: 65535 mask ids, 65534 at most.*\[mask_ids_too_many\]"):
        images.check_ids(np.arange(65_536, dtype=np.int32).reshape(256, 256), "/mask")


def test_one_mask_everywhere() -> None:
    with pytest.raises(InvalidInputError, match=r"/mask: one mask fills the whole image.*\[mask_only_one\]"):
        images.check_ids(np.ones((4, 4), np.int32), "/mask")


# --- names and bridges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "depth", "expected"),
    [
        ("/a/image_raw", False, "/a/image_raw/compressed"),
        ("/a/depth", True, "/a/depth/compressedDepth"),
        ("/a/depth/compressed", True, "/a/depth/compressed"),
    ],
)
def test_compressed_topics(topic: str, depth: bool, expected: str) -> None:
    assert images.compressed_topic(topic, depth) == expected


BRIDGED = [f"bayer_{pattern}8" for pattern in ("rggb", "bggr", "gbrg", "grbg")] + ["yuv422", "yuv422_yuy2", "bgr8", "mono8"]


@pytest.mark.parametrize("encoding", BRIDGED)
def test_cv_bridge_gives_the_same_pixels(encoding: str) -> None:
    pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    kind, channels = images.LAYOUTS[encoding]
    msg = raw(RNG.integers(0, 256, (8, 12 * channels)).astype(kind), encoding, 12, 8)
    ours = images.to_rgb(images.read_image(msg, "t", (encoding,)), encoding)
    np.testing.assert_array_equal(images._bridged(msg), ours)
