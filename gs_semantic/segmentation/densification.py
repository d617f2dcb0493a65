"""Growing and thinning of the map while it is trained (3D Gaussian Splatting, section 5.2)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.segmentation.config import TrainingConfig
from gs_semantic.segmentation.engine import Engine, StepStatistics

RESET_OPACITY = 0.01
CHILDREN = 2
SHRINK = 0.8 * CHILDREN  # a child's scale is its parent's divided by this


class Densifier:
    """Watches the steps and says which Gaussians to clone, split and remove. ``extent``: of the scene, metres."""

    def __init__(
        self,
        gaussians: GaussianMap,
        engine: Engine,
        config: TrainingConfig,
        extent: float,
        random: np.random.Generator,
    ) -> None:
        self.gaussians, self.engine, self.config, self.extent, self.random = gaussians, engine, config, extent, random
        self.limit = config.max_gaussians  # 0: none
        self.forget()

    def forget(self) -> None:
        """Start watching anew; to be called whenever rows came or went."""
        self.gradient, self.seen, self.radius = torch.zeros(
            3, len(self.gaussians), device=self.gaussians.device
        ).unbind()

    def observe(self, statistics: StepStatistics, width: int, height: int) -> None:
        """Take one step's gradients of the projected centres, for images of this size."""
        rows = statistics.rows
        self.gradient[rows] += statistics.means2d_norm * (max(width, height) / 2)
        self.seen[rows] += statistics.in_view
        self.radius[rows] = torch.maximum(self.radius[rows], statistics.radii)

    def due(self, iteration: int, until: int | None = None) -> bool:
        """Is this the iteration of a round? ``until``: in place of ``densify_until``."""
        last = self.config.densify_until if until is None else until
        return self.config.densify_from < iteration <= last and iteration % self.config.densify_every == 0

    def round(self, iteration: int) -> None:
        """Clone small Gaussians with a large gradient, split large ones, remove what is faint or too large."""
        config = self.config
        score = self.gradient / self.seen.clamp(min=1)
        chosen = score >= config.densify_gradient
        room = self.room
        if room is not None and int(chosen.sum()) > room:  # those with the largest gradients
            best = torch.topk(score, room).indices
            chosen = torch.zeros_like(chosen)
            chosen[best] = True
        large = self.largest_scale() > config.densify_scale * self.extent
        clones, splits = torch.nonzero(chosen & ~large)[:, 0], torch.nonzero(chosen & large)[:, 0]
        radius = torch.cat([self.radius, self.radius.new_zeros(len(clones))])  # what is new was not seen yet
        self.gaussians.clone(clones)
        if len(splits):
            self.gaussians.split(splits, CHILDREN, SHRINK, seed=int(self.random.integers(2**31)))
            kept = torch.ones_like(radius, dtype=torch.bool)
            kept[splits] = False
            radius = torch.cat([radius[kept], radius.new_zeros(CHILDREN * len(splits))])
        self.prune(radius, iteration >= config.prune_size_from)

    @property
    def room(self) -> int | None:
        """How many Gaussians may be added; None: any number."""
        return max(0, self.limit - len(self.gaussians)) if self.limit else None

    def largest_scale(self) -> torch.Tensor:
        """(N,) metres."""
        return self.gaussians.log_scales.amax(dim=1).exp()

    def prune(self, radius: torch.Tensor, large_ones: bool) -> None:
        """Remove faint Gaussians, those that are not finite and, where asked for, large ones; forgets the statistics."""
        config, gaussians = self.config, self.gaussians
        limit = math.log(config.prune_opacity / (1 - config.prune_opacity)) if config.prune_opacity > 0 else -math.inf
        kept = gaussians.opacity_logits >= limit
        kept &= torch.isfinite(gaussians.means).all(dim=1) & torch.isfinite(gaussians.log_scales).all(dim=1)
        if large_ones and config.prune_scale:
            kept &= self.largest_scale() <= config.prune_scale * self.extent
        if large_ones and config.prune_radius_px:
            kept &= radius <= config.prune_radius_px
        if kept.any():
            gaussians.keep(kept)
        self.forget()

    def reset_opacity(self) -> None:
        """Lower every opacity to RESET_OPACITY, so that what is not needed fades."""
        logits = self.gaussians.opacity_logits
        logits.clamp_(max=math.log(RESET_OPACITY / (1 - RESET_OPACITY)))
        self.gaussians.touch()
        self.engine.forget_opacity()

    def state_dict(self) -> dict[str, Any]:
        return {"gradient": self.gradient, "seen": self.seen, "radius": self.radius}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gradient, self.seen, self.radius = (
            state[name].to(self.gaussians.device) for name in ("gradient", "seen", "radius")
        )
