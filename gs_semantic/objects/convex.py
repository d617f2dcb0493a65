"""Convex parts around the points of an object: what a motion planner takes for collision checks.

Hulls are split by planes where that saves the most volume (approximate convex decomposition by greedy cuts), until a
further part would save little.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from gs_semantic.errors import InvalidRequestError, NothingThereError
from gs_semantic.files import atomic_write
from gs_semantic.objects.mesh import Mesh

CUTS = 7  # planes tried along each axis
GAIN = 0.04  # of the first hull's volume that a further part must save
FEWEST = 12  # points of a part
THINNEST_M = 0.004  # a flat set of points gets this thickness


def convex_parts(points: np.ndarray, most: int = 8, axes: np.ndarray | None = None) -> list[Mesh]:
    """At most ``most`` hulls that together hold all points (N, 3). ``axes`` (3, 3): columns along which cuts are made,
    e.g. those of the object's box. NothingThereError for fewer than four points."""
    if most < 1:
        raise InvalidRequestError(f"{most} parts: at least one is needed")
    if len(points) < 4:
        raise NothingThereError(f"{len(points)} points are too few for a hull")
    axes = np.eye(3) if axes is None else axes
    points = _thickened(np.asarray(points, np.float64))
    parts = [(points, ConvexHull(points).volume)]
    whole = parts[0][1]
    options: dict[int, tuple[float, list[tuple[np.ndarray, float]]]] = {}
    while len(parts) < most:
        for number, (own, volume) in enumerate(parts):
            if number not in options:
                options[number] = _best_cut(own, volume, axes)
        best = max(options, key=lambda number: options[number][0])
        gain, halves = options[best]
        if gain < GAIN * whole:
            break
        parts[best : best + 1] = halves
        options = {}
    return [_hull_mesh(own) for own, _ in parts]


def _best_cut(points: np.ndarray, volume: float, axes: np.ndarray) -> tuple[float, list[tuple[np.ndarray, float]]]:
    """Volume that the best plane saves, and the two halves."""
    best: tuple[float, list[tuple[np.ndarray, float]]] = (0.0, [])
    for axis in axes.T:
        place = points @ axis
        for cut in np.quantile(place, np.linspace(0, 1, CUTS + 2)[1:-1]):
            halves = [points[place <= cut], points[place >= cut]]
            if min(map(len, halves)) < FEWEST:
                continue
            sized = [(_thickened(half), 0.0) for half in halves]
            sized = [(half, ConvexHull(half).volume) for half, _ in sized]
            gain = volume - sum(size for _, size in sized)
            if gain > best[0]:
                best = (gain, sized)
    return best


def _thickened(points: np.ndarray) -> np.ndarray:
    """The points, and where they are (nearly) flat, a little to both sides of them."""
    try:
        if ConvexHull(points).volume > 1e-12:
            return points
    except QhullError:
        pass  # flat: handled below
    normal = np.linalg.svd(points - points.mean(0), full_matrices=False)[2]
    offsets = [sign * THINNEST_M / 2 * axis for axis in normal for sign in (-1, 1)]
    return np.concatenate([points + offset for offset in offsets])


def _hull_mesh(points: np.ndarray) -> Mesh:
    hull = ConvexHull(points)
    corners = np.unique(hull.simplices)
    number = np.zeros(len(points), np.int32)
    number[corners] = np.arange(len(corners))
    triangles, vertices = number[hull.simplices], points[corners]
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    inward = np.einsum("ij,ij->i", np.cross(b - a, c - a), hull.equations[:, :3]) < 0
    triangles[inward] = triangles[inward][:, ::-1]
    return Mesh(vertices, np.full((len(vertices), 3), 0.7), triangles)


def save_parts(path: str | Path, parts: Sequence[Mesh]) -> None:
    """Write convex parts as .obj (one object each, in the map frame) or .glb (one mesh, y up); whole or not at all."""
    path = Path(path)
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    if path.suffix.lower() == ".obj":
        lines = []
        for number, (part, start) in enumerate(zip(parts, starts, strict=False)):
            lines.append(f"o part_{number}")
            lines += [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in part.vertices]
            lines += [f"f {a} {b} {c}" for a, b, c in part.triangles + start + 1]
        with atomic_write(path) as file:
            file.write(("\n".join(lines) + "\n").encode())
    elif path.suffix.lower() == ".glb":
        Mesh(
            np.concatenate([part.vertices for part in parts]),
            np.concatenate([part.colours for part in parts]),
            np.concatenate([part.triangles + start for part, start in zip(parts, starts, strict=False)]).astype(np.int32),
        ).save(path)
    else:
        raise InvalidRequestError(f"{path}: collision parts are written as .obj or .glb")
