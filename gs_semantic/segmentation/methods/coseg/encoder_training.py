"""Training of the spatial encoder on labelled rooms: classes of points, from where they lie alone.

Every step takes the points that one frame's depth shows, as a view of a map shows its Gaussians, and their classes.
Recordings may have different label sets; classes with the same name are one. The decoder is RandLA-Net's and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians.frame import class_image
from gs_semantic.segmentation.config import option
from gs_semantic.segmentation.methods.coseg.encoder import SharedMLP, SpatialEncoder
from gs_semantic.segmentation.methods.coseg.pyramid import Pyramid

VOID_NAMES = ("void", "unlabelled", "unknown")
WEIGHT_OFFSET = 0.02  # added to a class's share before its weight is 1 / share, as RandLA-Net does


@dataclass(frozen=True)
class EncoderConfig:
    """Options of `gs-semantic train spatial_encoder`."""

    iterations: int = option(3000, "optimisation steps", low=1)
    points: int = option(8192, "points of a frame", low=256)
    batch: int = option(2, "frames of a step", low=1)
    lr: float = option(1e-2, "learning rate at the start; it falls to a hundredth", low=0)
    hold_out_every: int = option(8, "every k-th frame is scored, not trained on", low=2)
    max_depth: float = option(6.0, "points farther away are left out, m", low=0.1)
    seed: int = option(0, "seed of every random choice", low=0)


@dataclass(frozen=True)
class Room:
    """Points of a frame: xyz float32 (N,3) m, world frame, z up; classes int64 (N,), 0 = unknown."""

    xyz: np.ndarray
    classes: np.ndarray


class Rooms:
    """Frames of recordings as rooms, with one table of classes for all of them. Frames are read once and kept as points."""

    def __init__(self, sequences: Sequence[FrameSequence], config: EncoderConfig) -> None:
        self.config, self.names = config, ["void"]
        self.train: list[Room] = []
        self.held_out: list[Room] = []
        random = np.random.default_rng(config.seed)
        for sequence in sequences:
            for index in range(len(sequence)):
                room = self._room(sequence, index, random)
                if room is not None:
                    held = index % config.hold_out_every == config.hold_out_every - 1
                    (self.held_out if held else self.train).append(room)
        if not self.train:
            names = ", ".join(str(sequence.folder) for sequence in sequences)
            raise InvalidInputError(f"{names}: no frame has both depth and labels; the encoder learns from both")

    def _common(self, classes: np.ndarray, sequence: FrameSequence) -> np.ndarray:
        """Class ids of a recording as places in the common table of names; 0 for what means nothing."""
        keys, dense = np.unique(classes, return_inverse=True)
        places = np.zeros(len(keys), np.int64)
        for k, key in enumerate(keys.tolist()):
            name = sequence.labels.name(key).lower()
            if key > 0 and name not in VOID_NAMES:
                if name not in self.names:
                    self.names.append(name)
                places[k] = self.names.index(name)
        return places[dense.reshape(-1)]

    def _room(self, sequence: FrameSequence, index: int, random: np.random.Generator) -> Room | None:
        frame = sequence[index]
        classes = sequence.semantic(index)
        if classes is None and frame.instances is not None:
            classes = class_image(frame.instances, frame.masks)
        if frame.depth is None or classes is None:
            return None
        depth = np.where(frame.depth <= self.config.max_depth, frame.depth, 0)
        points = frame.camera.unproject(depth)
        rows = np.flatnonzero(np.isfinite(points[..., 2]))
        if len(rows) < self.config.points // 4:
            return None
        chosen = random.choice(rows, min(len(rows), 4 * self.config.points), replace=False)
        known = self._common(classes.ravel()[chosen], sequence)
        return Room(points.reshape(-1, 3)[chosen], known) if known.any() else None


class PointClassifier(nn.Module):
    """The encoder and RandLA-Net's decoder: nearest neighbours up, joined with what was there, to the classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = SpatialEncoder()
        skips = SpatialEncoder.channels
        self.bottom = SharedMLP(SpatialEncoder.last_channels, SpatialEncoder.last_channels)
        inputs = (*skips[1:], SpatialEncoder.last_channels)
        self.ups = nn.ModuleList(SharedMLP(skip + coarse, skip) for skip, coarse in zip(skips, inputs, strict=True))
        self.head = nn.Sequential(SharedMLP(skips[0], 64), SharedMLP(64, 32), nn.Dropout(0.5), nn.Linear(32, classes))

    def forward(self, pyramid: Pyramid) -> torch.Tensor:
        """Logits (N,classes) of the pyramid's first cloud."""
        found = self.encoder(pyramid)
        values = self.bottom(found.last)
        for k in reversed(range(len(self.ups))):
            nearest = pyramid.up[k].indices[:, 0]
            values = self.ups[k](torch.cat([found.scales[k], values[nearest]], dim=1))
        return self.head(values)


class EncoderTrainer:
    """Adam on weighted cross entropy; ``run`` trains, ``score`` tells the held-out frames' mean accuracy over classes."""

    def __init__(self, rooms: Rooms, config: EncoderConfig) -> None:
        self.rooms, self.config = rooms, config
        self.random = np.random.default_rng(config.seed)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = PointClassifier(len(rooms.names))
        counts = np.bincount(np.concatenate([room.classes for room in rooms.train]), minlength=len(rooms.names))
        share = counts / max(1, counts[1:].sum())
        self.weights = torch.from_numpy(1 / (share + WEIGHT_OFFSET)).float()
        self.weights[0] = 0

    def run(
        self,
        report: Callable[[int, float], object] = lambda iteration, loss: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train; False when cancelled. ``report`` gets the iteration and its loss."""
        config, model = self.config, self.model
        adam = torch.optim.Adam(model.parameters(), lr=config.lr)
        fall = torch.optim.lr_scheduler.ExponentialLR(adam, 0.01 ** (1 / config.iterations))
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)  # dropout
            for iteration in range(1, config.iterations + 1):
                if cancelled():
                    return False
                model.train()
                total = 0.0
                for _ in range(config.batch):
                    room = self.rooms.train[int(self.random.integers(len(self.rooms.train)))]
                    loss = self._loss(self._augmented(room)) / config.batch
                    loss.backward()
                    total += float(loss.detach())
                adam.step()
                adam.zero_grad()
                fall.step()
                report(iteration, total)
        self.model.eval()
        return True

    def _loss(self, room: Room) -> torch.Tensor:
        pyramid, classes = self._pyramid(room)
        return cross_entropy(self.model(pyramid), classes, weight=self.weights)

    def _pyramid(self, room: Room) -> tuple[Pyramid, torch.Tensor]:
        pyramid = Pyramid.of(room.xyz - room.xyz.mean(axis=0, keepdims=True), self.random)
        return pyramid, torch.from_numpy(room.classes)[pyramid.clouds[0].rows]

    def _augmented(self, room: Room) -> Room:
        """Some of its points (also fewer, so that density does not matter), turned about the vertical, mirrored, scaled a
        little, with noise of some millimetres."""
        random = self.random
        wanted = int(self.config.points * random.uniform(0.3, 1))
        chosen = random.choice(len(room.xyz), min(wanted, len(room.xyz)), replace=False)
        angle = random.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        turn[:, 0] *= random.choice([-1, 1])
        xyz = room.xyz[chosen] @ turn.T * random.uniform(0.9, 1.1) + random.normal(0, 0.004, (len(chosen), 3))
        return Room(xyz.astype(np.float32), room.classes[chosen])

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """accuracy and mean_accuracy (over the classes that occur) of points of held-out frames."""
        self.model.eval()
        hits, counts = np.zeros(len(self.rooms.names)), np.zeros(len(self.rooms.names))
        for room in self.rooms.held_out:
            part = slice(0, self.config.points)
            pyramid, classes = self._pyramid(Room(room.xyz[part], room.classes[part]))
            right = (self.model(pyramid)[:, 1:].argmax(dim=1) + 1 == classes).numpy()
            counts += np.bincount(classes.numpy(), minlength=len(counts))
            hits += np.bincount(classes.numpy()[right], minlength=len(counts))
        seen = counts > 0
        seen[0] = False
        if not seen.any():
            return {}
        return {
            "accuracy": float(hits[seen].sum() / counts[seen].sum()),
            "mean_accuracy": float(np.mean(hits[seen] / counts[seen])),
        }


def encoder_config(overrides: dict[str, Any]) -> EncoderConfig:
    """Options changed by ``overrides``; InvalidRequestError names one that does not fit."""
    from gs_semantic.segmentation.config import checked_options

    return EncoderConfig(**checked_options(EncoderConfig, overrides))
