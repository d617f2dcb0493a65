"""CNNs that turn a source view into a map of features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from gs_semantic.segmentation.generalization.gnesf.voting import Elu


def _convolution(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, padding_mode="reflect" if kernel < 7 else "zeros"),
        nn.InstanceNorm2d(after, affine=True),
        Elu(),
    )


class _Block(nn.Module):
    """Two 3x3 convolutions beside a short cut (a basic block of ResNet), with instance normalisation."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _convolution(before, after, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1), nn.InstanceNorm2d(after, affine=True))
        straight = stride == 1 and before == after
        self.short = nn.Identity() if straight else nn.Conv2d(before, after, 1, stride)
        self.elu = Elu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.elu(self.second(self.first(x)) + self.short(x))
        return found


def _stage(before: int, after: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Block(before, after, 2), *(_Block(after, after) for _ in range(blocks - 1)))


class ResUNet(nn.Module):
    """The published network for view synthesis: ResNet-34 blocks (3, 4, 6), 64/128/256 channels, up again to 1/4 of the
    image; 64 channels, half of them for the coarse and half for the fine pass."""

    channels = 64

    def __init__(self) -> None:
        super().__init__()
        self.start = _convolution(3, 64, 7, 2)
        self.down = nn.ModuleList([_stage(64, 64, 3), _stage(64, 128, 4), _stage(128, 256, 6)])
        self.up1, self.join1 = _convolution(256, 128), _convolution(256, 128)
        self.up2, self.join2 = _convolution(128, 64), _convolution(128, 64)
        self.end = nn.Conv2d(64, self.channels, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(V,64,h,w) of images (V,3,H,W), 0..1; h = H/4."""
        a = self.down[0](self.start(images))
        b = self.down[1](a)
        c = self.down[2](b)
        x = self.join1(torch.cat([_like(self.up1(c), b), b], dim=1))
        x = self.join2(torch.cat([_like(self.up2(x), a), a], dim=1))
        found: torch.Tensor = self.end(x)
        return found


class SmallUNet(nn.Module):
    """Three scales of a few channels; fast enough for every frame of a camera on a CPU. Output at 1/4 of the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.start = _convolution(3, 16, 5, 2)
        self.a, self.b = _Block(16, 24, 2), _Block(24, 40, 2)
        self.join = _convolution(40 + 24, 24)
        self.end = nn.Conv2d(24, channels, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(V,C,h,w) of images (V,3,H,W), 0..1; h = H/4."""
        a = self.a(self.start(images))
        found: torch.Tensor = self.end(self.join(torch.cat([_like(self.b(a), a), a], dim=1)))
        return found


def _like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=other.shape[-2:], mode="bilinear", align_corners=False)
