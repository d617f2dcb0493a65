"""Do two views say the same of the same surface? Share of equal labels after warping one view onto another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera

BASELINE_M = (0.2, 1.0)
DEPTH_TOLERANCE = 0.01  # share of the depth by which a warped point may miss the other view's surface
JUMP = 0.04  # share of the depth from one pixel to the next that makes a border
LEAST_OVERLAP = 0.3  # of the pixels of a view that a pair should have in common


@dataclass(frozen=True)
class LabelledView:
    """Labels int (H,W) that somebody predicted, true depth (H,W) m, and where known true classes (H,W)."""

    camera: Camera
    labels: np.ndarray
    depth: np.ndarray
    truth: np.ndarray | None = None


@dataclass
class ConsistencyScore:
    """Agreement over all pairs of views: pixels with equal labels, divided by pixels compared."""

    border_px: int = 2
    compared: int = 0
    equal: int = 0

    def update(self, first: LabelledView, second: LabelledView) -> None:
        """Warp ``first`` to ``second`` by its true depth and compare.

        Left out: what falls outside the image or is hidden in the second view, and in both views the ``border_px`` pixels
        along the image's rim, along jumps of true depth and along borders of true classes, where the nearest pixel may
        lie on the other side.
        """
        rows, columns, other_rows, other_columns = warped_pixels(first, second, self.border_px)
        self.compared += len(rows)
        self.equal += int((first.labels[rows, columns] == second.labels[other_rows, other_columns]).sum())

    @property
    def value(self) -> float:
        """0..1; NaN where nothing could be compared."""
        return self.equal / self.compared if self.compared else float("nan")


def warped_pixels(
    first: LabelledView, second: LabelledView, border_px: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns (M,) of pixels of the first view, and those of the same surface points in the second."""
    inner = away_from_borders(first.depth, first.truth, border_px)
    rows, columns = np.nonzero(inner)
    points = first.camera.unproject(first.depth)[rows, columns]
    pose, camera = second.camera.T_camera_world, second.camera
    local = points @ pose[:3, :3].T + pose[:3, 3]
    z = local[:, 2]
    front = z > 1e-3
    safe = np.where(front, z, 1.0)
    u = np.round(camera.fx * local[:, 0] / safe + camera.cx).astype(np.int64)
    v = np.round(camera.fy * local[:, 1] / safe + camera.cy).astype(np.int64)
    inside = front & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    rows, columns, u, v, z = rows[inside], columns[inside], u[inside], v[inside], z[inside]
    seen = away_from_borders(second.depth, second.truth, border_px)[v, u]
    seen &= np.abs(second.depth[v, u] - z) <= DEPTH_TOLERANCE * z + _slope(second.depth)[v, u]
    return rows[seen], columns[seen], v[seen], u[seen]


def away_from_borders(depth: np.ndarray, truth: np.ndarray | None, border_px: int) -> np.ndarray:
    """bool (H,W): pixels with depth, farther than ``border_px`` from the rim, from depth jumps and from class borders."""
    known = np.isfinite(depth) & (depth > 0)
    filled = np.where(known, depth, 0.0)
    border = ~known
    for axis in (0, 1):
        step = np.abs(np.diff(filled, axis=axis))
        near = np.minimum(np.delete(filled, 0, axis), np.delete(filled, -1, axis))
        edge = step > JUMP * near
        if truth is not None:
            edge |= np.diff(truth, axis=axis) != 0
        pad = [(0, 0), (0, 0)]
        for side in ((1, 0), (0, 1)):
            pad[axis] = side
            border |= np.pad(edge, pad)
    if border_px:
        # a pixel on either side of a border is at distance 1 of it
        kernel = np.ones((2 * border_px - 1, 2 * border_px - 1), np.uint8)
        border = cv2.dilate(border.astype(np.uint8), kernel).astype(bool)
        border[:border_px] = border[-border_px:] = True
        border[:, :border_px] = border[:, -border_px:] = True
    return known & ~border


def _slope(depth: np.ndarray) -> np.ndarray:
    """How much depth (H,W) changes within half a pixel, which is how far the nearest pixel may be from the point."""
    filled = np.nan_to_num(depth)
    dy, dx = np.gradient(filled)
    return 0.5 * (np.abs(dx) + np.abs(dy))


def view_pairs_at_distance(
    cameras: Sequence[Camera],
    depths: Sequence[np.ndarray],
    count: int = 200,
    baseline_m: tuple[float, float] = BASELINE_M,
    seed: int = 0,
) -> list[tuple[int, int]]:
    """Up to ``count`` pairs of views, drawn at random, whose centres are ``baseline_m`` apart and that see enough of each
    other. InvalidRequestError where there is none."""
    centres = np.stack([camera.T_world_camera[:3, 3] for camera in cameras])
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    low, high = baseline_m
    near = np.argwhere((distance >= low) & (distance <= high) & ~np.eye(len(cameras), dtype=bool))
    chosen: list[tuple[int, int]] = []
    for first, second in np.random.default_rng(seed).permutation(near).tolist():
        if len(chosen) == count:
            break
        if _overlap(cameras[first], depths[first], cameras[second]) >= LEAST_OVERLAP:
            chosen.append((first, second))
    if not chosen:
        raise InvalidRequestError(
            f"no two of {len(cameras)} views are {low:g} to {high:g} m apart and see the same surfaces"
        )
    return chosen


def _overlap(first: Camera, depth: np.ndarray, second: Camera) -> float:
    """Share of the first view's pixels (a sample) that fall into the second image."""
    points = first.unproject(depth)[::8, ::8].reshape(-1, 3)
    points = points[np.isfinite(points[:, 2])]
    if not len(points):
        return 0.0
    pose = second.T_camera_world
    x, y, z = (points @ pose[:3, :3].T + pose[:3, 3]).T
    front = z > 1e-3
    safe = np.where(front, z, 1.0)
    u, v = second.fx * x / safe + second.cx, second.fy * y / safe + second.cy
    return float((front & (u > -0.5) & (u < second.width - 0.5) & (v > -0.5) & (v < second.height - 0.5)).mean())
