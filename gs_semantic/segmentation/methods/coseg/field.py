"""The segmentation field: what gives Gaussians their identity from what views show of them.

It holds no Gaussian, so a field trained on one state of a map answers for Gaussians that came later: lift their 2D
features, decode, done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.methods.coseg.decoder import Decoder, ScaleInputs
from gs_semantic.segmentation.methods.coseg.encoder import SpatialEncoder
from gs_semantic.segmentation.methods.coseg.pyramid import Interpolation, Pyramid
from gs_semantic.segmentation.unprojection import Lifted, Norm, Projection, Unprojection
from gs_semantic.segmenters.features import SCALES, DenseFeatures

SAMPLES = 100_000  # feature vectors of a scale that the principal components are found from
SAMPLED_VIEWS = 64
LEAST_WEIGHT = 0.2  # sum over pixels from which a view counts as showing a Gaussian
NEAREST = 3  # Gaussians that one that no view shows takes its identity from


@dataclass(frozen=True)
class LiftingSettings:
    """dims: channels of a scale; norm: see ``Unprojection``; scale: size of the maps, share of the image's."""

    dims: int = 64
    norm: Norm = "weight_sum"
    scale: float = 0.5


class FeatureLifting:
    """2D features of four scales, each reduced to a few principal components, unprojected onto Gaussians."""

    def __init__(self, dense: DenseFeatures, settings: LiftingSettings, projections: Sequence[Projection] = ()) -> None:
        self.dense, self.settings, self.projections = dense, settings, tuple(projections)

    def fit(
        self,
        images: Sequence[np.ndarray],
        random: np.random.Generator,
        between: Callable[[], object] = lambda: None,
    ) -> None:
        """Find one basis per scale from vectors drawn evenly from images uint8 (H,W,3); ``between`` any two is called."""
        chosen = np.unique(np.linspace(0, len(images) - 1, min(SAMPLED_VIEWS, len(images))).astype(int))
        drawn: list[list[torch.Tensor]] = [[] for _ in range(SCALES)]
        for index in chosen:
            between()
            for scale, image in enumerate(self.dense.maps(images[index])):
                vectors = image.reshape(-1, image.shape[-1])
                wanted = min(len(vectors), -(-SAMPLES // len(chosen)))
                drawn[scale].append(torch.from_numpy(vectors[random.choice(len(vectors), wanted, replace=False)]))
        self.projections = tuple(Projection.fit(torch.cat(parts), self.settings.dims) for parts in drawn)

    @property
    def channels(self) -> list[int]:
        """Channels of each scale after ``fit``."""
        return [projection.basis.shape[1] for projection in self.projections]

    def reduced(self, camera: Camera, rgb: np.ndarray) -> torch.Tensor:
        """The map (h,w,sum of channels) of an image: all scales side by side, at ``settings.scale`` of its size; on the
        device of the bases."""
        height, width = (max(1, round(side * self.settings.scale)) for side in (camera.height, camera.width))
        planes = []
        for projection, image in zip(self.projections, self.dense.maps(rgb), strict=True):
            small = projection(torch.from_numpy(image).to(projection.mean.device)).permute(2, 0, 1)[None]
            planes.append(F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)[0])
        return torch.cat(planes).permute(1, 2, 0).contiguous()

    def lift(
        self, gaussians: GaussianMap, rasterizer: Rasterizer, views: Iterable[tuple[Camera, np.ndarray]]
    ) -> tuple[tuple[torch.Tensor, ...], Lifted]:
        """Features float16 (N,D) by scale, of L2 norm 1, and the sums that they were made from."""
        self.projections = tuple(projection.to(gaussians.device) for projection in self.projections)
        sums = Unprojection(gaussians, rasterizer, sum(self.channels), self.settings.norm)
        for camera, rgb in views:
            sums.add(camera, self.reduced(camera, rgb))
        lifted = sums.result()
        scales = lifted.features.split(self.channels, dim=1)
        return tuple(F.normalize(part, dim=1, eps=1e-12).half() for part in scales), lifted


@dataclass(frozen=True)
class ViewCloud:
    """The Gaussians that a view shows. rows int64 (n,) of the map, in the order of the pyramid's first cloud.

    spatial: float16 per scale, None without encoder; levels: for every scale, rows of its points among ``rows`` are the
    first ``counts[k]``; neighbours int64 (n_k,K) by scale.
    """

    rows: torch.Tensor
    counts: tuple[int, ...]
    up: tuple[Interpolation, ...]
    neighbours: tuple[torch.Tensor, ...]
    spatial: tuple[torch.Tensor, ...] | None


class SegmentationField:
    """Frozen encoder and trained decoder over unprojected features.

    with_image, with_spatial: which of the two kinds of features there are; scales: 4, or 1 for the most local alone.
    """

    def __init__(self, decoder: Decoder, encoder: SpatialEncoder | None, channels: Sequence[int], scales: int) -> None:
        self.decoder, self.encoder, self.channels, self.scales = decoder, encoder, list(channels), scales

    @torch.no_grad()
    def cloud(
        self, gaussians: GaussianMap, rasterizer: Rasterizer, camera: Camera, random: np.random.Generator
    ) -> ViewCloud | None:
        """The Gaussians that a view shows, their neighbours and spatial features; None where it shows nothing."""
        blank = torch.zeros(camera.height, camera.width, 1, device=gaussians.device)
        drawn = rasterizer.accumulate(gaussians, camera, blank, count=False).weight_sum
        rows = torch.nonzero(drawn >= LEAST_WEIGHT)[:, 0]
        return self.cloud_of(gaussians.means[rows].cpu().numpy(), rows, random) if len(rows) else None

    @torch.no_grad()
    def cloud_of(self, points: np.ndarray, rows: torch.Tensor, random: np.random.Generator) -> ViewCloud:
        """The same of given Gaussians: centres (n,3) m in the world frame, z up, and their rows in the map."""
        pyramid = Pyramid.of(points - points.mean(axis=0, keepdims=True), random).to(rows.device)
        scales = range(self.scales)
        spatial = None
        if self.encoder is not None:
            found = self.encoder(pyramid)
            spatial = [_even(values) for values in found.scales[: self.scales]]
            if self.scales == SCALES:
                spatial[-1] = torch.cat([spatial[-1], _even(pyramid.up[SCALES - 1](found.last))], dim=1)
            spatial = [values.half() for values in spatial]
        return ViewCloud(
            rows[pyramid.clouds[0].rows],
            tuple(len(pyramid.clouds[k].points) for k in scales),
            tuple(pyramid.up[k] for k in scales),
            tuple(pyramid.clouds[k].neighbours for k in scales),
            None if spatial is None else tuple(spatial),
        )

    def decode(
        self, cloud: ViewCloud, features: Sequence[torch.Tensor] | None
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Identities (n,dims) of the cloud's Gaussians and fused features by scale; features float16 (N,D) by scale."""
        inputs = []
        for k, count in enumerate(cloud.counts):
            image = None
            if features is not None:
                image = features[k].index_select(0, cloud.rows[:count]).float() * features[k].shape[1] ** 0.5
            spatial = None if cloud.spatial is None else cloud.spatial[k].float()
            inputs.append(ScaleInputs(image, spatial, cloud.up[k]))
        return self.decoder(inputs)

    @torch.no_grad()
    def identities(
        self, gaussians: GaussianMap, features: Sequence[torch.Tensor] | None, clouds: Iterable[ViewCloud | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Identities (N,dims): the mean over the clouds that hold a Gaussian; and in how many that is, (N,).

        The mean over clouds is also one over random samplings. What no cloud holds gets the mean of the nearest ones'.
        InvalidInputError when the clouds hold nothing.
        """
        count = len(gaussians)
        device = gaussians.device
        total, times = (
            torch.zeros(count, self.decoder.out.in_features, device=device),
            torch.zeros(count, device=device),
        )
        for cloud in clouds:
            if cloud is not None:
                total.index_add_(0, cloud.rows, self.decode(cloud, features)[0])
                times.index_add_(0, cloud.rows, torch.ones(len(cloud.rows), device=device))
        known = times > 0
        if not known.any():
            raise InvalidInputError("no view shows any of the Gaussians; poses and map do not belong together")
        total[known] /= times[known, None]
        _fill_from_nearest(total, gaussians.means, known)
        return total, times


def _even(values: torch.Tensor) -> torch.Tensor:
    """Rows scaled to a mean square of 1, as those of image features are: neither kind drowns the other."""
    return F.normalize(values, dim=1) * values.shape[1] ** 0.5


def _fill_from_nearest(values: torch.Tensor, means: torch.Tensor, known: torch.Tensor) -> None:
    """Give rows that are not ``known`` the mean of the nearest known ones."""
    if known.all():
        return
    from scipy.spatial import cKDTree

    rows = torch.nonzero(known)[:, 0]
    tree, unknown = cKDTree(means[rows].cpu().numpy()), means[~known].cpu().numpy()
    near = tree.query(unknown, k=np.arange(1, min(NEAREST, len(rows)) + 1))[1]
    values[~known] = values[rows[torch.from_numpy(near).to(means.device)]].mean(dim=1)
