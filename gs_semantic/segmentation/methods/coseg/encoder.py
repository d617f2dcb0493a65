"""The spatial encoder: local feature aggregation and random sampling of RandLA-Net (Hu et al., CVPR 2020), of xyz alone.

Trained once on labelled rooms (encoder_training.py), frozen for use. Written from the paper.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from gs_semantic.errors import InvalidInputError
from gs_semantic.files import atomic_write, reason
from gs_semantic.segmentation.methods.coseg.pyramid import Cloud, Pyramid

WIDTHS = (16, 64, 128, 256)  # of the four aggregations; each gives twice as many channels
FIRST = 8  # channels that xyz becomes
SCHEMA = 1
SLOPE = 0.2  # of leaky ReLUs


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes its running statistics where a batch of one row has none."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if len(values) > 1:
            return super().forward(values)
        known = self.running_mean, self.running_var
        return nn.functional.batch_norm(values, *known, self.weight, self.bias, eps=self.eps)


class SharedMLP(nn.Module):
    """A 1x1 convolution of (...,C): linear, batch norm, and a leaky ReLU where ``active``."""

    def __init__(self, inputs: int, outputs: int, active: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = BatchNorm(outputs, eps=1e-6, momentum=0.01)
        self.active = active

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        flat = self.norm(self.linear(values).reshape(-1, self.linear.out_features))
        flat = nn.functional.leaky_relu(flat, SLOPE, inplace=not flat.requires_grad) if self.active else flat
        return flat.reshape(*values.shape[:-1], -1)


class AttentivePooling(nn.Module):
    """(n,K,C) to (n,outputs): a sum over neighbours, weighted per channel by a softmax of a linear map of the features."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, channels, bias=False)
        self.out = SharedMLP(channels, outputs)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.out((self.score(values).softmax(dim=1) * values).sum(dim=1))


class LocalAggregation(nn.Module):
    """LFA(d): inputs to 2 d channels, by two rounds of spatial encoding and attentive pooling over the neighbours."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.first = SharedMLP(inputs, half)
        self.place = SharedMLP(10, half)
        self.pool = AttentivePooling(width, half)
        self.further_place = SharedMLP(half, half)
        self.further_pool = AttentivePooling(width, width)
        self.last = SharedMLP(width, 2 * width, active=False)
        self.shortcut = SharedMLP(inputs, 2 * width, active=False)

    def forward(self, values: torch.Tensor, cloud: Cloud) -> torch.Tensor:
        near = cloud.neighbours
        there = cloud.points[near]
        here = cloud.points[:, None].expand_as(there)
        offset = here - there
        place = self.place(torch.cat([offset.norm(dim=2, keepdim=True), offset, here, there], dim=2))
        hidden = self.pool(torch.cat([place, self.first(values)[near]], dim=2))
        hidden = self.further_pool(torch.cat([self.further_place(place), hidden[near]], dim=2))
        return nn.functional.leaky_relu(self.last(hidden) + self.shortcut(values), SLOPE)


def sampled(values: torch.Tensor, fine: Cloud, count: int) -> torch.Tensor:
    """Random sampling: for the first ``count`` points, which the next cloud keeps, the maximum over their neighbours."""
    return values[fine.neighbours[:count]].amax(dim=1)


@dataclass(frozen=True)
class SpatialFeatures:
    """scales: of N, N/4, N/16 and N/64 points, with 32, 32, 128 and 256 channels (most local first); last: (N/256, 512)."""

    scales: tuple[torch.Tensor, ...]
    last: torch.Tensor


class SpatialEncoder(nn.Module):
    """RandLA-Net's encoder with four aggregations. Its input are the pyramid's points, metres, z up, around their mean."""

    channels = (2 * WIDTHS[0], *(2 * width for width in WIDTHS[:3]))
    last_channels = 2 * WIDTHS[3]

    def __init__(self) -> None:
        super().__init__()
        self.first = SharedMLP(3, FIRST)
        inputs = [FIRST, *(2 * width for width in WIDTHS[:-1])]
        self.layers = nn.ModuleList(LocalAggregation(i, width) for i, width in zip(inputs, WIDTHS, strict=True))

    def forward(self, pyramid: Pyramid) -> SpatialFeatures:
        values = self.first(pyramid.clouds[0].points)
        scales = []
        for k, (layer, cloud, coarse) in enumerate(zip(self.layers, pyramid.clouds, pyramid.clouds[1:], strict=False)):
            values = layer(values, cloud)
            if k == 0:
                scales.append(values)
            values = sampled(values, cloud, len(coarse.points))
            scales.append(values)
        return SpatialFeatures(tuple(scales[:-1]), scales[-1])

    def save(self, path: Path, trained_on: str) -> None:
        """Write the weights (half precision) as safetensors with a header that says what they are."""
        state = {
            name: value.half() if value.is_floating_point() else value for name, value in self.state_dict().items()
        }
        header = {"schema": SCHEMA, "model": "randla", "widths": WIDTHS, "trained_on": trained_on}
        with atomic_write(path) as file:
            file.write(save(state, {"spatial_encoder": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path) -> SpatialEncoder:
        """A frozen encoder; InvalidInputError names a file that is none."""
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {}).get("spatial_encoder", "{}"))
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except FileNotFoundError:
            raise InvalidInputError(
                f"{path}: no such file; train one with `gs-semantic train spatial_encoder SEQUENCE {path}`"
            ) from None
        except (OSError, SafetensorError, ValueError) as error:
            raise InvalidInputError(f"{path}: is not a readable spatial encoder: {reason(error)}") from error
        if header.get("schema") != SCHEMA or tuple(header.get("widths", ())) != WIDTHS:
            raise InvalidInputError(f"{path}: holds no spatial encoder of schema {SCHEMA} and widths {WIDTHS}")
        encoder = cls()
        try:
            encoder.load_state_dict({name: value.float() if value.is_floating_point() else value
                                     for name, value in state.items()})  # fmt: skip
        except RuntimeError as error:
            raise InvalidInputError(f"{path}: does not fit the encoder: {reason(error)}") from error
        return encoder.eval().requires_grad_(False)
