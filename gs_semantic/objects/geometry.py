"""Where an object is: centroid, covariance and an upright oriented box from its Gaussians."""

from __future__ import annotations

import numpy as np

from gs_semantic.gaussians import GaussianMap
from gs_semantic.objects.registry import Box, MapObject

SAMPLE = 4000  # points that are enough for a box
TRIM = 0.01  # share of the Gaussians at each end of an axis that a box leaves out: stray ones must not blow it up


def update_geometry(obj: MapObject, gaussians: GaussianMap, rows: np.ndarray) -> None:
    """Fill ``num_gaussians``, ``centroid``, ``covariance`` and ``box`` from the given rows (the object's Gaussians)."""
    obj.num_gaussians = len(rows)
    obj.revision = gaussians.revision
    if not len(rows):
        obj.box = obj.centroid = obj.covariance = None
        return
    points = gaussians.means.numpy()[rows[:: max(1, len(rows) // SAMPLE)]].astype(np.float64)
    obj.centroid = points.mean(0)
    centred = points - obj.centroid
    obj.covariance = centred.T @ centred / len(points)
    obj.box = upright_box(points)


def upright_box(points: np.ndarray) -> Box:
    """Box (M, 3) points with one axis along the map's z (up) and the others along the principal axes of the footprint."""
    centre = points.mean(0)
    flat = points[:, :2] - centre[:2]
    _, axes = np.linalg.eigh(flat.T @ flat)
    x = np.array([axes[0, 1], axes[1, 1], 0.0])
    z = np.array([0.0, 0.0, 1.0])
    rotation = np.stack([x, np.cross(z, x), z], axis=1)
    local = (points - centre) @ rotation
    low, high = np.quantile(local, [TRIM, 1 - TRIM], axis=0) if len(points) > 20 else (local.min(0), local.max(0))
    return Box(centre + rotation @ ((low + high) / 2), np.maximum(high - low, 1e-3), rotation)
