"""A model that knows words for colours: a space with one axis for each of them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

WORDS = {"tomato": (190, 57, 47), "grass": (57, 150, 66), "sky": (66, 75, 178), "lemon": (220, 220, 40), "plaster": (160, 150, 130)}
WIDTH = 25.0  # colours are alike within about this
ANYTHING = np.ones(len(WORDS))  # what words that it does not know mean


class ColourSpace:
    """``gs_semantic.mapping.language.LanguageSource`` and ``gs_semantic.objects.text.TextEncoder``."""

    name, scale = "colours", 20.0
    patch_px = 4

    def map(self, rgb: np.ndarray) -> np.ndarray:
        height, width = rgb.shape[:2]
        size = (width // self.patch_px, height // self.patch_px)
        patches = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        away = np.linalg.norm(patches[..., None, :] - np.array(list(WORDS.values()), np.float32), axis=-1)
        return self._unit(np.exp(-((away / WIDTH) ** 2) / 2) + 1e-3)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        axes = dict(zip(WORDS, np.eye(len(WORDS)), strict=True))
        return self._unit(np.array([axes.get(text, ANYTHING) for text in texts]))

    @staticmethod
    def _unit(vectors: np.ndarray) -> np.ndarray:
        return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
