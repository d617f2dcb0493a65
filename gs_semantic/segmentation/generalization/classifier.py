"""Class probabilities of single images: what voting votes over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.labels import VOID, LabelSet
from gs_semantic.segmentation.generalization.classes import normal
from gs_semantic.segmenters.images import fitted_size, normalised
from gs_semantic.segmenters.weights import Weights, choose_device

KIND = "ForSemanticSegmentation"  # ends the name of every model that will do
LEAST = 1e-5  # probability that is added to each class: what is none of them becomes a uniform opinion
SHORTEST_PX, LONGEST_PX = 512, 2048  # what SegFormer's models are used with unless they say otherwise


class ImageClassifier(Protocol):
    """Says of every pixel of an image how probable each class is. labels: ids 1..K without gaps, 0 = void."""

    labels: LabelSet

    def scores(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """float32 (V,K,h,w): logarithms of class probabilities, up to a constant per pixel, of V images uint8 (H,W,3) of
        one size; they cover the whole image, at any resolution. On the CPU, without gradient."""
        ...


class TransformersClassifier:
    """Any semantic segmentation model of transformers (SegFormer, UperNet, ...), with the user's weights.

    labels: the classes to answer in. The model's classes are translated by name, also by alias; those of several of its
    classes with one meaning are added. InvalidInputError, with both lists, when it knows none of them.
    """

    def __init__(self, weights: Weights, labels: LabelSet, device: str = "auto") -> None:
        self.labels = labels
        self.device = choose_device(device)
        architecture = weights.architecture()
        if not architecture.endswith(KIND):
            raise InvalidRequestError(
                f"{weights.location}: holds {architecture or 'no named model'}, expected a ...{KIND}"
            )
        self.model = weights.load(architecture, self.device)
        self._preprocessing = weights.preprocessing()
        names = {int(key): str(name) for key, name in self.model.config.id2label.items()}
        ours = {normal(name): key - 1 for key, name in labels.names.items() if key != VOID}
        self._table = torch.zeros(max(names) + 1, max(labels.names))
        for key, name in names.items():
            place = ours.get(normal(name))
            if place is not None:
                self._table[key, place] = 1.0
        if not self._table.any():
            raise InvalidInputError(
                f"{weights.location}: knows none of the classes wanted; it has {', '.join(names.values())}; wanted are "
                f"{', '.join(ours)}"
            )

    @torch.inference_mode()
    def scores(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        found = []
        for rgb in images:
            height, width = rgb.shape[:2]
            size = fitted_size(height, width, self._preprocessing, SHORTEST_PX, LONGEST_PX)
            logits = self.model(pixel_values=normalised(rgb, size, self._preprocessing, self.device)).logits
            known = torch.einsum("khw,kc->chw", logits[0].float().softmax(dim=0).cpu(), self._table)
            found.append(torch.log(known + LEAST))
        return torch.stack(found)
