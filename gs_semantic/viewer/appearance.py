"""How splats look: which are sent to a browser, in what colour, how large. Arrays only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np

from gs_semantic.gaussians import Camera
from gs_semantic.labels import OBJECT_COLOURS, VOID, palette
from gs_semantic.objects.packing import ObjectView
from gs_semantic.objects.splats import ROTATION_ONE

MODES = ("colour", "semantic", "instance", "confidence")
UNKNOWN = (96, 96, 100)  # colour of what belongs to no object, except in "colour"
HIGHLIGHT = (255, 0, 255)  # no surface has it
HIGHLIGHT_SHARE = 0.55
NEAREST_M = 0.3  # nearer splats count as if they were so far away
MARGIN = 1.3  # of the image: a small turn of the camera shows something, too
OUTSIDE = 0.02  # weight of what lies outside of the image
# viser's shader leaves out splats of less than about half a pixel, and a map seen from afar would be full of holes
LEAST_PX = 0.6


def largest(splats: np.ndarray, limit: int, camera: Camera | None = None) -> np.ndarray:
    """Rows of at most ``limit`` splats: those that cover most, of the image of a camera or, without one, of surface."""
    if len(splats) <= limit:
        return np.arange(len(splats))
    return np.argpartition(-_cover(splats, camera), limit)[:limit]


def _cover(splats: np.ndarray, camera: Camera | None) -> np.ndarray:
    """How much each splat (N,) covers, in some unit."""
    scale = np.sort(splats["scale"].astype(np.float32), axis=1)
    weight = scale[:, 2] * scale[:, 1] * splats["opacity"]
    if camera is not None:
        local = _local(splats, camera)
        distance = np.linalg.norm(local, axis=1)
        depth = np.maximum(local[:, 2], 1e-6)
        inside = local[:, 2] > 0
        for axis, focal, size in ((0, camera.fx, camera.width), (1, camera.fy, camera.height)):
            inside &= np.abs(local[:, axis]) * focal < MARGIN * size / 2 * depth
        weight = weight / np.maximum(distance, NEAREST_M) ** 2 * np.where(inside, 1.0, OUTSIDE)
    return weight


def covariances(splats: np.ndarray, camera: Camera | None = None) -> np.ndarray:
    """float32 (M, 3, 3), m²; for a camera no splat is smaller than ``LEAST_PX`` of its pixels."""
    w, x, y, z = (splats["rotation"].astype(np.float32) / ROTATION_ONE).T
    rotation = np.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        axis=1,
    ).reshape(-1, 3, 3)
    axes = rotation * splats["scale"].astype(np.float32)[:, None, :]
    out = axes @ axes.transpose(0, 2, 1)
    if camera is not None:
        pixel_m = np.linalg.norm(_local(splats, camera), axis=1) / camera.fx
        out += (np.square(LEAST_PX * pixel_m)[:, None, None] * np.eye(3)).astype(np.float32)
    return out


def colours(
    splats: np.ndarray,
    objects: Mapping[int, ObjectView],
    mode: str,
    selected: int = 0,
    confidence: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 (M, 3). Semantic and instance colours are those of the label images and of RViz's boxes; confidence, dark to
    bright, is that of each splat, uint8 (M,), or, when that is not known, of its object's class. The selected object is
    tinted."""
    own = splats["object_id"]
    if mode == "colour":
        rgb = splats["rgb"].copy()
    elif mode == "confidence" and confidence is not None:
        known = np.isin(own, np.array(sorted(objects), np.uint64))
        rgb = np.where(known[:, None], _brightness(confidence), np.array(UNKNOWN, np.uint8))
    else:
        ids, place = np.unique(own, return_inverse=True)
        rgb = _object_colours([objects.get(int(i)) for i in ids], mode)[place]
    if selected:
        lit = own == selected
        rgb[lit] = np.round(rgb[lit] * (1 - HIGHLIGHT_SHARE) + np.array(HIGHLIGHT) * HIGHLIGHT_SHARE)
    return rgb


def _object_colours(objects: Sequence[ObjectView | None], mode: str) -> np.ndarray:
    """uint8 (K, 3); ``UNKNOWN`` for None."""
    out = np.tile(np.array(UNKNOWN, np.uint8), (len(objects), 1))
    there = [row for row, obj in enumerate(objects) if obj is not None]
    known = [obj for obj in objects if obj is not None]
    if not known:
        return out
    if mode == "instance":
        out[there] = palette(OBJECT_COLOURS)[[obj.slot % OBJECT_COLOURS for obj in known]]
    elif mode == "semantic":
        classes = np.array([obj.class_id for obj in known])
        out[there] = np.where((classes == VOID)[:, None], UNKNOWN, palette(int(classes.max()) + 1)[classes])
    else:
        out[there] = _brightness(np.array([round(obj.confidence * 255) for obj in known], np.uint8))
    return out


def _brightness(levels: np.ndarray) -> np.ndarray:
    """Colours uint8 (K, 3) of levels uint8 (K,), dark to bright."""
    return cv2.applyColorMap(levels[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1] if len(levels) else np.zeros((0, 3), np.uint8)


def visible(splats: np.ndarray, hidden: Collection[int]) -> np.ndarray:
    """Rows of the splats that do not belong to one of the objects."""
    if not hidden:
        return np.arange(len(splats))
    return np.flatnonzero(~np.isin(splats["object_id"], np.array(sorted(hidden), np.uint64)))


def _local(splats: np.ndarray, camera: Camera) -> np.ndarray:
    """Centres (M, 3) in the camera's optical frame, m."""
    to_camera = camera.T_camera_world.astype(np.float32)
    return splats["position"] @ to_camera[:3, :3].T + to_camera[:3, 3]
