"""The oracle: the image formation written down in plain PyTorch. Slow, readable, any float dtype, differentiable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.rendering.base import Accumulation, IdRendering, LabelAccumulation, RasterSettings, Rendering
from gs_semantic.rendering.harmonics import spherical_harmonics

TILE = 16  # pixels; only a matter of memory


@dataclass
class _Projected:
    """Gaussians that reach into the image, front to back. ``rows``: their rows in the map."""

    rows: torch.Tensor  # (M,)
    centre: torch.Tensor  # (M,2) pixels, the first pixel's centre at (0.5, 0.5)
    conic: torch.Tensor  # (M,2,2)
    depth: torch.Tensor  # (M,)
    opacity: torch.Tensor  # (M,)
    reach2: torch.Tensor  # (M,) largest q drawn
    half_size: torch.Tensor  # (M,2) pixels


@dataclass
class _TileWeights:
    """w (P,S): blending weight of the tile's P pixels and S Gaussians; index (S,) into _Projected; pixel slices."""

    weights: torch.Tensor
    index: torch.Tensor
    rows: slice
    columns: slice


class ReferenceRasterizer:
    """Dense compositing per tile in the dtype of the map (or of ``dtype``); for small scenes."""

    name = "reference"
    device = torch.device("cpu")

    def __init__(self, settings: RasterSettings | None = None, dtype: torch.dtype | None = None) -> None:
        self.settings = settings or RasterSettings()
        self.dtype = dtype
        self.skipped = 0  # of the map drawn last

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
        """Colour (SH of the map's degree), depth, alpha and (N,C) feature channels; differentiable."""
        splats = self._project(gaussians, camera, T_camera_world)
        colors = self._colors(gaussians, camera, T_camera_world)
        values = torch.cat([colors[splats.rows], splats.depth[:, None]], dim=1)
        image = values.new_zeros(camera.height, camera.width, 5)
        median = values.new_zeros(camera.height, camera.width)
        channels = 0 if features is None else features.shape[1]
        feature_image = values.new_zeros(camera.height, camera.width, channels)
        for tile in self._tiles(splats, camera):
            shape = image[tile.rows, tile.columns].shape[:2]
            sums = tile.weights @ values[tile.index]
            alpha = tile.weights.sum(dim=1, keepdim=True)
            image[tile.rows, tile.columns] = torch.cat([sums, alpha], dim=1).reshape(*shape, 5)
            if median_depth:
                median[tile.rows, tile.columns] = _median(tile.weights, splats.depth[tile.index]).reshape(shape)
            if features is not None:
                weights = tile.weights if feature_grad_to_geometry else tile.weights.detach()
                part = features[splats.rows[tile.index]].to(values.dtype)
                feature_image[tile.rows, tile.columns] = (weights @ part).reshape(*shape, channels)
        rgb, weighted_depth, alpha = image[..., :3], image[..., 3], image[..., 4]
        seen = alpha > 0
        depth = torch.where(seen, weighted_depth / torch.where(seen, alpha, 1), 0)
        if background is not None:
            rgb = rgb + (1 - alpha)[..., None] * background.to(rgb.dtype)
        images = (rgb, depth, alpha, None if features is None else feature_image)
        return Rendering(*images, median if median_depth else None)

    def render_ids(self, gaussians: GaussianMap, camera: Camera, ids: torch.Tensor) -> IdRendering:
        """Vote of the per-Gaussian ``ids`` int32 (N,), without the early stop; 0 takes part as "no object"."""
        with torch.no_grad():
            splats = self._project(gaussians, camera)
            winner = torch.zeros(camera.height, camera.width, dtype=torch.int32)
            confidence = splats.depth.new_zeros(camera.height, camera.width)
            depth = torch.zeros_like(confidence)
            for tile in self._tiles(splats, camera):
                shape = winner[tile.rows, tile.columns].shape
                slots = _two_slot_vote(tile.weights, ids[splats.rows[tile.index]])
                winner[tile.rows, tile.columns] = slots[0].reshape(shape)
                confidence[tile.rows, tile.columns] = slots[1].reshape(shape)
                alpha = tile.weights.sum(dim=1)
                mean = tile.weights @ splats.depth[tile.index] / torch.where(alpha > 0, alpha, 1)
                depth[tile.rows, tile.columns] = mean.reshape(shape)
            return IdRendering(winner, confidence, depth)

    def accumulate(
        self, gaussians: GaussianMap, camera: Camera, image: torch.Tensor, count: bool = True
    ) -> Accumulation:
        """Transpose pass of an image (H,W,D)."""
        with torch.no_grad():
            splats = self._project(gaussians, camera)
            n, channels = len(gaussians), image.shape[2]
            weighted_sum, weight_sum = splats.depth.new_zeros(n, channels), splats.depth.new_zeros(n)
            pixel_count = torch.zeros(n, dtype=torch.int32)
            for tile in self._tiles(splats, camera):
                rows = splats.rows[tile.index]
                values = image[tile.rows, tile.columns].reshape(-1, channels).to(weighted_sum.dtype)
                weighted_sum[rows] += tile.weights.T @ values
                weight_sum[rows] += tile.weights.sum(dim=0)
                pixel_count[rows] += (tile.weights > 0).sum(dim=0, dtype=torch.int32)
            return Accumulation(weighted_sum, weight_sum, pixel_count)

    def accumulate_labels(self, gaussians: GaussianMap, camera: Camera, labels: torch.Tensor) -> LabelAccumulation:
        """Transpose pass of a label image int32 (H,W), with exact sums of every label instead of two slots."""
        values, inverse = torch.unique(labels, return_inverse=True)
        one_hot = torch.nn.functional.one_hot(inverse, len(values))
        sums = self.accumulate(gaussians, camera, one_hot).weighted_sum
        weight, best = sums.max(dim=1)
        winner = torch.where(weight > 0, values[best], 0).to(torch.int32)
        return LabelAccumulation(winner, weight, sums.sum(dim=1))

    def _project(
        self, gaussians: GaussianMap, camera: Camera, T_camera_world: torch.Tensor | None = None
    ) -> _Projected:
        s = self.settings
        dtype = self.dtype or gaussians.means.dtype
        pose = torch.as_tensor(camera.T_camera_world if T_camera_world is None else T_camera_world, dtype=dtype)
        rotation = pose[:3, :3]
        local = gaussians.means.to(dtype) @ rotation.T + pose[:3, 3]
        opacity = torch.sigmoid(gaussians.opacity_logits.to(dtype))
        turned = rotation_matrices(gaussians.quats.to(dtype))
        finite = [gaussians.means.isfinite().all(dim=1), turned.flatten(1).isfinite().all(dim=1)]
        finite += [gaussians.log_scales.to(dtype).exp().isfinite().all(dim=1), ~opacity.isnan()]
        usable = torch.stack([*finite, (gaussians.quats != 0).any(dim=1)]).all(dim=0)
        self.skipped = int((~usable).sum())
        ahead = (local[:, 2] > s.near) & (local[:, 2] < s.far)
        rows = torch.nonzero(usable & ahead & (opacity >= s.alpha_min))[:, 0]
        local, opacity = local[rows], opacity[rows]
        depth = local[:, 2]

        size = torch.tensor([camera.width, camera.height], dtype=dtype)
        focal = torch.tensor([camera.fx, camera.fy], dtype=dtype)
        offset = torch.tensor([camera.cx + 0.5, camera.cy + 0.5], dtype=dtype)
        slope = local[:, :2] / depth[:, None]
        centre = focal * slope + offset
        # The linearised projection is bad far outside the view, so it is taken at most 15 % of the image beyond it.
        margin = 0.15 * size / focal
        limited = torch.minimum(torch.maximum(slope, -offset / focal - margin), (size - offset) / focal + margin)
        diagonal = focal / depth[:, None]
        jacobian = torch.cat([torch.diag_embed(diagonal), (-diagonal * limited)[..., None]], dim=2)

        half = turned[rows] * gaussians.log_scales[rows].to(dtype).exp()[:, None]
        factor = jacobian @ rotation @ half
        covariance = factor @ factor.mT + s.eps2d * torch.eye(2, dtype=dtype)
        (xx, xy), (yy, _) = covariance[:, 0].unbind(1), covariance[:, 1].flip(1).unbind(1)
        det = xx * yy - xy * xy
        conic = torch.stack([yy, -xy, -xy, xx], dim=1).reshape(-1, 2, 2) / det[:, None, None]
        with torch.no_grad():
            reach2 = (2 * torch.log(opacity / s.alpha_min)).clamp(0, s.extent_sigma**2)
            half_size = torch.sqrt(reach2[:, None] * torch.stack([xx, yy], dim=1))
            drawn = ((centre + half_size >= 0) & (centre - half_size < size)).all(dim=1)
            drawn &= (det > 0) & conic.isfinite().all(dim=2).all(dim=1)
            order = torch.nonzero(drawn)[:, 0]
            order = order[torch.argsort(depth[order], stable=True)]
        fields = (rows, centre, conic, depth, opacity, reach2, half_size)
        return _Projected(*(field[order] for field in fields))

    def _colors(
        self, gaussians: GaussianMap, camera: Camera, T_camera_world: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(N,3) seen from the camera."""
        dtype = self.dtype or gaussians.means.dtype
        pose = torch.as_tensor(camera.T_camera_world if T_camera_world is None else T_camera_world, dtype=dtype)
        centre = -pose[:3, :3].T @ pose[:3, 3]
        directions = torch.nn.functional.normalize(gaussians.means.to(dtype) - centre, dim=1)
        harmonics = spherical_harmonics(directions, gaussians.sh.shape[1])
        return (torch.einsum("nk,nkc->nc", harmonics, gaussians.sh.to(dtype)) + 0.5).clamp_min(0)

    def _tiles(self, splats: _Projected, camera: Camera) -> Iterator[_TileWeights]:
        for top in range(0, camera.height, TILE):
            for left in range(0, camera.width, TILE):
                rows = slice(top, min(top + TILE, camera.height))
                columns = slice(left, min(left + TILE, camera.width))
                low = torch.tensor([columns.start, rows.start])
                high = torch.tensor([columns.stop, rows.stop])
                reached = (splats.centre + splats.half_size >= low) & (splats.centre - splats.half_size <= high)
                index = torch.nonzero(reached.all(dim=1))[:, 0]
                if len(index):
                    yield _TileWeights(self._weights(splats, index, rows, columns), index, rows, columns)

    def _weights(self, splats: _Projected, index: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
        s = self.settings
        dtype = splats.depth.dtype
        y, x = torch.meshgrid(
            torch.arange(rows.start, rows.stop, dtype=dtype) + 0.5,
            torch.arange(columns.start, columns.stop, dtype=dtype) + 0.5,
            indexing="ij",
        )
        pixels = torch.stack([x.reshape(-1), y.reshape(-1)], dim=1)
        dx, dy = (pixels[:, None] - splats.centre[index]).unbind(-1)
        conic = splats.conic[index]
        q = conic[:, 0, 0] * dx * dx + 2 * conic[:, 0, 1] * dx * dy + conic[:, 1, 1] * dy * dy
        alpha = (splats.opacity[index] * torch.exp(-0.5 * q)).clamp_max(s.alpha_max)
        alpha = torch.where((alpha >= s.alpha_min) & (q <= s.extent_sigma**2), alpha, 0)
        after = torch.cumprod(1 - alpha, dim=1)
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
        return torch.where(after > s.transmittance_min, alpha * before, 0)


def _median(weights: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """(P,) depth of the Gaussian at which the weights (P,S), front to back, have summed up to 1/2; 0 if they never do."""
    with torch.no_grad():
        reached = weights.cumsum(dim=1) >= 0.5
        return torch.where(reached.any(dim=1), depth[reached.int().argmax(dim=1)], 0)


def _two_slot_vote(weights: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Winner (P,) int32 and its weight sum (P,) of weights (P,S), voting in the order of the S ids.

    A weight goes to the slot with its id; an id in neither slot takes the weaker slot if its weight is larger.
    """
    pixels = weights.shape[0]
    slot_ids = torch.zeros(pixels, 2, dtype=torch.int32)
    slots = weights.new_zeros(pixels, 2)
    for k, identity in enumerate(ids.tolist()):
        weight = weights[:, k]
        same = slot_ids == identity
        same[:, 1] &= ~same[:, 0]
        slots += torch.where(same, weight[:, None], 0)
        replace = ~same.any(dim=1) & (weight > slots[:, 1])
        slots[:, 1] = torch.where(replace, weight, slots[:, 1])
        slot_ids[:, 1] = torch.where(replace, identity, slot_ids[:, 1])
        order = torch.where((slots[:, 1] > slots[:, 0])[:, None], torch.tensor([1, 0]), torch.tensor([0, 1]))
        slots, slot_ids = slots.gather(1, order), slot_ids.gather(1, order)
    return slot_ids[:, 0], slots[:, 0]
