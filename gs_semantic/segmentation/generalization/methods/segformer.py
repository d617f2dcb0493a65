"""A small 2D segmenter, trained on single images of many scenes: the network below the votes, and a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.errors import InvalidInputError, MissingExtraError
from gs_semantic.evaluation.segmentation import ClassScore
from gs_semantic.labels import LabelSet
from gs_semantic.segmentation.config import option
from gs_semantic.segmentation.generalization.config import GeneralizationConfig
from gs_semantic.segmentation.generalization.images import ImageChanges, LabelledImages
from gs_semantic.segmentation.generalization.method import Batch, SceneLearner
from gs_semantic.segmentation.generalization.registry import register
from gs_semantic.segmentation.generalization.scenes import LearningScene

MEAN, DEVIATION = (0.45, 0.42, 0.38), (0.25, 0.24, 0.23)  # of colours in rooms, about
AT_ONCE = 8  # images


@dataclass(frozen=True)
class SegformerConfig(GeneralizationConfig):
    """Network and batches."""

    lr: float = option(6e-4, "largest learning rate", low=0)
    weight_decay: float = option(0.01, "decay of weights (AdamW)", low=0)
    batch: int = option(8, "images of one iteration", low=1)
    stride: int = option(4, "pixels from one patch of the first stage to the next", choices=(2, 4))
    decoder: int = option(128, "channels of the decoder", low=8)
    dropout: float = option(0.1, "of the decoder", low=0, high=0.9)
    balance: float = option(0.3, "classes count as their share of pixels to the power of minus this", low=0, high=1)
    smoothing: float = option(0.05, "share of the label that is spread over all classes", low=0, high=0.9)
    zoom: float = option(1.6, "images are enlarged at random up to this much, and cropped", low=1)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"iterations": 1500},
        "standard": {"iterations": 12_000},
        "paper": {"iterations": 30_000},
    }


@register
class SegformerLearner(SceneLearner):
    """SegFormer of B0's size (https://arxiv.org/abs/2105.15203), from the configuration of transformers, untrained.

    Also an ``ImageClassifier``.
    """

    name = "segformer"
    summary = "small 2D segmenter of single images; others vote over what it says"
    Config = SegformerConfig
    one_shape = True

    def __init__(self, config: SegformerConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.config: SegformerConfig = config
        try:
            from transformers import SegformerConfig as NetworkConfig
            from transformers import SegformerForSemanticSegmentation
        except ImportError as error:
            raise MissingExtraError.for_module("transformers", "models", "the 2D segmenter") from error
        network = NetworkConfig(
            num_labels=self.class_count,
            strides=[config.stride, 2, 2, 2],
            hidden_sizes=[32, 64, 160, 256],
            depths=[2, 2, 2, 2],
            decoder_hidden_size=config.decoder,
            classifier_dropout_prob=config.dropout,
        )
        self.network = SegformerForSemanticSegmentation(network)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)
        self.register_buffer("weights", torch.zeros(self.class_count))  # of classes; all 0: not counted yet
        self._learned: tuple[tuple[int, ...], LabelledImages] | None = None
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        self.weights: torch.Tensor

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B,K,H,W) of images (B,3,H,W), 0..1."""
        return F.interpolate(self._coarse(images), size=images.shape[-2:], mode="bilinear", align_corners=False)

    def _coarse(self, images: torch.Tensor) -> torch.Tensor:
        """(B,K,h,w), h = H/stride. InvalidInputError: fewer pixels than the first attention takes together."""
        height, width = images.shape[-2:]
        least = self.config.stride * self.network.config.sr_ratios[0]
        if min(height, width) < least:
            raise InvalidInputError(f"images of {width}x{height} pixels are too small; {least} each way are needed")
        found: torch.Tensor = self.network(pixel_values=(images - self.mean) / self.deviation).logits
        return found

    @torch.no_grad()
    def scores(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """See ``ImageClassifier``; a quarter of the images' size. InvalidInputError: the images differ in size."""
        if len({image.shape for image in images}) != 1:
            raise InvalidInputError("images of several sizes cannot be classified together; give one size at a time")
        training, device = self.training, self.mean.device
        self.eval()
        found = []
        for start in range(0, len(images), AT_ONCE):
            stack = np.stack(images[start : start + AT_ONCE]).transpose(0, 3, 1, 2)
            found.append(self._coarse(torch.from_numpy(stack).to(device).float() / 255).float().cpu())
        self.train(training)
        return torch.cat(found)

    def probabilities(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """float32 (V,K,H,W), summing to 1 over K, of V images uint8 (H,W,3) of one size."""
        scores = self.scores(images)
        return F.interpolate(scores, size=images[0].shape[:2], mode="bilinear", align_corners=False).softmax(dim=1)

    @torch.no_grad()
    def _predicted(self, image: np.ndarray) -> np.ndarray:
        """Class ids (H,W) of an image uint8 (H,W,3)."""
        colours = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(self.device).float() / 255
        return (self.logits(colours)[0].argmax(dim=0) + 1).cpu().numpy()

    # --- learning ---------------------------------------------------------------------------------------------------

    def sample(self, scenes: Sequence[LearningScene], random: np.random.Generator) -> Batch:
        """What is cut out of which images, and how it is mirrored, enlarged and lit: few numbers. ``forward`` does that, so
        that it is part of the recorded step of a GPU."""
        return {"parts": self._images(scenes).plan(self.config.batch, random, ImageChanges(zoom=self.config.zoom))}

    def _images(self, scenes: Sequence[LearningScene]) -> LabelledImages:
        """All images of the scenes that are learned from, kept; their classes are counted once."""
        key = tuple(id(scene) for scene in scenes)
        if self._learned is None or self._learned[0] != key:
            self._learned = key, LabelledImages.of(scenes, self.device)
            if not self.weights.any():
                self.weights.copy_(_class_weights(self._learned[1].pixels(self.class_count), self.config.balance))
        return self._learned[1]

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss at the network's own resolution: a sixteenth of the pixels, other ones in every batch."""
        assert self._learned is not None
        rgb, classes = self._learned[1].parts(batch["parts"], self.config.stride)
        found = self._coarse(rgb)
        return {"cross_entropy": cross_entropy(found, classes, self.weights, self.config.smoothing)}

    def evaluate(
        self, scenes: Sequence[LearningScene], views: int = 0, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        score = ClassScore()
        for scene in scenes:
            novel = scene.novel
            chosen = novel if not views else novel[:: max(1, len(novel) // views)][:views]
            for view in chosen:
                if stop():
                    return {"score": 0.0}
                if view.classes is not None:
                    score.update(self._predicted(view.rgb), view.classes.astype(np.int64))
        result = score.result()
        return {
            "score": result.miou,
            "miou": result.miou,
            "mean_accuracy": result.mean_accuracy,
            "accuracy": result.accuracy,
        }


def cross_entropy(logits: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor, smoothing: float) -> torch.Tensor:
    """``F.cross_entropy`` of logits (B,K,H,W) with classes (B,H,W), 0 = void: left out, weights (K,) and label smoothing,
    without asking a GPU for the number of pixels left, so that it can be recorded as a graph."""
    chance = torch.log_softmax(logits.float(), dim=1)
    known = classes > 0
    rows = (classes - 1).clamp_min(0)
    weight = weights[rows] * known
    wrong = -chance.gather(1, rows[:, None])[:, 0] * weight
    spread = -(chance * weights[:, None, None]).mean(dim=1) * known
    return ((1 - smoothing) * wrong.sum() + smoothing * spread.sum()) / weight.sum().clamp_min(1e-12)


def _class_weights(pixels: np.ndarray, power: float) -> torch.Tensor:
    """(K,) with a mean of 1 over pixels, of the number of pixels (K+1,) of each class, void first."""
    share = np.maximum(pixels[1:], 1.0) / max(1.0, pixels[1:].sum())
    weights = np.minimum(share**-power, 20.0)
    return torch.from_numpy(weights / (weights * share).sum()).float()
