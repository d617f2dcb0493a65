"""SAM 2: masks of everything from a grid of points, or masks of given boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gs_semantic.gaussians import Frame
from gs_semantic.labels import LabelSet
from gs_semantic.segmenters.base import Segmentation
from gs_semantic.segmenters.images import mask_boxes, normalised, painted, stability, suppressed
from gs_semantic.segmenters.settings import setting
from gs_semantic.segmenters.weights import Weights, choose_device

MASK_OFFSET = 1.0  # thresholds of the stability score


@dataclass(frozen=True)
class Sam2Config:
    """Every field is documented in its metadata."""

    points_per_side: int = setting(16, "side of the grid of points that are asked about", 1, 128)
    points_at_once: int = setting(64, "points decoded in one go; more need more memory", 1, 4096)
    quality: float = setting(0.75, "least IoU that the model expects of its mask", 0.0, 1.0)
    stability: float = setting(0.9, "least IoU of a mask at a higher with that at a lower threshold", 0.0, 1.0)
    overlap: float = setting(0.7, "masks whose boxes overlap more (IoU) are taken for the same", 0.0, 1.0)
    least_px: int = setting(100, "smaller masks are left out", 1, 1000000)


class Sam2Prompted:
    """The model with its own image preparation (that of the library needs torchvision)."""

    def __init__(self, weights: Weights, device: str) -> None:
        self.device = choose_device(device)
        self.model = weights.load("Sam2Model", self.device)
        self._preprocessing = weights.preprocessing()
        side = self.model.config.prompt_encoder_config.image_size
        self.side = int(side if isinstance(side, int) else side[0])

    def embed(self, rgb: np.ndarray) -> list[torch.Tensor]:
        """Image embeddings; the image is squeezed into a square, as in training."""
        pixels = normalised(rgb, (self.side, self.side), self._preprocessing, self.device)
        return list(self.model.get_image_embeddings(pixels))

    def of_points(self, embeddings: list[torch.Tensor], points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Three masks for every point (N, 2), 0..1 in x and y: logits (3N, h, w) and predicted IoU (3N,)."""
        prompts = (points * self.side).to(self.device)[None, :, None]
        return self._flat(self.model(image_embeddings=embeddings, input_points=prompts, multimask_output=True))

    def of_boxes(self, embeddings: list[torch.Tensor], boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One mask for every box (N, 4), x1 y1 x2 y2 in 0..1: logits (N, h, w) and predicted IoU (N,)."""
        prompts = (boxes * self.side).to(self.device)[None]
        return self._flat(self.model(image_embeddings=embeddings, input_boxes=prompts, multimask_output=False))

    @staticmethod
    def _flat(output: object) -> tuple[torch.Tensor, torch.Tensor]:
        logits, quality = output.pred_masks, output.iou_scores  # type: ignore[attr-defined]
        return logits.flatten(0, 2), quality.flatten()


class Sam2Segmenter:
    """Automatic masks: a grid of points, masks that are good, stable and not told twice. Knows no classes."""

    needs_depth = False
    labels: LabelSet | None = None

    def __init__(self, weights: Weights, device: str = "auto", config: Sam2Config | None = None) -> None:
        self.config = config or Sam2Config()
        self._sam = Sam2Prompted(weights, device)
        steps = (torch.arange(self.config.points_per_side) + 0.5) / self.config.points_per_side
        self._points = torch.cartesian_prod(steps, steps)

    @torch.inference_mode()
    def segment(self, frame: Frame) -> Segmentation:
        """Masks of whatever the points hit; where they overlap the smaller one is on top."""
        config = self.config
        embeddings = self._sam.embed(frame.rgb)
        logits, scores = [], []
        for points in self._points.split(config.points_at_once):
            masks, quality = self._sam.of_points(embeddings, points)
            good = (quality > config.quality) & (stability(masks, MASK_OFFSET) > config.stability)
            good &= (masks > 0).any(dim=2).any(dim=1)
            logits.append(masks[good])
            scores.append(quality[good])
        masks, quality = torch.cat(logits), torch.cat(scores)
        kept = suppressed(mask_boxes(masks > 0), quality, config.overlap)
        masks, quality = masks[kept], quality[kept].clamp(0, 1)
        height, width = frame.rgb.shape[:2]
        return painted(masks, quality.tolist(), [0] * len(kept), (height, width), config.least_px)
