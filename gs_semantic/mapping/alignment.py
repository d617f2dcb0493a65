"""Motion between two RGB-D frames: dense alignment of surfaces and brightness.

Every sampled pixel of one frame should, moved into the other, lie on the surface measured there (point-to-plane) and
have the brightness seen there: what KinectFusion and direct RGB-D odometry minimise, coarse to fine, by Gauss-Newton
with Huber weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from gs_semantic.gaussians import Camera

LEVELS = ((4, 2, 5), (2, 4, 4), (1, 8, 3))  # reduction, every so many pixels of a line and of a column, iterations
NORMALS_LEVEL = 4
MIN_SHARE = 0.15  # share of the samples that must be seen by both frames
MIN_SAMPLES = 100
HUBER = 1.345  # knee in standard deviations
BRIGHTNESS_FLOOR = 0.004  # smallest standard deviation of brightness residuals assumed
CONVERGED = 2e-5


@dataclass(frozen=True)
class Level:
    """One resolution of a frame: grey (h, w) 0..1 and its derivatives per pixel; depth (h, w) m, 0 = none."""

    grey: np.ndarray
    slope_u: np.ndarray
    slope_v: np.ndarray
    depth: np.ndarray
    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class Pyramid:
    """A frame prepared for alignment. points, normals (h, w, 3): the smoothed surface at ``NORMALS_LEVEL``, in the
    camera's frame; a normal of 0 marks pixels without a usable surface."""

    levels: dict[int, Level]
    points: np.ndarray
    normals: np.ndarray


@dataclass(frozen=True)
class Motion:
    """``T_ref_src`` (4x4) takes points of the source camera to the reference camera; ``information`` (6, 6) of a
    disturbance (translation m, rotation rad) from its left; ``overlap``: share of the samples that both frames see."""

    T_ref_src: np.ndarray
    information: np.ndarray
    overlap: float


def make_pyramid(camera: Camera, rgb: np.ndarray, depth: np.ndarray) -> Pyramid:
    """rgb uint8 (H, W, 3), depth float32 (H, W) m, 0 = none."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) * np.float32(1 / 255)
    levels = {}
    for scale, _, _ in LEVELS:
        if scale == 1:
            small, z = cv2.GaussianBlur(grey, (3, 3), 0), depth
        else:
            height, width = (side // scale for side in depth.shape)
            small = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
            z = _reduce_depth(depth, scale)
        levels[scale] = Level(
            small,
            cv2.Sobel(small, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8),
            cv2.Sobel(small, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8),
            z,
            camera.fx / scale,
            camera.fy / scale,
            (camera.cx + 0.5) / scale - 0.5,
            (camera.cy + 0.5) / scale - 0.5,
        )
    return Pyramid(levels, *_surface(levels[NORMALS_LEVEL]))


def _reduce_depth(depth: np.ndarray, scale: int) -> np.ndarray:
    """Mean depth of blocks that are mostly measured and show one surface; 0 elsewhere."""
    height, width = (side // scale for side in depth.shape)
    cut = depth[: height * scale, : width * scale]
    known = (cut > 0).astype(np.float32)
    size = (width, height)
    share = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(cut, size, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-6)
    square = cv2.resize(cut * cut, size, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-6)
    spread = square - mean * mean
    one_surface = spread < (0.01 * mean + 0.006 * mean * mean) ** 2
    return np.where((share >= 0.5) & one_surface, mean, 0).astype(np.float32)


def _surface(level: Level, reach: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed points and unit normals (h, w, 3) of a depth image."""
    z = level.depth
    height, width = z.shape
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    points = np.dstack([(u - level.cx) / level.fx * z, (v - level.cy) / level.fy * z, z])
    known = (z > 0).astype(np.float32)
    window = (2 * reach + 1, 2 * reach + 1)
    count = cv2.boxFilter(known, -1, window, normalize=False)
    points = cv2.boxFilter(points, -1, window, normalize=False) / np.maximum(count, 1)[..., None]
    du, dv = np.zeros_like(points), np.zeros_like(points)
    du[:, reach:-reach] = points[:, 2 * reach :] - points[:, : -2 * reach]
    dv[reach:-reach] = points[2 * reach :] - points[: -2 * reach]
    normal = np.cross(du, dv)
    length = np.linalg.norm(normal, axis=2)
    steep = np.maximum(np.abs(du[..., 2]), np.abs(dv[..., 2]))
    usable = (length > 0) & (known > 0) & (steep < 0.15 * z) & (np.abs(points[..., 2] - z) < 0.02 * z)
    normal = np.where(usable[..., None], normal / np.maximum(length, 1e-12)[..., None], 0)
    return points.astype(np.float32), normal.astype(np.float32)


def align(source: Pyramid, reference: Pyramid, guess: np.ndarray) -> Motion | None:
    """Motion that takes ``source`` onto ``reference``, from a ``guess`` of T_ref_src that is off by a few pixels at most.

    None when the two see too little of the same surfaces.
    """
    T = guess.copy()
    information, overlap = np.zeros((6, 6)), 0.0
    for scale, stride, iterations in LEVELS:
        points, shade = _samples(source.levels[scale], stride)
        if len(points) < MIN_SAMPLES:
            return None
        for iteration in range(iterations):
            tolerance = 3.0 if scale == LEVELS[0][0] and iteration == 0 else 1.5
            system = _linearise(points, shade, reference, scale, T, tolerance)
            if system is None:
                return None
            information, slope, overlap = system
            delta = -np.linalg.solve(information + 1e-3 * np.eye(6), slope)
            T = exponential(delta) @ T
            if np.abs(delta).max() < CONVERGED:
                break
    return Motion(T, information, overlap)


def _samples(level: Level, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (M, 3) and brightness (M,) of every ``stride``-th pixel with depth."""
    height, width = level.depth.shape
    v, u = (a.ravel() for a in np.mgrid[stride // 2 : height : stride, stride // 2 : width : stride])
    z = level.depth[v, u]
    measured = z > 0
    v, u, z = v[measured], u[measured], z[measured].astype(np.float64)
    points = np.stack([(u - level.cx) / level.fx * z, (v - level.cy) / level.fy * z, z], 1)
    return points, level.grey[v, u]


def _linearise(
    points: np.ndarray, shade: np.ndarray, reference: Pyramid, scale: int, T: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Normal equations (6, 6), (6,) of both residuals around ``T``, and the overlap; None when there is too little."""
    level = reference.levels[scale]
    height, width = level.depth.shape
    moved = points @ T[:3, :3].T + T[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        x = moved[:, 0] / moved[:, 2] * level.fx + level.cx
        y = moved[:, 1] / moved[:, 2] * level.fy + level.cy
        inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2) & (moved[:, 2] > 0.1)
    moved, x, y, shade = moved[inside], x[inside], y[inside], shade[inside]
    column, row = np.round(x).astype(int), np.round(y).astype(int)
    there = level.depth[row, column]
    seen = (there > 0) & (np.abs(there - moved[:, 2]) < tolerance * (0.03 + 0.01 * moved[:, 2] ** 2))
    if seen.sum() < max(MIN_SAMPLES, MIN_SHARE * len(points)):
        return None
    moved, x, y, shade, column, row = (a[seen] for a in (moved, x, y, shade, column, row))

    # brightness
    where = x.astype(np.float32)[None], y.astype(np.float32)[None]
    grey, slope_u, slope_v = (
        cv2.remap(image, *where, cv2.INTER_LINEAR)[0] for image in (level.grey, level.slope_u, level.slope_v)
    )
    difference = grey - shade
    inverse = 1 / moved[:, 2]
    du, dv = slope_u * level.fx * inverse, slope_v * level.fy * inverse
    along = np.stack([du, dv, -(du * moved[:, 0] + dv * moved[:, 1]) * inverse], 1)
    jacobian = np.concatenate([along, np.cross(moved, along)], 1)
    weight = _huber_weight(difference, BRIGHTNESS_FLOOR)
    information = (jacobian * weight[:, None]).T @ jacobian
    slope = jacobian.T @ (weight * difference)

    # surface
    coarse = NORMALS_LEVEL // scale
    row = np.minimum(row // coarse, reference.normals.shape[0] - 1)
    column = np.minimum(column // coarse, reference.normals.shape[1] - 1)
    normal = reference.normals[row, column].astype(np.float64)
    flat = np.abs(normal).sum(1) > 0
    if flat.any():
        moved, normal = moved[flat], normal[flat]
        target = reference.points[row[flat], column[flat]]
        scale_m = 0.003 + 0.002 * moved[:, 2] ** 2  # grows as sensor noise does
        distance = np.einsum("ij,ij->i", normal, moved - target) / scale_m
        jacobian = np.concatenate([normal, np.cross(moved, normal)], 1) / scale_m[:, None]
        weight = _huber_weight(distance, 0.5)
        information += (jacobian * weight[:, None]).T @ jacobian
        slope += jacobian.T @ (weight * distance)
    return information, slope, float(seen.sum() / len(points))


def _huber_weight(residual: np.ndarray, floor: float) -> np.ndarray:
    """1 / variance, less for outliers; the standard deviation is taken from the residuals themselves."""
    sigma = max(1.4826 * float(np.median(np.abs(residual))), floor)
    return HUBER / (sigma * np.maximum(np.abs(residual), HUBER * sigma))


def exponential(delta: np.ndarray) -> np.ndarray:
    """4x4 of a small motion (translation m, rotation vector rad): first the rotation about the origin."""
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(delta[3:])[0]
    T[:3, 3] = delta[:3]
    return T


def logarithm(T: np.ndarray) -> np.ndarray:
    """Inverse of ``exponential``."""
    return np.concatenate([T[:3, 3], cv2.Rodrigues(T[:3, :3])[0].ravel()])
