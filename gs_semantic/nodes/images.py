"""Pixels of image messages, raw and compressed.

Knows no ROS: a message is anything with the fields of sensor_msgs/Image or sensor_msgs/CompressedImage, so that rclpy's
and those read from a bag serve alike. Arrays are views of the message where its layout allows. Every error names topic
and field, in the words of the catalogue (faults.py).

Where cv_bridge is installed it converts Bayer and YUV 4:2:2 colours; a test compares it with what is used elsewhere.
"""

from __future__ import annotations

import importlib.util
import io
import re
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from gs_semantic.errors import InvalidInputError
from gs_semantic.nodes import faults

# encoding -> (sample type, samples per pixel); of YUV 4:2:0 the Y plane only
LAYOUTS: dict[str, tuple[type[np.generic], int]] = {
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), (np.uint8, 3)),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4"), (np.uint8, 4)),
    **dict.fromkeys(("rgb16", "bgr16"), (np.uint16, 3)),
    **dict.fromkeys(("rgba16", "bgra16"), (np.uint16, 4)),
    **dict.fromkeys(("mono8", "8UC1"), (np.uint8, 1)),
    **dict.fromkeys(("mono16", "16UC1"), (np.uint16, 1)),
    "32SC1": (np.int32, 1),
    "32FC1": (np.float32, 1),
    **dict.fromkeys(("uyvy", "yuv422", "yuyv", "yuv422_yuy2"), (np.uint8, 2)),
    **dict.fromkeys(("nv12", "nv21"), (np.uint8, 1)),
}
# OpenCV names a pattern by the second and third pixel of its second row
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
for _pattern in _BAYER:
    LAYOUTS[f"bayer_{_pattern}8"], LAYOUTS[f"bayer_{_pattern}16"] = (np.uint8, 1), (np.uint16, 1)
_YUV = {
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
}
_SWAPPED = ("bgr8", "bgra8", "bgr16", "bgra16", "8UC3", "8UC4")  # 8UC3 without meaning is OpenCV's BGR, as in cv_bridge

DEPTH = ("32FC1", "16UC1", "mono16")
INSTANCE = ("mono8", "8UC1", "16UC1", "mono16", "32SC1")
COLOUR = tuple(name for name in LAYOUTS if name not in ("16UC1", "32SC1", "32FC1"))

MAX_PIXELS = 64_000_000  # beyond any camera; a message that claims more is damaged
MAX_IDS = 65_534  # masks that 16 bits can number beside 0
RAW, COMPRESSED, COMPRESSED_DEPTH = "raw", "compressed", "compressedDepth"


# --- raw --------------------------------------------------------------------------------------------------------------


def read_image(msg: Any, topic: str, encodings: Sequence[str]) -> np.ndarray:
    """Samples (H, W) or (H, W, C) of a raw image in one of ``encodings``, native byte order; a read-only view if possible.

    Rows of YUV 4:2:0 are those of Y followed by those of the chroma, (3 H / 2, W).
    """
    if msg.encoding not in encodings:
        raise InvalidInputError(
            faults.ENCODING.text(topic=topic, encoding=msg.encoding, expected=", ".join(encodings))
        )
    _check_size(msg.width, msg.height, topic)
    kind, channels = LAYOUTS[msg.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if msg.is_bigendian else "<")
    row = msg.width * channels * dtype.itemsize
    if msg.step < row or msg.step % dtype.itemsize:
        raise InvalidInputError(
            faults.IMAGE_STEP.text(topic=topic, step=msg.step, width=msg.width, encoding=msg.encoding, row=row)
        )
    subsampled = msg.encoding in _YUV
    if subsampled and (msg.width % 2 or (channels == 1 and msg.height % 2)):
        raise InvalidInputError(
            faults.IMAGE_ODD.text(topic=topic, width=msg.width, height=msg.height, encoding=msg.encoding)
        )
    height = msg.height * 3 // 2 if subsampled and channels == 1 else msg.height
    if len(msg.data) != msg.step * height:
        raise InvalidInputError(
            faults.IMAGE_DATA.text(
                topic=topic, found=len(msg.data), step=msg.step, height=height, expected=msg.step * height
            )
        )
    samples: np.ndarray = np.frombuffer(msg.data, dtype).reshape(height, msg.step // dtype.itemsize)
    samples = samples[:, : msg.width * channels]
    if channels > 1:
        samples = samples.reshape(height, msg.width, channels)
    samples = samples.astype(kind) if not dtype.isnative else samples
    samples.flags.writeable = False
    return samples


def _check_size(width: int, height: int, topic: str) -> None:
    if width <= 0 or height <= 0:
        raise InvalidInputError(faults.IMAGE_EMPTY.text(topic=topic, width=width, height=height))
    if width * height > MAX_PIXELS:
        raise InvalidInputError(faults.IMAGE_HUGE.text(topic=topic, width=width, height=height, limit=f"{MAX_PIXELS:,}"))


def to_rgb(pixels: np.ndarray, encoding: str) -> np.ndarray:
    """uint8 (H, W, 3), red first, of samples in an encoding of ``COLOUR``; 16-bit ones are scaled, transparency is left out."""
    if encoding in _YUV:
        return cv2.cvtColor(np.ascontiguousarray(pixels), _YUV[encoding])
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    if encoding.startswith("bayer_"):
        return cv2.cvtColor(np.ascontiguousarray(pixels), _BAYER[encoding[6:10]])
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if encoding in _SWAPPED:
        return np.take(pixels, [2, 1, 0], axis=2)
    return np.ascontiguousarray(pixels[..., :3])


# --- colour, depth and masks, raw or compressed -----------------------------------------------------------------------


def is_compressed(msg: Any) -> bool:
    """Whether a message is a CompressedImage."""
    return hasattr(msg, "format")


def read_colour(msg: Any, topic: str) -> np.ndarray:
    """uint8 (H, W, 3), red first."""
    if not is_compressed(msg):
        samples = read_image(msg, topic, COLOUR)
        return _bridged(msg) if _has_bridge() and _is_mosaic(msg.encoding) else to_rgb(samples, msg.encoding)
    pixels, kind = _decode(msg, topic)
    source = msg.format.partition(";")[0].strip()
    if pixels.ndim == 2 and source.startswith("bayer_") and source in LAYOUTS:
        return to_rgb(pixels, source)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise _undecodable(msg, topic, f"pixels of kind {kind} are no colours")
    return to_rgb(pixels, "rgb8")


def read_depth(msg: Any, topic: str) -> np.ndarray:
    """float32 metres (H, W): 32FC1 is metres, 16UC1 and mono16 are millimetres (REP 118)."""
    if is_compressed(msg):
        return _compressed_depth(msg, topic)
    pixels = read_image(msg, topic, DEPTH)
    return np.ascontiguousarray(pixels) if pixels.dtype == np.float32 else _metres(pixels)


def read_instances(msg: Any, topic: str) -> np.ndarray:
    """int32 (H, W) mask ids, 0 = unlabelled."""
    if is_compressed(msg):
        pixels, kind = _decode(msg, topic)
        if kind == "JPEG":
            raise _undecodable(msg, topic, "JPEG blurs mask ids, use PNG")
        if pixels.ndim != 2:
            raise _undecodable(msg, topic, "a mask image has one channel")
    else:
        pixels = read_image(msg, topic, INSTANCE)
        if pixels.dtype == np.int32 and int(pixels.min()) < 0:
            raise InvalidInputError(faults.MASK_IDS_NEGATIVE.text(topic=topic))
    return pixels.astype(np.int32)


def check_ids(ids: np.ndarray, topic: str) -> np.ndarray:
    """The ids that occur, 0 excepted, in rising order; InvalidInputError when they cannot be the masks of an image."""
    present = np.flatnonzero(np.bincount(ids.ravel())) if int(ids.max()) <= 65535 else np.unique(ids)
    if len(present) == 1 and present[0]:
        raise InvalidInputError(faults.MASK_ONLY_ONE.text(topic=topic))
    present = present[present > 0]
    if len(present) > MAX_IDS:
        raise InvalidInputError(faults.MASK_IDS_TOO_MANY.text(topic=topic, count=len(present), limit=MAX_IDS))
    return present


def _metres(millimetres: np.ndarray) -> np.ndarray:
    return np.multiply(millimetres, np.float32(0.001), dtype=np.float32)


# --- compressed -------------------------------------------------------------------------------------------------------


def _undecodable(msg: Any, topic: str, reason: object) -> InvalidInputError:
    return InvalidInputError(faults.COMPRESSED.text(topic=topic, format=msg.format, reason=reason))


def _decode(msg: Any, topic: str) -> tuple[np.ndarray, str]:
    """Pixels of a JPEG or PNG, uint8 or uint16, (H, W) or red-first (H, W, 3), and the kind of file."""
    return _decode_file(msg, topic, memoryview(msg.data).cast("B"))


def _decode_file(msg: Any, topic: str, data: memoryview) -> tuple[np.ndarray, str]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            width, height = image.size
            _check_size(width, height, topic)
            if image.format == "JPEG":
                return _decode_jpeg(data, "L" if image.mode == "L" else "RGB"), "JPEG"
            if image.mode in ("P", "LA", "RGBA", "1"):
                image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
            pixels = np.array(image)
            return pixels.astype(np.uint16) if pixels.dtype == np.int32 else pixels, "PNG"
    except InvalidInputError:
        raise
    except UnidentifiedImageError:
        raise _undecodable(msg, topic, "it is neither a JPEG nor a PNG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for damage
        raise _undecodable(msg, topic, error) from error


def _decode_jpeg(data: memoryview, mode: str) -> np.ndarray:
    """By OpenCV, in half the time that Pillow takes; it would fill what is missing with grey."""
    if b"\xff\xd9" not in bytes(data[-64:]):
        raise ValueError("the JPEG is cut short")
    flags = cv2.IMREAD_GRAYSCALE if mode == "L" else cv2.IMREAD_COLOR
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("the JPEG is damaged")
    return pixels if mode == "L" else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _compressed_depth(msg: Any, topic: str) -> np.ndarray:
    """Depth in metres of a PNG, or of the compressedDepth transport.

    That one puts 12 bytes before the data: an unused number and two floats A, B. Floating-point depth is stored as
    ``A / depth + B``, 0 = none; 16-bit depth as it is. The data is a PNG, or (format ``... rvl``) run lengths.
    """
    source = msg.format.partition(";")[0].strip()
    if COMPRESSED_DEPTH not in msg.format:
        pixels, kind = _decode(msg, topic)
        if kind == "JPEG" or pixels.dtype != np.uint16 or pixels.ndim != 2:
            raise _undecodable(msg, topic, "depth is a 16-bit PNG of one channel, or compressedDepth")
        return _metres(pixels)
    data = memoryview(msg.data).cast("B")
    if len(data) <= 12:
        raise _undecodable(msg, topic, f"{len(data)} bytes are too few")
    _, a, b = struct.unpack("<iff", data[:12])
    if "rvl" in msg.format.lower():
        try:
            raw = decode_rvl(data[12:], lambda width, height: _check_size(width, height, topic))
        except ValueError as error:
            raise _undecodable(msg, topic, error) from error
    else:
        raw, _ = _decode_file(msg, topic, data[12:])
        if raw.dtype != np.uint16 or raw.ndim != 2:
            raise _undecodable(msg, topic, "its PNG has not one channel of 16 bits")
    if source != "32FC1":
        return _metres(raw)
    depth = np.zeros(raw.shape, np.float32)
    known = raw > 0
    depth[known] = np.float32(a) / (raw[known] - np.float32(b))
    return depth


def decode_rvl(data: memoryview, check_size: Callable[[int, int], None] = lambda width, height: None) -> np.ndarray:
    """16-bit depth (H, W) of run-length compressed data (RVL: A. D. Wilson, Fast Lossless Depth Image Compression, 2017).

    Width and height, then 32-bit words of eight nibbles, the first in the highest bits. A number is a sequence of
    nibbles of three bits, lowest first, the fourth bit meaning "more to come". Numbers are: how many zeros, how many
    pixels with depth, and the zigzag-coded difference of each of those from the one before. ValueError when damaged.
    """
    if len(data) < 8:
        raise ValueError("there is no width and height")
    width, height = struct.unpack("<ii", data[:8])
    check_size(width, height)
    body = data[8:]
    words = np.frombuffer(body[: len(body) // 4 * 4], "<u4")
    nibbles = ((words[:, None] >> np.arange(28, -1, -4, dtype=np.uint32)) & 15).astype(np.uint8).ravel()
    last = np.flatnonzero(nibbles < 8)  # where numbers end
    first = np.concatenate([[0], last[:-1] + 1])
    if not len(last):
        raise ValueError("the data is cut short")
    place = np.arange(last[-1] + 1) - np.repeat(first, last - first + 1)
    if place.max() > 10:
        raise ValueError("a number is too long")
    digits = (nibbles[: last[-1] + 1] & 7).astype(np.int64) << (3 * place)
    numbers = np.add.reduceat(digits, first)
    out = np.zeros(width * height, np.int64)
    at, pixel = 0, 0
    while pixel < len(out):
        if at + 2 > len(numbers):
            raise ValueError("the data is cut short")
        zeros, count = int(numbers[at]), int(numbers[at + 1])
        pixel += zeros
        if pixel + count > len(out) or at + 2 + count > len(numbers) or not zeros + count:
            raise ValueError("the run lengths do not fit the size")
        out[pixel : pixel + count] = numbers[at + 2 : at + 2 + count]
        out[pixel : pixel + count] += 1  # so that a difference of 0 is no gap
        at, pixel = at + 2 + count, pixel + count
    known = out > 0
    zigzag = out[known] - 1
    depth = np.cumsum((zigzag >> 1) ^ -(zigzag & 1))
    if len(depth) and (depth.min() < 0 or depth.max() > 65535):
        raise ValueError("the differences leave the range of 16 bits")
    pixels = np.zeros(out.shape, np.uint16)
    pixels[known] = depth
    return pixels.reshape(height, width)


# --- transports -------------------------------------------------------------------------------------------------------


def compressed_topic(topic: str, depth: bool = False) -> str:
    """Where image_transport's publishers put the compressed form of a topic; a name that is one already stays."""
    if re.search(rf"/({COMPRESSED}|{COMPRESSED_DEPTH})$", topic):
        return topic
    return f"{topic}/{COMPRESSED_DEPTH if depth else COMPRESSED}"


# --- cv_bridge --------------------------------------------------------------------------------------------------------


@cache
def _has_bridge() -> bool:
    return importlib.util.find_spec("cv_bridge") is not None


def _is_mosaic(encoding: str) -> bool:
    """Whether colours are computed rather than copied, in an encoding that cv_bridge knows in every distribution."""
    return encoding.startswith("bayer_") or encoding in ("yuv422", "yuv422_yuy2")


def _bridged(msg: Any) -> np.ndarray:
    """uint8 (H, W, 3), red first, by cv_bridge."""
    from cv_bridge import CvBridge

    return np.asarray(CvBridge().imgmsg_to_cv2(msg, "rgb8"))
