"""Embeddings of objects: features of a model that knows words, lifted from keyframes onto objects.

An object's embedding is the mean of the features of the pixels that show it, in all keyframes, weighted by how much it shows
there: the closed form of ``segmentation/unprojection.py`` with an object's Gaussians taken together, so that a map needs one
vector for each object instead of one for each Gaussian.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gs_semantic.mapping.events import LabelImages
from gs_semantic.objects.registry import ObjectRegistry


class LanguageSource(Protocol):
    """A model that puts images and words into one space, which has a name."""

    name: str

    def map(self, rgb: np.ndarray) -> np.ndarray:
        """Unit vectors float32 (h, w, D) of an image uint8 (H, W, 3)."""
        ...


def features_of_slots(seen: LabelImages, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slots int (K,) that a view shows, the sums (K, D) of features (h, w, D) over their pixels, weighted by the share of the
    pixel that is theirs, and the sums of these weights (K,), in pixels."""
    tall, wide = features.shape[:2]
    height, width = seen.instance.shape
    rows, columns = np.arange(height) * tall // height, np.arange(width) * wide // width
    patch = rows[:, None] * wide + columns
    slots, place = np.unique(seen.instance, return_inverse=True)
    cell = place.reshape(height, width) * (tall * wide) + patch
    share = np.bincount(cell.ravel(), seen.confidence.ravel() / 255.0, len(slots) * tall * wide).reshape(len(slots), -1)
    known = slots > 0
    return slots[known], share[known] @ features.reshape(tall * wide, -1), share[known].sum(1)


def embed(objects: ObjectRegistry, seen: LabelImages, features: np.ndarray, model: str) -> None:
    """Take a view's features over into the embeddings of the objects that it shows."""
    if objects.embedding_model != model:  # vectors of another space cannot be added to
        for obj in objects:
            obj.embedding, obj.embedding_weight = None, 0.0
        objects.embedding_model = model
    for slot, vector, weight in zip(*features_of_slots(seen, features), strict=True):
        if objects.has_slot(int(slot)) and weight > 0:
            objects.by_slot(int(slot)).take_embedding(vector / weight, float(weight))
