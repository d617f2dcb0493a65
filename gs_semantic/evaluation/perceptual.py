"""LPIPS, the learned perceptual distance of two images (Zhang et al., CVPR 2018), with weights that are on this machine.

A score needs two files per backbone, which are looked for and never downloaded: the ImageNet weights where torch.hub (and
with it torchvision) keeps them, and the small LPIPS weights that the packages torchmetrics and lpips carry along. Scores
with different backbones do not compare.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gs_semantic.errors import InvalidRequestError, MissingExtraError

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the colours -1..1 that go in
LEAST_PX = 32  # smaller images do not survive the pooling of the backbones


@dataclass(frozen=True)
class Backbone:
    """A network whose activations are compared. ``taps``: (layer after which, channels there); ``file``: its weights."""

    name: str
    file: str
    taps: tuple[tuple[int, int], ...]

    def layers(self) -> nn.Sequential:
        """The convolutions, named as torchvision names them (``features.<number>``)."""
        return nn.Sequential(*(_vgg() if self.name == "vgg" else _alex()))


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("vgg", "vgg16-397923af.pth", ((3, 64), (8, 128), (15, 256), (22, 512), (29, 512))),
        Backbone("alex", "alexnet-owt-7be5be79.pth", ((1, 64), (4, 192), (7, 384), (9, 256), (11, 256))),
    )
}


def _vgg() -> Iterator[nn.Module]:
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            yield nn.Conv2d(channels, width, 3, padding=1)
            yield nn.ReLU()
            channels = width
        yield nn.MaxPool2d(2)


def _alex() -> Iterator[nn.Module]:
    yield from (nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2))
    yield from (nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2))
    yield from (nn.Conv2d(192, 384, 3, padding=1), nn.ReLU())
    yield from (nn.Conv2d(384, 256, 3, padding=1), nn.ReLU())
    yield from (nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())


class Lpips:
    """``Lpips.load("vgg")(image, truth)`` is a distance, 0 for equal images; smaller is better."""

    def __init__(self, backbone: Backbone, layers: nn.Sequential, heads: list[torch.Tensor]) -> None:
        self.backbone = backbone
        self._layers, self._heads = layers.eval().requires_grad_(False), heads

    @classmethod
    def load(cls, name: str = "vgg") -> Lpips:
        """The network ``vgg`` (3D Gaussian Splatting, Gaussian Grouping) or ``alex`` (RT-GS2).

        MissingExtraError says which file is not on this machine and how it gets there; InvalidRequestError names a file
        whose content does not fit.
        """
        if name not in BACKBONES:
            raise InvalidRequestError(f"lpips: backbone '{name}' is not one of {', '.join(BACKBONES)}")
        backbone = BACKBONES[name]
        layers, head_file = backbone.layers(), _head_file(name)
        path = Path(torch.hub.get_dir()) / "checkpoints" / backbone.file
        if not path.is_file():
            raise MissingExtraError(
                f"{path}: no such file; torchvision leaves it there when it loads the pretrained network"
            )
        weights = {key.removeprefix("features."): value for key, value in _read(path).items() if "features." in key}
        try:
            layers.load_state_dict(weights)
        except RuntimeError as error:
            text = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise InvalidRequestError(f"{path}: the weights do not fit the network: {text}") from None
        heads, stored = [], _read(head_file)
        for i, (_, channels) in enumerate(backbone.taps):
            head = stored.get(f"lin{i}.model.1.weight")
            if head is None or head.shape != (1, channels, 1, 1):
                raise InvalidRequestError(f"{head_file}: no weights 'lin{i}.model.1.weight' of {channels} channels")
            heads.append(head.float().reshape(-1))
        return cls(backbone, layers, heads)

    def __call__(self, image: np.ndarray, truth: np.ndarray) -> float:
        """Distance of two images of one size (ValueError), (H, W, 3): uint8, or float 0..1 (clamped)."""
        if image.shape != truth.shape or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < LEAST_PX:
            raise ValueError(
                f"lpips needs two colour images of one size, {LEAST_PX} pixels and more; got {image.shape} {truth.shape}"
            )
        distance = 0.0
        with torch.no_grad():
            for head, a, b in zip(self._heads, self._activations(image), self._activations(truth), strict=True):
                difference = (a - b).square()
                distance += float(torch.einsum("chw,c->hw", difference, head).mean())
        return distance

    def _activations(self, image: np.ndarray) -> list[torch.Tensor]:
        """What comes out of the tapped layers, (C, h, w), of length 1 at every pixel."""
        unit = image.astype(np.float32) / 255 if image.dtype == np.uint8 else np.clip(image.astype(np.float32), 0, 1)
        x = torch.from_numpy((2 * unit - 1 - np.array(SHIFT, np.float32)) / np.array(SCALE, np.float32)).permute(
            2, 0, 1
        )
        taps, found = {layer for layer, _ in self.backbone.taps}, []
        for number, layer in enumerate(self._layers):
            x = layer(x)
            if number in taps:
                found.append(x / (x.square().sum(dim=0, keepdim=True).sqrt() + 1e-10))
        return found


def _head_file(name: str) -> Path:
    """The LPIPS weights in an installed package, without importing it."""
    for package, folder in (("torchmetrics", "functional/image/lpips_models"), ("lpips", "weights/v0.1")):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            if (path := Path(place) / folder / f"{name}.pth").is_file():
                return path
    raise MissingExtraError.for_module("torchmetrics", "train", f"lpips_{name}")


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InvalidRequestError(f"{path}: cannot be read as weights: {text}") from None
    if not isinstance(weights, dict):
        raise InvalidRequestError(f"{path}: holds no table of weights")
    return weights
