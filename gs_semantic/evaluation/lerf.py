"""The LERF-Mask protocol of Gaussian Grouping: a prompt selects ids in one view, which are then looked for in others.

A prompt is grounded as a mask in one view. Ids that lie mostly inside that mask are selected; in every view the prompt's
mask is where one of them is probable. The published protocol grounds with a detector of text, this one by default
with the true mask of the first view that shows the prompt (*oracle grounding*): scores of the two do not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from gs_semantic.evaluation.boundary import MaskPairScore

IOA = 0.7  # share of an id's pixels inside the grounded mask above which it is selected
PROBABILITY = 0.2  # of a selected id, above which a pixel belongs to the prompt

Masks = Mapping[int, np.ndarray]  # view -> true mask bool (h, w) of a prompt
Grounding = Callable[[str, Masks], tuple[int, np.ndarray]]  # prompt, its true masks -> view, mask (h, w)


@dataclass(frozen=True)
class IdView:
    """What a method shows at one view. ``ids``: the most probable id of each pixel, int (H, W).

    ``probability(id)``: of an id at each pixel, float (H, W).
    """

    ids: np.ndarray
    probability: Callable[[int], np.ndarray]

    @classmethod
    def hard(cls, ids: np.ndarray, confidence: np.ndarray | None = None) -> IdView:
        """From an id image alone: the id shown has the probability ``confidence`` (0..1; default 1), others have none."""
        certain = 1.0 if confidence is None else confidence
        return cls(ids, lambda key: np.where(ids == key, certain, 0.0))


def oracle(prompt: str, truth: Masks) -> tuple[int, np.ndarray]:
    """Grounding by the true mask of the first view that shows the prompt."""
    view = min(view for view, mask in truth.items() if mask.any())
    return view, truth[view]


def select_ids(ids: np.ndarray, mask: np.ndarray, ioa: float = IOA) -> list[int]:
    """Ids of an image (H, W) whose share inside ``mask`` (h, w) is larger than ``ioa``, 0 (nobody) left out."""
    inside = fitted(mask, ids.shape)
    keys, dense = np.unique(ids, return_inverse=True)
    area = np.bincount(dense.ravel())
    hits = np.bincount(dense.ravel(), weights=inside.ravel())
    return [key for key, share in zip(keys.tolist(), (hits / area).tolist(), strict=True) if key and share > ioa]


def prompt_mask(view: IdView, selected: Sequence[int], probability: float = PROBABILITY) -> np.ndarray:
    """bool (H, W): where any of the selected ids is more probable than that."""
    mask = np.zeros(view.ids.shape, bool)
    for key in selected:
        mask |= view.probability(key) > probability
    return mask


def score_prompts(
    views: Mapping[int, IdView], truth: Mapping[str, Masks], grounding: Grounding = oracle
) -> MaskPairScore:
    """Mask and boundary IoU by prompt; ``truth``: the annotated masks of every prompt by view.

    A prompt without a selected id, and a view that ``views`` lacks, score 0. Predicted masks are brought to the size of
    the annotation (nearest pixel).
    """
    score = MaskPairScore()
    for prompt, masks in truth.items():
        if not any(mask.any() for mask in masks.values()):
            continue
        at, grounded = grounding(prompt, masks)
        selected = select_ids(views[at].ids, grounded) if at in views else []
        for number, mask in masks.items():
            shown = views.get(number)
            score.update(prompt, None if shown is None else fitted(prompt_mask(shown, selected), mask.shape), mask)
    return score


def fitted(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask bool (h, w) at another size (H, W), by nearest pixel."""
    if mask.shape == shape:
        return mask
    return np.array(Image.fromarray(mask).resize((shape[1], shape[0]), Image.Resampling.NEAREST))
