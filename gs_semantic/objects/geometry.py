"""Where an object is: centroid, covariance and an upright oriented box from its Gaussians."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from gs_semantic.gaussians import GaussianMap
from gs_semantic.objects.registry import Box, MapObject

SAMPLE = 4000  # points that are enough for a box
TRIM = 0.01  # share of the points at each end of an axis that a box leaves out
CLEAR_SHARE = 0.85  # of its votes that a Gaussian's object has when it lies well inside the object
CLEAR_VOTES = 1.0  # votes that say so
CELL_M = 0.08  # parts of an object are farther apart than this
PART = 0.2  # smaller parts, as a share of the largest, are strays
FEWEST = 20  # points; with fewer, all are used


def update_geometry(obj: MapObject, gaussians: GaussianMap, rows: np.ndarray, keep_place: bool = False) -> None:
    """Fill ``num_gaussians``, ``centroid``, ``covariance`` and ``box`` from the given rows (the object's Gaussians).

    Without rows there is no place, unless ``keep_place`` says that the last one still counts.

    Masks are never exact, so some Gaussians behind an object's outline carry its label. They would blow up a box; only
    those count here whose votes agree, and that lie together.
    """
    obj.num_gaussians, obj.most_gaussians = len(rows), max(obj.most_gaussians, len(rows))
    obj.revision = gaussians.revision
    if not len(rows):
        if keep_place:
            return
        obj.box = obj.centroid = obj.covariance = None
        return
    rows = rows[:: max(1, len(rows) // SAMPLE)]
    if "vote_weight" in gaussians:
        rows = rows[_clear(gaussians["vote_weight"].numpy()[rows])]
    points = gaussians.means.numpy()[rows].astype(np.float64)
    points = points[_together(points)]
    obj.centroid = points.mean(0)
    centred = points - obj.centroid
    obj.covariance = centred.T @ centred / len(points)
    obj.box = upright_box(points)


def clear_votes(votes: np.ndarray, least: float = CLEAR_VOTES) -> np.ndarray:
    """bool (M,): which Gaussians belong to their object beyond doubt, with ``least`` votes or more; votes (M, slots)."""
    total = votes.sum(1)
    return (votes.max(1, initial=0) >= CLEAR_SHARE * total) & (total >= least)


def _clear(votes: np.ndarray) -> np.ndarray:
    """Those of one object's Gaussians that are clear; all when only a few are."""
    # an object that was seen once has no better ones
    clear = clear_votes(votes, min(CLEAR_VOTES, float(np.median(votes.sum(1)))))
    return clear if clear.sum() >= FEWEST else np.ones(len(votes), bool)


def _together(points: np.ndarray) -> np.ndarray:
    """Which of the points (M, 3) are in a part that is not much smaller than the largest part of connected cells."""
    low = points.min(0)
    cell = max(CELL_M, float((points.max(0) - low).max()) / 32)
    position = tuple(((points - low) / cell).astype(np.int64).T)
    occupied = np.zeros([int(axis.max()) + 1 for axis in position], bool)
    occupied[position] = True
    part = ndimage.label(occupied, np.ones((3, 3, 3)))[0][position]
    count = np.bincount(part)
    return count[part] >= PART * count.max()


def in_box(box: Box, points: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """bool (N,): which points (N, 3) lie in a box that is larger by ``margin`` on every side."""
    return (np.abs((points - box.centre) @ box.rotation) <= box.size / 2 + margin).all(axis=1)


def upright_box(points: np.ndarray) -> Box:
    """Box of (M, 3) points with one axis along the map's z (up), the others along the smallest rectangle around them."""
    angle = np.radians(cv2.minAreaRect(points[:, :2].astype(np.float32))[2])
    x = np.array([np.cos(angle), np.sin(angle), 0.0])
    z = np.array([0.0, 0.0, 1.0])
    rotation = np.stack([x, np.cross(z, x), z], axis=1)
    centre = points.mean(0)
    local = (points - centre) @ rotation
    low, high = np.quantile(local, [TRIM, 1 - TRIM], axis=0) if len(points) > FEWEST else (local.min(0), local.max(0))
    return Box(centre + rotation @ ((low + high) / 2), np.maximum(high - low, 1e-3), rotation)
