"""The two images that the 2D network looks at: colour and 3D features of a map, drawn at a camera in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import Rasterizer


@dataclass(frozen=True)
class ViewImages:
    """rgb (1,3,H,W) 0..1; features (1,C,H,W) as blended, 0 where nothing is; covered bool (H,W): anything is drawn."""

    rgb: torch.Tensor
    features: torch.Tensor
    covered: torch.Tensor


COVERED = 0.01


@torch.no_grad()
def draw_view(rasterizer: Rasterizer, gaussians: GaussianMap, features: torch.Tensor, camera: Camera) -> ViewImages:
    """Colour and features (N,C) at a camera."""
    drawn = rasterizer.render(gaussians, camera, features)
    assert drawn.features is not None
    return ViewImages(
        drawn.rgb.clamp(0, 1).permute(2, 0, 1)[None],
        drawn.features.permute(2, 0, 1)[None],
        drawn.alpha > COVERED,
    )
