"""Windowed optimisation of what is in view: colour, geometry and identity by Adam on the visible Gaussians."""

from __future__ import annotations

import numpy as np
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.keyframes import View
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.residual import LossSettings
from gs_semantic.rendering.step import StepRates, StepTarget, optimise, register_adam

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
    """One ``step`` renders a window of a keyframe, and moves the Gaussians it draws down the gradient of the loss.

    Loss, summed over pixels: Huber of colour + depth_weight * Huber of depth (where measured and covered); with
    ``identity`` also identity_weight * squared distance of the rendered identity to the code of the pixel's object.
    """

    def __init__(self, gaussians: GaussianMap, rasterizer: CpuRasterizer, config: MapperConfig) -> None:
        self.gaussians, self.rasterizer, self.config = gaussians, rasterizer, config
        gaussians.register("identity", (config.identity_dims,))
        register_adam(gaussians, "identity")
        self._rates = StepRates(
            means=config.lr_means,
            quats=config.lr_quats,
            log_scales=config.lr_scales,
            opacity_logits=config.lr_opacity,
            sh=config.lr_colour,
            features=config.lr_identity,
            beta1=0.9,
            beta2=0.99,
            eps=EPSILON,
        )
        knee = config.depth_tolerance_m
        self._loss = LossSettings(
            colour_knee=COLOUR_KNEE,
            depth_knee_m=knee,
            # across an occlusion edge the difference says nothing about where the Gaussian should be
            depth_near_m=4 * knee,
            depth_near_per_m2=4 * config.depth_tolerance_per_m2,
            depth_weight=config.depth_weight,
            feature_weight=config.identity_weight,
        )

    def step(self, target: View, codes: torch.Tensor | None = None) -> float:
        """One step; ``codes`` (slots, dims) adds the identity term. Returns the mean colour error."""
        identity = codes is not None and target.slots is not None
        result = optimise(
            self.rasterizer.open(self.gaussians, target.camera),
            self.gaussians,
            StepTarget(target.rgb, target.depth, target.slots, codes),
            self._loss,
            self._rates,
            features="identity" if identity else None,
            features_move_geometry=self.config.identity_moves_geometry,
        )
        return result.colour_error
