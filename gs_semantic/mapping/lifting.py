"""Votes: which object each Gaussian belongs to, counted over keyframes in a small table per Gaussian.

A Gaussian keeps the ``SLOTS`` best-supported objects (attributes ``vote_object`` int32 (N, 4), ``vote_weight`` float32
(N, 4)); attribute ``object`` int32 (N,) is the leader. One keyframe adds at most one vote, so that a close or long look
does not outweigh many views.
"""

from __future__ import annotations

import numpy as np
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.rendering import native

SLOTS = 4


def register_votes(gaussians: GaussianMap) -> None:
    """Make sure that the map has the vote table and the leader."""
    gaussians.register("vote_object", (SLOTS,), torch.int32)
    gaussians.register("vote_weight", (SLOTS,), torch.float32)
    gaussians.register("object", (), torch.int32)


def add_votes(gaussians: GaussianMap, rows: np.ndarray, objects: np.ndarray, weights: np.ndarray) -> None:
    """One vote (object slot > 0, weight > 0) for each of the distinct ``rows``; leaders are updated.

    An object that is not in the table yet takes the weakest entry, whose weight is first lowered by the new vote and
    replaced only when it is used up: frequent objects stay, passing errors do not accumulate.
    """
    chosen = torch.from_numpy(rows)
    native.add_votes(
        gaussians["vote_object"],
        gaussians["vote_weight"],
        gaussians["object"],
        chosen,
        torch.from_numpy(objects.astype(np.int32, copy=False)),
        torch.from_numpy(weights),
    )
    gaussians.touch(chosen, core=False)


def leaders(table: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Object with the largest weight per row (0 without votes)."""
    best = weight.argmax(1)
    line = np.arange(len(table))
    return np.where(weight[line, best] > 0, table[line, best], 0).astype(np.int32)


def relabel_votes(gaussians: GaussianMap, lut: np.ndarray) -> None:
    """Replace object slots by ``lut[slot]`` everywhere (0 forgets the votes); entries that become equal are added up."""
    ids = gaussians["vote_object"].numpy()
    support = gaussians["vote_weight"].numpy()
    changed = np.nonzero((lut[ids] != ids).any(1))[0]
    if not len(changed):
        return
    table = lut[ids[changed]].astype(np.int32)
    weight = support[changed]
    weight[table == 0] = 0
    for i in range(SLOTS):
        for j in range(i):
            same = (table[:, i] == table[:, j]) & (table[:, i] > 0)
            weight[same, j] += weight[same, i]
            weight[same, i] = 0
            table[same, i] = 0
    ids[changed], support[changed] = table, weight
    gaussians["object"].numpy()[changed] = leaders(table, weight)
    gaussians.touch(torch.from_numpy(changed), core=False)


def hand_over_votes(gaussians: GaussianMap, part: int, whole: int, least: float) -> None:
    """Where object ``part`` has a weight of ``least`` or more, it gets the weight of ``whole`` as well."""
    table, weight = gaussians["vote_object"].numpy(), gaussians["vote_weight"].numpy()
    own = np.where(table == part, weight, 0)
    rows = np.flatnonzero((own.sum(1) >= least) & ((table == whole) & (weight > 0)).any(1))
    if not len(rows):
        return
    given, line = np.where(table[rows] == whole, weight[rows], 0), np.arange(len(rows))
    new = weight[rows] - given
    new[line, own[rows].argmax(1)] += given.sum(1)
    weight[rows] = new
    gaussians["object"].numpy()[rows] = leaders(table[rows], new)
    gaussians.touch(torch.from_numpy(rows), core=False)


def grow_labels(labels: np.ndarray, depth: np.ndarray | None, width_px: int, relative_step: float = 0.02) -> np.ndarray:
    """Labels for unlabelled rims up to ``width_px`` wide: that of the neighbour at the most similar depth.

    Returns an image that is 0 except on the rims. Growth does not cross depth steps larger than ``relative_step`` x z
    nor pixels without depth.
    """
    rim = np.zeros_like(labels)
    grown = labels.copy()
    height, width = labels.shape
    for _ in range(width_px):
        known = grown > 0
        frontier = np.zeros(labels.shape, dtype=bool)
        frontier[:, 1:] |= known[:, :-1]
        frontier[:, :-1] |= known[:, 1:]
        frontier[1:] |= known[:-1]
        frontier[:-1] |= known[1:]
        v, u = np.nonzero(frontier & ~known)
        if not len(v):
            break
        best_step = np.full(len(v), np.inf, np.float32)
        best = np.zeros(len(v), labels.dtype)
        for dv, du in ((0, -1), (0, 1), (-1, 0), (1, 0)):
            nv, nu = np.clip(v + dv, 0, height - 1), np.clip(u + du, 0, width - 1)
            label = grown[nv, nu]
            if depth is None:
                step = np.zeros(len(v), np.float32)
            else:
                here, there = depth[v, u], depth[nv, nu]
                step = np.where((here > 0) & (there > 0), np.abs(here - there) / np.maximum(here, 1e-3), np.inf)
            better = (label > 0) & (step < best_step) & (step < relative_step)
            best_step[better] = step[better]
            best[better] = label[better]
        found = best > 0
        if not found.any():
            break
        grown[v[found], u[found]] = best[found]
        rim[v[found], u[found]] = best[found]
    return rim
