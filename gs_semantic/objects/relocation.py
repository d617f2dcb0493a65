"""Is this the object that was over there? Fits coloured points of an object to those that were seen of another.

Objects are taken to stand on the same face as before: motions turn about the map's z axis and shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

YAWS = 24  # starting angles
REFINED = 5  # of them, the best
ITERATIONS = 30  # points slide along faces but slowly
CONVERGED = 1e-4  # rad or m
OLD_SAMPLE, NEW_SAMPLE = 6000, 500  # points that are compared; those of the old one must lie close together
REACH_M = 0.06  # pairs farther apart do not count while fitting
NEAR_M, ALIKE = 0.02, 0.15  # what counts as the same place and colour (0..1) in the end
COLOUR_M = 0.1  # a colour difference of 1 counts like this distance when pairs are sought
LARGER = 1.3  # a new object may not be larger than the old one by more than this, and
MARGIN_M = 0.03
SMALLER = 0.4  # at least this share of its largest extent must have been seen


@dataclass(frozen=True)
class Relocation:
    """motion (4, 4) takes the old object to where the new one is; share of the new one's points that it explains."""

    motion: np.ndarray
    share: float


def relocate(
    old: np.ndarray, old_colours: np.ndarray, new: np.ndarray, new_colours: np.ndarray
) -> Relocation | None:
    """Fit points (N, 3) with colours (N, 3), 0..1, of a complete object to some (M, 3) of a perhaps partial one.

    None when their sizes rule it out. The rest is a nearest-point search with colour (ICP) from all sides.
    """
    old, old_colours = _sampled(old, old_colours, OLD_SAMPLE)
    new, new_colours = _sampled(new, new_colours, NEW_SAMPLE)
    if len(old) < 10 or len(new) < 10:
        return None
    extent, found = (np.sort(_robust(points)[1] - _robust(points)[0]) for points in (old, new))
    if (found > LARGER * extent + MARGIN_M).any() or found[2] < SMALLER * extent[2]:
        return None
    centre, other = _stands(old), _stands(new)
    tree = cKDTree(np.hstack([old - centre, COLOUR_M * old_colours]))
    points, colours = new - other, COLOUR_M * new_colours
    starts = []
    for yaw in np.arange(YAWS) * 2 * np.pi / YAWS:
        distance, _ = tree.query(np.hstack([points @ _turn(yaw), colours]))
        starts.append((float(np.minimum(distance, REACH_M).mean()), yaw))
    best: Relocation | None = None
    for _, yaw in sorted(starts)[:REFINED]:
        # q = R^T (p - shift) takes a new point to where it would be in the old object
        shift = np.zeros(3)
        for _ in range(ITERATIONS):
            local = (points - shift) @ _turn(yaw)
            distance, pair = tree.query(np.hstack([local, colours]), distance_upper_bound=2 * REACH_M)
            near = distance < REACH_M
            if near.sum() < 10:
                break
            before = np.array([yaw, *shift])
            yaw, shift = _fit(tree.data[pair[near], :3], points[near])
            if np.abs(np.array([yaw, *shift]) - before).max() < CONVERGED:
                break
        local = (points - shift) @ _turn(yaw)
        distance, pair = tree.query(np.hstack([local, colours]))
        matched = tree.data[pair]
        same = np.linalg.norm(matched[:, :3] - local, axis=1) < NEAR_M
        same &= np.abs(matched[:, 3:] - colours).max(1) < ALIKE * COLOUR_M
        if best is None or same.mean() > best.share:
            motion = np.eye(4)
            motion[:3, :3] = _turn(yaw)
            motion[:3, 3] = other + shift - motion[:3, :3] @ centre
            best = Relocation(motion, float(same.mean()))
    return best


def _sampled(points: np.ndarray, colours: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    step = max(1, len(points) // count)
    return points[::step].astype(np.float64), colours[::step].astype(np.float64)


def _robust(points: np.ndarray) -> np.ndarray:
    """Low and high corner (2, 3) without the outermost points."""
    return np.quantile(points, [0.02, 0.98], axis=0)


def _stands(points: np.ndarray) -> np.ndarray:
    low, high = _robust(points)
    return np.array([*((low + high)[:2] / 2), low[2]])


def _turn(yaw: float) -> np.ndarray:
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _fit(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Yaw and shift for which target = turn(yaw) @ source + shift fits best."""
    a, b = source.mean(0), target.mean(0)
    x, y = (source - a)[:, :2], (target - b)[:, :2]
    yaw = float(np.arctan2((x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]).sum(), (x * y).sum()))
    return yaw, b - _turn(yaw) @ a
