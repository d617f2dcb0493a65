"""Image files and lenses of recordings: pixels with errors that name the file, and undistortion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from PIL import Image

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera

COLOUR_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
COLOUR_MODES = ("RGB", "RGBA", "L", "P")
DEPTH_MODES = ("I;16", "I;16B", "I")
LABEL_MODES = ("L", "P", "I;16", "I;16B", "I")
MAX_ZOOM = 4.0  # a lens that would need more is not a pinhole camera any more
BORDER_STEPS = 64


def read_colour(path: Path, size: tuple[int, int] | None = None, source: str = "") -> np.ndarray:
    """8-bit colour, uint8 (H, W, 3); transparent pixels lie on white. ``size`` and ``source``: see ``read_pixels``."""
    pixels = read_pixels(path, "8-bit colour", COLOUR_MODES, size, source, converted={"L": "RGB", "P": "RGBA"})
    if pixels.shape[2] == 3:
        return pixels
    share = pixels[..., 3:].astype(np.float32) / 255
    return np.round(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def read_depth(path: Path, scale: float, size: tuple[int, int] | None = None, source: str = "") -> np.ndarray:
    """Depth in metres, float32 (H, W), of a 16-bit image whose values times ``scale`` are metres; 0 = none."""
    raw = read_pixels(path, "16-bit depth", DEPTH_MODES, size, source)
    return raw.astype(np.float32) * np.float32(scale)


def read_ids(path: Path, kind: str, size: tuple[int, int] | None = None, source: str = "") -> np.ndarray:
    """Label image, int32 (H, W); ``kind`` says of what, for the error."""
    return read_pixels(path, f"{kind} ids", LABEL_MODES, size, source).astype(np.int32)


def read_pixels(
    path: Path,
    what: str,
    modes: tuple[str, ...],
    size: tuple[int, int] | None = None,
    source: str = "",
    converted: Mapping[str, str] = MappingProxyType({}),
) -> np.ndarray:
    """Pixels of an image file in one of Pillow's ``modes``; ``converted`` says which become another mode.

    ``size`` is the (width, height) that ``source`` (a file's name) promises. InvalidInputError names the image and
    what was expected when it is missing, damaged, of another kind or of another size.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in modes:
                raise InvalidInputError(f"{path}: expected {what} ({' or '.join(modes)}), found mode {image.mode}")
            if size is not None and image.size != size:
                raise InvalidInputError(
                    f"{path}: image is {image.size[0]}x{image.size[1]}, {source} says {size[0]}x{size[1]}"
                )
            return np.array(image.convert(converted[image.mode]) if image.mode in converted else image)
    except FileNotFoundError:
        raise InvalidInputError(f"{path}: no such file; expected {what} for this frame") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for damage
        raise InvalidInputError(f"{path}: cannot be read as {what}: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, without decoding the image."""
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise InvalidInputError(f"{path}: no such file; expected an image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInputError(f"{path}: cannot be read as an image: {error}") from error


def resized_nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels of any type at another (width, height); values are never mixed."""
    if pixels.shape[1::-1] == size:
        return pixels
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(size[::-1], pixels.shape, strict=False)
    )
    return np.ascontiguousarray(pixels[rows[:, None], columns])


@dataclass(frozen=True)
class Lens:
    """Intrinsics of recorded images with lens distortion, and how they become those of a pinhole camera.

    recorded: intrinsics of the image files. coefficients: of OpenCV's model, ``k1 k2 p1 p2 [k3 [k4 k5 k6]]``, or
    ``k1 k2 k3 k4`` when ``fisheye``; none or all zero: no distortion. ``camera`` is the pinhole camera of the
    undistorted images: of the same size, with the focal length raised as far as it takes for every pixel to have data.
    """

    recorded: Camera
    coefficients: np.ndarray = field(default_factory=lambda: np.zeros(0))
    fisheye: bool = False

    @property
    def distorts(self) -> bool:
        return bool(np.any(self.coefficients))

    @cached_property
    def camera(self) -> Camera:
        if not self.distorts:
            return self.recorded
        low, high = 1.0, MAX_ZOOM
        if self._covers(low):
            return self.recorded
        if not self._covers(high):
            raise InvalidInputError(
                f"lens distortion {np.round(self.coefficients, 4).tolist()}: no pinhole camera sees only what the "
                "image shows; are the coefficients right?"
            )
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if self._covers(middle) else (middle, high)
        return self._zoomed(high)

    def _zoomed(self, zoom: float) -> Camera:
        return replace(self.recorded, fx=self.recorded.fx * zoom, fy=self.recorded.fy * zoom)

    def _covers(self, zoom: float) -> bool:
        """Whether the border of the undistorted image lies inside the recorded one."""
        width, height = self.recorded.width, self.recorded.height
        u, v = np.linspace(0, width - 1, BORDER_STEPS), np.linspace(0, height - 1, BORDER_STEPS)
        border = np.concatenate(
            [np.stack(np.broadcast_arrays(u, edge), 1) for edge in (0.0, height - 1.0)]
            + [np.stack(np.broadcast_arrays(edge, v), 1) for edge in (0.0, width - 1.0)]
        )
        seen = self.distorted(border, self._zoomed(zoom))
        return bool(((seen > -0.5) & (seen < [width - 0.5, height - 0.5])).all())

    def distorted(self, pixels: np.ndarray, camera: Camera | None = None) -> np.ndarray:
        """Where in the recorded image pixels (N, 2) of the undistorted one lie; float64 (N, 2)."""
        camera = camera or self.camera
        rays = (np.asarray(pixels, np.float64) - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
        K = self.recorded.K
        if self.fisheye:
            return cv2.fisheye.distortPoints(rays[:, None], K, self.coefficients)[:, 0]
        points = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
        return cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, self.coefficients)[0][:, 0]

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        camera = self.camera
        size = (camera.width, camera.height)
        make = cv2.fisheye.initUndistortRectifyMap if self.fisheye else cv2.initUndistortRectifyMap
        first, second = make(self.recorded.K, self.coefficients, np.eye(3), camera.K, size, cv2.CV_32FC1)
        return first, second

    def undistort(self, pixels: np.ndarray, labels: bool = False) -> np.ndarray:
        """The image (H, W) or (H, W, C) as ``camera`` sees it. ``labels``: values are never mixed (depth, too)."""
        if not self.distorts:
            return pixels
        kind = pixels.dtype
        if labels and kind == np.int32:
            pixels = pixels.astype(np.float64)  # OpenCV remaps no int32; every id fits
        out = cv2.remap(
            pixels,
            *self._maps,
            cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT if labels else cv2.BORDER_REPLICATE,
        )
        return out.astype(kind, copy=False)
