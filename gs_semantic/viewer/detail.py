"""Level of detail: a large map as a tree of merged splats, of which a view gets a cut.

Splats of one object in one cell of an octree become one, with their mean, covariance and colour, weighted by what they
cover; it is widened until it covers what they covered. A view takes large cells where nobody would see the difference (far
away, of one colour, behind the camera, hidden by what is in front), and small ones, at last the splats themselves, elsewhere.
Hierarchies of Gaussians: Kerbl et al., "A Hierarchical 3D Gaussian Representation", 2024 (there trained, here not).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from gs_semantic.gaussians import Camera
from gs_semantic.gaussians.morton import morton_codes
from gs_semantic.objects.splats import ROTATION_ONE, SPLAT

SHOWN = np.dtype(
    [
        ("position", "<f4", 3),
        ("covariance", "<f4", 6),
        ("object_id", "<u8"),
        ("rgb", "u1", 3),
        ("opacity", "u1"),
        ("confidence", "u1"),
    ]
)
ROWS, COLUMNS = np.triu_indices(3)
BITS = 16  # of a cell's number along each axis
FEWEST = 500  # nodes of the coarsest level
USEFUL = 0.85  # a level must have fewer nodes than this share of the finer one
WIDEST = 1.75  # a merged splat's axes grow by at most so much, to cover what its parts covered
SHAPE = 0.05  # what a wrong outline weighs, as a difference of colour (0..1)
NEAREST_M = 0.3  # nearer splats count as if they were so far away
MARGIN = 1.3  # of the image: a small turn of the camera shows something, too
OUTSIDE = 0.01  # weight of what lies outside of the image
AIM = 0.95  # share of the limit that is taken, so that a map which grows can be cut as before for a while
LEAST_SHARE = 0.7  # from which a cut as deep as the last one is as good as a deeper one
MOST_OPAQUE = 0.996
PARTS, PART_M = 16, 1.0  # a page's splats lie in so many buffers, by place; only those that changed are sent again
HASH = np.array([73_856_093, 19_349_663, 83_492_791])  # of a place's cell
# viser's shader leaves out splats of less than about half a pixel, and a map seen from afar would be full of holes
LEAST_PX = 0.6


@dataclass(frozen=True)
class _Moments:
    """Of nodes (M,), in float32. weight: area times opacity; depth: area times optical depth, what lights are dimmed by."""

    weight: np.ndarray
    depth: np.ndarray
    area: np.ndarray  # m²
    position: np.ndarray  # (M, 3)
    covariance: np.ndarray  # (M, 6), not widened
    rgb: np.ndarray  # (M, 3), 0..1
    confidence: np.ndarray
    colours: np.ndarray  # variance of the colours merged, mean of the channels
    spread: np.ndarray  # variance of the places merged, m², sum of the axes


@dataclass(frozen=True)
class _Level:
    """nodes ``SHOWN`` (M,), children: how many each one merges, error (M,): m² times squared colour."""

    nodes: np.ndarray
    first: np.ndarray
    children: np.ndarray
    error: np.ndarray


class Cut(NamedTuple):
    """nodes ``SHOWN`` (M,); those whose error, pixels times squared colour, was above the threshold were split."""

    nodes: np.ndarray
    threshold: float


class Detail:
    """The tree of splats ``SPLAT`` (N,). confidence: uint8 (N,), of each, where it is known."""

    def __init__(self, splats: np.ndarray, confidence: np.ndarray | None = None) -> None:
        rows = np.flatnonzero(np.isfinite(splats["position"]).all(axis=1))
        keys = _cells(splats["position"][rows])
        _, owners = np.unique(splats["object_id"][rows], return_inverse=True)
        order = np.lexsort((keys, owners))
        rows, keys, owners = rows[order], keys[order], owners[order]
        self._leaves = leaves(splats[rows], None if confidence is None else confidence[rows])
        self._keys, self._owners = keys, owners

    def __len__(self) -> int:
        return len(self._leaves)

    @cached_property
    def _levels(self) -> list[_Level]:
        """The finest first."""
        return list(_merge(self._leaves, self._keys, self._owners))

    def cut(
        self, limit: int, camera: Camera | None = None, hidden: Collection[int] = (), threshold: float | None = None
    ) -> Cut:
        """At most ``limit`` splats (more only when the coarsest level has more) for the view of a camera, or for the whole map,
        without some objects. threshold: of the last cut; it is kept while it suits, so that what has not changed stays as it was.
        """
        if len(self._leaves) <= limit or not self._levels:
            return Cut(_without(self._leaves, hidden), 0.0)
        errors: list[np.ndarray] = []
        for level in self._levels:
            error = level.error.copy()
            if camera is not None:
                error *= _weight(level.nodes["position"], camera)
            if hidden:
                error[_of(level.nodes, hidden)] = 0
            if errors:  # what is split is split all the way up
                error = np.maximum(error, np.maximum.reduceat(errors[-1], level.first))
            errors.append(error)
        if threshold is None or not LEAST_SHARE * limit <= self._count(errors, threshold) <= limit:
            threshold = self._threshold(errors, AIM * limit)
        chosen, split = [], errors[-1] > threshold
        chosen.append(self._levels[-1].nodes[~split])
        for number in range(len(self._levels) - 1, -1, -1):
            below = np.repeat(split, self._levels[number].children)
            if number:
                split = errors[number - 1] > threshold
                chosen.append(self._levels[number - 1].nodes[below & ~split])
            else:
                chosen.append(self._leaves[below])
        return Cut(_without(np.concatenate(chosen), hidden), threshold)

    def _count(self, errors: list[np.ndarray], threshold: float) -> int:
        """How many nodes are left when those of larger errors are split."""
        more = sum(
            int((level.children[error > threshold] - 1).sum())
            for level, error in zip(self._levels, errors, strict=True)
        )
        return len(self._levels[-1].nodes) + more

    def _threshold(self, errors: list[np.ndarray], limit: float) -> float:
        every, more = np.concatenate(errors), np.concatenate([level.children - 1 for level in self._levels])
        order = np.argsort(-every)
        count = len(self._levels[-1].nodes) + np.cumsum(more[order])
        place = int(np.searchsorted(count, limit, side="right"))
        return float(every[order[place]]) if place < len(order) else 0.0


def leaves(splats: np.ndarray, confidence: np.ndarray | None = None) -> np.ndarray:
    """``SHOWN`` (N,) of splats ``SPLAT`` (N,), none merged."""
    out = np.zeros(len(splats), SHOWN)
    for name in ("position", "object_id", "rgb", "opacity"):
        out[name] = splats[name]
    out["covariance"] = _covariances(splats)
    if confidence is not None:
        out["confidence"] = confidence
    return out


def as_splats(nodes: np.ndarray) -> np.ndarray:
    """Splats ``SPLAT`` (M,) of ``SHOWN`` (M,), without keys and classes."""
    out = np.zeros(len(nodes), SPLAT)
    for name in ("position", "object_id", "rgb", "opacity"):
        out[name] = nodes[name]
    variance, axes = np.linalg.eigh(full(nodes["covariance"]))
    axes[np.linalg.det(axes) < 0, :, 0] *= -1
    out["scale"] = np.sqrt(np.maximum(variance, 1e-14))
    out["rotation"] = np.round(np.roll(Rotation.from_matrix(axes).as_quat(), 1, axis=1) * ROTATION_ONE)
    return out


def full(covariance: np.ndarray, position: np.ndarray | None = None, camera: Camera | None = None) -> np.ndarray:
    """float32 (M, 3, 3) of (M, 6), m²; for a camera no splat is smaller than ``LEAST_PX`` of its pixels."""
    out = np.empty((len(covariance), 3, 3), np.float32)
    out[:, ROWS, COLUMNS] = out[:, COLUMNS, ROWS] = covariance
    if camera is not None and position is not None:
        pixel_m = np.linalg.norm(position - camera.T_world_camera[:3, 3], axis=1) / camera.fx
        out += (np.square(LEAST_PX * pixel_m)[:, None, None] * np.eye(3)).astype(np.float32)
    return out


def _covariances(splats: np.ndarray) -> np.ndarray:
    w, x, y, z = (splats["rotation"].astype(np.float32) / ROTATION_ONE).T
    rotation = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    variance = np.square(splats["scale"].astype(np.float32)).T
    return np.stack(
        [
            sum(rotation[row][axis] * rotation[column][axis] * variance[axis] for axis in range(3))
            for row, column in zip(ROWS, COLUMNS, strict=True)
        ],
        axis=1,
    )


def part_of(position: np.ndarray) -> np.ndarray:
    """In which of a page's ``PARTS`` splats at (M, 3) lie: (M,). Neighbours lie in the same one."""
    return (np.floor(position / PART_M).astype(np.int64) @ HASH) % PARTS


def _cells(position: np.ndarray) -> np.ndarray:
    """Morton numbers uint64 (N,) of the finest cells; those of a cell twice as large are these, three bits shorter. Cells stay
    where they are while a map grows, but for a few times."""
    if not len(position):
        return np.zeros(0, np.uint64)
    reach = float(np.percentile(np.abs(position[:: max(1, len(position) // 50_000)]), 99.5)) + 1e-3
    side = 2.0 ** np.ceil(np.log2(reach)) / (1 << (BITS - 1))
    cells = np.clip(position / np.float32(side) + (1 << (BITS - 1)), 0, (1 << BITS) - 1).astype(np.uint64)
    return morton_codes(cells)


def _merge(splats: np.ndarray, keys: np.ndarray, owners: np.ndarray) -> Iterator[_Level]:
    """Levels, the finest first, of splats that are sorted by owner and cell."""
    if not len(splats):
        return
    now, rows = _moments_of(splats), np.arange(len(splats))
    for bits in range(1, BITS):
        cell, owner = keys[rows] >> np.uint64(3 * bits), owners[rows]
        starts = np.concatenate([[True], (cell[1:] != cell[:-1]) | (owner[1:] != owner[:-1])])
        first = np.flatnonzero(starts)
        if len(first) > USEFUL * len(rows):
            continue
        children = np.diff(np.append(first, len(rows)))
        now = _together(now, first, children)
        rows = rows[first]
        nodes, area = _nodes(now, splats["object_id"][rows])
        yield _Level(nodes, first, children, area * now.colours + 2 * np.pi * SHAPE**2 * now.spread)
        if len(rows) <= FEWEST:
            return


def _area(covariance: np.ndarray) -> np.ndarray:
    """m² (M,): of the largest ellipse of one sigma, but for the factor of the third axis, which is small in discs."""
    xx, xy, xz, yy, yz, zz = covariance.T
    return np.pi * np.sqrt(np.maximum(xx * yy + xx * zz + yy * zz - xy * xy - xz * xz - yz * yz, 0))


def _moments_of(splats: np.ndarray) -> _Moments:
    area = _area(splats["covariance"]) + np.float32(1e-12)
    opacity = np.clip(splats["opacity"] / np.float32(255), 1 / 255, MOST_OPAQUE).astype(np.float32)
    nothing = np.zeros(len(splats), np.float32)
    rgb = splats["rgb"] / np.float32(255)
    confidence = splats["confidence"].astype(np.float32)
    return _Moments(
        area * opacity,
        -area * np.log1p(-opacity),
        area,
        splats["position"],
        splats["covariance"],
        rgb,
        confidence,
        nothing,
        nothing,
    )


def _together(parts: _Moments, first: np.ndarray, children: np.ndarray) -> _Moments:
    """Moments of groups that begin at ``first``."""

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, first, axis=0)

    weight = total(parts.weight)

    def mean(values: np.ndarray) -> np.ndarray:
        if values.ndim == 1:
            return total(values * parts.weight) / weight
        return total(values * parts.weight[:, None]) / weight[:, None]

    position, rgb = mean(parts.position), mean(parts.rgb)
    apart = parts.position - np.repeat(position, children, axis=0)
    tint = parts.rgb - np.repeat(rgb, children, axis=0)
    return _Moments(
        weight,
        total(parts.depth),
        total(parts.area),
        position,
        mean(parts.covariance + apart[:, ROWS] * apart[:, COLUMNS]),
        rgb,
        mean(parts.confidence),
        mean(parts.colours + np.square(tint).mean(1)),
        mean(parts.spread + np.square(apart).sum(1)),
    )


def _nodes(moments: _Moments, object_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn of merged splats, and its area (M,) m²."""
    least = _area(moments.covariance) + np.float32(1e-12)
    wider = np.clip(moments.area / least, 1.0, WIDEST**2)
    out = np.zeros(len(least), SHOWN)
    out["position"], out["covariance"] = moments.position, moments.covariance * wider[:, None]
    out["object_id"], out["rgb"] = object_id, np.round(moments.rgb * 255)
    out["confidence"] = np.round(moments.confidence)
    opacity = np.minimum(-np.expm1(-moments.depth / (least * wider)), MOST_OPAQUE)
    out["opacity"] = np.round(255 * opacity)
    return out, least * wider


def _weight(position: np.ndarray, camera: Camera) -> np.ndarray:
    """pixels per m² (M,), where it is seen."""
    to_camera = camera.T_camera_world.astype(np.float32)
    local = position @ to_camera[:3, :3].T + to_camera[:3, 3]
    depth = np.maximum(local[:, 2], 1e-6)
    inside = local[:, 2] > 0
    for axis, focal, size in ((0, camera.fx, camera.width), (1, camera.fy, camera.height)):
        inside &= np.abs(local[:, axis]) * np.float32(focal) < np.float32(MARGIN * size / 2) * depth
    distance = np.maximum(np.square(local).sum(1), NEAREST_M**2)
    return np.float32(camera.fx * camera.fy) / distance * np.where(inside, np.float32(1.0), np.float32(OUTSIDE))


def _of(nodes: np.ndarray, objects: Collection[int]) -> np.ndarray:
    return np.isin(nodes["object_id"], np.array(sorted(objects), np.uint64))


def _without(nodes: np.ndarray, hidden: Collection[int]) -> np.ndarray:
    return nodes[~_of(nodes, hidden)] if hidden else nodes
