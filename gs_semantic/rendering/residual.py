"""Gradients of an optimisation step's loss with respect to the rendered images, in one native pass."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering import native
from gs_semantic.rendering.base import Rendering


@dataclass(frozen=True)
class LossSettings:
    """Per pixel: Huber of colour with ``colour_knee``; ``depth_weight`` times Huber of depth with ``depth_knee_m``, where
    the target is measured, alpha > 1/2 and the difference below depth_near_m + depth_near_per_m2 z^2; ``feature_weight``
    times half the squared distance of the features to the code of the pixel's slot, where the slot > 0."""

    colour_knee: float
    depth_knee_m: float
    depth_near_m: float
    depth_near_per_m2: float
    depth_weight: float
    feature_weight: float


@dataclass(frozen=True)
class ImageGradients:
    """grad_rgb (H,W,3), grad_depth (H,W) or None, grad_features (H,W,C) or None; mean absolute colour error."""

    rgb: torch.Tensor
    depth: torch.Tensor | None
    features: torch.Tensor | None
    colour_error: float


def image_gradients(
    rendering: Rendering,
    rgb: torch.Tensor,
    depth: torch.Tensor | None,
    slots: torch.Tensor | None,
    codes: torch.Tensor | None,
    settings: LossSettings,
    threads: int | None = None,
) -> ImageGradients:
    """Compare a rendering with rgb float32 (H,W,3), depth float32 (H,W) m (0 = none) and slots int64 (H,W).

    Features take part when the rendering has C channels and ``slots`` and ``codes`` float32 (S,C) are given. Raises
    InvalidRequestError for a slot without a code.
    """
    height, width = rendering.depth.shape
    rendered = {
        "rgb": native.checked("rgb", rendering.rgb, (height, width, 3)),
        "depth": native.checked("depth", rendering.depth, (height, width)),
        "alpha": native.checked("alpha", rendering.alpha, (height, width)),
    }
    target = {"target_rgb": native.checked("target rgb", rgb, (height, width, 3))}
    grad_rgb, grad_depth, grad_features = torch.empty_like(rendered["rgb"]), None, None
    if depth is not None:
        target["target_depth"] = native.checked("target depth", depth, (height, width))
        grad_depth = torch.empty(height, width)
    channels = code_count = 0
    if rendering.features is not None and slots is not None and codes is not None:
        channels, code_count = rendering.features.shape[2], len(codes)
        rendered["features"] = native.checked("features", rendering.features, (height, width, None))
        target["slots"] = native.checked("slots", slots, (height, width), torch.int64)
        target["codes"] = native.checked("codes", codes, (None, channels))
        grad_features = torch.empty(height, width, channels)
    struct = native.ResidualStruct(
        **{name: tensor.data_ptr() for name, tensor in (rendered | target).items()},
        grad_rgb=grad_rgb.data_ptr(),
        grad_depth=native.pointer(grad_depth),
        grad_features=native.pointer(grad_features),
        pixels=height * width,
        code_count=code_count,
        channels=channels,
        colour_scale=1 / settings.colour_knee,
        depth_scale=1 / settings.depth_knee_m,
        near=settings.depth_near_m,
        near_per_m2=settings.depth_near_per_m2,
        depth_weight=settings.depth_weight,
        feature_weight=settings.feature_weight,
    )
    total = ctypes.c_double()
    try:
        native.call("gs_residual", struct, total, threads or 0)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"slots: some are outside 0..{code_count - 1}, the rows of codes") from error
    return ImageGradients(grad_rgb, grad_depth, grad_features, total.value / max(1, 3 * height * width))
