"""The two images that the 2D network looks at: colour and 3D features of a map, drawn at a camera in one pass."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import Rasterizer
from gs_semantic.rendering.base import SplatTensors


@dataclass(frozen=True)
class ViewImages:
    """rgb (1,3,H,W) 0..1; features (1,C,H,W) as blended, 0 where nothing is; covered bool (H,W): anything is drawn."""

    rgb: torch.Tensor
    features: torch.Tensor
    covered: torch.Tensor


COVERED = 0.01


def on_device(gaussians: GaussianMap, device: torch.device | str) -> GaussianMap | SplatTensors:
    """A map where it is drawn: on a GPU a copy of what the rasteriser reads, so that images stay there, too."""
    if torch.device(device).type == "cpu":
        return gaussians
    return SplatTensors(*(getattr(gaussians, spec.name).detach().to(device) for spec in fields(SplatTensors)))


@torch.no_grad()
def draw_view(
    rasterizer: Rasterizer, gaussians: GaussianMap | SplatTensors, features: torch.Tensor, camera: Camera
) -> ViewImages:
    """Colour and features (N,C) at a camera."""
    drawn = rasterizer.render(gaussians, camera, features)  # type: ignore[arg-type]
    assert drawn.features is not None
    return ViewImages(
        drawn.rgb.clamp(0, 1).permute(2, 0, 1)[None],
        drawn.features.permute(2, 0, 1)[None],
        drawn.alpha > COVERED,
    )


def label_image(logits: torch.Tensor, covered: torch.Tensor) -> np.ndarray:
    """Class ids int32 (H,W) of logits (K,H,W): 1..K, 0 where nothing is drawn."""
    if logits.is_cuda:
        return label_ids(logits, covered).cpu().numpy()
    # pixel by pixel, and by numpy, which is ten times as fast here as torch on a CPU
    best = logits.detach().float().permute(1, 2, 0).contiguous().cpu().numpy().argmax(axis=-1)
    return np.where(covered.cpu().numpy(), best + 1, 0).astype(np.int32)


def label_ids(logits: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """The same where the logits are."""
    return ((logits.detach().argmax(dim=0) + 1) * covered).to(torch.int32)


def principal_colours(features: torch.Tensor, basis: torch.Tensor | None = None) -> tuple[np.ndarray, torch.Tensor]:
    """Features (H,W,C) as colours uint8 (H,W,3): their three main directions. The basis (C+2, 3) that was used, to show
    several views in the same colours: directions, then lowest and highest value."""
    flat = features.reshape(-1, features.shape[-1]).float()
    if basis is None:
        _, _, directions = torch.pca_lowrank(flat, q=3)
        shown = flat @ directions
        low, high = torch.quantile(shown[:: max(1, len(shown) // 10_000)], torch.tensor([0.02, 0.98]), dim=0)
        basis = torch.cat([directions, low[None], high[None]])
    low, high = basis[-2], basis[-1]
    shown = ((flat @ basis[:-2] - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    return (shown * 255).to(torch.uint8).reshape(*features.shape[:2], 3).numpy(), basis
