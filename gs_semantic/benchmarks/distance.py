"""``bench distance``: how exact are distances to a mapped scene, and how long do they take on a large map.

Truth is the scene's own geometry: triangles, of which the nearest point is looked up among points that lie densely on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from gs_semantic.benchmarks.mapping import grow
from gs_semantic.data.formats import open_sequence
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.offline import MapOffline, map_sequence
from gs_semantic.space.distance import DistanceField
from gs_semantic.space.seen import SeenSpace

POINTS = 10_000  # of one question
SAMPLES = 50_000  # points at which distances are compared
SPACING_M = 0.03  # of the points on the triangles, by which the nearest triangles are found
CANDIDATES = 8  # of which the nearest triangle is taken
REACH_M = 1.0  # distances are compared up to this one
BEHIND_M = 0.15  # samples lie before surfaces, and so far behind them
RADIUS_M = 0.05  # of the sphere that is, or is not, in free space
MARGIN_M = 0.02  # by which it must be wrong to count as wrong
REPEATS = 40


def scene_distance(points: np.ndarray, triangles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distance (N,) m from points (N, 3) to the nearest of triangles (T, 3, 3)."""
    on, owner = surface_points(triangles, SPACING_M, rng)
    _, near = cKDTree(on).query(points, k=CANDIDATES)
    distances = [triangle_distance(points, triangles[owner[near[:, k]]]) for k in range(CANDIDATES)]
    return np.asarray(np.min(distances, axis=0))


def surface_points(triangles: np.ndarray, spacing: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 3) on triangles (T, 3, 3), about ``spacing`` m apart, and the triangle (P,) of each; corners among them."""
    edges = triangles[:, 1:] - triangles[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    count = np.maximum(1, np.ceil(area / spacing**2 * 2)).astype(int)
    owner = np.repeat(np.arange(len(triangles)), count)
    share = rng.random((len(owner), 2))
    share = np.where(share.sum(axis=1, keepdims=True) > 1, 1 - share, share)
    inner = triangles[owner, 0] + np.einsum("nk,nki->ni", share, edges[owner])
    corner = np.repeat(np.arange(len(triangles)), 3)
    return np.concatenate([inner, triangles.reshape(-1, 3)]), np.concatenate([owner, corner])


def triangle_distance(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Distance (N,) from points (N, 3) to triangles (N, 3, 3), each to its own (Ericson, Real-Time Collision Detection,
    5.1.5: the projection where it is inside, else the nearest of the three edges)."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    normal = np.cross(b - a, c - a)
    size = np.linalg.norm(normal, axis=1)
    unit = normal / np.maximum(size, 1e-12)[:, None]
    inside = size > 1e-12
    nearest = np.full(len(points), np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        inside &= np.einsum("ni,ni->n", np.cross(edge, points - start), unit) >= 0
        share = np.einsum("ni,ni->n", points - start, edge) / np.maximum(np.einsum("ni,ni->n", edge, edge), 1e-18)
        nearest = np.minimum(nearest, np.linalg.norm(points - start - np.clip(share, 0, 1)[:, None] * edge, axis=1))
    return np.where(inside, np.abs(np.einsum("ni,ni->n", points - a, unit)), nearest)


def read_triangles(path: Path) -> np.ndarray:
    """Triangles (T, 3, 3) m of a .npz file with the array ``tri``, or of any mesh that Open3D reads."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            if "tri" not in arrays or arrays["tri"].shape[1:] != (3, 3):
                raise InvalidRequestError(f"{path}: expected an array 'tri' of shape (T, 3, 3)")
            return arrays["tri"].astype(np.float64)
    from gs_semantic.objects.mesh import open3d

    mesh = open3d().io.read_triangle_mesh(str(path))
    if not len(mesh.triangles):
        raise InvalidRequestError(f"{path}: holds no triangles")
    return np.asarray(mesh.vertices)[np.asarray(mesh.triangles)]


def samples(sequence: FrameSequence, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) on the rays of a recording's pixels up to ``BEHIND_M`` behind what they met, and bool (N,): before."""
    indices = np.linspace(0, len(sequence) - 1, min(len(sequence), 40)).astype(int)
    points, before = [], []
    for index in np.unique(indices):
        frame = sequence[int(index)]
        if frame.depth is None:
            raise InvalidRequestError(f"{sequence.folder}: has no depth; samples lie along its rays")
        v, u = np.nonzero(frame.depth > 0)
        chosen = rng.choice(len(v), min(len(v), -(-count // len(indices))), replace=False)
        v, u = v[chosen], u[chosen]
        depth = frame.depth[v, u]
        z = rng.uniform(0.2, 1.0, len(v)) * (depth + BEHIND_M)
        camera = frame.camera
        local = np.column_stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(len(v))]) * z[:, None]
        points.append(local @ camera.T_world_camera[:3, :3].T + camera.T_world_camera[:3, 3])
        before.append(z < depth)
    return np.concatenate(points), np.concatenate(before)


def accuracy(field: DistanceField, points: np.ndarray, before: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Answers against the true distance (N,) m from surfaces. before bool (N,): in free space."""
    found = field.query(points)
    known = ~found.unknown
    compared = before & known & (truth <= REACH_M)
    error = np.abs(found.distance - truth)[compared]
    said_free = known & (found.distance >= RADIUS_M)
    free = before & (truth >= RADIUS_M)
    said_blocked = known & (found.distance < RADIUS_M - MARGIN_M)
    return {
        "samples": len(points),
        "compared": int(compared.sum()),
        "abs_error_median_m": float(np.median(error)),
        "abs_error_p95_m": float(np.percentile(error, 95)),
        "free_false_positives_pct": 100 * float((truth[said_free] < RADIUS_M - MARGIN_M).mean()),
        "false_obstacles_pct": 100 * float(said_blocked[free].mean()),
        "free_unknown_pct": 100 * float(found.unknown[free].mean()),
        "behind_said_free_pct": 100 * float(said_free[~before & (truth < RADIUS_M - MARGIN_M)].mean()),
    }


def look(mapper: Mapper) -> tuple[SeenSpace, float]:
    """What the keyframes of a mapper saw, and the seconds that looking took."""
    seen, start = SeenSpace(), time.perf_counter()
    while not seen.update(mapper.gaussians, mapper.views, mapper.rasterizer):
        pass
    return seen, time.perf_counter() - start


def speed(mapper: Mapper, points: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Times of questions about ``POINTS`` points, all at once."""
    seen, look_s = look(mapper)
    start = time.perf_counter()
    field = DistanceField(mapper.gaussians, seen)
    results: dict[str, Any] = {
        "gaussians": len(mapper.gaussians),
        "keyframes": len(mapper.keyframes.frames),
        "look_s": look_s,
        "build_s": time.perf_counter() - start,
        "voxel_m": seen.voxel,
        "tsdf_mb": seen.volume.blocks * 2560 / 1e6,
    }
    largest = max(mapper.objects.present(), key=lambda obj: obj.num_gaussians, default=None)
    slots = [] if largest is None else [largest.slot]
    none: list[int] = []
    for name, only, without in (("query", none, none), ("without", none, slots), ("only", slots, none)):
        times = []
        for _ in range(REPEATS):
            asked = points[rng.integers(0, len(points), POINTS)].astype(np.float32)
            start = time.perf_counter()
            field.query(asked, 0.0, only, without)
            times.append((time.perf_counter() - start) * 1e3)
        results |= {f"{name}_10k_p50_ms": float(np.median(times)), f"{name}_10k_p95_ms": float(np.percentile(times, 95))}
    return results


def run_distance(
    sequence: Path,
    mesh: Path | None,
    gaussians: int,
    params: tuple[str, ...] = (),
    width: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Map a recording, compare distances with a scene's triangles, split Gaussians until there are so many, and time."""
    recording, rng = open_sequence(sequence, max_width=width), np.random.default_rng(0)
    shown = MapOffline.create(recording.labels, params)
    map_sequence(shown, recording, range(len(recording)), Damage("shuffled", 0), lambda index: progress())
    points, before = samples(recording, SAMPLES, rng)
    results: dict[str, Any] = {}
    if mesh is not None:
        seen, _ = look(shown.mapper)
        field = DistanceField(shown.mapper.gaussians, seen)
        results |= {"mapped_gaussians": len(shown.mapper.gaussians), "mapped_voxel_m": seen.voxel}
        results |= accuracy(field, points, before, scene_distance(points, read_triangles(mesh), rng))
    grow(shown.mapper.gaussians, gaussians)
    return results | speed(shown.mapper, points[before], rng)
