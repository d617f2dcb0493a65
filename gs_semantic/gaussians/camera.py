"""Pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from gs_semantic.errors import InvalidInputError


@dataclass(frozen=True)
class Camera:
    """Pinhole camera in the optical frame (x right, y down, z forward), metres.

    ``cx, cy`` follow the ROS / OpenCV convention: the centre of the first pixel is (0, 0). Rasterisers that put it at
    (0.5, 0.5) (gsplat, COLMAP) add the half pixel themselves. ``T_world_camera`` maps camera points to world points.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    T_world_camera: np.ndarray = field(default_factory=lambda: np.eye(4))

    def __post_init__(self) -> None:
        pose = np.asarray(self.T_world_camera, dtype=np.float64)
        if pose.shape != (4, 4):
            raise InvalidInputError(f"camera pose: expected a 4x4 matrix, got shape {pose.shape}")
        if self.width <= 0 or self.height <= 0:
            raise InvalidInputError(f"camera size: {self.width}x{self.height} is not a positive size")
        if not (np.isfinite([self.fx, self.fy, self.cx, self.cy]).all() and self.fx > 0 and self.fy > 0):
            raise InvalidInputError(f"camera intrinsics: fx={self.fx} fy={self.fy} cx={self.cx} cy={self.cy}")
        if not np.isfinite(pose).all():
            raise InvalidInputError("camera pose: contains NaN or infinity")
        object.__setattr__(self, "T_world_camera", pose)

    @property
    def T_camera_world(self) -> np.ndarray:
        """4x4, world to camera (rigid inverse)."""
        rotation = self.T_world_camera[:3, :3]
        inverse = np.eye(4)
        inverse[:3, :3] = rotation.T
        inverse[:3, 3] = -rotation.T @ self.T_world_camera[:3, 3]
        return inverse

    @property
    def K(self) -> np.ndarray:
        """3x3 intrinsic matrix (pixel centres at integers)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def at(self, T_world_camera: np.ndarray) -> Camera:
        """The same camera at another pose."""
        return replace(self, T_world_camera=T_world_camera)

    def moved(self, twist: np.ndarray) -> Camera:
        """The camera with ``T_camera_world' = exp(twist) T_camera_world``; twist (6,): rotation rad, translation m.

        Both are in the camera frame (see ``se3_exp``).
        """
        return self.at(self.T_world_camera @ se3_exp(-np.asarray(twist, dtype=np.float64)))

    def resized(self, width: int, height: int) -> Camera:
        """The same view at another resolution (pixel centres stay at integers)."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )

    def unproject(self, depth: np.ndarray) -> np.ndarray:
        """Points in the world frame, float32 (H, W, 3), of a depth image in metres (H, W); 0 or NaN gives NaN."""
        v, u = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)
        z = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)
        local = np.stack([(u - self.cx) / self.fx * z, (v - self.cy) / self.fy * z, z], axis=-1)
        return (local @ self.T_world_camera[:3, :3].T + self.T_world_camera[:3, 3]).astype(np.float32)


def looking_along(origin: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Camera-to-world pose (4, 4), optical axes, of a camera in ``origin`` that looks along the unit vector ``forward``."""
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = origin
    return pose


def se3_exp(twist: np.ndarray) -> np.ndarray:
    """Rigid motion (4,4) of a twist (6,): rotation vector (rad), translation (m), (Rodrigues' formula)."""
    rotation, translation = np.asarray(twist[:3], np.float64), np.asarray(twist[3:], np.float64)
    angle = float(np.linalg.norm(rotation))
    x, y, z = rotation
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    # sin a / a, (1 - cos a) / a^2 and (a - sin a) / a^3; their series where the quotients lose their digits
    if angle < 1e-4:
        first, second, third = 1 - angle**2 / 6, 0.5 - angle**2 / 24, 1 / 6 - angle**2 / 120
    else:
        first, second = np.sin(angle) / angle, (1 - np.cos(angle)) / angle**2
        third = (1 - first) / angle**2
    motion = np.eye(4)
    motion[:3, :3] += first * cross + second * cross @ cross
    motion[:3, 3] = (np.eye(3) + second * cross + third * cross @ cross) @ translation
    return motion
