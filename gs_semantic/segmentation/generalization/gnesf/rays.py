"""Volume rendering: places along rays, and what each counts."""

from __future__ import annotations

import numpy as np
import torch

from gs_semantic.gaussians import Camera

TRUNCATION_M = 0.1


def ray_points(camera: Camera, pixels: np.ndarray, depths: torch.Tensor) -> torch.Tensor:
    """World points (R,S,3) at depths z (R,S) m along the rays of pixels (R,2) (u, v)."""
    pose = torch.from_numpy(camera.T_world_camera.astype(np.float32))
    u, v = (torch.from_numpy(np.asarray(pixels[:, i], np.float32)) for i in (0, 1))
    along = torch.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, torch.ones_like(u)], dim=-1)
    world = along @ pose[:3, :3].T
    return pose[:3, 3] + depths[..., None] * world[:, None]


def even_depths(rays: int, count: int, near: float, far: float, inverse: bool = False) -> torch.Tensor:
    """(R,S) depths from near to far, evenly in depth or in inverse depth."""
    steps = torch.linspace(0, 1, count)
    line = 1 / ((1 - steps) / near + steps / far) if inverse else near + (far - near) * steps
    return line.expand(rays, count)


def sdf_weights(sdf: torch.Tensor, depths: torch.Tensor, truncation: float = TRUNCATION_M) -> torch.Tensor:
    """(R,S) weights of signed distances (R,S) m at depths (R,S) m; they sum to 1.

    sigmoid(s/t) sigmoid(-s/t), and nothing from the first change of sign plus t on, so that hidden surfaces do not
    count. Without a change of sign only the first t metres stay, as in the published code.
    """
    weights = torch.sigmoid(sdf / truncation) * torch.sigmoid(-sdf / truncation)
    changes = (sdf[:, 1:] * sdf[:, :-1] < 0).float()
    first = changes.argmax(dim=1, keepdim=True)  # 0 when there is none
    weights = weights * (depths < depths.gather(1, first) + truncation)
    return weights / (weights.sum(dim=1, keepdim=True) + 1e-8)


def density_weights(density: torch.Tensor) -> torch.Tensor:
    """(R,S): alpha = 1 - exp(-relu(density)), without the interval's length, blended from near to far."""
    alpha = 1 - torch.exp(-torch.relu(density))
    through = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], dim=1), dim=1)[:, :-1]
    return alpha * through
