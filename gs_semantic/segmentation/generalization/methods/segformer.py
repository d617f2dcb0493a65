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
from gs_semantic.segmentation.generalization.method import Batch, SceneLearner
from gs_semantic.segmentation.generalization.registry import register
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView

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

    # --- learning ---------------------------------------------------------------------------------------------------

    def sample(self, scenes: Sequence[LearningScene], random: np.random.Generator) -> Batch:
        """Images and classes of random views, mirrored and enlarged at random; all of one size."""
        if not self.weights.any():
            self.weights.copy_(_class_weights(scenes, self.class_count, self.config.balance))
        images, classes = [], []
        for _ in range(self.config.batch):
            scene = scenes[int(random.integers(len(scenes)))]
            views = scene.views + scene.novel
            rgb, truth = _changed(views[int(random.integers(len(views)))], self.config.zoom, random)
            images.append(rgb)
            classes.append(truth)
        return {"images": torch.stack(images), "classes": torch.stack(classes)}

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        loss = F.cross_entropy(
            self.logits(batch["images"]),
            batch["classes"] - 1,  # void becomes -1
            weight=self.weights,
            ignore_index=-1,
            label_smoothing=self.config.smoothing,
        )
        return {"cross_entropy": loss}

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
                    predicted = self.probabilities([view.rgb])[0].argmax(dim=0).numpy() + 1
                    score.update(predicted, view.classes.astype(np.int64))
        result = score.result()
        return {
            "score": result.miou,
            "miou": result.miou,
            "mean_accuracy": result.mean_accuracy,
            "accuracy": result.accuracy,
        }


def _class_weights(scenes: Sequence[LearningScene], count: int, power: float) -> torch.Tensor:
    """(K,) with a mean of 1 over pixels, from a few views of every scene."""
    pixels = np.zeros(count + 1)
    for scene in scenes:
        for view in scene.novel:
            if view.classes is not None:
                pixels += np.bincount(view.classes.ravel(), minlength=count + 1)[: count + 1]
    share = np.maximum(pixels[1:], 1.0) / max(1.0, pixels[1:].sum())
    weights = np.minimum(share**-power, 20.0)
    return torch.from_numpy(weights / (weights * share).sum()).float()


def _changed(view: SceneView, zoom: float, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (3,H,W) and classes int64 (H,W), a random part of them enlarged to the full size, mirrored or not."""
    if view.classes is None:
        raise InvalidInputError(f"{view.name}: has no classes to learn from")
    rgb, classes = view.colour(), torch.from_numpy(view.classes.astype(np.int64))
    height, width = classes.shape
    scale = float(random.uniform(1.0, zoom))
    h, w = max(1, round(height / scale)), max(1, round(width / scale))
    top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
    part, truth = rgb[:, top : top + h, left : left + w], classes[top : top + h, left : left + w]
    if scale > 1.02:
        part = F.interpolate(part[None], size=(height, width), mode="bilinear", align_corners=False)[0]
        truth = F.interpolate(truth[None, None].float(), size=(height, width), mode="nearest")[0, 0].long()
    else:
        part, truth = rgb, classes
    gain = float(np.exp(random.normal(0, 0.15)))
    part = (part * gain).clamp(0, 1)
    return (part.flip(-1), truth.flip(-1)) if random.random() < 0.5 else (part, truth)
