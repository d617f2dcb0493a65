"""Gaussians follow the keyframes that made them."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from gs_semantic.gaussians.gaussian_map import GaussianMap


def move_with_keyframes(gaussians: GaussianMap, moves: dict[int, np.ndarray]) -> np.ndarray:
    """Move the Gaussians of each keyframe rigidly by its 4x4 motion in the world; returns their rows (int64).

    Colour coefficients beyond degree 0 are not rotated: corrections of poses are small.
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
    T = np.stack(list(moves.values()))
    turn = T[:, :3, :3].astype(np.float32)
    # p + (R - 1) p + t keeps float32 exact for the small motions that corrections are
    change = turn - np.eye(3, dtype=np.float32)
    means = gaussians["means"].numpy()
    old = means[rows]
    means[rows] = old + np.einsum("nij,nj->ni", change[place], old) + T[:, :3, 3].astype(np.float32)[place]
    quats = gaussians["quats"].numpy()
    x, y, z, w = Rotation.from_matrix(T[:, :3, :3]).as_quat().astype(np.float32).T[:, place]
    a, b, c, d = quats[rows].T
    quats[rows] = np.stack(
        [
            w * a - x * b - y * c - z * d,
            w * b + x * a + y * d - z * c,
            w * c - x * d + y * a + z * b,
            w * d + x * c - y * b + z * a,
        ],
        1,
    )
    gaussians.touch(torch.from_numpy(rows))
    return rows
