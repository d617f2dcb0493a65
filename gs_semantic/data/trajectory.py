"""Poses over time: association of stamps and interpolation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation, Slerp


def nearest(stamps: np.ndarray, wanted: np.ndarray, tolerance_ns: int) -> np.ndarray:
    """Index of the stamp nearest to each wanted one, -1 where none is within the tolerance; ``stamps`` are sorted, ns."""
    if not len(stamps):
        return np.full(len(wanted), -1)
    after = np.clip(np.searchsorted(stamps, wanted), 0, len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    best = np.where(np.abs(stamps[after] - wanted) < np.abs(wanted - stamps[before]), after, before)
    return np.where(np.abs(stamps[best] - wanted) <= tolerance_ns, best, -1)


def interpolated_poses(
    stamps: np.ndarray, poses: Sequence[np.ndarray] | np.ndarray, wanted: np.ndarray, max_gap_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Poses (M, 4, 4) at the wanted stamps, and which of them (M,) are known.

    ``stamps`` (N,) ns rise strictly. A pose is known between two recorded ones that lie at most ``max_gap_ns`` apart,
    and at a recorded one itself; translations are interpolated linearly, rotations along the shortest arc.
    """
    known = np.zeros(len(wanted), bool)
    out = np.tile(np.eye(4), (len(wanted), 1, 1))
    if not len(stamps):
        return out, known
    recorded = np.asarray(poses, np.float64)
    after = np.searchsorted(stamps, wanted)
    exact = (after < len(stamps)) & (stamps[np.minimum(after, len(stamps) - 1)] == wanted)
    out[exact], known[exact] = recorded[after[exact]], True
    between = ~exact & (after > 0) & (after < len(stamps))
    between[between] = stamps[after[between]] - stamps[after[between] - 1] <= max_gap_ns
    if between.any():
        at = after[between]
        start = stamps[0]  # small numbers: nanoseconds since 1970 do not fit a float64
        share = (wanted[between] - stamps[at - 1]) / (stamps[at] - stamps[at - 1])
        turned = Slerp((stamps - start) * 1e-9, Rotation.from_matrix(recorded[:, :3, :3]))
        out[between, :3, :3] = turned((wanted[between] - start) * 1e-9).as_matrix()
        out[between, :3, 3] = (1 - share)[:, None] * recorded[at - 1, :3, 3] + share[:, None] * recorded[at, :3, 3]
        known |= between
    return out, known


def camera_on_body() -> np.ndarray:
    """T_body_camera of a camera that looks ahead, 1 m above the body: body x forward, y left, z up (REP 103); 4x4."""
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    matrix[2, 3] = 1.0
    return matrix
