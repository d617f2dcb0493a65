"""Intrinsics and distortion of camera_info messages.

Knows no ROS: a message is anything with the fields of sensor_msgs/CameraInfo, rclpy's or one read from a bag.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gs_semantic.data.images import Lens
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera
from gs_semantic.nodes import faults

# distortion model -> numbers of coefficients
DISTORTION_MODELS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (5, 8, 12, 14),
    "equidistant": (4,),
    "fisheye": (4,),
}
FISHEYE = ("equidistant", "fisheye")


def read_camera(msg: Any, topic: str, T_world_camera: np.ndarray | None = None) -> Camera:
    """Pinhole camera of the field ``k``, of the image as sent: cropped to ``roi``, then reduced by binning."""
    return _pinhole(msg, topic, "k", (msg.k[0], msg.k[4], msg.k[2], msg.k[5]), T_world_camera)


def _pinhole(
    msg: Any, topic: str, field: str, values: Iterable[float], T_world_camera: np.ndarray | None = None
) -> Camera:
    if msg.width == 0 or msg.height == 0:
        raise InvalidInputError(
            faults.CAMERA_INFO_INVALID.text(topic=topic, reason=f"width x height is {msg.width}x{msg.height}")
        )
    fx, fy, cx, cy = map(float, values)
    if not (np.isfinite([fx, fy, cx, cy]).all() and fx > 0 and fy > 0):
        reason = f"{field} has fx={fx} fy={fy} cx={cx} cy={cy}"
        raise InvalidInputError(faults.CAMERA_INFO_INVALID.text(topic=topic, reason=reason))
    roi = msg.roi
    width, height = roi.width or msg.width, roi.height or msg.height
    pose = np.eye(4) if T_world_camera is None else T_world_camera
    camera = Camera(width, height, fx, fy, cx - roi.x_offset, cy - roi.y_offset, pose)
    across, down = max(msg.binning_x, 1), max(msg.binning_y, 1)
    return camera if across == down == 1 else camera.resized(width // across, height // down)


def read_lens(msg: Any, topic: str, rectified: bool = False) -> Lens:
    """Intrinsics and distortion of the images as sent. ``rectified``: they were undistorted already, ``p`` counts.

    InvalidInputError names the topic for a calibration that is none and for an unknown distortion model.
    """
    if rectified:
        if any(msg.p):
            return Lens(_pinhole(msg, topic, "p", (msg.p[0], msg.p[5], msg.p[2], msg.p[6])))
        return Lens(read_camera(msg, topic))
    coefficients = np.array(msg.d, np.float64)
    if not np.isfinite(coefficients).all():
        raise InvalidInputError(faults.CAMERA_INFO_INVALID.text(topic=topic, reason="d contains NaN or infinity"))
    recorded = read_camera(msg, topic)
    if not coefficients.any():
        return Lens(recorded)
    if len(coefficients) not in DISTORTION_MODELS.get(msg.distortion_model, ()):
        expected = ", ".join(f"{name} ({' or '.join(map(str, n))})" for name, n in DISTORTION_MODELS.items())
        raise InvalidInputError(
            faults.DISTORTION.text(topic=topic, model=msg.distortion_model, count=len(coefficients), expected=expected)
        )
    lens = Lens(recorded, coefficients, msg.distortion_model in FISHEYE)
    try:
        lens.camera  # noqa: B018 - finds out now whether it can be undistorted
    except InvalidInputError as error:
        raise InvalidInputError(faults.CAMERA_INFO_INVALID.text(topic=topic, reason=f"d: {error}")) from error
    return lens


def is_rectified(image_topic: str) -> bool:
    """Whether images are undistorted already, by the names that image_proc uses: ``image_rect``, ``image_rect_color``."""
    return any(part.startswith("image_rect") for part in image_topic.split("/")[-2:])
