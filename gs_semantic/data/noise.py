"""Seeded sensor noise for recordings that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from gs_semantic.data.sequence import FrameFilter
from gs_semantic.gaussians import Frame


@dataclass(frozen=True)
class SensorNoise:
    """Depth noise and pose noise, drawn from (seed, frame index) so that every run sees the same.

    depth_sigma: standard deviation of the depth is ``depth_sigma * z^2`` metres, z in metres. holes: share of depth
    pixels removed. pose_m, pose_deg: the pose is moved along, and turned about, a random direction by a normally
    distributed length and angle with these standard deviations.
    """

    depth_sigma: float = 0.0015
    holes: float = 0.05
    pose_m: float = 0.01
    pose_deg: float = 0.5
    seed: int = 0

    def apply(self, frame: Frame, index: int) -> Frame:
        rng = np.random.default_rng((self.seed, index))
        camera = frame.camera.at(self._moved(frame.camera.T_world_camera, rng))
        depth = None if frame.depth is None else self._noisy(frame.depth, rng)
        return replace(frame, camera=camera, depth=depth)

    def _moved(self, pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        direction, axis = (vector / np.linalg.norm(vector) for vector in rng.standard_normal((2, 3)))
        offset = np.eye(4)
        offset[:3, :3] = cv2.Rodrigues(axis * np.deg2rad(self.pose_deg) * rng.standard_normal())[0]
        offset[:3, 3] = direction * self.pose_m * rng.standard_normal()
        return pose @ offset

    def _noisy(self, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        valid = np.isfinite(depth) & (depth > 0)
        z = np.where(valid, depth, 0).astype(np.float32)
        noisy = z + self.depth_sigma * z * z * rng.standard_normal(z.shape, dtype=np.float32)
        kept = valid & (rng.random(z.shape, dtype=np.float32) >= self.holes)
        return np.where(kept, np.maximum(noisy, 0), 0).astype(np.float32)


@dataclass(frozen=True)
class CameraLook:
    """What a camera adds to colour, drawn from (seed, frame index): exposure, white balance, blur and grain.

    gain: spread of the logarithm of the exposure. tint: the same for each channel. blur_px: largest standard deviation
    of the blur. grain: largest standard deviation of the noise, in 1/255.
    """

    gain: float = 0.2
    tint: float = 0.05
    blur_px: float = 0.7
    grain: float = 6.0
    seed: int = 0

    def apply(self, frame: Frame, index: int) -> Frame:
        rng = np.random.default_rng((self.seed, index))
        scale = np.exp(rng.normal(0, self.gain) + rng.normal(0, self.tint, 3))
        sigma = self.blur_px * rng.random()
        rgb = cv2.GaussianBlur(frame.rgb, (0, 0), sigma) if sigma > 0.3 else frame.rgb
        noisy = rgb * scale + self.grain * rng.random() * rng.standard_normal(rgb.shape)
        return replace(frame, rgb=np.clip(np.round(noisy), 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Filters:
    """Several changes, one after the other."""

    filters: Sequence[FrameFilter]

    def apply(self, frame: Frame, index: int) -> Frame:
        for each in self.filters:
            frame = each.apply(frame, index)
        return frame
