"""What every rasteriser back end offers. Images are (H, W, ...) tensors, per-Gaussian results have the map's N rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch

from gs_semantic.gaussians import Camera, GaussianMap


@dataclass(frozen=True)
class RasterSettings:
    """Constants of the image formation; the defaults are those of gsplat 1.5.

    A Gaussian counts at a pixel where alpha = min(opacity * exp(-q/2), alpha_max) >= alpha_min, within its extent of
    min(extent_sigma, sqrt(2 ln(opacity / alpha_min))) standard deviations. A pixel is finished when its transmittance
    would fall to transmittance_min or below; the Gaussian that would do so is not drawn. A Gaussian's own colour is its
    spherical harmonics + 0.5, negative values set to 0. ``vote_rest``: a pixel of an id image may stop once its winner is
    certain and less transmittance than this is left, so its confidence may be too low by that much.
    """

    near: float = 0.01
    far: float = 1e10
    eps2d: float = 0.3
    alpha_min: float = 1.0 / 255.0
    alpha_max: float = 0.999
    transmittance_min: float = 1e-4
    extent_sigma: float = 3.33
    vote_rest: float = 1.0 / 32.0


@dataclass(frozen=True)
class Rendering:
    """rgb (H,W,3) unclamped; depth (H,W) = sum w z / sum w metres (0 where nothing); alpha (H,W); features (H,W,C) or None.

    median_depth (H,W) metres, where asked for: z of the Gaussian at which the transmittance falls to 1/2 (0 where it
    never does); it has no gradient.
    """

    rgb: torch.Tensor
    depth: torch.Tensor
    alpha: torch.Tensor
    features: torch.Tensor | None = None
    median_depth: torch.Tensor | None = None


@dataclass(frozen=True)
class IdRendering:
    """Winner of the two-slot vote. ids int32 (H,W), 0 = none; confidence (H,W) = winner's weight sum, 0..1; depth (H,W) m."""

    ids: torch.Tensor
    confidence: torch.Tensor
    depth: torch.Tensor


@dataclass(frozen=True)
class Accumulation:
    """Transpose pass: weighted_sum (N,D) = sum_p w_i(p) F(p); weight_sum (N,) = sum_p w_i(p); pixel_count (N,) int32."""

    weighted_sum: torch.Tensor
    weight_sum: torch.Tensor
    pixel_count: torch.Tensor


@dataclass(frozen=True)
class LabelAccumulation:
    """Transpose pass of a label image: labels int32 (N,) = label with the largest weight sum on the Gaussian among
    two slots (0 where unseen or unlabelled wins), label_weight (N,) its weight sum, weight_sum (N,) over all labels."""

    labels: torch.Tensor
    label_weight: torch.Tensor
    weight_sum: torch.Tensor


@dataclass(eq=False)
class SplatTensors:
    """The tensors that a rasteriser reads of a map, where there is no map: leaves of autograd in its place."""

    means: torch.Tensor
    quats: torch.Tensor
    log_scales: torch.Tensor
    opacity_logits: torch.Tensor
    sh: torch.Tensor

    def __len__(self) -> int:
        return len(self.means)


def world_to_camera(camera: Camera, device: torch.device) -> torch.Tensor:
    """(4,4) float32, the pose of a camera on a device; kept there, as each copy makes the host wait for the device."""
    return on_device(camera.T_camera_world.astype(np.float32).tobytes(), (4, 4), device)


@lru_cache(maxsize=4096)
def on_device(values: bytes, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A few float32 numbers that are used again and again; nobody may write to the tensor."""
    return torch.frombuffer(bytearray(values), dtype=torch.float32).reshape(shape).to(device)


class Rasterizer(Protocol):
    """Same numbers from every back end, within the tolerance stated in docs/architecture.md.

    ``skipped``: Gaussians of the last map drawn that cannot be, as parameters are not finite or a quaternion is 0.
    ``device``: where it draws; maps elsewhere are copied there, and results back.
    """

    name: str
    settings: RasterSettings
    device: torch.device

    @property
    def skipped(self) -> int: ...

    def render(
        self,
        gaussians: GaussianMap,
        camera: Camera,
        features: torch.Tensor | None = None,
        *,
        background: torch.Tensor | None = None,
        feature_grad_to_geometry: bool = True,
        T_camera_world: torch.Tensor | None = None,
        median_depth: bool = False,
    ) -> Rendering:
        """Colour (SH of the map's degree), depth, alpha and (N,C) feature channels; differentiable.

        ``T_camera_world`` (4,4) takes the place of the camera's own pose, and is differentiable too: as a rigid motion,
        so its gradient is right for every way of making it from parameters, but only along rigid motions.
        """
        ...

    def render_ids(self, gaussians: GaussianMap, camera: Camera, ids: torch.Tensor) -> IdRendering:
        """Vote of the per-Gaussian ``ids`` int32 (N,); 0 takes part in the vote as "no object"."""
        ...

    def accumulate(
        self, gaussians: GaussianMap, camera: Camera, image: torch.Tensor, count: bool = True
    ) -> Accumulation:
        """Transpose pass of an image (H,W,D). Without ``count``, pixel_count may stay 0, where counting takes time."""
        ...

    def accumulate_labels(self, gaussians: GaussianMap, camera: Camera, labels: torch.Tensor) -> LabelAccumulation:
        """Transpose pass of a label image int32 (H,W)."""
        ...


def render_batch(
    rasterizer: Rasterizer,
    gaussians: GaussianMap,
    cameras: Sequence[Camera],
    features: torch.Tensor | None = None,
    *,
    background: torch.Tensor | None = None,
    median_depth: bool = False,
) -> list[Rendering]:
    """One rendering per camera; the cameras may differ in size. What the map needs done once is done once."""
    return [
        rasterizer.render(gaussians, camera, features, background=background, median_depth=median_depth)
        for camera in cameras
    ]
