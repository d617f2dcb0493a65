"""The nearest disc to each of many points (bindings of native/src/kernels/nearest.h).

A Gaussian is taken for the flat disc that it is: the ellipse of ``DISC`` standard deviations along its two longer axes.
Discs are sorted along a space-filling curve (Morton, 1966), and every 16 that follow each other become a node of a tree of
boxes, and so on up to the root, so that the tree is a few sums over arrays.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.gaussians.morton import morton_codes
from gs_semantic.rendering import native

OPAQUE = 0.3  # opacity from which a Gaussian is an obstacle
DISC = 1.5  # standard deviations
FANOUT = 16
CURVE_BITS = 10  # of each axis, over most of the points
AXIS_BITS = 21  # at most
SMALLEST_M = 1e-6
AWAY_M = 1e15  # where the discs and boxes of empty places are; the kernel looks less far
MOST_M = 1e12  # coordinates beyond are taken for this


class DiscTreeStruct(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("leaves", "slots", "boxes", "uniform", "starts", "hidden")),
        ("levels", ctypes.c_int32),
    ]


@dataclass(frozen=True)
class Nearest:
    """distance (N,) m, infinite where there is no disc; away (N, 3) m, from the nearest disc to the point; slot int32
    (N,): its object, 0 = none."""

    distance: np.ndarray
    away: np.ndarray
    slot: np.ndarray


class DiscTree:
    """The discs of the Gaussians that are obstacles, all or those of objects in some slots. Answers may be asked for from
    several threads."""

    def __init__(self, gaussians: GaussianMap, only: Collection[int] | None = None) -> None:
        with torch.no_grad():
            chosen = gaussians.opacity_logits.numpy() > np.log(OPAQUE / (1 - OPAQUE))
            if only is not None:
                chosen &= np.isin(gaussians["object"].numpy(), list(only))
            solid = torch.from_numpy(np.flatnonzero(chosen))
            centres = gaussians.means[solid]
            scales = DISC * gaussians.log_scales[solid].exp().clamp_min(SMALLEST_M / DISC)
            rotations = rotation_matrices(gaussians.quats[solid])
            usable = torch.isfinite(centres).all(1) & torch.isfinite(scales).all(1) & torch.isfinite(rotations).all((1, 2))
            rows = torch.nonzero(usable)[:, 0]
            self._cell = _cell(centres[rows].numpy())
            rows = rows[torch.from_numpy(along_curve(centres[rows].numpy(), self._cell))]
            slots = gaussians["object"][solid[rows]].numpy()
            centres, scales, rotations = centres[rows], scales[rows], rotations[rows]
            normal = scales.argmin(1)  # a disc has no thickness
            first, second = (normal + 1) % 3, (normal + 2) % 3
            line = torch.arange(len(rows))
            axes = torch.stack([rotations[line, :, first], rotations[line, :, second]], 1)
            halves = torch.stack([scales[line, first], scales[line, second]], 1)
            reach = (axes * halves[..., None]).square().sum(1).sqrt()
        self.count = len(rows)
        self._slots_known = int(gaussians["object"].max()) + 1 if len(gaussians) else 1
        columns = np.concatenate([centres, axes.reshape(-1, 6), 1 / halves], axis=1, dtype=np.float32)
        leaves = max(1, -(-self.count // FANOUT))
        padded = np.zeros((leaves * FANOUT, 11), np.float32)
        padded[:, :3] = AWAY_M
        padded[: self.count] = columns
        self._leaves = np.ascontiguousarray(padded.reshape(leaves, FANOUT, 11).transpose(0, 2, 1))
        self._slots = np.zeros((leaves, FANOUT), np.int32)
        self._slots.reshape(-1)[: self.count] = slots
        corners = np.concatenate([centres - reach, -(centres + reach)], axis=1, dtype=np.float32)
        self._grow(corners, slots.astype(np.int32))

    def _grow(self, corners: np.ndarray, slots: np.ndarray) -> None:
        """Levels from the leaves up. corners (n, 6): low, and high times -1, so that the box of several is the minimum."""
        boxes: list[np.ndarray] = []
        uniforms: list[np.ndarray] = []
        starts = [0]
        corners, slots = _nodes(corners, np.float32(AWAY_M)), _nodes(slots, None)
        while not boxes or len(corners) > 1:
            # a level's children are the nodes of the one below, and the leaves of the lowest
            below = corners.min(axis=1)
            same = np.where((slots == slots[:, :1]).all(axis=1), slots[:, 0], -1).astype(np.int32)
            corners, slots = _nodes(below, np.float32(AWAY_M)), _nodes(same, None)
            lower, upper = corners[..., :3], np.maximum(-corners[..., 3:], -AWAY_M)
            empty = lower[..., :1] >= AWAY_M
            upper = np.where(empty, np.float32(AWAY_M), upper)
            boxes.append(np.concatenate([lower, upper], axis=2).transpose(0, 2, 1))
            uniforms.append(slots)
            starts.append(starts[-1] + len(corners))
        self._boxes = np.ascontiguousarray(np.concatenate(boxes), dtype=np.float32)
        self._uniform = np.ascontiguousarray(np.concatenate(uniforms), dtype=np.int32)
        self._starts = np.array(starts[:-1], np.int64)

    def nearest(
        self,
        points: np.ndarray,
        without: Collection[int] = (),
        share: float = 0.0,
        threads: int | None = None,
    ) -> Nearest:
        """For finite points (N, 3) m. without: slots of objects, as if they were not there. share: another disc that is
        farther by at most this share will do; in the middle of a room all walls are alike."""
        points = np.clip(np.asarray(points, np.float32).reshape(-1, 3), -MOST_M, MOST_M)
        order = along_curve(points, self._cell)  # neighbours follow each other: what one looked at is at hand for the next
        points = points[order]
        found, away = np.empty(len(points), np.int32), np.zeros((len(points), 3), np.float32)
        hidden = np.zeros(self._slots_known, np.uint8)
        hidden[[slot for slot in without if slot < self._slots_known]] = 1
        tree = DiscTreeStruct(
            *(array.ctypes.data for array in (self._leaves, self._slots, self._boxes, self._uniform, self._starts, hidden)),
            levels=len(self._starts),
        )
        native.call(
            "gs_nearest_discs",
            *(ctypes.byref(tree), points.ctypes.data, len(points), (1 + share) ** 2, found.ctypes.data, away.ctypes.data),
            threads or 0,
        )
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        found, away = found[back], away[back]
        distance = np.sqrt(np.einsum("ij,ij->i", away, away))
        there = found >= 0
        slot = np.where(there, self._slots.reshape(-1)[np.maximum(found, 0)], 0)
        return Nearest(np.where(there, distance, np.float32(np.inf)), np.where(there[:, None], away, 0), slot)


def _nodes(values: np.ndarray, empty: np.floating | None) -> np.ndarray:
    """Rows (n, ...) as nodes (ceil(n / 16), 16, ...); empty places get a value, or that of the last row."""
    nodes = max(1, -(-len(values) // FANOUT))
    out = np.empty((nodes * FANOUT, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    out[len(values) :] = empty if empty is not None else (values[-1] if len(values) else 0)
    return out.reshape(nodes, FANOUT, *values.shape[1:])


def _cell(points: np.ndarray) -> float:
    """Edge of the cubes of the curve, which suits most of the points: some may lie far away."""
    if not len(points):
        return 1.0
    spread = np.ptp(np.quantile(points[:: max(1, len(points) // 10_000)], [0.01, 0.99], axis=0), axis=0)
    return max(float(spread.max()) / (1 << CURVE_BITS), SMALLEST_M)


def along_curve(points: np.ndarray, cell: float) -> np.ndarray:
    """Order int64 (N,) of points (N, 3) along the Morton curve over cubes of edge ``cell``."""
    if not len(points):
        return np.zeros(0, np.int64)
    cells = np.minimum((points - points.min(axis=0)) / cell, (1 << AXIS_BITS) - 1).astype(np.uint64)
    return np.argsort(morton_codes(cells))
