"""Windowed optimisation of what is in view: colour, geometry and identity by Adam on the visible Gaussians."""

from __future__ import annotations

import numpy as np
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.keyframes import View
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.native import sparse_adam

ATTRIBUTES = ("means", "quats", "log_scales", "opacity_logits", "sh")
# Losses are sums over pixels, so a gradient below EPSILON comes from a fraction of a pixel: such a Gaussian moves little.
EPSILON = 0.05
COLOUR_KNEE = 0.04  # colour residuals below are squared, above absolute (robust to occlusion and exposure)


def object_codes(slots: int, dims: int) -> torch.Tensor:
    """Unit vectors (slots, dims), one for each object slot, the same in every run; slot 0 has the zero vector."""
    generator = np.random.default_rng(20_000)
    codes = generator.standard_normal((slots, dims)).astype(np.float32)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    codes[0] = 0
    return torch.from_numpy(codes)


class WindowOptimiser:
    """One ``step`` renders a window of a keyframe, and moves the Gaussians it sees down the gradient of the loss.

    Loss, summed over pixels: Huber of colour + depth_weight * Huber of depth (where measured and covered); with
    ``identity`` also identity_weight * squared distance of the rendered identity to the code of the pixel's object.
    """

    def __init__(self, gaussians: GaussianMap, rasterizer: CpuRasterizer, config: MapperConfig) -> None:
        self.gaussians, self.rasterizer, self.config = gaussians, rasterizer, config
        gaussians.register("identity", (config.identity_dims,))
        for name in (*ATTRIBUTES, "identity"):
            gaussians.register_state(name, "exp_avg")
            gaussians.register_state(name, "exp_avg_sq")
        gaussians.register_state("means", "steps", ())
        gaussians.register_state("identity", "steps", ())
        self._rates = {
            "means": config.lr_means,
            "quats": config.lr_quats,
            "log_scales": config.lr_scales,
            "opacity_logits": config.lr_opacity,
            "sh": config.lr_colour,
        }

    def step(self, target: View, codes: torch.Tensor | None = None) -> float:
        """One step; ``codes`` (slots, dims) adds the identity term. Returns the mean colour error."""
        gaussians, config = self.gaussians, self.config
        identity = gaussians["identity"] if codes is not None and target.slots is not None else None
        view = self.rasterizer.open(gaussians, target.camera)
        rendering = view.render(features=identity)
        error = rendering.rgb - target.rgb
        grad_rgb = (error * (1 / COLOUR_KNEE)).clamp_(-1, 1)
        grad_depth = None
        if target.depth is not None:
            knee = config.depth_tolerance_m
            difference = rendering.depth - target.depth
            near = (target.depth > 0) & (rendering.alpha > 0.5)
            # across an occlusion edge the difference says nothing about where the Gaussian should be
            near &= difference.abs() < 4 * (knee + config.depth_tolerance_per_m2 * target.depth**2)
            grad_depth = (difference * (1 / knee)).clamp_(-1, 1) * near * config.depth_weight
        grad_features = None
        if identity is not None and codes is not None and target.slots is not None:
            known = (target.slots > 0).float() * config.identity_weight
            grad_features = (rendering.features - codes[target.slots]).mul_(known[..., None])
        grads = view.backward(
            rendering,
            grad_rgb,
            grad_depth=grad_depth,
            grad_features=grad_features,
            features=identity,
            feature_grad_to_geometry=config.identity_moves_geometry,
        )
        steps = gaussians.state("means", "steps")
        for count, name in enumerate(ATTRIBUTES):
            self._update(name, getattr(grads, name), steps, view.visible, self._rates[name], count == 0)
        if grads.features is not None:
            steps = gaussians.state("identity", "steps")
            self._update("identity", grads.features, steps, view.visible, config.lr_identity, True)
        gaussians.touch()
        return float(error.abs().mean())

    def _update(
        self, name: str, grad: torch.Tensor, steps: torch.Tensor, rows: torch.Tensor, rate: float, count: bool
    ) -> None:
        gaussians = self.gaussians
        sparse_adam(
            gaussians[name],
            grad,
            gaussians.state(name, "exp_avg"),
            gaussians.state(name, "exp_avg_sq"),
            steps,
            rows,
            lr=rate,
            beta1=0.9,
            beta2=0.99,
            eps=EPSILON,
            advance=count,
        )
