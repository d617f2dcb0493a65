"""Depth of one camera as another camera sees it. Knows no ROS."""

from __future__ import annotations

import cv2
import numpy as np

from gs_semantic.data.images import Lens
from gs_semantic.gaussians import Camera

ITERATIONS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-9)


class DepthRegistration:
    """Warps depth images of a depth camera (``lens``, distorted or not) into a colour camera.

    Every measured pixel is a point in space; where several fall on one pixel the nearest counts. A pixel covers as many
    pixels of the colour image as its angle does, so that a finer colour image gets no holes. Rays are computed once.
    """

    def __init__(self, lens: Lens, colour: Camera) -> None:
        self._colour = colour
        self._rays = _rays(lens)
        # pixels of the colour image that one depth pixel is wide, a little less at larger depth: rounded up
        self._reach = max(
            1,
            int(np.ceil(colour.fx / lens.recorded.fx - 0.05)),
            int(np.ceil(colour.fy / lens.recorded.fy - 0.05)),
        )
        self._size = (lens.recorded.height, lens.recorded.width)
        self._transform = np.zeros((4, 4))
        self._turned = np.zeros((3, 0), np.float32)

    def __call__(self, depth: np.ndarray, T_colour_depth: np.ndarray) -> np.ndarray:
        """Depth float32 (H, W) m of the colour camera, 0 = none, of one of the depth camera; 0, NaN and infinity are none."""
        if depth.shape != self._size:
            raise ValueError(f"depth is {depth.shape}, its camera {self._size}")
        if not np.array_equal(T_colour_depth, self._transform):
            self._transform = T_colour_depth.copy()
            K = self._colour.K
            # rows: u * z, v * z, z of a point of depth 1, so that one multiplication and one addition project it
            self._turned = (K @ T_colour_depth[:3, :3] @ self._rays).astype(np.float32)
        offset = (self._colour.K @ T_colour_depth[:3, 3]).astype(np.float32)
        measured = depth.ravel()
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            z = self._turned[2] * measured + offset[2]
            ok = (measured > 0) & (z > 0) & (z < np.inf)  # NaN compares false
            u = (self._turned[0] * measured + offset[0]) / z
            v = (self._turned[1] * measured + offset[1]) / z
        return self._draw(u[ok], v[ok], z[ok])

    def _draw(self, u: np.ndarray, v: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The nearest depth of each pixel of points at image positions u, v."""
        width, height, reach = self._colour.width, self._colour.height, self._reach
        edge = np.float32((reach - 1) / 2)
        inside = (u > -0.5 - reach) & (u < width + reach) & (v > -0.5 - reach) & (v < height + reach)
        u, v, z = u[inside], v[inside], z[inside]
        # a border as wide as a pixel reaches takes what falls beside the image
        stride = width + 2 * reach + 2
        nearest = np.full((height + 2 * reach + 2, stride), np.inf, np.float32)
        left = np.rint(u - edge).astype(np.int32) + reach + 1
        top = np.rint(v - edge).astype(np.int32) + reach + 1
        np.clip(left, 0, stride - reach, out=left)
        np.clip(top, 0, nearest.shape[0] - reach, out=top)
        place = top.astype(np.int64) * stride + left
        flat = nearest.ravel()
        for down in range(reach):
            for across in range(reach):
                np.minimum.at(flat, place + (down * stride + across), z)
        out = nearest[reach + 1 : reach + 1 + height, reach + 1 : reach + 1 + width]
        return np.where(np.isfinite(out), out, np.float32(0))


def _rays(lens: Lens) -> np.ndarray:
    """Directions (3, H * W) with z = 1 of all pixels of a camera as recorded; NaN where the lens sees none."""
    camera = lens.recorded
    v, u = np.mgrid[0 : camera.height, 0 : camera.width].astype(np.float64)
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)
    if not lens.distorts:
        flat = (pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    elif lens.fisheye:
        flat = cv2.fisheye.undistortPoints(pixels[:, None], camera.K, lens.coefficients)[:, 0]
    else:
        flat = _undistorted(pixels[:, None], camera.K, lens.coefficients)[:, 0]
    flat = np.where(np.abs(flat) < 1e3, flat, np.nan)  # OpenCV marks what it cannot solve by huge numbers
    return np.concatenate([flat.T, np.ones((1, len(flat)))])


def _undistorted(pixels: np.ndarray, K: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    if hasattr(cv2, "undistortPointsIter"):  # OpenCV 4: there the other function stops after five iterations
        return cv2.undistortPointsIter(pixels, K, coefficients, np.eye(3), np.eye(3), ITERATIONS)
    return cv2.undistortPoints(pixels, K, coefficients, criteria=ITERATIONS)
