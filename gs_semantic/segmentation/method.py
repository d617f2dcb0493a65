"""What every lifting method has in common: joint training of colour, geometry and a feature per Gaussian.

A method overrides the hooks that it differs in, or ``step`` as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, GaussianMap, MaskInfo
from gs_semantic.rendering import Rasterizer, RasterSettings, create_rasterizer
from gs_semantic.rendering.losses import ssim_l1_gradient
from gs_semantic.rendering.step import StepRates
from gs_semantic.segmentation.config import TrainingConfig
from gs_semantic.segmentation.densification import Densifier
from gs_semantic.segmentation.engine import EngineSettings, ImageGradients, Pass, StepStatistics, make_engine
from gs_semantic.segmentation.progress import LossTerms, check_finite
from gs_semantic.segmentation.scene import Scene, first_gaussians


@dataclass(frozen=True)
class GaussianLoss:
    """Loss terms on the features of some Gaussians: ``values`` (R,C) is a leaf of the terms' graph, ``rows`` (R,) its rows."""

    terms: dict[str, torch.Tensor]
    rows: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class Prediction:
    """What the trained map shows at a view: rgb uint8 (H,W,3); ids int64 (H,W) and how probable they are, float32 (H,W),
    both None for a method without."""

    rgb: np.ndarray
    ids: np.ndarray | None
    confidence: np.ndarray | None = None


@dataclass(frozen=True)
class SeenObject:
    """The class that masks gave an object, where they gave one, and the number of training views that show it."""

    info: MaskInfo | None
    views: int


class TrainingCancelled(Exception):
    """Raised by a method within long work, before it changed anything, when ``cancelled`` says so."""


class LiftingMethod:
    """A map under training. ``step`` is one iteration; the trainer calls it with views in random order.

    All state is in ``gaussians`` and in ``state_dict``; random choices use ``random`` alone, so a run that is resumed
    goes on as if nothing had happened. rasterizer: in place of the configured one; gaussians: a map from a checkpoint.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[TrainingConfig]] = TrainingConfig
    feature: ClassVar[str | None] = None  # the attribute that is rendered as features
    needs_ids: ClassVar[bool] = False
    # torch's own threads would only take the rasteriser's cores between two calls; None: as many as torch has
    torch_threads: ClassVar[int | None] = 1
    makes_ids: ClassVar[bool] = False  # answers with ids of its own, not with those of the training views

    def __init__(
        self,
        config: TrainingConfig,
        scene: Scene,
        rasterizer: Rasterizer | None = None,
        gaussians: GaussianMap | None = None,
    ) -> None:
        if self.needs_ids and not scene.labelled:
            raise InvalidInputError(
                f"{scene.name}: none of the views to train on has labels; {self.name} lifts id images "
                "(run a segmenter over the recording, or train method 'plain' for colour alone)"
            )
        self.config, self.scene = config, scene
        self.rasterizer = rasterizer or create_rasterizer(config.rasterizer, RasterSettings(eps2d=config.eps2d))
        self.device = self.rasterizer.device  # of the map and of all that is trained
        self.random = np.random.default_rng(config.seed)
        self.cancelled: Callable[[], bool] = lambda: False  # the trainer's
        fresh = gaussians is None
        self.gaussians = first_gaussians(scene, config) if gaussians is None else gaussians
        if self.gaussians.device != self.device:
            self.gaussians = self.gaussians.snapshot(self.device)
        self.prepare()
        if fresh:
            self.initialise()
        settings = EngineSettings(self.feature, self.features_move_geometry, config.adam == "all")
        self.engine = make_engine(self.gaussians, self.rasterizer, settings)
        self.densifier = Densifier(self.gaussians, self.engine, config, scene.extent, self.random)

    def go_on(self) -> None:
        """Called within long work. TrainingCancelled when the run is cancelled."""
        if self.cancelled():
            raise TrainingCancelled

    # --- hooks ------------------------------------------------------------------------------------------------------

    @property
    def warnings(self) -> list[str]:
        """What the views lack, in words."""
        found, views = list(self.scene.warnings), self.scene.train
        without = [view.name for view in views if view.ids is None]
        if self.needs_ids and without:
            found.append(
                f"{len(without)} of {len(views)} views have no masks and teach colour alone, first {without[0]}"
            )
        return found

    @property
    def features_move_geometry(self) -> bool:
        """Does the loss on features also move positions, scales and opacities?"""
        return True

    def prepare(self) -> None:
        """Register attributes of the map and make what else is trained."""

    def initialise(self) -> None:
        """First values; not called when training is resumed."""

    def pixel_losses(self, iteration: int, index: int, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted loss terms of rendered features (H,W,C) at a labelled training view."""
        return {}

    def gaussian_losses(self, iteration: int) -> GaussianLoss | None:
        """Weighted loss terms on the Gaussians' own features, in iterations that have them."""
        return None

    def update_heads(self, iteration: int) -> None:
        """Let what is not part of the map take a step; its gradients are there."""

    def before_step(self, iteration: int, index: int, forward: Pass, gradients: ImageGradients) -> None:
        """Look at a training view and the gradients of its images before anything moves."""

    def wants_feature_gradients(self, iteration: int) -> bool:
        """Should ``observe`` get the gradients of the Gaussians' features?"""
        return False

    def observe(self, iteration: int, index: int, statistics: StepStatistics) -> None:
        """Look at a step that was taken."""
        camera = self.scene.train[index].camera
        self.densifier.observe(statistics, camera.width, camera.height)

    def densify(self, iteration: int) -> None:
        """Change the number of Gaussians when it is time to."""
        config = self.config
        if self.densifier.due(iteration):
            self.densifier.round(iteration)
            self.rows_changed()
        every = config.opacity_reset_every
        if every and iteration % every == 0 and iteration < config.densify_until:
            self.densifier.reset_opacity()

    def rows_changed(self) -> None:
        """Rows of the map came or went."""

    def class_logits(self, features: torch.Tensor) -> torch.Tensor | None:
        """(P,C) logits of the scene's classes for features (P,D); None for a method without ids."""
        return None

    @property
    def ids(self) -> np.ndarray:
        """int64 (C,): the id of each class; class 0 has id 0, no object."""
        return self.scene.ids

    def parameters(self) -> dict[str, int]:
        """Learnable numbers beside geometry and colour, by part; names of frozen parts begin with ``frozen``."""
        return {"identities": self.gaussians[self.feature].numel()} if self.feature else {}

    def lifted_features(self) -> torch.Tensor | None:
        """(N,D): 2D features on the Gaussians, for a method that has some."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What is not in the map: tensors and plain values."""
        return {"random": self.random.bit_generator.state, "densifier": self.densifier.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.bit_generator.state = state["random"]
        self.densifier.load_state_dict(state["densifier"])

    # --- training ---------------------------------------------------------------------------------------------------

    def step(self, iteration: int, index: int) -> LossTerms:
        """One iteration (from 1) on a training view; returns the loss terms. TrainingError names one that is not finite.

        On a device the terms stay there as scalars, unchecked: whoever reads each would make the host wait in each step.
        """
        config, view = self.config, self.scene.train[index]
        degree = min(config.sh_degree, iteration // config.sh_every)
        if degree > self.gaussians.sh_degree:
            self.engine.raise_sh_degree(degree)
        labelled = self.feature is not None and view.ids is not None
        forward = self.engine.forward(view.camera, labelled)
        target = self.scene.colour(index, self.device)
        colour, grad_rgb = ssim_l1_gradient(forward.rendering.rgb.detach(), target, config.ssim_weight)
        if view.ignored is not None:
            grad_rgb[torch.from_numpy(view.ignored).to(self.device)] = 0
        losses: dict[str, float | torch.Tensor] = {"colour": colour}
        gradients, waits = ImageGradients(grad_rgb), self.device.type == "cpu"
        if labelled:
            assert forward.rendering.features is not None
            image = forward.rendering.features.detach().requires_grad_()
            terms = self.pixel_losses(iteration, index, image)
            own = self.gaussian_losses(iteration)
            if own is not None:
                terms = terms | own.terms
            losses |= as_numbers(terms) if waits else {name: term.detach() for name, term in terms.items()}
            if waits:
                self._check(losses, iteration, view.name)
            if terms:
                sum(terms.values()).backward()  # type: ignore[union-attr]
                self.update_heads(iteration)
            features = torch.zeros_like(image) if image.grad is None else image.grad
            rows, values = (None, None) if own is None else (own.rows, own.values.grad)
            gradients = ImageGradients(grad_rgb, features, None if values is None else rows, values)
        if waits:
            self._check(losses, iteration, view.name)
        self.before_step(iteration, index, forward, gradients)
        wanted = labelled and self.wants_feature_gradients(iteration)
        statistics = self.engine.step(forward, gradients, self.rates(iteration), wanted)
        self.observe(iteration, index, statistics)
        self.densify(iteration)
        return losses

    @staticmethod
    def _check(losses: LossTerms, iteration: int, view: str) -> None:
        check_finite({name: float(value) for name, value in losses.items()}, iteration, view)

    def rates(self, iteration: int) -> StepRates:
        """Learning rates; that of positions falls log-linearly."""
        config = self.config
        done = min(1.0, iteration / config.iterations)
        means = 0.0
        if config.lr_means > 0 and config.lr_means_end > 0:
            means = math.exp((1 - done) * math.log(config.lr_means) + done * math.log(config.lr_means_end))
        return StepRates(
            means=means * self.scene.extent,
            quats=config.lr_quats,
            log_scales=config.lr_scales,
            opacity_logits=config.lr_opacity,
            sh=config.lr_colour,
            sh_rest=config.lr_colour_rest,
            features=self.feature_rate,
        )

    @property
    def feature_rate(self) -> float:
        """Learning rate of the features."""
        return 0.0

    # --- answers ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, camera: Camera) -> Prediction:
        """Colour and ids at any view, 0 = no object."""
        name = self.answer_feature
        features = None if name is None else self.gaussians[name]
        rendering = self.rasterizer.render(self.gaussians, camera, features)
        rgb = (rendering.rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        if rendering.features is None:
            return Prediction(rgb, None)
        shape = camera.height, camera.width
        classes, probability = self._classified(rendering.features.reshape(-1, rendering.features.shape[-1]))
        return Prediction(rgb, self.ids[classes].reshape(shape), probability.reshape(shape))

    @torch.no_grad()
    def gaussian_classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Class int64 (N,) of each Gaussian, a position in ``ids``, and its probability (N,)."""
        name = self.answer_feature
        if name is None:
            return np.zeros(len(self.gaussians), np.int64), np.zeros(len(self.gaussians), np.float32)
        return self._classified(self.gaussians[name])

    @property
    def answer_feature(self) -> str | None:
        """The attribute that answers are made of; None as long as there are none."""
        return self.feature

    def seen_objects(self) -> dict[int, SeenObject]:
        """What the training views know of each id."""
        views = [np.unique(view.ids) for view in self.scene.train if view.ids is not None]
        ids, counts = np.unique(np.concatenate(views), return_counts=True)
        return {
            key: SeenObject(self.scene.infos.get(key), count)
            for key, count in zip(ids.tolist(), counts.tolist(), strict=True)
        }

    def _classified(self, features: torch.Tensor, block: int = 1 << 16) -> tuple[np.ndarray, np.ndarray]:
        """Most probable class of each row, and its probability."""
        classes, probabilities = [], []
        for part in features.split(block):
            logits = self.class_logits(part)
            assert logits is not None
            best, winner = logits.max(dim=1)
            classes.append(winner)
            probabilities.append((best - logits.logsumexp(dim=1)).exp())
        return torch.cat(classes).cpu().numpy(), torch.cat(probabilities).cpu().numpy()

    def drawn(self, count: int, below: int) -> torch.Tensor:
        """int64 (count,): random numbers from 0 to ``below`` - 1, with replacement."""
        return self.on_device(self.random.integers(0, below, count))

    def on_device(self, values: np.ndarray) -> torch.Tensor:
        """A copy where the map is; the host does not wait for it."""
        known = torch.from_numpy(values)
        return (
            known.pin_memory().to(self.device, non_blocking=True)
            if self.device.type == "cuda"
            else known.to(self.device)
        )


def as_numbers(terms: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The values of scalars, all fetched at once."""
    return (
        dict(zip(terms, torch.stack([t.detach() for t in terms.values()]).cpu().tolist(), strict=True)) if terms else {}
    )
