"""Gaussian Grouping (Ye et al., ECCV 2024, arXiv 2312.00732): an identity per Gaussian, learned from tracked id images.

Differences from its public code are options: the number of ids is that of the scene, not 256, and the pixel loss is
taken at a random sample of pixels, which is an unbiased estimate of the loss over all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from gs_semantic.gaussians.gaussian_map import SH_C0
from gs_semantic.segmentation.config import TrainingConfig, option
from gs_semantic.segmentation.heads import LinearClassifier
from gs_semantic.segmentation.losses import identity_cross_entropy, neighbour_kl
from gs_semantic.segmentation.method import GaussianLoss, LiftingMethod
from gs_semantic.segmentation.neighbours import DeviceNeighbourIndex, NeighbourIndex
from gs_semantic.segmentation.registry import register


@dataclass(frozen=True)
class GroupingConfig(TrainingConfig):
    """Options of Gaussian Grouping; the defaults are those of its public configuration."""

    densify_until: int = option(10_000, "last iteration of densification", low=0, schedule=True)
    identity_dims: int = option(16, "channels of the identity", low=1, high=16)
    identity_weight: float = option(1.0, "weight of the pixels' cross entropy", low=0)
    identity_pixels: int = option(0, "random pixels of a view that it is taken at; 0: all", low=0)
    identity_near_borders: float = option(
        0.0, "share of these pixels that is drawn where ids change; 0: all evenly, an unbiased estimate", low=0, high=1
    )
    identity_moves_geometry: bool = option(True, "does the identity loss also move positions, scales and opacities")
    unlabelled: str = option(
        "class", "pixels with id 0 are a class of their own, or ignored", choices=("class", "ignore")
    )
    normalise_by: int = option(
        0, "ids that losses are normalised by; 0: those of the scene; the original has 256", low=0
    )
    lr_identity: float = option(2.5e-3, "learning rate of identities", low=0)
    lr_classifier: float = option(5e-4, "learning rate of the classifier", low=0)
    regularise_weight: float = option(2.0, "weight of the divergence between neighbours", low=0)
    regularise_every: int = option(5, "iterations from one such term to the next", low=1)
    regularise_from: int = option(0, "first iteration with such a term", low=0, schedule=True)
    regularise_points: int = option(1000, "random Gaussians that it is taken at", low=1)
    regularise_among: int = option(200_000, "Gaussians among which neighbours are looked for, at most", low=2)
    neighbours: int = option(5, "neighbours of each, the Gaussian itself among them", low=1)
    neighbours_every: int = option(
        1000, "iterations after which they are looked for anew although no row changed", low=1
    )

    presets: ClassVar = {
        # ten times the rates for a tenth of the steps: at 2.5e-3, identities hardly leave their random first values
        "quick": {"identity_pixels": 8192, "lr_identity": 2.5e-2, "lr_classifier": 5e-3},
        "standard": {"identity_pixels": 8192},
        "paper": {"normalise_by": 256},
    }


@register
class GaussianGrouping(LiftingMethod):
    """Identities by cross entropy of rendered identities, and neighbours that are alike."""

    name = "grouping"
    summary = "Gaussian Grouping: 16-D identity, linear classifier, neighbours alike"
    Config = GroupingConfig
    feature = "identity"
    needs_ids = True
    config: GroupingConfig

    def prepare(self) -> None:
        config = self.config
        self.gaussians.register("identity", (config.identity_dims,))
        self.classifier = LinearClassifier(
            config.identity_dims, self.scene.class_count, config.lr_classifier, self.random, self.device
        )
        self.normaliser = config.normalise_by or self.scene.class_count
        self._index: NeighbourIndex | DeviceNeighbourIndex | None = None
        self._index_made = 0

    def initialise(self) -> None:
        shape = tuple(self.gaussians["identity"].shape)
        uniform = self.random.random(shape, dtype=np.float32)
        self.gaussians["identity"] = (torch.from_numpy(uniform) - 0.5) / SH_C0

    @property
    def features_move_geometry(self) -> bool:
        return self.config.identity_moves_geometry

    @property
    def feature_rate(self) -> float:
        return self.config.lr_identity

    def pixel_losses(self, iteration: int, index: int, features: torch.Tensor) -> dict[str, torch.Tensor]:
        config = self.config
        classes = self.scene.classes(index, self.device)
        assert classes is not None
        pixels = self._pixels(index, classes)
        if not len(pixels):
            return {}
        rows = features.reshape(-1, features.shape[-1])
        if len(pixels) < len(classes) or self.config.identity_near_borders:
            rows, classes = rows.index_select(0, pixels), classes[pixels]
        loss = identity_cross_entropy(self.classifier(rows), classes, self.normaliser)
        return {"identity": config.identity_weight * loss}

    def _pixels(self, index: int, classes: torch.Tensor) -> torch.Tensor:
        """Pixels that the loss is taken at, drawn evenly among those that count, some of them near borders."""
        count = len(classes)
        if self.config.unlabelled == "ignore":
            counted = torch.nonzero(classes)[:, 0]
        else:
            counted = torch.arange(count, device=self.device)
        wanted = self.config.identity_pixels
        if not wanted or wanted >= len(counted):
            return counted
        near = self.scene.borders(index, self.device) if self.config.identity_near_borders else counted[:0]
        if self.config.unlabelled == "ignore":
            near = near[classes[near] > 0]
        of_borders = round(self.config.identity_near_borders * wanted) if len(near) else 0
        even = counted[self.drawn(wanted - of_borders, len(counted))]
        return torch.cat([even, near[self.drawn(of_borders, len(near))]]) if of_borders else even

    def gaussian_losses(self, iteration: int) -> GaussianLoss | None:
        config = self.config
        due = iteration % config.regularise_every == 0 and iteration >= config.regularise_from
        if not due or config.regularise_weight == 0 or len(self.gaussians) < 2:
            return None
        if self.device.type == "cpu":
            rows, place = self._neighbourhoods(iteration)
        else:
            rows, place = self._device_neighbourhoods(iteration)
        values = self.gaussians["identity"][rows].clone().requires_grad_()
        probabilities = self.classifier(values).softmax(dim=1)
        loss = neighbour_kl(probabilities[place[:, 0]], probabilities[place[:, 1:]], self.normaliser)
        return GaussianLoss({"neighbours": config.regularise_weight * loss}, rows, values)

    def _neighbourhoods(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (R,) of the map, each once, and where in them random Gaussians and their neighbours are, (T,1+K)."""
        index = self._neighbour_index(iteration)
        targets = index.sample(self.config.regularise_points, self.random)
        neighbours = self.find_neighbours(iteration, index, targets)
        used, places = np.unique(np.concatenate([targets[:, None], neighbours], axis=1), return_inverse=True)
        return torch.from_numpy(index.rows[used]), torch.from_numpy(places.reshape(len(targets), -1))

    def _device_neighbourhoods(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same; rows may be there several times, since the host would have to wait for their number."""
        index = self._device_index(iteration)
        targets = index.sample(self.config.regularise_points, self.random)
        places = torch.cat([targets[:, None], self.find_device_neighbours(iteration, index, targets)], dim=1)
        rows = index.rows[places.reshape(-1)]
        return rows, torch.arange(len(rows), device=rows.device).reshape(places.shape)

    def find_neighbours(self, iteration: int, index: NeighbourIndex, targets: np.ndarray) -> np.ndarray:
        """Positions (T,K) in ``index.rows`` of the neighbours of each target."""
        return index.nearest(targets, self.config.neighbours)

    def find_device_neighbours(
        self, iteration: int, index: DeviceNeighbourIndex, targets: torch.Tensor
    ) -> torch.Tensor:
        """The same on a device."""
        return index.nearest(targets, self.config.neighbours)

    def _neighbour_index(self, iteration: int) -> NeighbourIndex:
        if self._is_old(iteration):
            self._index = NeighbourIndex(self.gaussians.means.numpy(), self.config.regularise_among, self.random)
        assert isinstance(self._index, NeighbourIndex)
        return self._index

    def _device_index(self, iteration: int) -> DeviceNeighbourIndex:
        if self._is_old(iteration):
            self._index = DeviceNeighbourIndex(self.gaussians.means, self.config.regularise_among, self.random)
        assert isinstance(self._index, DeviceNeighbourIndex)
        return self._index

    def _is_old(self, iteration: int) -> bool:
        old = self._index is None or iteration - self._index_made >= self.config.neighbours_every
        if old:
            self._index_made = iteration
        return old

    def rows_changed(self) -> None:
        self._index = None

    def update_heads(self, iteration: int) -> None:
        self.classifier.step()

    def class_logits(self, features: torch.Tensor) -> torch.Tensor:
        logits = self.classifier(features)
        if self.config.unlabelled == "ignore":
            logits[:, 0] = -torch.inf  # never trained
        return logits

    def state_dict(self) -> dict[str, Any]:
        index, known = self._index, None
        if index is not None:
            known = {"rows": torch.as_tensor(index.rows), "points": torch.as_tensor(index.points)}
        own = {"classifier": self.classifier.state_dict(), "index": known, "index_made": self._index_made}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.classifier.load_state_dict(state["classifier"])
        known = state["index"]
        if known is None:
            self._index = None
        elif self.device.type == "cpu":
            self._index = NeighbourIndex.of(known["rows"].numpy(), known["points"].numpy())
        else:
            self._index = DeviceNeighbourIndex.of(known["rows"].to(self.device), known["points"].to(self.device))
        self._index_made = state["index_made"]
