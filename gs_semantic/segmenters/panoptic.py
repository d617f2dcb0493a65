"""Panoptic masks with classes: Mask2Former and OneFormer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.gaussians import Frame
from gs_semantic.labels import LabelSet
from gs_semantic.segmenters.base import Segmentation
from gs_semantic.segmenters.images import fitted_size, normalised, numbered
from gs_semantic.segmenters.settings import setting
from gs_semantic.segmenters.weights import Weights, choose_device

SHORTEST_PX, LONGEST_PX = 800, 1333  # sizes these models are trained with unless they say otherwise


@dataclass(frozen=True)
class PanopticConfig:
    """Every field is documented in its metadata."""

    score: float = setting(0.5, "least class probability of a mask", 0.0, 1.0)
    kept: float = setting(0.8, "a mask is dropped when others take more of it than leaves this share", 0.0, 1.0)
    least_px: int = setting(50, "smaller masks are left out", 1, 1000000)


class PanopticSegmenter:
    """What Mask2Former and OneFormer have in common: queries, each with a class and a mask. Class ids are the model's
    own plus one, because 0 means unknown."""

    needs_depth = False
    model_class = ""

    def __init__(self, weights: Weights, device: str = "auto", config: PanopticConfig | None = None) -> None:
        self.config = config or PanopticConfig()
        self.device = choose_device(device)
        self.model = weights.load(self.model_class, self.device)
        self._preprocessing = weights.preprocessing()
        names = {int(key): str(name) for key, name in self.model.config.id2label.items()}
        self.labels: LabelSet | None = LabelSet({0: "void"} | {key + 1: name for key, name in names.items()})

    def more_inputs(self) -> dict[str, Any]:
        """Inputs of the model other than the image."""
        return {}

    @torch.inference_mode()
    def segment(self, frame: Frame) -> Segmentation:
        """Masks that do not overlap, each with its class."""
        height, width = frame.rgb.shape[:2]
        size = fitted_size(height, width, self._preprocessing, SHORTEST_PX, LONGEST_PX)
        pixels = normalised(frame.rgb, size, self._preprocessing, self.device)
        output = self.model(pixel_values=pixels, **self.more_inputs())
        classes, masks = output.class_queries_logits[0], output.masks_queries_logits[0]
        return panoptic(classes, masks, (height, width), self.config)


class Mask2FormerSegmenter(PanopticSegmenter):
    """Mask2Former (https://arxiv.org/abs/2112.01527)."""

    model_class = "Mask2FormerForUniversalSegmentation"


class OneFormerSegmenter(PanopticSegmenter):
    """OneFormer (https://arxiv.org/abs/2211.06220), which is told its task in words."""

    model_class = "OneFormerForUniversalSegmentation"

    def __init__(self, weights: Weights, device: str = "auto", config: PanopticConfig | None = None) -> None:
        super().__init__(weights, device, config)
        words = weights.tokenizer()(
            ["the task is panoptic"],
            padding="max_length",
            max_length=self.model.config.task_seq_len,
            truncation=True,
            return_tensors="pt",
        )
        self._task = (words["input_ids"] * words["attention_mask"]).to(self.device)

    def more_inputs(self) -> dict[str, Any]:
        return {"task_inputs": self._task}


def panoptic(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, size: tuple[int, int], config: PanopticConfig
) -> Segmentation:
    """Masks (height, width) of queries: class logits (Q, C + 1), the last for "nothing", and mask logits (Q, h, w).

    Every pixel goes to the query with the largest product of class and mask probability (Mask2Former, section 3.1 of
    MaskFormer, https://arxiv.org/abs/2107.06278); a query of whose mask too little is left is dropped.
    """
    scores, classes = class_logits.softmax(dim=-1).max(dim=-1)
    chosen = (classes < class_logits.shape[-1] - 1) & (scores > config.score)
    scores, classes = scores[chosen], classes[chosen]
    if not len(scores):
        return Segmentation(np.zeros(size, np.int32))
    masks = F.interpolate(mask_logits[chosen][None], size=size, mode="bilinear", align_corners=False)[0].sigmoid()
    owner = (masks * scores[:, None, None]).argmax(dim=0)
    inside = masks.gather(0, owner[None])[0] >= 0.5
    count = len(scores)
    won = torch.bincount(owner[inside], minlength=count)
    wanted = (masks >= 0.5).sum(dim=(1, 2))
    stays = won >= config.kept * wanted
    instances = torch.where(inside & stays[owner], owner + 1, 0).to(torch.int32).cpu().numpy()
    return numbered(instances, scores.tolist(), (classes + 1).tolist(), config.least_px)
