"""Labelled images of many scenes, decoded once and kept where the network is; parts of them, changed at random."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from gs_semantic.errors import InvalidInputError
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView

READERS = min(16, os.cpu_count() or 1)  # decoding is done outside of Python's lock
Result = TypeVar("Result")


def each_scene(
    scenes: Sequence[LearningScene], work: Callable[[LearningScene], Result]
) -> Iterator[tuple[LearningScene, Result]]:
    """``work`` of every scene in their order, of several at once."""
    with ThreadPoolExecutor(READERS) as pool:
        yield from zip(scenes, pool.map(work, scenes), strict=True)


@dataclass(frozen=True)
class ImageChanges:
    """How much a random part differs from its image. zoom: enlarged up to this much. gain, contrast, tint: spread of the
    logarithm of the exposure, of the contrast, and of each channel's exposure."""

    zoom: float = 1.6
    gain: float = 0.2
    contrast: float = 0.15
    tint: float = 0.05


@dataclass(frozen=True)
class LabelledImages:
    """rgb uint8 (N,3,H,W); classes uint8 (N,H,W), 0 = void."""

    rgb: torch.Tensor
    classes: torch.Tensor

    @classmethod
    def of(cls, scenes: Sequence[LearningScene], device: torch.device) -> LabelledImages:
        """All views of scenes, novel ones too; the scenes forget theirs.

        InvalidInputError names a view without classes, and images of several sizes.
        """
        rgb, classes = [], []
        for scene, views in each_scene(scenes, lambda scene: scene.views + scene.novel):
            rgb += [view.rgb for view in views]
            classes += [_classes(view) for view in views]
            scene.forget()
        sizes = {image.shape for image in classes}
        if len(sizes) > 1:
            raise InvalidInputError(
                f"images of {', '.join(f'{w}x{h}' for h, w in sorted(sizes))} cannot be learned from together; "
                "give scenes of one size, or set width"
            )
        colours = torch.from_numpy(np.stack(rgb)).to(device).permute(0, 3, 1, 2).contiguous()
        return cls(colours, torch.from_numpy(np.stack(classes)).to(device))

    def __len__(self) -> int:
        return len(self.rgb)

    def pixels(self, count: int) -> np.ndarray:
        """(count + 1,): number of pixels of each class."""
        found = sum(torch.bincount(part.flatten().int(), minlength=count + 1) for part in self.classes.split(256))
        assert isinstance(found, torch.Tensor)
        return found.cpu().numpy()[: count + 1]

    def plan(self, count: int, random: np.random.Generator, changes: ImageChanges) -> torch.Tensor:
        """Random parts of random images, as numbers float32 (count, 11) on the CPU for ``parts``."""
        plan = np.zeros((count, 11))
        plan[:, 0] = random.integers(len(self), size=count)
        scale = random.uniform(1.0, changes.zoom, count)
        reach = 1 - 1 / scale
        place = plan[:, 1:7].reshape(count, 2, 3)
        place[:, 0, 0] = random.choice([-1.0, 1.0], count) / scale
        place[:, 1, 1] = 1 / scale
        place[:, :, 2] = random.uniform(-1, 1, (count, 2)) * reach[:, None]
        plan[:, 1:7] = place.reshape(count, 6)
        exposure = random.normal(0, changes.gain, (count, 1)) + random.normal(0, changes.tint, (count, 3))
        plan[:, 7:] = np.exp(np.concatenate([exposure, random.normal(0, changes.contrast, (count, 1))], axis=1))
        return torch.from_numpy(plan.astype(np.float32))

    def parts(self, plan: torch.Tensor, every: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Colours (count,3,H,W), 0..1, and classes int64 (count,H/every,W/every), at the middles of squares of ``every``
        pixels, of a plan on the images' device. A GPU is asked for nothing, so this can be recorded as a graph."""
        with torch.no_grad(), torch.autocast(self.rgb.device.type, enabled=False):  # 16 bit cannot tell pixels apart
            return self._parts(plan, every)

    def _parts(self, plan: torch.Tensor, every: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, theta, look = plan[:, 0].long(), plan[:, 1:7].reshape(-1, 2, 3), plan[:, 7:, None, None]
        height, width = self.classes.shape[1:]
        rgb, classes = self.rgb[rows].float() / 255, self.classes[rows][:, None].float()
        grid = F.affine_grid(theta, [len(plan), 1, height, width], align_corners=False)
        rgb = F.grid_sample(rgb, grid, padding_mode="border", align_corners=False)
        grid = F.affine_grid(theta, [len(plan), 1, -(-height // every), -(-width // every)], align_corners=False)
        classes = F.grid_sample(classes, grid, mode="nearest", padding_mode="border", align_corners=False)
        mean = rgb.mean(dim=(1, 2, 3), keepdim=True)
        rgb = ((rgb - mean) * look[:, 3:] + mean) * look[:, :3]
        return rgb.clamp(0, 1), classes[:, 0].long()

    def draw(self, count: int, random: np.random.Generator, changes: ImageChanges) -> tuple[torch.Tensor, torch.Tensor]:
        """Random parts of random images: colours (count,3,H,W), 0..1, and classes int64 (count,H,W), of the whole size."""
        return self.parts(self.plan(count, random, changes).to(self.rgb.device))


def _classes(view: SceneView) -> np.ndarray:
    if view.classes is None:
        raise InvalidInputError(f"{view.name}: has no classes to learn from")
    return view.classes.astype(np.uint8)
