"""What has been looked at: a truncated signed distance (TSDF; Curless and Levoy, 1996) of the space around the surfaces.

It gives distances their sign, and tells free space from space that nobody has seen. Keyframes are fused with the depth that
they keep; a voxel is known when a ray went through it or ended near it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gs_semantic.mapping.keyframes import Keyframe

VOXEL_M = 0.04
MOST_VOXELS = 24_000_000  # beyond, voxels are larger
TRUNCATION = 3.0  # voxels
PIXELS_EVERY = 2  # of the depth images
MARGIN_M = 0.3
SURE = 8.0  # weight at which a voxel stops to trust new views less


class Visibility:
    """Grid over the given box. ``low`` (3,), ``high`` (3,) m in the map frame."""

    def __init__(self, low: np.ndarray, high: np.ndarray, voxel: float = VOXEL_M) -> None:
        self.low = np.asarray(low, np.float64) - MARGIN_M
        extent = np.asarray(high, np.float64) + MARGIN_M - self.low
        self.voxel = max(voxel, float((np.prod(extent) / MOST_VOXELS) ** (1 / 3)))
        self.shape = tuple(int(n) for n in np.maximum(np.ceil(extent / self.voxel), 1))
        self.distance = np.zeros(self.shape, np.float32)  # m, positive before surfaces, at most the truncation
        self.weight = np.zeros(self.shape, np.float32)  # 0: unknown
        self.fused: dict[int, np.ndarray] = {}  # pose of each keyframe that is in it

    @property
    def truncation(self) -> float:
        return TRUNCATION * self.voxel

    def holds(self, low: np.ndarray, high: np.ndarray) -> bool:
        """Does the grid still cover a box?"""
        return bool((low >= self.low).all() and (high <= self.low + np.array(self.shape) * self.voxel).all())

    def update(self, keyframes: Sequence[Keyframe]) -> bool:
        """Fuse keyframes that are not in yet; False when one that is has moved, so that it is time to start anew."""
        for keyframe in keyframes:
            pose = self.fused.get(keyframe.index)
            if pose is None:
                self._fuse(keyframe)
                self.fused[keyframe.index] = keyframe.camera.T_world_camera
            elif not np.allclose(pose, keyframe.camera.T_world_camera, atol=0.5 * self.voxel):
                return False
        return True

    def _fuse(self, keyframe: Keyframe) -> None:
        if keyframe.depth_mm is None:
            return
        step = PIXELS_EVERY
        depth = keyframe.depth_mm[::step, ::step] * np.float32(1e-3)
        if not depth.any():
            return
        camera, far = keyframe.camera, float(depth.max()) + self.truncation
        corners = np.array([[u, v] for u in (0, camera.width) for v in (0, camera.height)])
        rays = np.column_stack([(corners - [camera.cx, camera.cy]) / [camera.fx, camera.fy], np.ones(4)]) * far
        ends = np.vstack([rays @ camera.T_world_camera[:3, :3].T, np.zeros(3)]) + camera.T_world_camera[:3, 3]
        first = np.clip(np.floor((ends.min(0) - self.low) / self.voxel).astype(int), 0, self.shape)
        last = np.clip(np.ceil((ends.max(0) - self.low) / self.voxel).astype(int) + 1, 0, self.shape)
        if (first >= last).any():
            return
        axes = [self.low[i] + (np.arange(first[i], last[i]) + 0.5) * self.voxel for i in range(3)]
        to_camera = camera.T_camera_world.astype(np.float32)
        # p_camera = R p + t, added up from three axes: nobody needs all points in the world
        parts = [np.outer(axis.astype(np.float32), to_camera[:3, i]) for i, axis in enumerate(axes)]
        for i, along_x in enumerate(parts[0]):  # slice by slice: memory
            local = along_x + parts[1][:, None] + parts[2][None, :] + to_camera[:3, 3]
            z = local[..., 2]
            with np.errstate(divide="ignore", invalid="ignore"):
                u = np.rint((local[..., 0] / z * camera.fx + camera.cx) / step)
                v = np.rint((local[..., 1] / z * camera.fy + camera.cy) / step)
            seen: np.ndarray = (z > 0.05) & (u >= 0) & (v >= 0) & (u < depth.shape[1]) & (v < depth.shape[0])
            if not seen.any():
                continue
            y_index, z_index = np.nonzero(seen)
            measured: np.ndarray = depth[v[seen].astype(np.int32), u[seen].astype(np.int32)]
            sdf: np.ndarray = measured - z[seen]
            good = np.logical_and(measured > 0, sdf > -self.truncation)
            cell = (first[0] + i, first[1] + y_index[good], first[2] + z_index[good])
            weight = self.weight[cell]
            sdf = np.minimum(sdf[good], self.truncation)
            self.distance[cell] += (sdf - self.distance[cell]) / (weight + 1)
            self.weight[cell] = np.minimum(weight + 1, SURE)

    def at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Truncated distance (N,) m at points (N, 3), and whether they are known (N,) bool."""
        index = np.floor((points - self.low) / self.voxel).astype(np.int64)
        inside = np.asarray(np.logical_and(index >= 0, index < np.array(self.shape)).all(axis=1))
        cell = tuple(np.where(inside[:, None], index, 0).T)
        known = inside & (self.weight[cell] > 0)
        return np.where(known, self.distance[cell], 0.0), known
