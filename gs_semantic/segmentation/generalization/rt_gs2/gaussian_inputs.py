"""What the point transformer sees of a Gaussian: [xyz, rgb, opacity, log scale], 10 numbers in this order."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gs_semantic.errors import EmptyMapError, InvalidInputError
from gs_semantic.gaussians.gaussian_map import GaussianMap, sh_to_rgb
from gs_semantic.rendering.base import SplatTensors

CHANNELS = 10
XYZ, RGB, OPACITY, LOG_SCALE = slice(0, 3), slice(3, 6), slice(6, 7), slice(7, 10)


@dataclass(frozen=True)
class Normalisation:
    """What a cloud is measured from: centre (3,) m, smallest and largest value of any colour channel."""

    centre: torch.Tensor
    darkest: float
    brightest: float


@dataclass(frozen=True)
class GaussianInputs:
    """xyz (N,3) m in the map's frame; features (N,10), their xyz from the centre of the cloud."""

    xyz: torch.Tensor
    features: torch.Tensor
    normalisation: Normalisation

    def __len__(self) -> int:
        return len(self.xyz)

    def rows(self, index: torch.Tensor) -> GaussianInputs:
        """Some of them, with the cloud's normalisation."""
        return GaussianInputs(self.xyz[index], self.features[index], self.normalisation)

    def to(self, device: torch.device | str) -> GaussianInputs:
        """The same on a device, for which the centre is not needed."""
        return GaussianInputs(self.xyz.to(device), self.features.to(device), self.normalisation)


def gaussian_inputs(
    gaussians: GaussianMap | SplatTensors, normalisation: Normalisation | None = None
) -> GaussianInputs:
    """Inputs of all Gaussians of a scene; of spherical harmonics of any degree the first one counts, which is the colour.

    Colour is stretched to 0..1 by one minimum and maximum of the whole cloud, or as ``normalisation`` says. EmptyMapError for an empty map,
    InvalidInputError for one without colour or with values that are not finite.
    """
    count, sh = len(gaussians), gaussians.sh
    if not count:
        raise EmptyMapError("the map has no Gaussians; map the scene first")
    if sh.ndim != 3 or sh.shape[1] < 1 or sh.shape[2] != 3:
        raise InvalidInputError(
            f"sh: shape is {tuple(sh.shape)}, expected (N, (degree+1)^2, 3); these Gaussians have no colour, which the "
            "3D features need"
        )
    rgb = sh_to_rgb(sh[:, 0].detach().float())
    xyz = gaussians.means.detach().float()
    log_scales, opacity = gaussians.log_scales.detach().float(), gaussians.opacity_logits.detach().float()
    broken = ~torch.isfinite(torch.cat([xyz, rgb, opacity[:, None], log_scales], dim=1)).all(dim=1)
    if bool(broken.any()):
        first = int(torch.nonzero(broken)[0, 0])
        raise InvalidInputError(
            f"{int(broken.sum())} of {count} Gaussians have NaN or infinite parameters, first row {first}; remove them"
        )
    if normalisation is None:
        normalisation = Normalisation(xyz.mean(dim=0), float(rgb.min()), float(rgb.max()))
    stretch = max(normalisation.brightest - normalisation.darkest, 1e-6)
    features = torch.cat(
        [
            xyz - normalisation.centre,
            ((rgb - normalisation.darkest) / stretch).clamp(0, 1),
            torch.sigmoid(opacity)[:, None],
            log_scales,
        ],
        dim=1,
    )
    return GaussianInputs(xyz, features, normalisation)
