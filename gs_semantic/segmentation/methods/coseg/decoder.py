"""The trainable part of CoSegGaussians: shared MLPs from global to local (Eq. 7), whose output is an identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from gs_semantic.segmentation.methods.coseg.encoder import SLOPE, SpatialEncoder
from gs_semantic.segmentation.methods.coseg.pyramid import Interpolation

WIDTHS = (32, 64, 128, 256)  # outputs of the MLPs, most local first
REGULARISED = (3, 4)  # scales, from 1


@dataclass(frozen=True)
class ScaleInputs:
    """What is frozen at one scale: image (n,D) unprojected features, spatial (n,S), None where they are left out;
    up: interpolation from the next coarser scale, None at the coarsest."""

    image: torch.Tensor | None
    spatial: torch.Tensor | None
    up: Interpolation | None


class ViewNorm(nn.BatchNorm1d):
    """Batch norm by the statistics of the view at hand, in training and afterwards: rooms differ more than their means."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if len(values) > 1:
            return super().forward(values)
        return (values - values) * self.weight + self.bias  # a single point is its own mean


class Fusion(nn.Module):
    """One scale: linear of [frozen features, coarser ones interpolated], batch norm, leaky ReLU.

    What is linear may be applied before interpolating, to a quarter of the points and fewer channels.
    """

    def __init__(self, frozen: int, coarser: int, outputs: int) -> None:
        super().__init__()
        bound = (frozen + coarser) ** -0.5  # as one linear layer would start
        self.own = nn.Linear(frozen, outputs, bias=False) if frozen else None
        self.coarser = nn.Linear(coarser, outputs, bias=False) if coarser else None
        for layer in (self.own, self.coarser):
            if layer is not None:
                nn.init.uniform_(layer.weight, -bound, bound)
        self.norm = ViewNorm(outputs)

    def forward(self, frozen: torch.Tensor | None, coarser: torch.Tensor | None, up: Interpolation | None):
        total = None if self.own is None else self.own(frozen)
        if self.coarser is not None:
            assert up is not None
            further = up(self.coarser(coarser))
            total = further if total is None else total + further
        return nn.functional.leaky_relu(self.norm(total), SLOPE)


class Decoder(nn.Module):
    """Identities (n,dims) of a cloud's points, and class logits, a bias-free linear map of them.

    As splatting and the last layer are both linear, splatted identities have the logits that splatted logits would be;
    an identity stored on a Gaussian stays small however many classes there are. image, spatial: channels of the
    unprojected features by scale (empty: none), and whether there are spatial ones. scales: 4, or 1 for the most local alone.
    """

    def __init__(self, image: Sequence[int], spatial: bool, scales: int, dims: int, classes: int) -> None:
        super().__init__()
        self.scales = scales
        own = [spatial * channels for channels in SpatialEncoder.channels]
        own[3] += spatial * SpatialEncoder.last_channels
        own = [a + b for a, b in zip(own, image or [0] * len(own), strict=True)]
        widths = (*WIDTHS[:scales], 0)
        self.fusions = nn.ModuleList(Fusion(own[k], widths[k + 1], widths[k]) for k in range(scales))
        self.hidden = nn.Linear(widths[0], dims)
        self.out = nn.Linear(dims, classes, bias=False)

    def forward(self, inputs: list[ScaleInputs]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Identities (n,dims) in the order of the finest cloud; fused features by scale (from 1)."""
        values: torch.Tensor | None = None
        fused = {}
        for k in reversed(range(self.scales)):
            parts = [part for part in (inputs[k].image, inputs[k].spatial) if part is not None]
            frozen = torch.cat(parts, dim=1) if parts else None
            values = self.fusions[k](frozen, values, inputs[k].up)
            fused[k + 1] = values
        assert values is not None
        return nn.functional.leaky_relu(self.hidden(values), SLOPE), fused

    def logits(self, identities: torch.Tensor) -> torch.Tensor:
        """(P,classes) of identities (P,dims), splatted or not."""
        return self.out(identities)

    def parameters_by_part(self) -> dict[str, int]:
        """Learnable numbers of every part."""
        parts = {f"scale_{k + 1}": module for k, module in enumerate(self.fusions)}
        return {
            name: sum(p.numel() for p in part.parameters())
            for name, part in {**parts, "hidden": self.hidden, "classes": self.out}.items()
        }
