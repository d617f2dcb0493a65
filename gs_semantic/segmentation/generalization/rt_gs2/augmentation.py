"""Changes of training images: what does not change the classes (RT-GS2's loader, with its two slips mended).

Zoom is drawn for every image, and perspective happens.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from gs_semantic.segmentation.generalization.rt_gs2.losses import IGNORE


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
class Sample:
    """One view to learn from: rgb float32 (H,W,3), features (H,W,32), labels int64 (H,W), depth (H,W) m or None."""

    rgb: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    depth: np.ndarray | None = None


def augment(sample: Sample, random: np.random.Generator, config: AugmentationConfig) -> Sample:
    """A changed copy. Zooming by z brings surfaces nearer: their depth is divided by z."""
    rgb, features, labels, depth = sample.rgb, sample.features, sample.labels, sample.depth
    height, width = labels.shape
    if random.random() < config.colour:
        rgb = _jittered(rgb, random)
    if random.random() < config.flip:
        rgb, features, labels = rgb[:, ::-1], features[:, ::-1], labels[:, ::-1]
        depth = None if depth is None else depth[:, ::-1]
    matrix, factor = np.eye(3), 1.0
    if random.random() < config.zoom:
        factor = random.uniform(1.0, config.zoom_max)
        left, top = random.uniform(0, width * (1 - 1 / factor)), random.uniform(0, height * (1 - 1 / factor))
        matrix = np.array([[factor, 0, -factor * left], [0, factor, -factor * top], [0, 0, 1.0]])
    if random.random() < config.perspective:
        matrix = _perspective(height, width, random, config.perspective_shift) @ matrix
    if not np.array_equal(matrix, np.eye(3)):
        size = (width, height)
        rgb = cv2.warpPerspective(np.ascontiguousarray(rgb), matrix, size)
        features = _warped_channels(features, matrix, size)
        labels = cv2.warpPerspective(
            labels.astype(np.float32), matrix, size, flags=cv2.INTER_NEAREST, borderValue=IGNORE
        ).astype(np.int64)
        if depth is not None:
            depth = cv2.warpPerspective(np.ascontiguousarray(depth), matrix, size, flags=cv2.INTER_NEAREST) / factor
    if random.random() < config.cut_out:
        rgb, features = _with_hole(rgb, random, config), _with_hole(features, random, config)
    rgb, features, labels = (np.ascontiguousarray(image) for image in (rgb, features, labels))
    return Sample(rgb, features, labels, depth)


def _jittered(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation by up to a half, hue by up to a twentieth of the circle."""
    rgb = rgb * random.uniform(0.5, 1.5)
    mean = rgb.mean()
    rgb = np.clip((rgb - mean) * random.uniform(0.5, 1.5) + mean, 0, 1).astype(np.float32)
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * random.uniform(-0.05, 0.05)) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] * random.uniform(0.5, 1.5), 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _perspective(height: int, width: int, random: np.random.Generator, shift: float) -> np.ndarray:
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + random.uniform(-shift, shift, (4, 2)) * [width, height]
    return cv2.getPerspectiveTransform(corners, moved.astype(np.float32))


def _warped_channels(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """OpenCV warps up to four channels at once."""
    parts = [
        cv2.warpPerspective(np.ascontiguousarray(image[..., start : start + 4]), matrix, size).reshape(
            size[1], size[0], -1
        )
        for start in range(0, image.shape[-1], 4)
    ]
    return np.concatenate(parts, axis=-1)


def _with_hole(image: np.ndarray, random: np.random.Generator, config: AugmentationConfig) -> np.ndarray:
    """A rectangle set to 0; colour and features get theirs in different places."""
    image = image.copy()
    height, width = image.shape[:2]
    tall, wide = max(1, int(config.cut_out_side * height)), max(1, int(config.cut_out_side * width))
    top, left = int(random.integers(0, height - tall + 1)), int(random.integers(0, width - wide + 1))
    image[top : top + tall, left : left + wide] = 0
    return image
