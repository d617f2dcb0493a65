"""Poses of keyframes that agree best with where they were said to be and with how they fit one another."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from scipy.spatial.transform import Rotation

from gs_semantic.mapping.alignment import Motion, exponential

WINDOW = 250  # keyframes that may still move; older ones are held
ITERATIONS = 2
PRIOR_KNEE, EDGE_KNEE = 2.5, 3.0  # Huber, in standard deviations
# Residuals of neighbouring pixels are not independent, so an alignment knows less than its information says: standard
# deviations are multiplied by this (errors on rendered and recorded rooms: 3 to 10 times what was stated).
OVERCONFIDENCE = 8.0


class PoseGraph:
    """Nodes: keyframes 0, 1, 2... with the pose they were given. Edges: alignments of pairs.

    ``poses[k]`` (4x4 T_world_camera) minimise the disagreement with the given poses (independent noise with the given
    standard deviations) and with the edges (their information), both robustly. Of the nodes beyond the window only those
    stay that an edge or the caller still needs (``forget``); numbers are never given twice.
    """

    def __init__(self) -> None:
        self.count = 0  # of nodes so far
        self.given: dict[int, np.ndarray] = {}  # of the window
        self.poses: dict[int, np.ndarray] = {}
        self._pairs: list[tuple[int, int]] = []
        self._motions: list[np.ndarray] = []
        self._information: list[np.ndarray] = []

    def add(self, given: np.ndarray, estimate: np.ndarray) -> int:
        """A new keyframe; returns its number."""
        number = self.count
        self.given[number], self.poses[number] = given, estimate
        self.count += 1
        return number

    @property
    def first(self) -> int:
        """The oldest node that may still move."""
        return max(0, self.count - WINDOW)

    def forget(self, needed: Collection[int]) -> None:
        """Drop edges and nodes that have left the window, but for the nodes in ``needed`` and those of edges into it."""
        first = self.first
        while self._pairs and max(self._pairs[0]) < first:  # edges come in the order of their later end
            for part in (self._pairs, self._motions, self._information):
                part.pop(0)
        held = {*needed, *(number for pair in self._pairs for number in pair)}
        for number in [n for n in self.given if n < first]:
            del self.given[number]
        for number in [n for n in self.poses if n < first and n not in held]:
            del self.poses[number]

    def connect(self, reference: int, source: int, motion: Motion) -> None:
        self._pairs.append((reference, source))
        self._motions.append(motion.T_ref_src)
        self._information.append(motion.information / OVERCONFIDENCE**2)

    def solve(self, sigma_m: float, sigma_rad: float) -> None:
        """Gauss-Newton over the last ``WINDOW`` poses; ``sigma_*``: noise of the given poses per axis."""
        if not self._pairs:
            return
        numbers = np.array(list(self.poses))  # rising; from here on a node is its place among them
        first = int(np.searchsorted(numbers, self.first))
        prior = np.diag([sigma_m**-2] * 3 + [sigma_rad**-2] * 3)
        i, j = np.searchsorted(numbers, np.array(self._pairs).T)
        measured, information = np.linalg.inv(np.stack(self._motions)), np.stack(self._information)
        given = np.linalg.inv(np.stack([self.given[n] for n in numbers[first:]]))
        count = len(numbers) - first
        for _ in range(ITERATIONS):
            poses = np.stack(list(self.poses.values()))
            # poses move on their right: X <- X exp(x); d residual / dx is then about the identity for small residuals
            residual = _logarithms(given @ poses[first:])
            weight = _robust(residual, np.broadcast_to(prior, (count, 6, 6)), PRIOR_KNEE)
            blocks = [weight[:, None, None] * prior]
            rows = columns = [np.arange(count)]
            slope = np.zeros((count, 6))
            slope += weight[:, None] * (residual @ prior)

            predicted = np.linalg.inv(poses[i]) @ poses[j]
            residual = _logarithms(predicted @ measured)
            W = _robust(residual, information, EDGE_KNEE)[:, None, None] * information
            J = _adjoints(predicted)
            pull = np.einsum("eij,ej->ei", W, residual)
            WJ = W @ J
            JtWJ = J.transpose(0, 2, 1) @ WJ
            free_i, free_j = i >= first, j >= first
            both = free_i & free_j
            np.add.at(slope, i[free_i] - first, -pull[free_i])
            np.add.at(slope, j[free_j] - first, np.einsum("eji,ej->ei", J, pull)[free_j])
            blocks += [W[free_i], JtWJ[free_j], -WJ[both], -WJ[both].transpose(0, 2, 1)]
            rows = [*rows, i[free_i] - first, j[free_j] - first, i[both] - first, j[both] - first]
            columns = [*columns, i[free_i] - first, j[free_j] - first, j[both] - first, i[both] - first]
            delta = _solve_blocks(np.concatenate(rows), np.concatenate(columns), np.concatenate(blocks), -slope)
            for number, motion in zip(numbers[first:].tolist(), delta, strict=True):
                self.poses[number] = self.poses[number] @ exponential(motion)


def _logarithms(T: np.ndarray) -> np.ndarray:
    """(M, 6) translation and rotation vector of small motions (M, 4, 4)."""
    return np.concatenate([T[:, :3, 3], Rotation.from_matrix(T[:, :3, :3]).as_rotvec()], 1)


def _adjoints(T: np.ndarray) -> np.ndarray:
    """(M, 6, 6): a disturbance on the right of T, as one on its left."""
    R, t = T[:, :3, :3], T[:, :3, 3]
    cross = np.zeros_like(R)
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -t[:, 2], t[:, 1], -t[:, 0]
    cross -= cross.transpose(0, 2, 1)
    adjoint = np.zeros((len(T), 6, 6))
    adjoint[:, :3, :3] = adjoint[:, 3:, 3:] = R
    adjoint[:, :3, 3:] = cross @ R
    return adjoint


def _robust(residual: np.ndarray, information: np.ndarray, knee: float) -> np.ndarray:
    """Huber weight of residuals (M, 6) with information (M, 6, 6)."""
    distance = np.sqrt(np.einsum("ei,eij,ej->e", residual, information, residual) / residual.shape[1])
    return 1 / np.maximum(1, distance / knee)


def _solve_blocks(rows: np.ndarray, columns: np.ndarray, blocks: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a sparse system of 6x6 blocks (equal positions add up); right (K, 6)."""
    inner = np.arange(6)
    at_row = (6 * rows[:, None, None] + inner[:, None]).repeat(6, axis=2)
    at_column = (6 * columns[:, None, None] + inner).repeat(6, axis=1)
    size = right.size
    matrix = scipy.sparse.csc_matrix((blocks.ravel(), (at_row.ravel(), at_column.ravel())), shape=(size, size))
    return scipy.sparse.linalg.spsolve(matrix, right.ravel()).reshape(right.shape)
