"""The space that keyframes have looked at: depth of the map, rendered where they were, fused into a TSDF.

Depth is rendered rather than taken from the sensor, so that it shows the map as it is now: optimised, edited, or loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering.base import Rasterizer
from gs_semantic.space.tsdf import AT_TRUNCATION, VOXEL_M, TooLargeError, TsdfVolume

WIDTH_PX = 320  # of the rendered depth
OPAQUE = 0.5  # alpha from which a pixel shows a surface
ONE_SURFACE = 0.05  # share of the depth by which its mean and its median differ at most where a pixel shows one surface
COARSER = 1.5  # voxels grow by, when the space is too large
BETWEEN = 1.5  # voxels from a surface up to which its side is told by interpolation
AGAIN = 2  # views that are drawn again in each update: the map changes a little all the time


@dataclass
class _View:
    camera: Camera
    fused: int  # number of the update


class SeenSpace:
    """One thread updates, others may ask meanwhile: ``at`` and ``known`` wait at most while one view is fused."""

    def __init__(self, voxel: float = VOXEL_M) -> None:
        self.volume = TsdfVolume(voxel)
        self._lock = threading.Lock()
        self._views: dict[int, _View] = {}
        self._updates = 0

    @property
    def truncation(self) -> float:
        return self.volume.truncation

    @property
    def voxel(self) -> float:
        return self.volume.voxel

    def known(self, points: np.ndarray) -> np.ndarray:
        """As ``TsdfVolume.known``."""
        with self._lock:
            return self.volume.known(points)

    def at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As ``TsdfVolume.at``."""
        with self._lock:
            return self.volume.at(points)

    def inside(self, points: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """bool (N,): known points behind a surface, whose distance (N,) m from surfaces, in any direction, is known."""
        with self._lock:
            depth, known = self.volume.in_voxels(points)
            close = np.flatnonzero(known & (distance <= BETWEEN * self.voxel))  # here the place within the voxel matters
            depth[close] = self.volume.at(points[close])[0]
            return np.asarray(known & (depth < 0))

    def clear(self, points: np.ndarray) -> np.ndarray:
        """bool (N,): cameras looked through there, and no surface is near."""
        with self._lock:
            distance, known = self.volume.at(points)
            return np.asarray(known & (distance >= AT_TRUNCATION * self.truncation))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high corner (3,) m of what is known; both 0 where nothing is."""
        with self._lock:
            return self.volume.bounds()

    def update(
        self,
        gaussians: GaussianMap,
        cameras: Mapping[int, Camera],
        rasterizer: Rasterizer,
        changed: Iterable[tuple[np.ndarray, np.ndarray]] = (),
        budget_s: float = np.inf,
    ) -> bool:
        """Fuse the views of keyframes, by their numbers, that are not in yet; False when the time did not suffice.

        changed: boxes, low and high (3,) m, in which something was moved or taken away. When a keyframe's pose was
        corrected, all is fused anew.
        """
        end, self._updates = time.monotonic() + budget_s, self._updates + 1
        if any(key in self._views and self._moved(key, camera) for key, camera in cameras.items()):
            self._start_anew(self.voxel)
        for low, high in changed:
            self._forget(low, high)
        new = spread([key for key in cameras if key not in self._views])
        old = sorted((key for key in self._views if key in cameras), key=lambda key: self._views[key].fused)
        for number, key in enumerate([*new, *old[:AGAIN]]):
            if number and time.monotonic() > end:  # something is done in any case
                return key in self._views
            try:
                self._fuse(key, cameras[key], gaussians, rasterizer)
            except TooLargeError:
                self._start_anew(COARSER * self.voxel)
                return False
        with self._lock:
            self.volume.compact()
        return True

    def _moved(self, key: int, camera: Camera) -> bool:
        return not np.allclose(self._views[key].camera.T_world_camera, camera.T_world_camera, atol=0.25 * self.voxel)

    def _start_anew(self, voxel: float) -> None:
        volume = TsdfVolume(voxel)
        with self._lock:
            self.volume = volume
        self._views.clear()

    def _forget(self, low: np.ndarray, high: np.ndarray) -> None:
        """A box is unknown until the views that see it are in again."""
        with self._lock:
            self.volume.forget(low, high)
        for key in [key for key, view in self._views.items() if sees_box(view.camera, low, high)]:
            del self._views[key]

    def _fuse(self, key: int, camera: Camera, gaussians: GaussianMap, rasterizer: Rasterizer) -> None:
        small = camera
        if camera.width > WIDTH_PX:
            small = camera.resized(WIDTH_PX, max(1, round(camera.height * WIDTH_PX / camera.width)))
        depth, through = surface_depth(gaussians, small, rasterizer)
        with self._lock:
            self.volume.fuse(small, depth, through)
        self._views[key] = _View(camera, self._updates)


def surface_depth(
    gaussians: GaussianMap, camera: Camera, rasterizer: Rasterizer
) -> tuple[np.ndarray, np.ndarray]:
    """Depth float32 (H, W) m of a map where a pixel shows one opaque surface, else 0; and how far nothing is in the way:
    at outlines and in small holes as far as the nearest of the surfaces around, and not at all where the map shows nothing."""
    with torch.no_grad():
        shown = rasterizer.render(gaussians, camera, median_depth=True)
    assert shown.median_depth is not None
    mean, median = shown.depth.numpy(), shown.median_depth.numpy()
    opaque = shown.alpha.numpy() >= OPAQUE
    one = opaque & (np.abs(mean - median) <= ONE_SURFACE * median)
    depth = np.where(one, mean, 0).astype(np.float32)
    around = cv2.erode(np.where(one, mean, np.float32(np.inf)).astype(np.float32), np.ones((5, 5), np.uint8))
    own = np.where(opaque, np.minimum(mean, median), np.float32(np.inf))
    outline = np.where(np.isfinite(around), np.minimum(around, own), 0)
    return depth, np.where(one, depth, outline).astype(np.float32)


def sees_box(camera: Camera, low: np.ndarray, high: np.ndarray) -> bool:
    """May a camera see part of a box? Yes unless all of its corners are behind it or beyond one edge of the image."""
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    local = corners @ camera.T_camera_world[:3, :3].T + camera.T_camera_world[:3, 3]
    x, y, z = local.T
    left, right = (-0.5 - camera.cx) / camera.fx, (camera.width - 0.5 - camera.cx) / camera.fx
    above, below = (-0.5 - camera.cy) / camera.fy, (camera.height - 0.5 - camera.cy) / camera.fy
    outside = (z <= 0, x < left * z, x > right * z, y < above * z, y > below * z)
    return not any(beyond.all() for beyond in outside)


def spread(keys: list[int]) -> list[int]:
    """The newest first, then so that every beginning of the list covers all of it evenly (bits in reverse order)."""
    bits = max(1, (len(keys) - 1).bit_length())
    order = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits)]
    return [keys[-1 - number] for number in order if number < len(keys)]
