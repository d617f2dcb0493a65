"""A room made of Gaussian discs, for benchmarks and tests of rasterisers: opaque at any number of Gaussians."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.gaussians.gaussian_map import rgb_to_sh
from gs_semantic.gaussians.morton import morton_codes

SIZE = np.array([6.0, 5.0, 3.0])  # metres
OBJECTS = 30
# Steps of an additive sequence that covers a square evenly (powers of the inverse plastic number), and how far points
# stray from it, in spacings: without strays there are no gaps, with uniform points too many.
SPREAD = np.array([0.7548776662466927, 0.5698402909980532])
STRAY = 2.2


def opaque_room(count: int, seed: int = 0) -> GaussianMap:
    """A 6 x 5 x 3 m room (z up) with 30 boxes and spheres, ``count`` discs lying on the surfaces.

    Discs have sigma = 0.8 of their spacing, a thickness of 0.15 sigma and opacities about 0.9. The map has the extra
    attribute ``object`` int32: 0 for the room, 1..30 for the things in it. Rows are in Morton order, so that
    neighbours in memory are neighbours in space, as in a map that grew keyframe by keyframe.
    """
    rng = np.random.default_rng(seed)
    surfaces = _surfaces(rng)
    areas = np.array([surface[0] for surface in surfaces])
    spacing = float(np.sqrt(areas.sum() / count))
    counts = rng.multinomial(count, areas / areas.sum())
    parts = [sample(n) for n, (_, _, _, sample) in zip(counts, surfaces, strict=True)]
    points = np.concatenate([part[0] for part in parts])
    normals = np.concatenate([part[1] for part in parts])
    objects = np.repeat([surface[1] for surface in surfaces], counts).astype(np.int32)
    colors = np.repeat([surface[2] for surface in surfaces], counts, axis=0)
    colors = np.clip(colors + 0.08 * np.sin(9 * points) + rng.normal(0, 0.02, colors.shape), 0.02, 0.98)

    order = np.argsort(_morton(points))
    points, normals, objects, colors = points[order], normals[order], objects[order], colors[order]
    sigma = 0.8 * spacing * rng.uniform(0.9, 1.1, count)
    gaussians = GaussianMap()
    gaussians.register("object", (), torch.int32)
    gaussians.add(
        means=_float(points),
        quats=_float(_quats_from_normals(normals)),
        log_scales=_float(np.log(np.stack([sigma, sigma, 0.15 * sigma], axis=1))),
        opacity_logits=_float(rng.normal(2.2, 0.3, count)),
        sh=rgb_to_sh(_float(colors))[:, None],
        object=torch.from_numpy(objects),
    )
    return gaussians


def room_camera(width: int = 640, height: int = 480, yaw: float = 0.0) -> Camera:
    """A camera in a corner of the room, looking across it; focal length 525 px at 640 px width."""
    angle = np.arctan2(SIZE[1], SIZE[0]) + yaw
    forward = np.array([np.cos(angle), np.sin(angle), -0.25])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = [0.3, 0.3, 1.6]
    focal = 525.0 * width / 640
    return Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2, pose)


def _float(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


Sampler = Callable[[int], tuple[np.ndarray, np.ndarray]]


def _surfaces(rng: np.random.Generator) -> list[tuple[float, int, np.ndarray, Sampler]]:
    """(area, object, colour, sampler) of every wall, box face and sphere; a sampler gives points and normals."""
    surfaces: list[tuple[float, int, np.ndarray, Sampler]] = []

    def add_box(low: np.ndarray, high: np.ndarray, label: int, color: np.ndarray) -> None:
        for axis in range(3):
            others = [k for k in range(3) if k != axis]
            area = float(np.prod((high - low)[others]))
            for side in (low, high):

                def sample(
                    n: int, axis: int = axis, others: list[int] = others, side: np.ndarray = side
                ) -> tuple[np.ndarray, np.ndarray]:
                    stray = rng.uniform(-STRAY, STRAY, (n, 2)) / np.sqrt(max(n, 1))
                    square = (np.arange(n)[:, None] * SPREAD + stray) % 1.0
                    points = np.empty((n, 3))
                    points[:, others] = low[others] + square * (high - low)[others]
                    points[:, axis] = side[axis]
                    return points, np.tile(np.eye(3)[axis], (n, 1))

                surfaces.append((area, label, color, sample))

    add_box(np.zeros(3), SIZE, 0, np.array([0.75, 0.72, 0.66]))
    for label in range(1, OBJECTS + 1):
        color = rng.uniform(0.1, 0.9, 3)
        half = rng.uniform(0.12, 0.4, 3)
        centre = rng.uniform([1.0, 1.0, 0.0], SIZE - 0.5)
        if label % 3:
            centre[2] = half[2]
            add_box(centre - half, centre + half, label, color)
        else:
            radius = float(half[0])

            def sample(n: int, centre: np.ndarray = centre, radius: float = radius) -> tuple[np.ndarray, np.ndarray]:
                normals = rng.normal(size=(n, 3))
                normals /= np.linalg.norm(normals, axis=1, keepdims=True)
                return centre + radius * normals, normals

            surfaces.append((4 * np.pi * radius**2, label, color, sample))
    return surfaces


def _quats_from_normals(normals: np.ndarray) -> np.ndarray:
    """wxyz quaternions that turn the z axis into the normals."""
    normals = np.where(normals[:, 2:] < 0, -normals, normals)  # a disc has no front
    quats = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(len(normals))], axis=1)
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def _morton(points: np.ndarray) -> np.ndarray:
    """Along Morton's curve, 10 bits per axis."""
    low, high = points.min(axis=0), points.max(axis=0)
    return morton_codes((points - low) / np.maximum(high - low, 1e-9) * 1023)
