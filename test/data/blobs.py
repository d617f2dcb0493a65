"""A little scene whose images tell whether poses, axes, pixel centres and lenses were read rightly: coloured blobs at
known places, seen by known cameras."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from gs_semantic.gaussians import Camera, Frame

WIDTH, HEIGHT = 160, 120
CAMERA = Camera(WIDTH, HEIGHT, 130.0, 128.0, 80.0, 58.5)
POINTS = np.array([[-0.5, -0.3, 2.0], [0.5, -0.3, 2.2], [-0.45, 0.35, 2.4], [0.5, 0.3, 2.0]])
COLOURS = np.array([[230, 30, 30], [30, 220, 40], [40, 60, 240], [230, 220, 30]], np.uint8)
DEPTH_M = 2.0
FRAMES = 3


def poses() -> np.ndarray:
    """Camera-to-world: not symmetric in anything, so that a wrong axis shows; float64 (3, 4, 4)."""
    world = np.eye(4)
    world[:3, :3] = Rotation.from_euler("xyz", [20, -35, 70], degrees=True).as_matrix()
    world[:3, 3] = [1.0, -2.0, 0.5]
    out = []
    for i in range(FRAMES):
        step = np.eye(4)
        step[:3, :3] = Rotation.from_euler("xyz", [2 * i, -3 * i, 4 * i], degrees=True).as_matrix()
        step[:3, 3] = [0.05 * i, -0.02 * i, 0.03 * i]
        out.append(world @ step)
    return np.stack(out)


@dataclass
class Blobs:
    """Images of the blobs by cameras with a lens (OpenCV coefficients)."""

    coefficients: np.ndarray = field(default_factory=lambda: np.zeros(0))
    fisheye: bool = False
    camera: Camera = CAMERA
    radius: float = 5.0

    def __post_init__(self) -> None:
        self.poses = poses()
        self.points = POINTS @ self.poses[0, :3, :3].T + self.poses[0, :3, 3]  # in the world

    def local(self, index: int) -> np.ndarray:
        return (self.points - self.poses[index, :3, 3]) @ self.poses[index, :3, :3]

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3): dark grey with a disc at every point."""
        rgb = np.full((self.camera.height, self.camera.width, 3), 40, np.uint8)
        points = self.local(index)[:, None]
        if self.fisheye:
            pixels = cv2.fisheye.projectPoints(points, np.zeros(3), np.zeros(3), self.camera.K, self.coefficients)[0]
        else:
            pixels = cv2.projectPoints(points, np.zeros(3), np.zeros(3), self.camera.K, self.coefficients)[0]
        v, u = np.mgrid[: self.camera.height, : self.camera.width]
        for (x, y), colour in zip(pixels.reshape(-1, 2), COLOURS, strict=True):
            rgb[np.hypot(u - x, v - y) < self.radius] = colour
        return rgb

    def depth(self, index: int) -> np.ndarray:
        """float32 (H, W) metres: a wall straight ahead, nearer in every frame, without data in the first column."""
        depth = np.full((self.camera.height, self.camera.width), DEPTH_M - 0.25 * index, np.float32)
        depth[:, 0] = 0
        return depth

    def check(self, frame: Frame, index: int, pose_tolerance: float = 1e-6) -> None:
        """The frame has the right pose, and every blob's middle is where its camera puts the point."""
        assert np.allclose(frame.camera.T_world_camera, self.poses[index], atol=pose_tolerance)
        local = self.local(index)
        pixels = local @ frame.camera.K.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        v, u = np.mgrid[: frame.camera.height, : frame.camera.width]
        for (x, y), colour in zip(pixels, COLOURS.astype(int), strict=True):
            near = np.hypot(u - x, v - y) < 12
            weight = np.clip(1 - np.abs(frame.rgb[near].astype(int) - colour).sum(axis=1) / 200, 0, 1)
            assert weight.sum() > 40, "the blob is not there"
            middle = (weight * u[near]).sum() / weight.sum(), (weight * v[near]).sum() / weight.sum()
            assert np.hypot(middle[0] - x, middle[1] - y) < 0.3, "the blob is elsewhere"
