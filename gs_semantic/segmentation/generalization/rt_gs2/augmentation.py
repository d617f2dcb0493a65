"""Changes of training images: what does not change the classes (RT-GS2's loader, with its two slips mended).

Zoom is drawn for every image, and perspective happens. Images are changed where they are, a batch at a time; what is
drawn at random comes from the CPU, so a batch is changed in the same way on every device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.segmentation.generalization.rt_gs2.losses import IGNORE

GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class AugmentationConfig:
    """Probability of each change. zoom_max: largest factor; cut_out: side of the hole as a share of the image's."""

    colour: float = 0.5
    flip: float = 0.3
    cut_out: float = 0.3
    zoom: float = 0.3
    perspective: float = 0.3
    zoom_max: float = 1.5
    cut_out_side: float = 0.1
    perspective_shift: float = 0.1

    @classmethod
    def fine_tuning(cls) -> AugmentationConfig:
        """Zoom alone."""
        return cls(colour=0.0, flip=0.0, cut_out=0.0, perspective=0.0)


@dataclass(frozen=True)
class Samples:
    """Views to learn from: rgb float32 (B,3,H,W), features (B,C,H,W) or smaller, labels int64 (B,H,W), depth (B,H,W) m
    or None."""

    rgb: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor
    depth: torch.Tensor | None = None


def augment(samples: Samples, random: np.random.Generator, config: AugmentationConfig) -> Samples:
    """Changed copies. Zooming by z brings surfaces nearer: their depth is divided by z."""
    count = len(samples.rgb)

    def happens(chance: float) -> np.ndarray:
        return np.flatnonzero(random.random(count) < chance)

    samples = replace(samples, rgb=_jittered(samples.rgb, happens(config.colour), random))
    samples = _flipped(samples, happens(config.flip))
    samples = _warped(samples, happens(config.zoom), happens(config.perspective), random, config)
    rows = happens(config.cut_out)
    return replace(
        samples,
        rgb=_with_holes(samples.rgb, rows, random, config.cut_out_side),
        features=_with_holes(samples.features, rows, random, config.cut_out_side),
    )


def _jittered(rgb: torch.Tensor, rows: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    """Brightness, contrast and saturation by up to a half, hue by up to a twentieth of the circle."""
    if not len(rows):
        return rgb
    brightness, contrast, saturation = random.uniform(0.5, 1.5, (3, len(rows)))
    hue = 2 * np.pi * random.uniform(-0.05, 0.05, len(rows))
    matrices = np.stack([_colour_matrix(*pair) for pair in zip(saturation, hue, strict=True)])
    index = torch.from_numpy(rows).to(rgb.device)

    def on_device(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(rgb.device, torch.float32)

    changed = rgb[index] * on_device(brightness)[:, None, None, None]
    mean = changed.mean(dim=(1, 2, 3), keepdim=True)
    changed = (changed - mean) * on_device(contrast)[:, None, None, None] + mean
    changed = torch.einsum("bij,bjhw->bihw", on_device(matrices), changed)
    return rgb.index_copy(0, index, changed.clamp(0, 1))


def _colour_matrix(saturation: float, hue: float) -> np.ndarray:
    """(3,3): colours moved from or to grey, and turned about the axis of greys by ``hue`` rad."""
    grey = np.tile(np.array(GREY), (3, 1))
    turn = cv2.Rodrigues(np.full(3, hue / np.sqrt(3)))[0]
    return turn @ (grey + saturation * (np.eye(3) - grey))


def _flipped(samples: Samples, rows: np.ndarray) -> Samples:
    if not len(rows):
        return samples

    def turned(images: torch.Tensor) -> torch.Tensor:
        index = torch.from_numpy(rows).to(images.device)
        return images.index_copy(0, index, images[index].flip(-1))

    depth = None if samples.depth is None else turned(samples.depth)
    return Samples(turned(samples.rgb), turned(samples.features), turned(samples.labels), depth)


def _warped(
    samples: Samples,
    zoomed: np.ndarray,
    bent: np.ndarray,
    random: np.random.Generator,
    config: AugmentationConfig,
) -> Samples:
    """Zoom and change of perspective; what comes from outside the image has neither colour, features, class nor depth."""
    rows = np.union1d(zoomed, bent)
    if not len(rows):
        return samples
    height, width = samples.labels.shape[1:]
    matrices, factors = np.tile(np.eye(3), (len(rows), 1, 1)), np.ones(len(rows))
    for place, row in enumerate(rows):
        if row in zoomed:
            factors[place] = factor = random.uniform(1.0, config.zoom_max)
            left, top = random.uniform(0, width * (1 - 1 / factor)), random.uniform(0, height * (1 - 1 / factor))
            matrices[place] = [[factor, 0, -factor * left], [0, factor, -factor * top], [0, 0, 1.0]]
        if row in bent:
            matrices[place] = _perspective(height, width, random, config.perspective_shift) @ matrices[place]
    device = samples.rgb.device
    back = torch.from_numpy(np.linalg.inv(matrices)).to(device, torch.float32)
    index = torch.from_numpy(rows).to(device)

    def places(shape: torch.Size) -> torch.Tensor:
        """(R,h,w,2): where in the old images, -1..1, the pixels of changed ones of this size come from."""
        v, u = (
            (torch.arange(count, device=device) + 0.5) * (whole / count) - 0.5
            for count, whole in zip(shape, (height, width), strict=True)
        )
        pixels = torch.stack([*torch.meshgrid(u, v, indexing="xy"), torch.ones(shape, device=device)], dim=-1)
        source = torch.einsum("bij,hwj->bhwi", back, pixels)
        size = torch.tensor([width, height], device=device)
        return (source[..., :2] / source[..., 2:] + 0.5) / size * 2 - 1

    full = places(samples.labels.shape[1:])

    def moved(images: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        grid = full if images.shape[2:] == full.shape[1:3] else places(images.shape[2:])
        return F.grid_sample(images[index], grid.to(images.dtype), mode=mode, align_corners=False)

    labels = moved((samples.labels - IGNORE).float()[:, None], "nearest")[:, 0].long() + IGNORE
    depth = samples.depth
    if depth is not None:
        nearer = torch.from_numpy(factors).to(device, torch.float32)[:, None, None]
        depth = depth.index_copy(0, index, moved(depth[:, None], "nearest")[:, 0] / nearer)
    return Samples(
        samples.rgb.index_copy(0, index, moved(samples.rgb)),
        samples.features.index_copy(0, index, moved(samples.features)),
        samples.labels.index_copy(0, index, labels),
        depth,
    )


def _perspective(height: int, width: int, random: np.random.Generator, shift: float) -> np.ndarray:
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + random.uniform(-shift, shift, (4, 2)) * [width, height]
    return cv2.getPerspectiveTransform(corners, moved.astype(np.float32))


def _with_holes(images: torch.Tensor, rows: np.ndarray, random: np.random.Generator, side: float) -> torch.Tensor:
    """A rectangle of each image set to 0; colour and features get theirs in different places."""
    if not len(rows):
        return images
    count, _, height, width = images.shape
    tall, wide = max(1, int(side * height)), max(1, int(side * width))
    corner = np.full((count, 2), max(height, width))  # outside: no hole
    corner[rows] = random.integers(0, (height - tall + 1, width - wide + 1), (len(rows), 2))
    top, left = torch.from_numpy(corner.T[..., None]).to(images.device)
    down, right = torch.arange(height, device=images.device) - top, torch.arange(width, device=images.device) - left
    hole = ((down >= 0) & (down < tall))[:, :, None] & ((right >= 0) & (right < wide))[:, None]
    return images.masked_fill(hole[:, None], 0)
