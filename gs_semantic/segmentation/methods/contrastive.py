"""Features per Gaussian by contrast, from masks whose ids mean nothing beyond their view; objects by clustering afterwards.

``ContrastiveLifting`` is the part that Unified-Lift shares with OmniSeg3D and Contrastive Lift; ``ClusteredContrast`` adds
what those do after training, HDBSCAN over features.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from gs_semantic.errors import MissingExtraError
from gs_semantic.evaluation.contingency import Contingency
from gs_semantic.gaussians import MaskInfo
from gs_semantic.gaussians.gaussian_map import SH_C0
from gs_semantic.segmentation.config import TrainingConfig, option
from gs_semantic.segmentation.method import LiftingMethod, SeenObject
from gs_semantic.segmentation.registry import register
from gs_semantic.segmentation.untracked import Draw, MaskPixels, contrastive_loss, norm_loss, unit

DESCRIBED_VIEWS = 24  # training views that say which class an object has
COVERED = 1e-3  # length of a feature below which nothing is there


@dataclass(frozen=True)
class Weights:
    """Of the loss terms; per_pixel: the contrastive term is a mean over pixels, not a sum divided by the masks."""

    contrast: float
    norm: float
    classes: float
    concentration: float
    per_pixel: bool


WEIGHTINGS = {
    "code": Weights(contrast=1e-6, norm=1e-6, classes=1e-4, concentration=1.0, per_pixel=False),
    "paper": Weights(contrast=1.0, norm=1.0, classes=1.0, concentration=1.0, per_pixel=True),
}

# of the presets with images of 320 px: objects first, their outlines last
SMALL_IMAGES = {"contrast_pixels": 8192, "contrast_least": 5, "contrast_balance": 0.5, "contrast_balance_end": 0.0}


@dataclass(frozen=True)
class ContrastiveConfig(TrainingConfig):
    """Options of features by contrast."""

    densify_until: int = option(10_000, "last iteration of densification", low=0, schedule=True)
    feature_dims: int = option(16, "channels of the features", low=1, high=16)
    weighting: str = option("code", "weights of the loss terms, as in the public code or the paper's supplement",
                            choices=tuple(WEIGHTINGS))  # fmt: skip
    contrast_pixels: int = option(32_768, "random pixels of a view for the contrast; 0: all", low=0)
    contrast_balance: float = option(
        0.0, "a mask of n pixels weighs as n^(1 - this) in the contrast; 1: all masks weigh the same", low=0, high=1
    )
    contrast_balance_end: float = option(
        -1.0, "the same at the end of training, reached evenly; below 0: as at the start", low=-1, high=1
    )
    draw_balance: float = option(
        0.0, "random pixels: a mask of n pixels gets as n^(1 - this) of them, each of which stands for more or fewer; "
        "0: all pixels alike", low=0, high=1,
    )  # fmt: skip
    contrast_least: int = option(20, "masks with no more of these pixels take no part in it", low=0)
    unlabelled: str = option(
        "ignore", "pixels with id 0: left out; a mask like others, as in the code; or the background in all views",
        choices=("ignore", "segment", "background"),
    )  # fmt: skip
    unassigned_below: float = option(0.2, "probability below which an answer is 'no object'", low=0, high=1)
    answer_temperature: float = option(
        0.03, "temperature of the cosines with codes that make an answer probable", low=1e-3
    )
    lr_features: float = option(2.5e-3, "learning rate of features", low=0)

    presets: ClassVar = {
        "quick": {**SMALL_IMAGES, "lr_features": 2.5e-2},
        "standard": SMALL_IMAGES,
        "paper": {},
    }


class ContrastiveLifting(LiftingMethod):
    """Features that are alike within a mask and differ between masks; how they become objects is up to the subclass."""

    feature = "identity"
    needs_ids = True
    makes_ids = True
    config: ContrastiveConfig

    def prepare(self) -> None:
        self.gaussians.register("identity", (self.config.feature_dims,))
        self.weights = WEIGHTINGS[self.config.weighting]
        self._by_mask: dict[int, MaskPixels] = {}  # of training views

    def initialise(self) -> None:
        shape = tuple(self.gaussians["identity"].shape)
        uniform = self.random.random(shape, dtype=np.float32)
        self.gaussians["identity"] = (torch.from_numpy(uniform) - 0.5) / SH_C0

    @property
    def features_move_geometry(self) -> bool:
        return False

    @property
    def feature_rate(self) -> float:
        return self.config.lr_features

    @property
    def _first(self) -> int:
        """The first class there can be: 0 is the background's."""
        return 0 if self.config.unlabelled == "background" else 1

    def draw(self, index: int, wanted: int, random: np.random.Generator | None = None) -> Draw | None:
        """``wanted`` pixels of a training view, with replacement (0: all, once), among those that count.

        random: in place of the method's own."""
        classes = self.scene.class_table(index)
        assert classes is not None
        counted = self.scene.labelled_pixels(index) if self.config.unlabelled == "ignore" else None
        count = len(classes) if counted is None else len(counted)
        if not count:
            return None
        if wanted and self.config.draw_balance:
            if index not in self._by_mask:
                pixels = np.arange(count) if counted is None else counted
                self._by_mask[index] = MaskPixels.of(pixels, classes[pixels])
            return Draw.balanced(self._by_mask[index], wanted, self.config.draw_balance, random or self.random)
        pixels = (random or self.random).integers(0, count, wanted) if wanted else np.arange(count)
        if counted is not None:
            pixels = counted[pixels].astype(np.int64)
        return Draw.of(pixels, classes[pixels])

    def pixel_losses(self, iteration: int, index: int, features: torch.Tensor) -> dict[str, torch.Tensor]:
        config, weights = self.config, self.weights
        draw = self.draw(index, config.contrast_pixels)
        if draw is None:
            return {}
        rows = features.reshape(-1, features.shape[-1]).index_select(0, self.on_device(draw.pixels))
        counted = self.weights_of(draw)
        terms = {"norm": weights.norm * norm_loss(rows, counted)}
        positions, segments, masks = draw.large_masks(config.contrast_least)
        if masks:
            places, balance = self.on_device(positions), self.balance(iteration)
            rows, counted = rows.index_select(0, places), None if counted is None else counted.index_select(0, places)
            contrast = contrastive_loss(rows, self.on_device(segments), masks, weights.per_pixel, balance, counted)
            terms["contrast"] = weights.contrast * contrast
        return terms

    def weights_of(self, draw: Draw) -> torch.Tensor | None:
        """How many pixels each of a draw stands for."""
        return None if draw.weights is None else self.on_device(draw.weights)

    def balance(self, iteration: int) -> float:
        """``contrast_balance`` at an iteration."""
        config = self.config
        if config.contrast_balance_end < 0:
            return config.contrast_balance
        done = min(1.0, iteration / config.iterations)
        return (1 - done) * config.contrast_balance + done * config.contrast_balance_end

    # --- answers ------------------------------------------------------------------------------------------------------

    def codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The objects there are: vectors (K,D) and their classes int64 (K,)."""
        raise NotImplementedError

    def _classified(self, features: torch.Tensor, block: int = 1 << 16) -> tuple[np.ndarray, np.ndarray]:
        """The class argmax_l C_l . F of each row (Eq. 2), 0 where it is improbable.

        Its probability is that of Eq. 7 with codes in place of prototypes: cosines at a low temperature, which do not
        depend on how long features have become. Where no Gaussian is, it is 0.
        """
        vectors, known = self.codes()
        if not len(known):
            return np.zeros(len(features), np.int64), np.zeros(len(features), np.float32)
        directions = unit(vectors).T
        classes, probabilities = [], []
        for part in features.split(block):
            winner = (part @ vectors.T).argmax(dim=1)
            shares = (unit(part) @ directions / self.config.answer_temperature).softmax(dim=1)
            probability = shares.gather(1, winner[:, None])[:, 0] * (part.norm(dim=1) > COVERED)
            classes.append(torch.where(probability < self.config.unassigned_below, 0, known[winner]))
            probabilities.append(probability)
        return torch.cat(classes).cpu().numpy(), torch.cat(probabilities).cpu().numpy()

    def seen_objects(self) -> dict[int, SeenObject]:
        """By overlap with the masks of training views spread evenly: each mask's class votes with its pixels."""
        votes: defaultdict[int, Counter[int]] = defaultdict(Counter)
        views: Counter[int] = Counter()
        labelled = [view for view in self.scene.train if view.ids is not None]
        for view in labelled[:: max(1, len(labelled) // DESCRIBED_VIEWS)]:
            shown = self.predict(view.camera).ids
            assert shown is not None and view.ids is not None
            table = Contingency.of(shown, view.ids, ignore=(0,))
            views.update(table.predictions.tolist())
            for mask, row in zip(table.truths.tolist(), table.pixels, strict=True):
                if mask in view.masks:
                    for key in np.flatnonzero(row):
                        votes[int(table.predictions[key])][view.masks[mask].class_id] += int(row[key])
        return {key: SeenObject(_winner(votes[key]), count) for key, count in views.items()}


def _winner(votes: Counter[int]) -> MaskInfo | None:
    if not votes:
        return None
    class_id, pixels = votes.most_common(1)[0]
    return MaskInfo(class_id, pixels / sum(votes.values()))


@dataclass(frozen=True)
class ClusteredConfig(ContrastiveConfig):
    """Options of clustering."""

    min_cluster_size: int = option(50, "HDBSCAN: fewest points of a cluster", low=2)
    cluster_points: int = option(10_000, "rendered features that are clustered, from all training views", low=10)


@register
class ClusteredContrast(ContrastiveLifting):
    """Contrastive features, clustered by HDBSCAN; a pixel belongs to the cluster whose mean is nearest."""

    name = "contrastive"
    summary = "features by contrast, clustered by HDBSCAN after training: what Unified-Lift is compared with"
    Config = ClusteredConfig
    config: ClusteredConfig

    def prepare(self) -> None:
        super().prepare()
        hdbscan()  # so that what is missing is said before training
        self.cluster_size = self.config.min_cluster_size
        self.cluster_seconds = 0.0  # of the last clustering
        self._centres: torch.Tensor | None = None

    def update_heads(self, iteration: int) -> None:
        self._centres = None

    def use_cluster_size(self, size: int) -> None:
        """Cluster with another smallest size; features stay."""
        self.cluster_size, self._centres = size, None

    def codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._centres is None:
            self._centres = self._clustered()
        count = len(self._centres)
        return self._centres[self._first :], torch.arange(self._first, count, device=self.device)

    @property
    def ids(self) -> np.ndarray:
        return np.arange(len(self.codes()[1]) + self._first)

    def _clustered(self) -> torch.Tensor:
        """Directions (1 + K,D): the mean of unlabelled pixels, then those of clusters of labelled ones."""
        features, labelled = self._sample()
        started = time.perf_counter()
        labels = np.full(len(features), -1)
        if labelled.sum() >= self.cluster_size:
            kind = hdbscan()
            labels[labelled] = kind(min_cluster_size=self.cluster_size, copy=True).fit_predict(features[labelled])
        self.cluster_seconds = time.perf_counter() - started
        labels += 1  # 0: noise
        groups = np.where(labelled, labels, labels.max() + 1)
        sums = np.zeros((labels.max() + 2, features.shape[1]), np.float32)
        np.add.at(sums, groups, features)
        return unit(torch.from_numpy(np.concatenate([sums[-1:], sums[1:-1]])).to(self.device))

    def _sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit features (P,D) of ``cluster_points`` pixels of all labelled training views, and which have a mask."""
        random = np.random.default_rng(self.config.seed)  # not the one of training: looking must not change it
        views = [index for index, view in enumerate(self.scene.train) if view.ids is not None]
        share = -(-self.config.cluster_points // len(views))
        features, labelled = [], []
        for index in views:
            view = self.scene.train[index]
            shown = self.rasterizer.render(self.gaussians, view.camera, self.gaussians["identity"]).features
            classes = self.scene.classes(index)
            assert shown is not None and classes is not None
            rows, unlabelled = torch.nonzero(classes)[:, 0].numpy(), torch.nonzero(classes == 0)[:, 0].numpy()
            chosen = [random.choice(some, min(share, len(some)), replace=False) for some in (rows, unlabelled)]
            pixels = torch.from_numpy(np.concatenate(chosen)).to(self.device)
            features.append(unit(shown.reshape(-1, shown.shape[-1])[pixels]).cpu().numpy())
            labelled.append(np.arange(len(pixels)) < len(chosen[0]))
        return np.concatenate(features), np.concatenate(labelled)


def hdbscan() -> Any:
    """The class, or MissingExtraError."""
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError as error:
        raise MissingExtraError.for_module("scikit-learn", "clustering", "method 'contrastive'") from error
    return HDBSCAN
