"""Unified-Lift (CVPR 2025, arXiv 2503.14029): a codebook of objects, learned together with contrastive features.

Masks come as a segmenter gives them, with ids that mean nothing beyond their view. Two levels: features of Gaussians by
contrast within a view (methods/contrastive.py), and codes, one an object, that the masks of every view are matched with.
What the codes learn reaches neither features nor geometry. Beyond the public code, the codebook grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from gs_semantic.segmentation.config import option
from gs_semantic.segmentation.heads import Codebook
from gs_semantic.segmentation.methods.contrastive import ContrastiveConfig, ContrastiveLifting
from gs_semantic.segmentation.registry import register
from gs_semantic.segmentation.untracked import (
    Draw,
    Prototypes,
    assign,
    class_loss,
    concentration_loss,
    confidence,
    mask_scores,
    unit,
)

MORE = 1.5  # a codebook that is too full gets as many times its codes
FREE = 0.5  # a code that was matched less often than this in a round is given to the next new object
ANSWERS = 0.5  # a second code answers to a mask, too, when it has this share of the score of the first
# beyond the publication: small masks are drawn more often, codes are opened where objects need them and joined where two
# are one; for many objects, and for masks as segmenters give them
BY_NEED = {"draw_balance": 0.5, "open_below": 0.9, "one_object": 0.2}
AS_PUBLISHED = {"draw_balance": 0.0, "open_below": 0.0, "one_object": 1.0}


@dataclass(frozen=True)
class UnifiedLiftConfig(ContrastiveConfig):
    """Options of Unified-Lift; the defaults are those of its public code, and what ``quick`` and ``standard`` change is not."""

    codes: int = option(256, "objects that the codebook has room for at first; it grows", low=1)
    grow_every: int = option(1000, "iterations between two looks at how full it is; 0: never", low=0, schedule=True)
    grow_from: float = option(0.75, "share of its codes in use from which it grows", low=0, high=1)
    in_use: float = option(
        2.0, "a code is an answer from this count of matches on; counts decay in a round of views, so about views a round",
        low=0,
    )  # fmt: skip
    one_object: float = option(
        1.0, "codes that answer together to this share of their masks are one object, as after masks that cut it in two; "
        "1: none are", low=0, high=1,
    )  # fmt: skip
    open_below: float = option(
        0.0,
        "a mask whose mean feature has a smaller cosine with its code opens a new one there; 0: none does",
        low=0,
        high=1,
    )
    association_pixels: int = option(0, "random pixels of a view for matching, filter and codes; 0: all", low=0)
    area_aware: bool = option(True, "masks are matched by sums over their pixels; without, by means")
    filter_below: float = option(0.8, "uncertainty of a pixel's mask below which it counts (tau); 1: all do", low=0,
                                 high=1)  # fmt: skip
    block_gradients: bool = option(True, "what codes learn does not reach the features")
    lr_codes: float = option(5e-4, "learning rate of codes", low=0)

    presets: ClassVar = {
        "quick": {**BY_NEED, "association_pixels": 4096, "lr_codes": 5e-3},
        "standard": {**BY_NEED, "association_pixels": 4096},
        "paper": {},
    }


@register
class UnifiedLift(ContrastiveLifting):
    """Contrastive features and a codebook; row 0 of the codebook is the background, where there is one."""

    name = "unified_lift"
    summary = "Unified-Lift: untracked masks, contrastive features, a codebook of objects that grows"
    Config = UnifiedLiftConfig
    config: UnifiedLiftConfig

    def prepare(self) -> None:
        super().prepare()
        config = self.config
        # numbers of its own, so that features are those of ``contrastive`` with the same seed
        self._choices = np.random.default_rng((config.seed, 1))
        self.codebook = Codebook(1 + config.codes, config.feature_dims, config.lr_codes, self._choices, self.device)

    @property
    def ids(self) -> np.ndarray:
        return np.arange(len(self.codebook))

    def pixel_losses(self, iteration: int, index: int, features: torch.Tensor) -> dict[str, torch.Tensor]:
        terms = super().pixel_losses(iteration, index, features)
        draw = self.draw(index, self.config.association_pixels, self._choices)
        if draw is None:
            return terms
        rows = features.reshape(-1, features.shape[-1]).index_select(0, self.on_device(draw.pixels))
        return terms | self._association(rows.detach() if self.config.block_gradients else rows, draw)

    def _association(self, features: torch.Tensor, draw: Draw) -> dict[str, torch.Tensor]:
        """Eq. 4 and 6 at the pixels that Eq. 7 keeps, with the codes that Eq. 5 gives them."""
        config, count = self.config, len(draw.classes)
        self.codebook.grow(1 + count)
        segments, weights = self.on_device(draw.segments), self.weights_of(draw)
        fixed = features.detach()
        probabilities = (fixed @ self.codebook.weight[self._first :].detach().T).softmax(dim=1)
        kept = confidence(fixed, segments, count) > 1 - config.filter_below
        scores = mask_scores(probabilities, segments, count, config.area_aware, weights)
        centres = unit(Prototypes.of(unit(fixed), segments, count).centres) if config.open_below else None
        matched = self._matched(scores, draw, centres)
        codes = self.codebook.weight[self._first :]
        targets = self.on_device(matched[draw.segments])
        counted = kept if weights is None else kept * weights
        distance = concentration_loss(codes, features, targets, counted)
        # without a pixel that is wrong there is nothing to learn from classes
        wrong = (probabilities.gather(1, targets[:, None])[:, 0] < probabilities.amax(dim=1)) & kept
        classes = class_loss(codes, features, targets, probabilities, counted) * wrong.any()
        return {"concentration": self.weights.concentration * distance, "class": self.weights.classes * classes}

    def _matched(self, scores: torch.Tensor, draw: Draw, centres: torch.Tensor | None = None) -> np.ndarray:
        """The position among the codes that take part, int64 (J,), of each mask; that of the background is fixed.

        centres: directions (J,D) of the masks, where those that no code explains open new ones."""
        found = np.zeros(len(draw.classes), np.int64)
        fixed = 1 - self._first  # codes at the front that only the background has
        masks = np.flatnonzero(draw.classes > 0) if fixed else np.arange(len(found))
        known = scores.cpu()[masks][:, fixed:]
        rows, columns = assign(known)
        found[masks[rows]] = columns + fixed
        if centres is not None:
            self._open(found, masks[rows], draw, centres)
        values, best = known.topk(min(2, known.shape[1]), dim=1)
        best = torch.where(values > ANSWERS * values[:, :1], best, best[:, :1])[:, [0, -1]]
        self.codebook.count(found + self._first, len(self.scene.train), best + fixed + self._first)
        return found

    def _open(self, found: np.ndarray, masks: np.ndarray, draw: Draw, centres: torch.Tensor) -> None:
        """Give free codes to those of ``masks`` whose own one lies far off; large ones first."""
        config, book = self.config, self.codebook
        own = unit(book.weight.detach()[torch.from_numpy(found[masks] + self._first).to(self.device)])
        cosines = (centres[torch.from_numpy(masks).to(self.device)] * own).sum(dim=1).cpu().numpy()
        pixels = np.bincount(draw.segments, minlength=len(found))[masks]
        new = np.flatnonzero((cosines < config.open_below) & (pixels > config.contrast_least))
        new = masks[new[np.argsort(-pixels[new], kind="stable")]]
        free = np.flatnonzero(book.used.numpy() < FREE)
        free = np.setdiff1d(free[free > 0], found + self._first)
        count = min(len(new), len(free))
        if count:
            new, free = new[:count], free[:count]
            book.put(free, centres[torch.from_numpy(new).to(self.device)])
            found[new] = free - self._first

    def update_heads(self, iteration: int) -> None:
        self.codebook.step()
        config, size = self.config, len(self.codebook) - 1
        if config.grow_every and iteration % config.grow_every == 0 and self._taken().sum() >= config.grow_from * size:
            self.codebook.grow(1 + int(MORE * size))

    def codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.nonzero(self._taken())[:, 0]
        objects = self.codebook.objects(rows, self.config.one_object)
        return self.codebook.weight.detach()[rows.to(self.device)], objects.to(self.device)

    def _taken(self) -> torch.Tensor:
        """bool (L,): codes that masks were matched with often enough of late."""
        taken = self.codebook.used >= self.config.in_use
        taken[: self._first] = False
        return taken

    def state_dict(self) -> dict[str, Any]:
        more = {"codebook": self.codebook.state_dict(), "choices": self._choices.bit_generator.state}
        return super().state_dict() | more

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.codebook.load_state_dict(state["codebook"])
        if "choices" in state:  # checkpoints of earlier versions have none
            self._choices.bit_generator.state = state["choices"]
