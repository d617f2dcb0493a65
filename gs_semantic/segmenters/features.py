"""Dense 2D features of an image at four scales: the tokens of a self-supervised transformer, or a descriptor without weights.

Both have the same contract, so that what lifts features into a map works without any download.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.segmenters.images import normalised
from gs_semantic.segmenters.weights import Weights, choose_device

SCALES = 4
DINO_WEIGHTS = "facebook/dino-vits8"
VIT_CLASSES = {"vit": "ViTModel", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}


class DenseFeatures(Protocol):
    """A source of dense features; ``maps`` gives SCALES arrays float32 (h, w, D), the most local one first.

    Sizes and D may differ between scales, D must not between images. Every vector ends with what is the same in the
    whole image (a global token).
    """

    def maps(self, rgb: np.ndarray) -> list[np.ndarray]:
        """Of an image uint8 (H, W, 3)."""
        ...


class VitFeatures:
    """Patch tokens after four of a vision transformer's blocks, each with the class token of that block appended.

    DINO (ViT) and DINOv2 models of the transformers library. Blocks are spread evenly, the last among them: 3, 6, 9, 12
    of 12 (CoSegGaussians uses four, which ones it does not say). longest_px: images are scaled to this longer side,
    rounded to whole patches.
    """

    def __init__(self, weights: Weights, device: str = "auto", longest_px: int = 448) -> None:
        self.device, self.longest_px = choose_device(device), longest_px
        kind = weights.model_type()
        if kind not in VIT_CLASSES:
            raise InvalidRequestError(
                f"{weights.location}: holds a model of type '{kind}', expected one of {', '.join(VIT_CLASSES)} "
                f"(as in {DINO_WEIGHTS})"
            )
        self.model = weights.load(VIT_CLASSES[kind], self.device, may_lack=("pooler.",))
        self._preprocessing = weights.preprocessing()
        config = self.model.config
        self._patch = int(config.patch_size)
        self._skipped = 1 + int(getattr(config, "num_register_tokens", 0))
        depth = int(config.num_hidden_layers)
        self.blocks = [max(1, round(depth * (scale + 1) / SCALES)) for scale in range(SCALES)]
        self._options = {} if kind.startswith("dinov2") else {"interpolate_pos_encoding": True}

    @torch.inference_mode()
    def maps(self, rgb: np.ndarray) -> list[np.ndarray]:
        """Four arrays (h, w, 2 D) of the model's width D."""
        height, width = rgb.shape[:2]
        scale = self.longest_px / max(height, width)
        tall, wide = (max(1, round(side * scale / self._patch)) for side in (height, width))
        pixels = normalised(rgb, (tall * self._patch, wide * self._patch), self._preprocessing, self.device)
        states = self.model(pixel_values=pixels, output_hidden_states=True, **self._options).hidden_states
        found = []
        for block in self.blocks:
            tokens = states[block][0]
            patches = tokens[self._skipped :].reshape(tall, wide, -1)
            found.append(torch.cat([patches, tokens[0].expand_as(patches)], dim=2).float().cpu().numpy())
        return found


class DescriptorFeatures:
    """Colour and edges around every cell, at four scales, without any weights.

    At scale s the image is shrunk so that a cell is 2 * 2^s pixels wide. A cell's vector is its colour (Lab), its
    deviation of colour, a histogram of eight edge directions, and the same of the eight cells around it at a distance of
    two cells (as DAISY, Tola et al. 2010, samples a ring), directions normalised against contrast; then the mean and the
    deviation of the image's colour. Colours are in units of 1/100.
    """

    cell_px = 2
    bins = 8

    def maps(self, rgb: np.ndarray) -> list[np.ndarray]:
        """Four arrays (h, w, 132)."""
        lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) / 100
        grey = lab[..., 0]
        du, dv = cv2.Sobel(grey, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(grey, cv2.CV_32F, 0, 1) / 8
        length, direction = np.hypot(du, dv), np.arctan2(dv, du) / (2 * np.pi) * self.bins
        low = np.floor(direction)
        share = (direction - low)[..., None]
        low = low.astype(int) % self.bins
        place = np.arange(self.bins)
        edges = (
            (low[..., None] == place) * (1 - share) + ((low[..., None] + 1) % self.bins == place) * share
        ) * length[..., None]
        flat = lab.reshape(-1, 3)
        everywhere = np.concatenate([flat.mean(0), flat.std(0)])
        return [self._scale(lab, edges.astype(np.float32), everywhere, scale) for scale in range(SCALES)]

    def _scale(self, lab: np.ndarray, edges: np.ndarray, everywhere: np.ndarray, scale: int) -> np.ndarray:
        height, width = lab.shape[:2]
        cell = self.cell_px * 2**scale
        size = max(1, round(width / cell)), max(1, round(height / cell))

        def shrunk(image: np.ndarray) -> np.ndarray:
            planes = [cv2.resize(image[..., k], size, interpolation=cv2.INTER_AREA) for k in range(image.shape[2])]
            return np.stack(planes, axis=-1)

        mean = shrunk(lab)
        deviation = np.sqrt(np.maximum(shrunk(lab**2) - mean**2, 0))
        histogram = shrunk(edges)
        histogram /= np.linalg.norm(histogram, axis=-1, keepdims=True) + 0.02  # edges fainter than this stay small
        local = np.concatenate([mean, deviation, histogram], axis=-1)
        ring = [self._shifted(local, 2 * u, 2 * v) for v in (-1, 0, 1) for u in (-1, 0, 1) if (u, v) != (0, 0)]
        shape = (*local.shape[:2], len(everywhere))
        return np.concatenate([local, *ring, np.broadcast_to(everywhere, shape)], axis=-1).astype(np.float32)

    @staticmethod
    def _shifted(image: np.ndarray, u: int, v: int) -> np.ndarray:
        """What lies ``u`` columns and ``v`` rows further on; beyond the border that at the border."""
        rows = np.clip(np.arange(image.shape[0]) + v, 0, image.shape[0] - 1)
        columns = np.clip(np.arange(image.shape[1]) + u, 0, image.shape[1] - 1)
        return image[np.ix_(rows, columns)]


def dense_features(name: str, model: str = "", download: bool = False) -> DenseFeatures:
    """``descriptor``, or ``dino`` with weights from a folder or the user's cache (``model``, default DINO_WEIGHTS)."""
    if name == "descriptor":
        return DescriptorFeatures()
    if name == "dino":
        return VitFeatures(Weights(model or DINO_WEIGHTS, download))
    raise InvalidRequestError(f"features: '{name}' is not one of descriptor, dino")
