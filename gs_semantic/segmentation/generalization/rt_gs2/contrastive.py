"""Training the point transformer without labels: a Gaussian should be told from others in whichever of two views it lies.

PointContrast (https://arxiv.org/abs/2007.10985) between the frusta of two cameras, as RT-GS2 does it (section 4.2 and
appendix B.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.segmentation.generalization.rt_gs2.gaussian_inputs import (
    LOG_SCALE,
    OPACITY,
    RGB,
    XYZ,
    GaussianInputs,
    gaussian_inputs,
)
from gs_semantic.segmentation.generalization.rt_gs2.point_transformer import PointTransformer
from gs_semantic.segmentation.generalization.rt_gs2.serialization import grid_cells

LEAST_COMMON = 16  # Gaussians that a pair must share for a step


@dataclass(frozen=True)
class ContrastiveConfig:
    """voxel_m: one random Gaussian per cube (the paper says 0.07, the published code runs 0.05). scale_log: how a change
    of size reaches log scales: ``add`` its logarithm, or ``multiply`` as the published code does. normalise: unit vectors.
    """

    pairs: int = 4096
    temperature: float = 0.07
    voxel_m: float = 0.07
    normalise: bool = False
    scale_log: str = "add"
    scale: tuple[float, float] = (0.6, 1.2)
    noise: float = 0.02
    overlap: tuple[float, float] = (0.3, 0.8)
    spacing: int = 25
    margin: float = 1.3


def in_frustum(means: torch.Tensor, camera: Camera, margin: float = 1.3) -> torch.Tensor:
    """bool (N,): points (N,3) in front of a camera, within ``margin`` times its image (1 = the edge)."""
    pose = torch.from_numpy(camera.T_camera_world).float().to(means.device)
    local = means.float() @ pose[:3, :3].T + pose[:3, 3]
    z = local[:, 2]
    depth = z.clamp_min(1e-6)
    x = (camera.fx * local[:, 0] / depth + camera.cx + 0.5) * (2 / camera.width) - 1
    y = (camera.fy * local[:, 1] / depth + camera.cy + 0.5) * (2 / camera.height) - 1
    return (z >= 0) & (x.abs() <= margin) & (y.abs() <= margin)


def view_pairs(
    means: torch.Tensor, cameras: Sequence[Camera], config: ContrastiveConfig | None = None
) -> list[tuple[int, int]]:
    """Pairs of cameras whose frusta share 30 to 80 % of the Gaussians that lie in either.

    The first is every ``spacing``-th camera, the second any that comes at least as many later; where a recording is too
    short for that, the spacing is a fortieth of it: a walk of a few views shares little between any two.
    """
    config = config or ContrastiveConfig()
    spacing = max(1, min(config.spacing, len(cameras) // 40))
    seen = torch.stack([in_frustum(means, camera, config.margin) for camera in cameras]).float()
    both = seen @ seen.T
    single = seen.sum(dim=1)
    overlap = both / (single[:, None] + single[None] - both).clamp_min(1)
    low, high = config.overlap
    return [
        (first, second)
        for first in range(0, len(cameras), spacing)
        for second in range(first + spacing, len(cameras), spacing)
        if low < float(overlap[first, second]) < high
    ]


@dataclass(frozen=True)
class ContrastiveScene:
    """One scene to train on: its Gaussians and the pairs of cameras that look at common parts of it."""

    inputs: GaussianInputs
    cameras: Sequence[Camera]
    pairs: Sequence[tuple[int, int]]

    @classmethod
    def of(
        cls,
        gaussians: GaussianMap,
        cameras: Sequence[Camera],
        config: ContrastiveConfig | None = None,
        device: torch.device | str = "cpu",
    ) -> ContrastiveScene:
        """On a device. InvalidInputError where no two cameras have enough in common."""
        pairs = view_pairs(gaussians.means, cameras, config)
        if not pairs:
            raise InvalidInputError(
                f"no two of {len(cameras)} cameras share 30 to 80 % of what they see; record a path that looks at the "
                "same things from different places"
            )
        return cls(gaussian_inputs(gaussians).to(device), cameras, pairs)


@dataclass(frozen=True)
class ContrastivePair:
    """Two augmented views of a scene. common int64 (M,2): rows of the same Gaussian in the one and in the other."""

    views: tuple[GaussianInputs, GaussianInputs]
    common: torch.Tensor


def draw_pair(
    scene: ContrastiveScene, pair: tuple[int, int], generator: torch.Generator, config: ContrastiveConfig
) -> ContrastivePair | None:
    """What two cameras see of a scene, thinned to one Gaussian per cube, each view augmented by itself.

    None where too little is left in common.
    """
    inputs = scene.inputs
    kept = one_per_voxel(inputs.xyz, config.voxel_m, generator)
    first, second = (in_frustum(inputs.xyz, scene.cameras[index], config.margin) & kept for index in pair)
    common = torch.nonzero(first & second)[:, 0]
    if len(common) < LEAST_COMMON:
        return None
    common = common[torch.randperm(len(common), generator=generator)[: config.pairs].to(common.device)]
    views = [augmented(inputs.rows(torch.nonzero(mask)[:, 0]), generator, config) for mask in (first, second)]
    places = [torch.cumsum(mask, dim=0)[common] - 1 for mask in (first, second)]
    return ContrastivePair((views[0], views[1]), torch.stack(places, dim=1))


def contrastive_loss(model: PointTransformer, pair: ContrastivePair, config: ContrastiveConfig) -> torch.Tensor:
    """The loss of one pair."""
    device = next(model.parameters()).device
    first, second = (
        model(view.xyz.to(device), view.features.to(device))[pair.common[:, side].to(device)]
        for side, view in enumerate(pair.views)
    )
    return point_info_nce(first, second, config.temperature, config.normalise)


def point_info_nce(
    first: torch.Tensor, second: torch.Tensor, temperature: float = 0.07, normalise: bool = False
) -> torch.Tensor:
    """Mean over rows m of -ln softmax_l(f_m . g_l / temperature) at l = m, features (M,C) of the same M Gaussians.

    ln M is what chance gives.
    """
    with torch.autocast(first.device.type, enabled=False):  # divided by the temperature, rounding would count
        first, second = first.float(), second.float()
        if normalise:
            first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
        logits = first @ second.T / temperature
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def one_per_voxel(xyz: torch.Tensor, size: float, generator: torch.Generator) -> torch.Tensor:
    """bool (N,): one random point of every cube of ``size``."""
    cells = grid_cells(xyz, size)
    wide = cells.amax(dim=0) + 1
    key = (cells[:, 0] * wide[1] + cells[:, 1]) * wide[2] + cells[:, 2]
    order = torch.randperm(len(xyz), generator=generator).to(xyz.device)
    unique, group = torch.unique(key[order], return_inverse=True)
    chosen = torch.empty(len(unique), dtype=torch.long, device=xyz.device)
    chosen[group] = order  # of several that write here one stays: all are in random order
    mask = torch.zeros(len(xyz), dtype=torch.bool, device=xyz.device)
    mask[chosen] = True
    return mask


def augmented(inputs: GaussianInputs, generator: torch.Generator, config: ContrastiveConfig) -> GaussianInputs:
    """Another size, turned about a random axis, centred, with noise on colour and opacity; nothing else changes."""

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    low, high = config.scale
    factor = low + (high - low) * float(uniform(1))
    axis = F.normalize(torch.randn(3, generator=generator), dim=0)
    rotation = _rotation(axis, 2 * math.pi * (float(uniform(1)) - 0.5)).to(inputs.xyz.device)
    features = inputs.features.clone()
    xyz = (inputs.xyz - inputs.xyz.mean(dim=0)) * factor @ rotation.T
    features[:, XYZ] = xyz
    if config.scale_log == "multiply":
        features[:, LOG_SCALE] *= factor
    else:
        features[:, LOG_SCALE] += math.log(factor)
    for part in (RGB, OPACITY):
        noise = torch.randn(features[:, part].shape, generator=generator) * config.noise
        features[:, part] = (features[:, part] + noise.to(features.device)).clamp(0, 1)
    return GaussianInputs(xyz, features, inputs.normalisation)


def _rotation(axis: torch.Tensor, angle: float) -> torch.Tensor:
    """(3,3) by Rodrigues' formula."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
