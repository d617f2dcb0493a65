"""Changes of training images: what does not change the classes (RT-GS2's loader, with its two slips mended).

Zoom is drawn for every image, and perspective happens. What changes is drawn at random on the CPU, as a few numbers an image,
so a batch is changed in the same way on every device. Images are changed where they are, a batch at a time, by the same
operations whatever was drawn: nothing is asked of a GPU, and the changes can be recorded with the step of training.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.segmentation.generalization.rt_gs2.losses import IGNORE

# what a row of a plan holds, one after the other: flags, the homography to the old image, how much nearer it brings things,
# the matrix of colours, brightness and contrast, and the corners of two holes as shares of where they may lie (-1: no hole)
PLAN = {"flip": 1, "coloured": 1, "warped": 1, "back": 9, "nearer": 1, "matrix": 9, "light": 2, "holes": 4}
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


def plan_changes(
    count: int, size: tuple[int, int], random: np.random.Generator, config: AugmentationConfig
) -> torch.Tensor:
    """Random changes of ``count`` images of a size (height, width), as numbers float32 (count, ...) on the CPU."""
    height, width = size

    def happens(chance: float) -> np.ndarray:
        return random.random(count) < chance

    coloured, flip = happens(config.colour), happens(config.flip)
    zoomed, bent, cut = happens(config.zoom), happens(config.perspective), happens(config.cut_out)
    brightness, contrast, saturation = random.uniform(0.5, 1.5, (3, count))
    hue = 2 * np.pi * random.uniform(-0.05, 0.05, count)
    nearer = np.where(zoomed, random.uniform(1.0, config.zoom_max, count), 1.0)
    left, top = random.uniform(0, 1, (2, count)) * (1 - 1 / nearer) * np.array([[width], [height]])
    matrices = np.tile(np.eye(3), (count, 1, 1))
    for row in range(count):
        matrices[row] = [
            [nearer[row], 0, -nearer[row] * left[row]],
            [0, nearer[row], -nearer[row] * top[row]],
            [0, 0, 1],
        ]
        if bent[row]:
            matrices[row] = _perspective(height, width, random, config.perspective_shift) @ matrices[row]
    holes = np.where(cut[:, None], random.random((count, 4)), -1.0)
    parts = {
        "flip": flip,
        "coloured": coloured,
        "warped": zoomed | bent,
        "back": np.linalg.inv(matrices),
        "nearer": nearer,
        "matrix": np.stack([_colour_matrix(*pair) for pair in zip(saturation, hue, strict=True)]),
        "light": np.stack([brightness, contrast], axis=1),
        "holes": holes,
    }
    plan = np.concatenate([parts[name].reshape(count, columns) for name, columns in PLAN.items()], axis=1)
    return torch.from_numpy(plan.astype(np.float32))


def augment(samples: Samples, plan: torch.Tensor, cut_out_side: float = AugmentationConfig.cut_out_side) -> Samples:
    """Changed copies, by a plan on the same device. Zooming by z brings surfaces nearer: their depth is divided by z."""
    part = dict(zip(PLAN, plan.split(list(PLAN.values()), dim=1), strict=True))
    samples = Samples(_jittered(samples.rgb, part), samples.features, samples.labels, samples.depth)
    samples = _warped(_flipped(samples, part["flip"]), part)
    return Samples(
        _with_holes(samples.rgb, part["holes"][:, :2], cut_out_side),
        _with_holes(samples.features, part["holes"][:, 2:], cut_out_side),
        samples.labels,
        samples.depth,
    )


def _where(chosen: torch.Tensor, changed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Changed images of the rows where ``chosen`` (B,1) is not 0, which keeps the others as they are to the last bit."""
    return torch.where(chosen.reshape(-1, *[1] * (images.dim() - 1)) != 0, changed, images)


def _jittered(rgb: torch.Tensor, part: dict[str, torch.Tensor]) -> torch.Tensor:
    """Brightness, contrast and saturation by up to a half, hue by up to a twentieth of the circle."""
    brightness, contrast = part["light"][:, :, None, None, None].unbind(dim=1)
    changed = rgb * brightness
    mean = changed.mean(dim=(1, 2, 3), keepdim=True)
    changed = (changed - mean) * contrast + mean
    changed = torch.einsum("bij,bjhw->bihw", part["matrix"].reshape(-1, 3, 3), changed)
    return _where(part["coloured"], changed.clamp(0, 1), rgb)


def _colour_matrix(saturation: float, hue: float) -> np.ndarray:
    """(3,3): colours moved from or to grey, and turned about the axis of greys by ``hue`` rad."""
    grey = np.tile(np.array(GREY), (3, 1))
    turn = cv2.Rodrigues(np.full(3, hue / np.sqrt(3)))[0]
    return turn @ (grey + saturation * (np.eye(3) - grey))


def _flipped(samples: Samples, flip: torch.Tensor) -> Samples:
    def turned(images: torch.Tensor) -> torch.Tensor:
        return _where(flip, images.flip(-1), images)

    depth = None if samples.depth is None else turned(samples.depth)
    return Samples(turned(samples.rgb), turned(samples.features), turned(samples.labels), depth)


def _warped(samples: Samples, part: dict[str, torch.Tensor]) -> Samples:
    """Zoom and change of perspective; what comes from outside the image has neither colour, features, class nor depth."""
    height, width = samples.labels.shape[1:]
    device, back = samples.rgb.device, part["back"].reshape(-1, 3, 3)

    def places(shape: torch.Size) -> torch.Tensor:
        """(B,h,w,2): where in the old images, -1..1, the pixels of changed ones of this size come from."""
        v, u = (
            (torch.arange(count, device=device) + 0.5) * (whole / count) - 0.5
            for count, whole in zip(shape, (height, width), strict=True)
        )
        pixels = torch.stack([*torch.meshgrid(u, v, indexing="xy"), torch.ones(shape, device=device)], dim=-1)
        source = torch.einsum("bij,hwj->bhwi", back, pixels)
        across, down = (
            (source[..., axis] / source[..., 2] + 0.5) / whole * 2 - 1 for axis, whole in enumerate((width, height))
        )
        return torch.stack([across, down], dim=-1)

    full = places(samples.labels.shape[1:])

    def moved(images: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        grid = full if images.shape[2:] == full.shape[1:3] else places(images.shape[2:])
        return F.grid_sample(images, grid.to(images.dtype), mode=mode, align_corners=False)

    warped = part["warped"]
    labels = moved((samples.labels - IGNORE).float()[:, None], "nearest")[:, 0].long() + IGNORE
    depth = samples.depth
    if depth is not None:
        depth = _where(warped, moved(depth[:, None], "nearest")[:, 0] / part["nearer"][:, :, None], depth)
    return Samples(
        _where(warped, moved(samples.rgb), samples.rgb),
        _where(warped, moved(samples.features), samples.features),
        _where(warped, labels, samples.labels),
        depth,
    )


def _perspective(height: int, width: int, random: np.random.Generator, shift: float) -> np.ndarray:
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + random.uniform(-shift, shift, (4, 2)) * [width, height]
    return cv2.getPerspectiveTransform(corners, moved.astype(np.float32))


def _with_holes(images: torch.Tensor, corner: torch.Tensor, side: float) -> torch.Tensor:
    """A rectangle of each image set to 0; colour and features get theirs in different places. corner (B,2): its top and left,
    0..1 of where it may lie; below 0: no hole."""
    height, width = images.shape[2:]
    tall, wide = max(1, int(side * height)), max(1, int(side * width))

    def inside(share: torch.Tensor, length: int, hole: int) -> torch.Tensor:
        after = torch.arange(length, device=images.device) - (share * (length - hole + 1)).floor()
        return (after >= 0) & (after < hole) & (share >= 0)

    rows, columns = inside(corner[:, :1], height, tall), inside(corner[:, 1:], width, wide)
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0)
