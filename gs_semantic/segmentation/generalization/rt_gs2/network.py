"""VDVI: the 2D network that makes classes, or depth, of a view's colour and of the scene's features drawn into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from gs_semantic.errors import InvalidInputError
from gs_semantic.segmentation.generalization.rt_gs2.encoders import ImageEncoder, feature_stages
from gs_semantic.segmentation.generalization.rt_gs2.fusion import Fusion
from gs_semantic.segmenters.weights import Weights

LEAST_PX = 32  # of the coarsest map one pixel
INPUTS = ("both", "image", "features")
EMBEDDING_DROPOUT = 0.1
MEAN, DEVIATION = (0.45, 0.42, 0.38), (0.25, 0.24, 0.23)  # of colours in rooms, about


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes; the defaults are those of RT-GS2: ConvNeXt-T for colour, MiT-B0 for features.

    outputs: classes, or 1 for depth in metres. inputs: what the network looks at: both, or one alone (for comparison).
    feature_stride: drawn features are averaged over squares of so many pixels before the network looks at them; the first
    feature map is at 1/4 of the image's size either way. standardise: colours and features are brought to like spreads
    first, colours by constants, features by what was seen in training.
    """

    outputs: int
    inputs: str = "both"
    features: int = 32
    image_widths: tuple[int, ...] = (96, 192, 384, 768)
    image_depths: tuple[int, ...] = (3, 3, 9, 3)
    feature_widths: tuple[int, ...] = (32, 64, 160, 256)
    feature_depths: tuple[int, ...] = (2, 2, 2, 2)
    feature_heads: tuple[int, ...] = (1, 2, 5, 8)
    embedding: int = 256
    drop_path: float = 0.3
    feature_stride: int = 1
    standardise: bool = False

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs '{self.inputs}': expected one of {', '.join(INPUTS)}")
        if self.feature_stride not in (1, 4):
            raise ValueError(f"feature_stride {self.feature_stride}: expected 1 or 4")

    @classmethod
    def small(cls, outputs: int, inputs: str = "both") -> NetworkConfig:
        """Real time on two CPU cores at 320x240."""
        return cls(
            outputs,
            inputs,
            image_widths=(40, 96, 192, 256),
            image_depths=(1, 2, 4, 1),
            feature_widths=(32, 48, 96, 160),
            feature_depths=(1, 1, 1, 1),
            feature_heads=(1, 2, 4, 5),
            embedding=96,
            drop_path=0.05,
            feature_stride=4,
            standardise=True,
        )


@dataclass(frozen=True)
class NetworkOutput:
    """logits (B,K,H,W), or metres (B,1,H,W). embedding (B,E,h,w): what they are a linear map of, at 1/4 of the size."""

    logits: torch.Tensor
    embedding: torch.Tensor


class FusionNetwork(nn.Module):
    """``network(rgb, features)``: (B,3,H,W) 0..1 and (B,32,H,W) as the rasteriser blends them, or already averaged
    (``averaged``).

    pretrained: weights of the image encoder; without, it starts at random.
    """

    def __init__(self, config: NetworkConfig, pretrained: Weights | None = None) -> None:
        super().__init__()
        self.config = config
        self.image: nn.Module | None = None
        self.stages: nn.ModuleList | None = None
        self.fusions: nn.ModuleList | None = None
        self.norm_features: nn.Module | None = None
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        if config.inputs != "features":
            self.image = ImageEncoder(config.image_widths, config.image_depths, config.drop_path, pretrained)
        if config.inputs != "image":
            self.stages = nn.ModuleList(
                feature_stages(
                    config.features,
                    config.feature_widths,
                    config.feature_depths,
                    config.feature_heads,
                    averaged=config.feature_stride > 1,
                )
            )
            if config.standardise:
                self.norm_features = nn.BatchNorm2d(config.features, affine=False)
        if config.inputs == "both":
            self.fusions = nn.ModuleList(
                Fusion(features, image)
                for features, image in zip(config.feature_widths[1:], config.image_widths[1:], strict=True)
            )
        widths = config.image_widths if config.inputs == "image" else config.feature_widths
        self.decoder = Decoder(widths, config.embedding, config.outputs)

    def forward(
        self, rgb: torch.Tensor, features: torch.Tensor | None, size: Sequence[int] | None = None
    ) -> NetworkOutput:
        """size: (height, width) of the answer; None: that of the images. InvalidInputError: smaller than ``LEAST_PX``."""
        height, width = rgb.shape[2:]
        if min(height, width) < LEAST_PX:
            raise InvalidInputError(f"image: {width}x{height} is too small, at least {LEAST_PX}x{LEAST_PX} is needed")
        if self.config.standardise:
            rgb = (rgb - self.mean) / self.deviation
        embedding = self.decoder.embed(self._maps(rgb, features))
        logits = self.decoder.classify(embedding)
        return NetworkOutput(resized(logits, size or (height, width)), embedding)

    def _maps(self, rgb: torch.Tensor, features: torch.Tensor | None) -> list[torch.Tensor]:
        """Four maps at 1/4 .. 1/32: fused from the second on, the first that of the scene's features alone."""
        if self.stages is None:
            assert self.image is not None
            return list(self.image(rgb))
        if features is None:
            raise InvalidInputError("features: this network needs the scene's features drawn into the view")
        images = self.image(rgb) if self.image is not None else None
        x, maps = features, []
        if x.shape[2:] == rgb.shape[2:]:
            x = averaged(x, self.config.feature_stride)
        if self.norm_features is not None:
            x = self.norm_features(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if images is not None:
                image = next(images)  # its rounding of odd sizes is down, that of the stages up
                if index and self.fusions is not None:
                    x = self.fusions[index - 1](x, resized(image, x.shape[2:]))
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """SegFormer's head: all maps at 1/4 of the size, in one embedding per pixel; a linear map of it is the answer."""

    def __init__(self, widths: Sequence[int], embedding: int, outputs: int) -> None:
        super().__init__()
        self.lift = nn.ModuleList(nn.Conv2d(width, embedding, 1) for width in widths)
        self.join = nn.Sequential(
            nn.Conv2d(len(widths) * embedding, embedding, 1), nn.BatchNorm2d(embedding), nn.ReLU()
        )
        self.dropout = nn.Dropout2d(EMBEDDING_DROPOUT)
        self.classify = nn.Conv2d(embedding, outputs, 1)

    def embed(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        size = maps[0].shape[2:]
        lifted = [resized(lift(x), size) for lift, x in zip(self.lift, maps, strict=True)]
        return self.dropout(self.join(torch.cat(lifted[::-1], dim=1)))


def averaged(features: torch.Tensor, stride: int) -> torch.Tensor:
    """(B,C,H,W) to the means (B,C,ceil(H/stride),ceil(W/stride)) of squares of pixels, smaller ones at the rim."""
    if stride == 1:
        return features
    return F.avg_pool2d(features, stride, ceil_mode=True, count_include_pad=False)


def resized(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(B,C,H,W) brought to a size (height, width), bilinearly."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    # with a pixel's channels side by side enlarging is many times faster on a CPU, and so is what looks at each pixel
    x = x.contiguous(memory_format=torch.channels_last)
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
