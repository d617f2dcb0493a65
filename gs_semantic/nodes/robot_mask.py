"""Where a camera sees the robot itself: an image file, white there. Such pixels are ignored."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gs_semantic.errors import InvalidInputError

CAMERA_FIELD = "{camera}"  # in the path: the name of the camera


def load_robot_mask(path: str, camera: str = "") -> np.ndarray | None:
    """bool (H, W), true where pixels are ignored; None without a path. InvalidInputError names the file."""
    if not path:
        return None
    file = Path(path.replace(CAMERA_FIELD, camera)).expanduser()
    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_GRAYSCALE) if _has_bytes(file) else None
    if image is None:
        raise InvalidInputError(
            f"parameter robot_mask: {file} cannot be read as an image; give a PNG of the camera's size, white where the "
            "robot is seen"
        )
    return image >= 128


def _has_bytes(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def check_size(mask: np.ndarray, path: str, height: int, width: int) -> None:
    """InvalidInputError when the mask is not one of images of this size."""
    if mask.shape != (height, width):
        raise InvalidInputError(
            f"parameter robot_mask: {path} is {mask.shape[1]}x{mask.shape[0]}, the images are {width}x{height}; both must "
            "show the same pixels"
        )
