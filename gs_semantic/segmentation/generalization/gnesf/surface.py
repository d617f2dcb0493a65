"""The surface that a labelled view shows: points to learn at, drawn by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.segmentation.generalization.scenes import SceneView


@dataclass(frozen=True)
class LabelledSurface:
    """points float32 (R,3) m in the world frame and their classes int64 (R,), on one device; chance float64 (R,): running
    sum of the probability with which each is drawn, on the CPU."""

    points: torch.Tensor
    classes: torch.Tensor
    chance: np.ndarray

    @classmethod
    def of(cls, view: SceneView, depth: np.ndarray, balance: float, device: torch.device | str) -> LabelledSurface:
        """Of the pixels of a view that have a class and depth (H,W) m. balance: a pixel is drawn by its class's number of
        pixels to the power of minus this. InvalidInputError: the view has no classes."""
        if view.classes is None:
            raise InvalidInputError(f"{view.name}: has no classes to learn from")
        classes = view.classes.ravel().astype(np.int64)
        rows = np.flatnonzero((classes > 0) & (depth.ravel() > 0))
        classes = classes[rows]
        points = view.camera.unproject(depth).reshape(-1, 3)[rows].astype(np.float32)
        chance = running_chance(classes, balance)
        return cls(torch.from_numpy(points).to(device), torch.from_numpy(classes).to(device), chance)

    def __len__(self) -> int:
        return len(self.chance)

    def draw(self, count: int, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (count,3) and their classes (count,); one may come twice."""
        rows = torch.from_numpy(draw(self.chance, count, random)).to(self.points.device)
        return self.points[rows], self.classes[rows]


def running_chance(classes: np.ndarray, balance: float) -> np.ndarray:
    """float64 (R,): running sum of the probability of each of R things, their class's number to the power of -balance."""
    weight = np.bincount(classes, minlength=1).astype(np.float64)[classes] ** -balance
    chance: np.ndarray = np.cumsum(weight) / max(weight.sum(), 1e-300)
    return chance


def draw(chance: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Positions int64 (count,), by a running sum of probabilities; one may come twice."""
    return np.minimum(np.searchsorted(chance, random.random(count), side="right"), len(chance) - 1)
