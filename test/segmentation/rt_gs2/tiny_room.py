"""A small room of Gaussians with classes, for tests of the generalising method."""

import numpy as np
import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.gaussians.gaussian_map import rgb_to_sh


def room(count: int = 3000, sh_degree: int = 0, seed: int = 0) -> tuple[GaussianMap, torch.Tensor]:
    """Gaussians on the walls (class 0), the floor (1) and a ball (2) of a room of 4 x 4 x 2.5 m, and their classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, count)
    xyz = rng.uniform([-2, -2, 0], [2, 2, 2.5], (count, 3))
    side = rng.integers(0, 4, count)
    wall = classes == 0
    xyz[wall & (side < 2), 0] = np.where(side[wall & (side < 2)] == 0, -2, 2)
    xyz[wall & (side >= 2), 1] = np.where(side[wall & (side >= 2)] == 2, -2, 2)
    xyz[classes == 1, 2] = 0
    ball = rng.normal(size=((classes == 2).sum(), 3))
    xyz[classes == 2] = ball / np.linalg.norm(ball, axis=1, keepdims=True) * 0.5 + [0, 0, 0.5]
    colours = np.array([[0.8, 0.8, 0.7], [0.4, 0.3, 0.2], [0.8, 0.1, 0.1]])[classes] + rng.normal(0, 0.02, (count, 3))
    gaussians = GaussianMap(sh_degree)
    sh = torch.zeros(count, (sh_degree + 1) ** 2, 3)
    sh[:, 0] = rgb_to_sh(torch.from_numpy(colours).float())
    gaussians.add(
        means=torch.from_numpy(xyz).float(),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        log_scales=torch.full((count, 3), np.log(0.05)),
        opacity_logits=torch.full((count,), 2.0),
        sh=sh,
    )
    return gaussians, torch.from_numpy(classes)


def cameras(count: int = 8, width: int = 64, height: int = 48) -> list[Camera]:
    """On a circle of 1.5 m around the ball, at 1.2 m, looking at it."""
    found = []
    for turn in np.linspace(0, 2 * np.pi, count, endpoint=False):
        eye = np.array([1.5 * np.cos(turn), 1.5 * np.sin(turn), 1.2])
        forward = np.array([0, 0, 0.5]) - eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = eye
        found.append(Camera(width, height, 0.8 * width, 0.8 * width, (width - 1) / 2, (height - 1) / 2, pose))
    return found
