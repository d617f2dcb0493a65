"""Grids over a scene: signed distances fused from depth images, and mean and variance of the views' features (Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from gs_semantic.segmentation.generalization.gnesf.sources import SourceViews

AT_ONCE = 60_000  # voxels that are projected together


@dataclass(frozen=True)
class Grid:
    """Voxel centres at low + (i, j, k) * voxel, m; shape (X, Y, Z)."""

    low: torch.Tensor
    voxel: float
    shape: tuple[int, int, int]

    @classmethod
    def around(cls, points: torch.Tensor, most: int) -> Grid:
        """Around points (N,3), with a margin of two voxels; the longest side has ``most`` voxels."""
        low, high = torch.quantile(points[:: max(1, len(points) // 100_000)], torch.tensor([0.002, 0.998]), dim=0)
        voxel = float((high - low).max()) / max(1, most - 5)
        shape = ((high - low) / voxel).ceil().long() + 5
        x, y, z = shape.tolist()
        return cls(low - 2 * voxel, voxel, (x, y, z))

    def centres(self) -> torch.Tensor:
        """(X*Y*Z, 3) m."""
        axes = [torch.arange(n, dtype=torch.float32) for n in self.shape]
        return self.low + self.voxel * torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)

    def read(self, volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """(P,C) of a volume (C,X,Y,Z) at points (P,3), trilinear; outside, what the border says."""
        scale = torch.tensor(self.shape, dtype=torch.float32, device=points.device) - 1
        place = (points - self.low.to(points.device)) / self.voxel / scale * 2 - 1
        grid = place.flip(-1)[None, :, None, None]
        found = F.grid_sample(volume[None], grid.to(volume.dtype), padding_mode="border", align_corners=True)
        return found[0, :, :, 0, 0].T


@torch.no_grad()
def fuse_sdf(sources: SourceViews, depths: torch.Tensor, grid: Grid, truncation: float) -> torch.Tensor:
    """Truncated signed distances (1,X,Y,Z) m, positive before surfaces, as the mean over views that see a voxel in front
    of a surface or a truncation behind it; unseen voxels lie behind everything (-truncation). depths (V,1,H,W) m."""
    total, count = [], []
    for points in grid.centres().to(depths.device).split(AT_ONCE):
        places, z = sources.project(points)
        seen = sources.inside(places, z)
        measured = sources.read(depths, places, "nearest")[..., 0]
        distance = (measured - z).clamp(-truncation, truncation)
        valid = seen & (measured > 0) & (measured - z > -truncation)
        total.append((distance * valid).sum(dim=0))
        count.append(valid.sum(dim=0))
    number = torch.cat(count)
    fused = torch.where(number > 0, torch.cat(total) / number.clamp_min(1), -truncation)
    return fused.reshape(1, *grid.shape)


def mean_and_variance(sources: SourceViews, maps: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(2F,X,Y,Z): mean and variance of feature maps (V,F,h,w) over the views that see each voxel (the paper's Eq. 1)."""
    parts = []
    for points in grid.centres().to(maps.device).split(AT_ONCE):
        places, z = sources.project(points)
        valid = sources.inside(places, z).float()[..., None]
        values = sources.read(maps, places)
        number = valid.sum(dim=0).clamp_min(1)
        mean = (values * valid).sum(dim=0) / number
        variance = ((values - mean) ** 2 * valid).sum(dim=0) / number
        parts.append(torch.cat([mean, variance], dim=-1))
    return torch.cat(parts).T.reshape(-1, *grid.shape)


def mean_and_depth(sources: SourceViews, maps: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(F+1,X,Y,Z): mean of feature maps over the views that see each voxel, and the mean depth, standardised: what the
    published code for 3D segmentation has in the place of Eq. 1."""
    parts, depths = [], []
    for points in grid.centres().to(maps.device).split(AT_ONCE):
        places, z = sources.project(points)
        valid = sources.inside(places, z).float()
        number = valid.sum(dim=0).clamp_min(1)
        parts.append((sources.read(maps, places) * valid[..., None]).sum(dim=0) / number[:, None])
        depths.append((z * valid).sum(dim=0) / number)
    depth = torch.cat(depths)
    seen = depth > 0
    if seen.any():
        depth = torch.where(seen, (depth - depth[seen].mean()) / depth[seen].std().clamp_min(1e-5), depth)
    return torch.cat([torch.cat(parts), depth[:, None]], dim=-1).T.reshape(-1, *grid.shape)


class GeometryNetwork(nn.Module):
    """The 3D network over a volume: two scales of dense convolutions; M(x) has ``after`` channels."""

    def __init__(self, before: int, after: int = 24) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(before, 16, 3, padding=1), nn.ELU())
        self.coarse = nn.Sequential(
            nn.Conv3d(16, 32, 3, 2, padding=1), nn.ELU(), nn.Conv3d(32, 16, 3, padding=1), nn.ELU()
        )
        self.last = nn.Conv3d(32, after, 3, padding=1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """(M,X,Y,Z) of (C,X,Y,Z)."""
        fine = self.first(volume[None])
        wide = F.interpolate(self.coarse(fine), size=fine.shape[2:], mode="trilinear", align_corners=False)
        found: torch.Tensor = self.last(torch.cat([fine, wide], dim=1))[0]
        return found


class DensityHead(nn.Module):
    """Density along rays from what the views say of each place (view synthesis): mean and variance of the inner features,
    places of a ray told apart by a sinusoid, four-headed attention along the ray."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(65, 64), nn.ELU(), nn.Linear(64, 16), nn.ELU())
        self.attention = nn.MultiheadAttention(16, 4, bias=False, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.after = nn.Sequential(nn.Linear(16, 16), nn.ELU(), nn.Linear(16, 1))

    def forward(self, hidden: torch.Tensor, seen: torch.Tensor, valid: torch.Tensor, samples: int) -> torch.Tensor:
        """(R,S) densities of hidden (V,R*S,32), seen (V,R*S), valid bool (V,R*S); 0 where fewer than two views see."""
        weight = seen / (seen.sum(dim=0, keepdim=True) + 1e-8)
        mean = (weight[..., None] * hidden).sum(dim=0)
        variance = (weight[..., None] * (hidden - mean) ** 2).sum(dim=0)
        x = self.before(torch.cat([mean, variance, weight.mean(dim=0)[:, None]], dim=-1)).reshape(-1, samples, 16)
        place = torch.arange(samples, device=x.device, dtype=x.dtype)[:, None]
        rate = 10_000 ** (-torch.arange(0, 16, 2, device=x.device, dtype=x.dtype) / 16)
        x = x + torch.stack([torch.sin(place * rate), torch.cos(place * rate)], dim=-1).reshape(samples, 16)
        many = (valid.sum(dim=0) > 1).reshape(-1, samples)
        blind = ~many.any(dim=1, keepdim=True)  # a ray that nobody sees attends to itself, and counts nothing
        turned = self.attention(x, x, x, key_padding_mask=~(many | blind), need_weights=False)[0]
        density = self.after(self.norm(x + turned))[..., 0]
        return torch.where(many, density, torch.zeros_like(density))
