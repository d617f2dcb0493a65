"""Panoptic quality of a whole scene (PQ^scene): the segments of all views are one list, so an object that changes its id
from view to view is not found (Siddiqui et al., Panoptic Lifting, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from gs_semantic.evaluation.contingency import Contingency

VOID = 0  # class of pixels that nobody knows
BACKGROUND, FOREGROUND = 1, 2  # the classes of ``two_classes``
_SHIFT = 32  # a segment's number is class << 32 | instance


@dataclass(frozen=True)
class PanopticQuality:
    """Of one class, or the mean over classes: ``pq`` = ``sq`` x ``rq``.

    sq: mean IoU of the segments that were found. rq: their share, 2 TP / (2 TP + FP + FN).
    """

    pq: float
    sq: float
    rq: float


@dataclass(frozen=True)
class PanopticResult:
    """``by_class``: the classes kept; ``mean``: over them, NaN without any."""

    by_class: dict[int, PanopticQuality]

    @property
    def mean(self) -> PanopticQuality:
        values = [(quality.pq, quality.sq, quality.rq) for quality in self.by_class.values()]
        return PanopticQuality(*np.mean(values, axis=0).tolist()) if values else PanopticQuality(*[float("nan")] * 3)


@dataclass
class PanopticScore:
    """PQ over the pixels of all views at once.

    things: classes whose instances are told apart; all instances of a class in ``stuff`` are one segment; pixels of
    other classes are void. Where the truth is void, nothing is scored. least_share: classes that hold less than this
    share of the scored pixels in the truth *or in the prediction* do not count, as published. That lets a method off that
    never predicts a class; with ``keep_missed`` a rare prediction does not excuse a class that the truth shows.
    """

    things: Collection[int]
    stuff: Collection[int] = ()
    least_share: float = 0.005
    keep_missed: bool = False
    _table: Contingency = field(default_factory=Contingency, init=False)

    def update(
        self,
        predicted_classes: np.ndarray,
        predicted_instances: np.ndarray,
        true_classes: np.ndarray,
        true_instances: np.ndarray,
    ) -> None:
        """One view: images (H, W) of class ids, and of instance ids >= 0 that mean the same in all views."""
        predicted = self._segments(predicted_classes, predicted_instances)
        truth = self._segments(true_classes, true_instances)
        self._table += Contingency.of(predicted, truth, ignore=(VOID,))

    def _segments(self, classes: np.ndarray, instances: np.ndarray) -> np.ndarray:
        if classes.shape != instances.shape:
            raise ValueError(f"classes {classes.shape} and instances {instances.shape} must have the same shape")
        thing, stuff = np.isin(classes, list(self.things)), np.isin(classes, list(self.stuff))
        kind = classes.astype(np.int64) << _SHIFT
        return np.where(thing, kind | instances.astype(np.int64), np.where(stuff, kind, VOID))

    def result(self) -> PanopticResult:
        """Quality of all views so far."""
        table = self._table
        truth, predicted = table.truth_pixels, table.predicted_pixels
        true_class, predicted_class = table.truths >> _SHIFT, table.predictions >> _SHIFT
        void = table.pixels[:, table.predictions == VOID].sum(axis=1)  # of each true segment, in the prediction
        union = truth[:, None] + predicted[None] - void[:, None] - table.pixels
        iou = np.where(true_class[:, None] == predicted_class[None], table.pixels / np.maximum(union, 1), 0.0)
        hit = iou > 0.5  # then no other pair of either segment can be
        missed = ~hit.any(axis=1) & (void <= 0.5 * truth)
        false = ~hit.any(axis=0) & (table.predictions != VOID)
        by_class = {}
        for key in np.setdiff1d(np.union1d(true_class, predicted_class), [VOID]).tolist():
            rows, columns = true_class == key, predicted_class == key
            if not self._counts(truth[rows].sum(), predicted[columns].sum(), truth.sum()):
                continue
            ious = iou[rows][hit[rows]]
            found = len(ious) + (missed[rows].sum() + false[columns].sum()) / 2
            sq, rq = float(ious.mean()) if len(ious) else 0.0, len(ious) / found if found else 0.0
            by_class[int(key)] = PanopticQuality(sq * rq, sq, float(rq))
        return PanopticResult(by_class)

    def _counts(self, truth: int, predicted: int, total: int) -> bool:
        least = self.least_share * total
        return truth > 0 and truth >= least and (self.keep_missed or predicted >= least)


def two_classes(instances: np.ndarray, void: np.ndarray | None = None) -> np.ndarray:
    """Classes (H, W) for scenes of objects before a background (Messy Rooms): FOREGROUND where there is an instance,
    else BACKGROUND; VOID where ``void``, bool (H, W), says so."""
    classes = np.where(instances > 0, FOREGROUND, BACKGROUND)
    return classes if void is None else np.where(void, VOID, classes)
