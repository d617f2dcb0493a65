"""Gaussians follow the keyframes that made them."""

from __future__ import annotations

import numpy as np

from gs_semantic.gaussians.gaussian_map import GaussianMap
from gs_semantic.gaussians.rigid import move_rows


def move_with_keyframes(gaussians: GaussianMap, moves: dict[int, np.ndarray]) -> np.ndarray:
    """Move the Gaussians of each keyframe rigidly by its 4x4 motion in the world; returns their rows (int64).

    Colour coefficients beyond degree 0 stay: corrections of poses are small.
    """
    keyframe = gaussians["keyframe"].numpy()
    if not moves or not len(keyframe):
        return np.zeros(0, np.int64)
    which = np.full(max(int(keyframe.max()), max(moves)) + 2, -1, np.int32)  # the last entry serves keyframe -1
    for place, index in enumerate(moves):
        which[index] = place
    which[-1] = -1
    place = which[keyframe]
    rows = np.nonzero(place >= 0)[0]
    place = place[rows]
    move_rows(gaussians, rows, np.stack(list(moves.values())), place)
    return rows
