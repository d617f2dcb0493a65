"""What tests of a mapped room of known geometry have in common."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "mapping"))

from gs_semantic.mapping.mapper import Mapper

STEP = 0.14


def cameras_of(mapper: Mapper) -> dict:
    return {keyframe.index: keyframe.camera for keyframe in mapper.keyframes.frames}


def box_distance(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Signed distance to a solid box."""
    outside = np.maximum(low - points, points - high)
    return np.linalg.norm(np.maximum(outside, 0), axis=1) + np.minimum(outside.max(1), 0)
