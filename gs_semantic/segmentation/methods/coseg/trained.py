"""A trained field without its map: it gives identities to Gaussians that training never saw, as the live mapper adds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.objects.edit import PROBABILITY
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.registry import ObjectRegistry, ObjectState
from gs_semantic.rendering import Rasterizer, RasterSettings, create_rasterizer
from gs_semantic.segmentation.checkpoints import read_checkpoint
from gs_semantic.segmentation.config import make_config
from gs_semantic.segmentation.methods.coseg.decoder import Decoder
from gs_semantic.segmentation.methods.coseg.field import FeatureLifting, SegmentationField
from gs_semantic.segmentation.methods.coseg.method import (
    IDENTITY,
    CosegConfig,
    CoSegGaussians,
    lifting_of,
    load_encoder,
)
from gs_semantic.segmentation.unprojection import Projection


@dataclass(frozen=True)
class Answer:
    """identities (N,dims); ids int64 (N,), 0 = none; probability (N,); seen bool (N,): by any of the views."""

    identities: torch.Tensor
    ids: np.ndarray
    probability: np.ndarray
    seen: np.ndarray


class TrainedField:
    """What a checkpoint of method ``coseg`` knows: bases, encoder, decoder and the ids that it answers with."""

    def __init__(self, config: CosegConfig, lifting: FeatureLifting, field: SegmentationField, ids: np.ndarray) -> None:
        self.config, self.lifting, self.field, self.ids = config, lifting, field, ids

    @classmethod
    def load(cls, checkpoint: Path) -> TrainedField:
        """InvalidInputError names a file that is no checkpoint of a coseg run, or of one that was still building."""
        content = read_checkpoint(checkpoint)
        if content["method"] != CoSegGaussians.name:
            raise InvalidInputError(f"{checkpoint}: was trained with method '{content['method']}', expected 'coseg'")
        state, config = content["state"], make_config(CosegConfig, "paper", overrides=content["config"])
        if not state["begun"]:
            raise InvalidInputError(f"{checkpoint}: the run was still building its map; train it to its end (--resume)")
        lifting, ids = lifting_of(config), content["ids"].numpy()
        lifting.projections = tuple(Projection(**known) for known in state["projections"])
        channels = lifting.channels if config.image_features else []
        encoder = load_encoder(config) if config.spatial_features else None
        decoder = Decoder(channels, encoder is not None, config.scales, config.identity_dims, len(ids))
        decoder.load_state_dict(state["decoder"])
        return cls(config, lifting, SegmentationField(decoder, encoder, channels, config.scales), ids)

    @torch.no_grad()
    def answer(
        self,
        gaussians: GaussianMap,
        views: Sequence[tuple[Camera, np.ndarray]],
        rasterizer: Rasterizer | None = None,
    ) -> Answer:
        """Identities of all Gaussians of a map from views of them: cameras and images uint8 (H,W,3).

        What no view shows gets those of its nearest neighbours. InvalidInputError when the views show nothing.
        """
        rasterizer = rasterizer or create_rasterizer(self.config.rasterizer, RasterSettings(eps2d=self.config.eps2d))
        features = self.lifting.lift(gaussians, rasterizer, views)[0] if self.config.image_features else None
        clouds = (
            self.field.cloud(gaussians, rasterizer, camera, np.random.default_rng((self.config.seed, index)))
            for index, (camera, _) in enumerate(views)
        )
        identities, times = self.field.identities(gaussians, features, clouds)
        logits = self.field.decoder.logits(identities)
        if self.config.unlabelled == "ignore":
            logits[:, 0] = -torch.inf
        probability, classes = logits.softmax(dim=1).max(dim=1)
        return Answer(identities, self.ids[classes.numpy()], probability.numpy(), (times > 0).numpy())

    def label(
        self,
        gaussians: GaussianMap,
        objects: ObjectRegistry,
        views: Sequence[tuple[Camera, np.ndarray]],
        rows: np.ndarray | None = None,
        rasterizer: Rasterizer | None = None,
    ) -> int:
        """Give the Gaussians ``rows`` int64 (R,) of a map (None: all) their objects; returns how many the views show.

        What the views do not show keeps its object. Objects are found by the field's ids; one that the registry does
        not have is opened.
        """
        found = self.answer(gaussians, views, rasterizer)
        register_votes(gaussians)
        gaussians.register(PROBABILITY, ())
        gaussians.register(IDENTITY, (self.config.identity_dims,))
        chosen = np.arange(len(gaussians)) if rows is None else rows
        chosen = chosen[found.seen[chosen]]
        before = set(np.unique(gaussians["object"].numpy()[chosen]).tolist())
        slots = np.zeros(len(chosen), np.int32)
        for key in np.unique(found.ids[chosen]).tolist():
            if key:
                slots[found.ids[chosen] == key] = self._slot(objects, int(key))
        target = torch.from_numpy(chosen)
        probability = torch.from_numpy(found.probability[chosen])
        gaussians["object"][target] = torch.from_numpy(slots)
        gaussians[PROBABILITY][target] = probability
        gaussians[IDENTITY][target] = found.identities[target]
        gaussians["vote_object"][target] = 0
        gaussians["vote_weight"][target] = 0
        gaussians["vote_object"][target, 0] = torch.from_numpy(slots)
        gaussians["vote_weight"][target, 0] = torch.where(torch.from_numpy(slots) > 0, probability, 0)
        gaussians.touch(target, core=False)
        owner = gaussians["object"].numpy()
        for slot in sorted((before | set(np.unique(slots).tolist())) - {0}):
            if objects.has_slot(slot):
                update_geometry(objects.by_slot(slot), gaussians, np.flatnonzero(owner == slot))
        return len(chosen)

    @staticmethod
    def _slot(objects: ObjectRegistry, key: int) -> int:
        for obj in objects:
            if obj.id == key:
                return obj.slot
        obj = objects.open(object_id=key)
        obj.state = ObjectState.CONFIRMED
        return obj.slot
