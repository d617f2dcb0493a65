"""Scores of a map at evaluation views: the same numbers for ``evaluate``, ``bench map`` and the demo."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.evaluation.instances import InstanceScore, RawMaskScore
from gs_semantic.evaluation.segmentation import ClassScore
from gs_semantic.gaussians import Camera, Frame
from gs_semantic.mapping.events import LabelImages

WITHHOLD_EVERY = 8  # frames kept for evaluation when no evaluation sequence is given


@dataclass(frozen=True)
class View:
    """A view to score at: the frame (never given to the map), its number in its sequence and its true classes."""

    index: int
    frame: Frame
    semantic: np.ndarray | None


class MapView(Protocol):
    """What shows a map: a mapper, or a map folder."""

    def render_labels(self, camera: Camera, stamp_ns: int) -> LabelImages: ...

    def render_colour(self, camera: Camera) -> np.ndarray:
        """uint8 (H, W, 3)."""
        ...


def withheld(index: int, every: int) -> bool:
    """Whether a frame is kept from the map when every k-th one is (0: none is)."""
    return every > 0 and index % every == every - 1


def mapped(sequence: FrameSequence, every: int) -> list[int]:
    """Frames that a map may see: neither withheld, nor kept for evaluation by the data set."""
    return [i for i in range(len(sequence)) if not withheld(i, every) and i not in sequence.test_indices]


@dataclass(frozen=True)
class Evaluation:
    """The views of a labelled sequence to score at."""

    sequence: FrameSequence
    indices: tuple[int, ...]

    @classmethod
    def of(cls, sequence: FrameSequence, every: int = 0) -> Evaluation:
        """The frames that ``every`` withholds from the map; with 0 those that the data set keeps for evaluation, or all."""
        frames = range(len(sequence))
        indices = tuple(i for i in frames if withheld(i, every)) if every else sequence.test_indices or tuple(frames)
        if not indices:
            raise InvalidRequestError(f"{sequence.folder}: {len(sequence)} frames, too few to withhold every {every}th")
        return cls(sequence, indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[View]:
        return (View(i, self.sequence[i], self.sequence.semantic(i)) for i in self.indices)


@dataclass
class MapScore:
    """Accumulates the scores of the views shown to it."""

    ignore: Iterable[int] = ()
    damage: Damage = field(default_factory=Damage)

    def __post_init__(self) -> None:
        ignore = tuple(self.ignore)
        self.instances = InstanceScore(ignore)
        self.raw = RawMaskScore(ignore)
        self.classes, self.raw_classes = ClassScore(), ClassScore()
        self.psnr_db: list[float] = []
        self._masks_seen = self._classes_seen = False

    def update(self, view: View, labels: LabelImages, rgb: np.ndarray) -> None:
        """Take what the map shows at a view: label images and colour uint8 (H, W, 3)."""
        self.psnr_db.append(psnr(rgb, view.frame.rgb))
        truth = view.frame.instances
        if truth is None:
            return
        self._masks_seen = True
        self.instances.update(labels.instance, truth)
        masks, infos = self.damage.apply(truth, view.frame.masks, view.index)
        self.raw.update(masks, truth)
        if view.semantic is not None:
            self._classes_seen = True
            self.classes.update(labels.semantic.astype(np.int32), view.semantic)
            table = np.zeros(int(masks.max()) + 1, np.int32)
            for mask_id, info in infos.items():
                table[mask_id] = info.class_id
            self.raw_classes.update(table[masks], view.semantic)

    def results(self, confirmed_slots: Iterable[int] | None = None) -> dict[str, float]:
        """The result keys; those without ground truth are left out. Only confirmed slots can be duplicates."""
        results: dict[str, float] = {}
        if self._masks_seen:
            slots = None if confirmed_slots is None else set(confirmed_slots)
            instances, raw = self.instances.result(duplicate_ids=slots), self.raw.result()
            results |= {
                "instance_miou": instances.miou,
                "instance_miou_large": instances.miou_large,
                "raw_mask_miou": raw.miou,
                "raw_mask_miou_large": raw.miou_large,
                "duplicate_ids_pct": instances.duplicates_pct,
            }
        if self._classes_seen:
            results |= {
                "semantic_miou": self.classes.result().miou,
                "raw_semantic_miou": self.raw_classes.result().miou,
            }
        finite = [value for value in self.psnr_db if math.isfinite(value)]
        if finite:
            results["psnr_db"] = float(np.mean(finite))
        return results


def score_views(
    shown: MapView,
    evaluation: Evaluation,
    damage: Damage,
    confirmed_slots: Iterable[int] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Render the map at every evaluation view and score it; ``progress`` is called after each."""
    score = MapScore(evaluation.sequence.group_ids, damage)
    for view in evaluation:
        camera = view.frame.camera
        score.update(view, shown.render_labels(camera, view.frame.stamp_ns), shown.render_colour(camera))
        progress()
    return score.results(confirmed_slots)
