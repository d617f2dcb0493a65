"""What learns from many scenes (``SceneLearner``), and what labels a scene it has never seen (``GeneralizableSegmenter``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.semantics import SemanticSource
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.generalization.classifier import ImageClassifier
from gs_semantic.segmentation.generalization.config import GeneralizationConfig
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView

Batch = Any  # tensors in nested dicts, lists, tuples; the trainer moves them to the device
ParameterGroups = list[dict[str, Any]]


class SceneLearner(nn.Module, ABC):
    """A network that ``MultiSceneTrainer`` trains. labels: its classes, ids 1..K without gaps, 0 = void.

    stages: trained one after the other, each from the weights of the one before; most have one. stage_presets: by stage and
    preset, options that differ from those of the preset. one_shape: do all
    batches of a stage have the same shapes, and does ``forward`` ask the GPU for no value? Then a GPU's steps are recorded.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[GeneralizationConfig]] = GeneralizationConfig
    stages: ClassVar[tuple[str, ...]] = ("train",)
    stage_presets: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}
    one_shape: bool = False

    def __init__(self, config: GeneralizationConfig, labels: LabelSet) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.stage = self.stages[0]

    @property
    def class_count(self) -> int:
        """K, void not among them."""
        return max(self.labels.names)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def initialise(self) -> None:
        """Called once for a learner that is new, not read from a checkpoint; override to take over parts of others."""

    def begin(self, stage: str) -> None:
        """Called before a stage is trained or evaluated; override to freeze what the stage does not train."""
        self.stage = stage

    def parameter_groups(self) -> ParameterGroups:
        """Groups for AdamW of what the stage trains; a group without ``lr`` has that of the configuration."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    @abstractmethod
    def sample(self, scenes: Sequence[LearningScene], random: np.random.Generator) -> Batch:
        """Draw what one iteration looks at, without gradients; where it lies is left to the method, the trainer moves it to
        ``device``. All chance comes from ``random``."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Weighted loss terms (scalars) of a batch; their sum is minimised."""

    @abstractmethod
    def evaluate(
        self, scenes: Sequence[LearningScene], views: int = 0, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """Scores at the novel views of scenes, at most ``views`` of each (0: all); "score" is what the best checkpoint
        has most of, and "miou" the mean IoU where there is one. ``stop`` is asked between any two views."""


@dataclass(frozen=True)
class GaussianClasses:
    """probabilities float32 (N,K) of class ids 1..K, each row sums to 1 or, for a Gaussian about which nothing is
    known, to 0."""

    probabilities: torch.Tensor

    @property
    def classes(self) -> torch.Tensor:
        """int32 (N,): most probable class id, 0 = nothing known."""
        best, index = self.probabilities.max(dim=1)
        return torch.where(best > 0, index + 1, 0).to(torch.int32)


@dataclass(frozen=True)
class ViewClasses:
    """What a view shows: classes int32 (H,W), 0 = nothing; confidence float32 (H,W) 0..1; probabilities (H,W,K) or None."""

    classes: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None


class GeneralizableSegmenter(SceneLearner):
    """Labels the Gaussians of a scene that was not learned from."""

    @abstractmethod
    def segment(
        self,
        gaussians: GaussianMap,
        views: Sequence[SceneView],
        rasterizer: Rasterizer,
        progress: Callable[[], object] = lambda: None,
    ) -> GaussianClasses:
        """Classes of all Gaussians from posed images of the scene (whose ``classes`` are not looked at).

        ``progress`` is called once for every view. InvalidInputError: no view, or none that sees any Gaussian.
        """

    def use_classifier(self, classifier: ImageClassifier) -> None:
        """Let another 2D segmenter judge images; InvalidRequestError for a method that is not based on one."""
        raise InvalidRequestError(f"method '{self.name}' does not take the opinions of another 2D segmenter")

    def live(self, rasterizer: Rasterizer) -> SemanticSource:
        """What labels a map keyframe by keyframe; InvalidRequestError for a method that needs all views at once."""
        raise InvalidRequestError(f"method '{self.name}' labels whole scenes; it cannot follow a map that grows")

    def show(
        self, gaussians: GaussianMap, known: GaussianClasses, camera: Camera, rasterizer: Rasterizer
    ) -> ViewClasses:
        """The classes of Gaussians, splatted into a view."""
        return splat(gaussians, known, camera, rasterizer)


@torch.no_grad()
def splat(gaussians: GaussianMap, known: GaussianClasses, camera: Camera, rasterizer: Rasterizer) -> ViewClasses:
    """Probabilities splatted as features: S(p) = sum_i w_i(p) s_i (GNeSF, Eq. 5 with Gaussians as samples)."""
    features = rasterizer.render(gaussians, camera, known.probabilities).features
    assert features is not None
    best, index = features.max(dim=-1)
    classes = torch.where(best > 1e-3, index + 1, 0).to(torch.int32)
    total = features.sum(dim=-1).clamp_min(1e-6)
    return ViewClasses(classes.numpy(), (best / total).numpy(), (features / total[..., None]).numpy())
