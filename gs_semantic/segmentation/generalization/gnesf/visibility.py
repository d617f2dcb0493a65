"""Which views see a point. Neither form has a gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch

TOLERANCE_M, TOLERANCE_SHARE = 0.05, 0.02
SDF_SAMPLES, SDF_FROM_M = 10, 1.0


@torch.no_grad()
def visible_by_depth(z: torch.Tensor, rendered: torch.Tensor) -> torch.Tensor:
    """bool: the depth z (m) of a point differs from the rendered depth at its pixel by 5 cm or 2 % at most."""
    return (rendered > 0) & ((z - rendered).abs() <= (TOLERANCE_SHARE * z).clamp_min(TOLERANCE_M))


@torch.no_grad()
def visible_by_sdf(
    sdf: Callable[[torch.Tensor], torch.Tensor], points: torch.Tensor, centres: torch.Tensor
) -> torch.Tensor:
    """bool (V,P): the signed distance changes its sign less than twice on the way from a camera to a point.

    Ten places spaced evenly from one metre before the camera to the point are looked at (GNeSF, section 4.2, and its
    code). sdf: places (Q,3) -> signed distances (Q,).
    """
    way = points[None] - centres[:, None]  # (V,P,3)
    distance = way.norm(dim=-1, keepdim=True)
    steps = torch.linspace(0, 1, SDF_SAMPLES, device=points.device)
    along = SDF_FROM_M + (distance - SDF_FROM_M) * steps  # (V,P,S)
    places = centres[:, None, None] + (way / distance.clamp_min(1e-6))[:, :, None] * along[..., None]
    values = sdf(places.reshape(-1, 3)).reshape(along.shape)
    return (values[..., 1:] * values[..., :-1] < 0).sum(dim=-1) < 2
