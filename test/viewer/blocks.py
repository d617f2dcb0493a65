"""A map of three blocks on a floor, each an object, made of small Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import SH_C0
from gs_semantic.gaussians.map_folder import save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.registry import ObjectRegistry, ObjectState

SIDE_M, STEP_M, SIGMA_M = 0.4, 0.04, 0.02
STAMP_NS = 1_700_000_000_000_000_000  # 2023-11-14 22:13:20 UTC


@dataclass(frozen=True)
class Block:
    x: float
    rgb: tuple[float, float, float]
    gaussians: int = 6 * round(SIDE_M / STEP_M) ** 2


BLOCKS = {
    "red block": Block(-0.8, (0.8, 0.1, 0.1)),
    "green block": Block(0.0, (0.1, 0.7, 0.1)),
    "blue block": Block(0.8, (0.1, 0.2, 0.8)),
}


def _surface(centre: np.ndarray) -> np.ndarray:
    """Points (N, 3) on the six sides of a cube."""
    line = (np.arange(round(SIDE_M / STEP_M)) + 0.5) * STEP_M - SIDE_M / 2
    a, b = (axis.ravel() for axis in np.meshgrid(line, line))
    sides = [np.roll(np.stack([np.full(a.size, at), a, b], 1), axis, 1) for axis in range(3) for at in (-SIDE_M / 2, SIDE_M / 2)]
    return np.concatenate(sides) + centre


class Blocks:
    """Writes the map into ``folder``: objects 1, 2, 3 of the classes in ``BLOCKS``."""

    def __init__(self, folder: Path, floor: int = 40) -> None:
        self.folder = folder
        gaussians, objects = GaussianMap(), ObjectRegistry(LabelSet(dict(enumerate(("void", *BLOCKS)))))
        gaussians.register("object", (), torch.int32)
        line = np.linspace(-1.6, 1.6, floor)
        ground = np.stack([*(axis.ravel() for axis in np.meshgrid(line, line)), np.full(floor**2, -0.02)], 1)
        self._add(gaussians, ground, (0.75, 0.75, 0.7), 0, 1.6 / floor)
        for slot, block in enumerate(BLOCKS.values(), start=1):
            self._add(gaussians, _surface(np.array([block.x, 0.0, SIDE_M / 2])), block.rgb, slot, SIGMA_M)
        register_votes(gaussians)
        slots = gaussians["object"].clone()
        gaussians["vote_object"][:, 0], gaussians["vote_weight"][:, 0] = slots, 3.0 * (slots > 0)
        for slot in range(1, len(BLOCKS) + 1):
            obj = objects.open(STAMP_NS)
            obj.state, obj.class_scores, obj.last_seen_ns = ObjectState.CONFIRMED, {slot: 3.0}, STAMP_NS + 10**9
            update_geometry(obj, gaussians, np.flatnonzero(slots.numpy() == slot))
        save_map(folder, gaussians, objects)

    @staticmethod
    def _add(gaussians: GaussianMap, points: np.ndarray, rgb: tuple[float, ...], slot: int, sigma: float) -> None:
        count = len(points)
        gaussians.add(
            means=torch.tensor(points, dtype=torch.float32),
            quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
            log_scales=torch.full((count, 3), float(np.log(sigma))),
            opacity_logits=torch.full((count,), 4.0),
            sh=((torch.tensor(rgb) - 0.5) / SH_C0).repeat(count, 1)[:, None],
            object=torch.full((count,), slot, dtype=torch.int32),
        )
