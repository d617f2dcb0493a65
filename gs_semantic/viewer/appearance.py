"""In what colour splats are shown, and which are hidden. Arrays only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np

from gs_semantic.labels import OBJECT_COLOURS, VOID, palette
from gs_semantic.objects.packing import ObjectView

MODES = ("colour", "semantic", "instance", "confidence")
UNKNOWN = (96, 96, 100)  # colour of what belongs to no object, except in "colour"
HIGHLIGHT = (255, 0, 255)  # no surface has it
HIGHLIGHT_SHARE = 0.55


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
    return (
        cv2.applyColorMap(levels[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
        if len(levels)
        else np.zeros((0, 3), np.uint8)
    )


def visible(splats: np.ndarray, hidden: Collection[int]) -> np.ndarray:
    """Rows of the splats that do not belong to one of the objects."""
    if not hidden:
        return np.arange(len(splats))
    return np.flatnonzero(~np.isin(splats["object_id"], np.array(sorted(hidden), np.uint64)))
