"""Masks of the things on a list of words: Grounding DINO finds boxes, SAM 2 makes their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Frame
from gs_semantic.labels import LabelSet
from gs_semantic.segmenters.base import Segmentation
from gs_semantic.segmenters.images import fitted_size, normalised, painted, suppressed
from gs_semantic.segmenters.sam2 import Sam2Prompted
from gs_semantic.segmenters.settings import setting
from gs_semantic.segmenters.weights import Weights, choose_device

SHORTEST_PX, LONGEST_PX = 800, 1333


@dataclass(frozen=True)
class GroundedConfig:
    """Every field is documented in its metadata."""

    score: float = setting(0.3, "least score of a box", 0.0, 1.0)
    overlap: float = setting(0.7, "boxes that overlap more (IoU) are taken for the same thing", 0.0, 1.0)
    most: int = setting(100, "boxes per frame at most", 1, 10000)
    least_px: int = setting(50, "smaller masks are left out", 1, 1000000)


class GroundedSegmenter:
    """Class ids are the places in the word list, from 1."""

    needs_depth = False

    def __init__(
        self,
        weights: Weights,
        mask_weights: Weights,
        words: Sequence[str],
        device: str = "auto",
        config: GroundedConfig | None = None,
    ) -> None:
        self.config = config or GroundedConfig()
        self.words = [word.strip().lower() for word in words if word.strip()]
        if not self.words:
            raise InvalidRequestError("words: give the names of the things to find, for example 'chair, table, mug'")
        self.labels: LabelSet | None = LabelSet({0: "void"} | dict(enumerate(self.words, start=1)))
        self.device = choose_device(device)
        self.model = weights.load("GroundingDinoForObjectDetection", self.device)
        self._preprocessing = weights.preprocessing()
        self._text, self._spans = tokens_of(weights.tokenizer(), self.words, self.model.config.max_text_len)
        self._text = {name: value.to(self.device) for name, value in self._text.items()}
        self._sam = Sam2Prompted(mask_weights, device)

    @torch.inference_mode()
    def segment(self, frame: Frame) -> Segmentation:
        """Masks of the words' things; where they overlap the smaller one is on top."""
        height, width = frame.rgb.shape[:2]
        size = fitted_size(height, width, self._preprocessing, SHORTEST_PX, LONGEST_PX)
        pixels = normalised(frame.rgb, size, self._preprocessing, self.device)
        output = self.model(pixel_values=pixels, **self._text)
        boxes, scores, classes = self._detections(output.logits[0], output.pred_boxes[0])
        if not len(boxes):
            return painted(torch.zeros(0, 1, 1), [], [], (height, width), self.config.least_px)
        masks, _ = self._sam.of_boxes(self._sam.embed(frame.rgb), boxes)
        return painted(masks, scores.tolist(), classes.tolist(), (height, width), self.config.least_px)

    def _detections(
        self, logits: torch.Tensor, centred: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes x1 y1 x2 y2 in 0..1, scores and class ids of queries: token logits (Q, T), boxes cx cy w h (Q, 4)."""
        probability = logits.sigmoid()
        by_word = torch.stack([probability[:, span].amax(dim=1) for span in self._spans], dim=1)
        scores, words = by_word.max(dim=1)
        found = scores > self.config.score
        middle, half = centred[found, :2], centred[found, 2:] / 2
        boxes = torch.cat([middle - half, middle + half], dim=1).clamp(0, 1)
        scores, words = scores[found], words[found]
        kept = suppressed(boxes, scores, self.config.overlap)[: self.config.most]
        return boxes[kept], scores[kept], words[kept] + 1


def tokens_of(tokenizer: Any, words: Sequence[str], limit: int) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
    """The prompt "chair. table." as the model's inputs, and the places of every word's tokens in it."""
    text = tokenizer(" ".join(f"{word}." for word in words), return_tensors="pt")
    ids = text["input_ids"][0].tolist()
    if len(ids) > limit:
        raise InvalidRequestError(f"words: {len(ids)} tokens, the model takes {limit}; give fewer words")
    stop = tokenizer.convert_tokens_to_ids(".")
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    spans: list[list[int]] = [[]]
    for place, token in enumerate(ids):
        if token == stop:
            spans.append([])
        elif token not in special:
            spans[-1].append(place)
    spans = [span for span in spans if span]
    if len(spans) != len(words):
        raise InvalidRequestError("words: a word may not hold a full stop and must have letters")
    return dict(text), spans
