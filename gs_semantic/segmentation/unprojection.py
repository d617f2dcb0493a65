"""Lifting of dense 2D feature maps in closed form (CoSegGaussians, arXiv 2401.05925, Eq. 5 and algorithm 1).

A Gaussian's feature is the mean of the features of the pixels that show it, in all views, weighted by how much it shows
there: the rasteriser's transpose pass, summed over views. One view's map is in memory at a time, so the number of views
is not limited; the maps may be of any kind (self-supervised tokens, language features) and of any resolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import Rasterizer

Norm = Literal["weight_sum", "pixel_count"]
EPSILON = 1e-8
ASPECT_TOLERANCE = 0.05  # maps of patches leave up to a patch of an image out


@dataclass(frozen=True)
class Lifted:
    """features float32 (N,D), zero where nothing was seen; weight_sum float32 (N,); pixel_count int64 (N,) of all views.

    pixels: of all views together.
    """

    features: torch.Tensor
    weight_sum: torch.Tensor
    pixel_count: torch.Tensor
    pixels: int

    def attended(self, threshold: float) -> torch.Tensor:
        """bool (N,): covers at least ``threshold`` of all pixels of all views (the attendance rate)."""
        return self.pixel_count >= threshold * self.pixels

    def unit(self) -> torch.Tensor:
        """The features with L2 norm 1 (0 where nothing was seen)."""
        return F.normalize(self.features, dim=1, eps=1e-12)


class Unprojection:
    """Running sums over views: ``add`` one map after the other, then ``result``. Memory: N (D + 2) floats and one map.

    norm: what the sum of w F is divided by. ``weight_sum``: the sum of w, which makes it a mean. ``pixel_count``: the
    pixels that the Gaussian covers, as Eq. 5 is printed; then its length tells how much of the Gaussian is visible.
    """

    def __init__(
        self, gaussians: GaussianMap, rasterizer: Rasterizer, channels: int, norm: Norm = "weight_sum"
    ) -> None:
        if norm not in get_args(Norm):
            raise InvalidRequestError(f"norm: '{norm}' is not one of {', '.join(get_args(Norm))}")
        self.gaussians, self.rasterizer, self.norm = gaussians, rasterizer, norm
        count = len(gaussians)
        device = gaussians.device
        self._features = torch.zeros(count, channels, device=device)
        self._weight_sum = torch.zeros(count, device=device)
        self._pixel_count = torch.zeros(count, dtype=torch.int64, device=device)
        self._pixels = 0

    def add(self, camera: Camera, features: torch.Tensor | np.ndarray, size: tuple[int, int] | None = None) -> None:
        """Sum up the map (H,W,D) of a view whose camera is ``camera``.

        size: (width, height) that the map is resized to (bilinear) and weights are rendered at; without, its own.
        InvalidInputError: another number of channels, another aspect ratio than the camera's, values not finite.
        """
        image = torch.as_tensor(features, dtype=torch.float32).to(self.gaussians.device)
        self._check(camera, image)
        if size is not None and size != (image.shape[1], image.shape[0]):
            planes = image.permute(2, 0, 1)[None]
            image = F.interpolate(planes, size=size[::-1], mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        height, width = image.shape[:2]
        seen = self.rasterizer.accumulate(self.gaussians, camera.resized(width, height), image.contiguous())
        self._features += seen.weighted_sum
        self._weight_sum += seen.weight_sum
        self._pixel_count += seen.pixel_count
        self._pixels += height * width

    def _check(self, camera: Camera, image: torch.Tensor) -> None:
        channels = self._features.shape[1]
        if image.dim() != 3 or image.shape[2] != channels:
            raise InvalidInputError(f"feature map: has shape {tuple(image.shape)}, expected (H, W, {channels})")
        height, width = image.shape[:2]
        skew = width * camera.height / (height * camera.width)
        patch = 1 / min(height, width)  # a map of few patches cannot have exactly the image's shape
        if abs(np.log(skew)) > max(ASPECT_TOLERANCE, patch):
            raise InvalidInputError(
                f"feature map: is {width}x{height}, the image {camera.width}x{camera.height}; another aspect ratio would "
                "put features beside their pixels (crop the image to what the features were made of)"
            )
        if not torch.isfinite(image).all():
            raise InvalidInputError("feature map: has values that are not finite; check the network that made it")

    def result(self) -> Lifted:
        """The features of all Gaussians so far. InvalidInputError without any view."""
        if not self._pixels:
            raise InvalidInputError("no view has features to lift; give at least one")
        below = self._weight_sum if self.norm == "weight_sum" else self._pixel_count.float()
        features = self._features / (below + EPSILON)[:, None]
        return Lifted(features, self._weight_sum.clone(), self._pixel_count.clone(), self._pixels)


def unproject(
    gaussians: GaussianMap,
    rasterizer: Rasterizer,
    views: Iterable[tuple[Camera, torch.Tensor | np.ndarray | None]],
    norm: Norm = "weight_sum",
    size: tuple[int, int] | None = None,
) -> Lifted:
    """Lift maps (H,W,D) of views that may be made as they are asked for; views whose map is None are passed over."""
    sums: Unprojection | None = None
    for camera, features in views:
        if features is None:
            continue
        if sums is None:
            sums = Unprojection(gaussians, rasterizer, int(features.shape[-1]), norm)
        sums.add(camera, features, size)
    if sums is None:
        raise InvalidInputError("no view has features to lift; give at least one")
    return sums.result()


@dataclass(frozen=True)
class Projection:
    """Principal components: ``mean`` (D,), ``basis`` (D,K) with orthonormal columns, K <= D."""

    mean: torch.Tensor
    basis: torch.Tensor

    @classmethod
    def fit(cls, samples: torch.Tensor, dims: int) -> Projection:
        """Of samples (P,D): the ``dims`` directions of largest variance, fewer where D is smaller; signs are fixed.

        InvalidInputError with fewer than two samples.
        """
        if len(samples) < 2:
            raise InvalidInputError(f"{len(samples)} feature vectors are too few for principal components")
        wide = samples.double()
        mean = wide.mean(dim=0)
        centred = wide - mean
        basis = torch.linalg.eigh(centred.T @ centred)[1].flip(1)[:, :dims]
        largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
        return cls(mean.float(), (basis * largest.sign()).float())

    def to(self, device: torch.device) -> Projection:
        """The same on another device."""
        return Projection(self.mean.to(device), self.basis.to(device))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(...,K) of features (...,D), with L2 norm 1."""
        return F.normalize((features - self.mean) @ self.basis, dim=-1, eps=1e-12)
