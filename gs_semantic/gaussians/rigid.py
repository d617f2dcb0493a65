"""Rigid motions of Gaussians."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from gs_semantic.gaussians.gaussian_map import GaussianMap


def move_rows(gaussians: GaussianMap, rows: np.ndarray, motions: np.ndarray, which: np.ndarray | None = None) -> None:
    """Move rows (M,) int64 rigidly in the world: row ``i`` by ``motions[which[i]]``, (K, 4, 4), or all by ``motions[0]``.

    Centres and rotations move; colour coefficients beyond degree 0 are not rotated (see ``rotate_harmonics``).
    """
    place = np.zeros(len(rows), np.int32) if which is None else which
    turn = motions[:, :3, :3].astype(np.float32)
    # p + (R - 1) p + t keeps float32 exact for the small motions that corrections are
    change = turn - np.eye(3, dtype=np.float32)
    means = gaussians["means"].numpy()
    old = means[rows]
    means[rows] = old + np.einsum("nij,nj->ni", change[place], old) + motions[:, :3, 3].astype(np.float32)[place]
    quats = gaussians["quats"].numpy()
    x, y, z, w = Rotation.from_matrix(motions[:, :3, :3]).as_quat().astype(np.float32).T[:, place]
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
