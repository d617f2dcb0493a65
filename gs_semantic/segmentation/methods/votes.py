"""Labels lifted in closed form: what learned identities have to be better than.

Every Gaussian gets the shares of the labels of the pixels that show it, in all training views, weighted by how much it shows
there (labels unprojected as CoSegGaussians, arXiv 2401.05925, Eq. 5, unprojects features). Nothing is learned beside colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import one_hot

from gs_semantic.segmentation.config import TrainingConfig, option
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.progress import LossTerms
from gs_semantic.segmentation.registry import register
from gs_semantic.segmentation.unprojection import Unprojection

SHARES = "label_shares"  # attribute of the map
LEAST = 1e-6  # share that a label without any pixel counts as


@dataclass(frozen=True)
class VotesConfig(TrainingConfig):
    """Options of label votes."""

    unlabelled: str = option(
        "class", "pixels with id 0 are a class of their own, or ignored", choices=("class", "ignore")
    )


@register
class LabelVotes(LiftingMethod):
    """Iterations are 3D Gaussian Splatting but for the last one, which lifts the labels."""

    name = "votes"
    summary = "labels lifted in closed form: every Gaussian has the label that most of its pixels show"
    Config = VotesConfig
    needs_ids = True
    config: VotesConfig

    def prepare(self) -> None:
        self.lifted = False

    def step(self, iteration: int, index: int) -> LossTerms:
        if iteration < self.config.iterations:
            return super().step(iteration, index)
        self._lift()
        return {}

    def _lift(self) -> None:
        count = self.scene.class_count
        sums = Unprojection(self.gaussians, self.rasterizer, count)
        for index, view in enumerate(self.scene.train):
            self.go_on()
            classes = self.scene.classes(index, self.device)
            if classes is not None:
                sums.add(view.camera, one_hot(classes, count).float().reshape(view.camera.height, -1, count))
        self.gaussians.register(SHARES, (count,))
        self.gaussians[SHARES] = sums.result().features
        self.lifted = True

    @property
    def answer_feature(self) -> str | None:
        return SHARES if self.lifted else None

    def class_logits(self, features: torch.Tensor) -> torch.Tensor | None:
        """Logarithms of the shares, whose softmax they are again."""
        logits = features.clamp_min(LEAST).log()
        if self.config.unlabelled == "ignore":
            logits[:, 0] = -torch.inf
        return logits

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"lifted": self.lifted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.lifted = state["lifted"]
