"""Windowed optimisation of what is in view: colour, geometry and identity by Adam on the visible Gaussians."""

from __future__ import annotations

import numpy as np
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.keyframes import View
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.native import AdamTensor, adam_step
from gs_semantic.rendering.residual import LossSettings, image_gradients

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
        gaussians, config = self.gaussians, self.config
        identity = gaussians["identity"] if codes is not None and target.slots is not None else None
        view = self.rasterizer.open(gaussians, target.camera)
        rendering = view.render(features=identity)
        slots = target.slots if identity is not None else None
        wanted = target.rgb
        if target.ignored is not None:  # as if the map were right there
            wanted = torch.where(target.ignored[..., None], rendering.rgb, wanted)
        residual = image_gradients(rendering, wanted, target.depth, slots, codes, self._loss)
        grads = view.backward(
            rendering,
            residual.rgb,
            grad_depth=residual.depth,
            grad_features=residual.features,
            features=identity,
            feature_grad_to_geometry=config.identity_moves_geometry,
        )
        tensors = [
            self._tensor(name, getattr(grads, name), "means", self._rates[name], name == ATTRIBUTES[0])
            for name in ATTRIBUTES
        ]
        if grads.features is not None:
            tensors.append(self._tensor("identity", grads.features, "identity", config.lr_identity, True))
        adam_step(tensors, view.visible, beta1=0.9, beta2=0.99, eps=EPSILON)
        gaussians.touch(view.visible)
        return residual.colour_error

    def _tensor(self, name: str, grad: torch.Tensor, counter: str, rate: float, advance: bool) -> AdamTensor:
        gaussians = self.gaussians
        moments = (gaussians.state(name, "exp_avg"), gaussians.state(name, "exp_avg_sq"))
        return AdamTensor(gaussians[name], grad, *moments, gaussians.state(counter, "steps"), rate, advance)
