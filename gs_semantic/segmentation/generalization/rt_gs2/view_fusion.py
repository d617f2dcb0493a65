"""Answers of many views brought back into the Gaussians and drawn again, so that they no longer depend on the view."""

from __future__ import annotations

import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import Rasterizer


class ViewFusion:
    """Mean logits per Gaussian, weighed by how much each view's pixels show of it: the rasteriser's transpose pass.

    Drawing ``logits`` like colours gives every view the answer of the same Gaussians, which is strictly consistent.
    """

    def __init__(self, rasterizer: Rasterizer, gaussians: GaussianMap) -> None:
        self.rasterizer, self.gaussians = rasterizer, gaussians
        self._sum: torch.Tensor | None = None
        self._weight = torch.zeros(len(gaussians))

    def add(self, camera: Camera, logits: torch.Tensor) -> None:
        """Take a view's logits float32 (K,H,W). InvalidRequestError: other classes than before, or another image size."""
        if tuple(logits.shape[1:]) != (camera.height, camera.width):
            raise InvalidRequestError(
                f"logits: {tuple(logits.shape)} do not fit a camera of {camera.width}x{camera.height}"
            )
        if self._sum is not None and self._sum.shape[1] != len(logits):
            raise InvalidRequestError(f"logits: {len(logits)} classes, the views before had {self._sum.shape[1]}")
        image = logits.detach().float().cpu().permute(1, 2, 0).contiguous()
        found = self.rasterizer.accumulate(self.gaussians, camera, image)
        self._sum = found.weighted_sum if self._sum is None else self._sum + found.weighted_sum
        self._weight += found.weight_sum

    @property
    def seen(self) -> torch.Tensor:
        """bool (N,): Gaussians that any view showed."""
        return self._weight > 0

    @property
    def logits(self) -> torch.Tensor:
        """(N,K); 0, which favours no class, for Gaussians that no view showed. InvalidRequestError before the first view."""
        if self._sum is None:
            raise InvalidRequestError("no view was fused yet; call add with at least one")
        return self._sum / self._weight.clamp_min(1e-8)[:, None]

    def render(self, camera: Camera) -> torch.Tensor:
        """Logits (K,H,W) at a camera; 0 where nothing is."""
        drawn = self.rasterizer.render(self.gaussians, camera, self.logits)
        assert drawn.features is not None
        return drawn.features.permute(2, 0, 1)
