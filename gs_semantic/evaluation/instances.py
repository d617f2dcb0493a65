"""Instance score of rendered object images against ground truth."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from gs_semantic.evaluation.contingency import Contingency, mean

LARGE_PIXELS = 2000  # evaluation pixels from which a ground-truth instance counts as large


@dataclass(frozen=True)
class InstanceResult:
    """``iou`` and ``pixels`` by ground-truth id, ``match`` its map id (absent when unmatched).

    ``miou`` is the plain mean of iou, ``miou_large`` over instances with >= LARGE_PIXELS pixels; NaN without any.
    ``duplicates_pct``: map ids beyond the first that lie mostly on the same instance, per hundred instances.
    """

    iou: dict[int, float]
    pixels: dict[int, int]
    match: dict[int, int]
    duplicates_pct: float

    @property
    def miou(self) -> float:
        return mean(self.iou.values())

    @property
    def miou_large(self) -> float:
        return mean(value for key, value in self.iou.items() if self.pixels[key] >= LARGE_PIXELS)


@dataclass
class InstanceScore:
    """Pools the pixels of all evaluation views, then matches map ids to ground-truth ids one to one (Hungarian).

    A pixel whose ground truth is 0 or in ``ignore`` (ids that join several objects) is left out altogether: what the
    map says there neither helps nor harms. An instance counts when it has a pixel left; unmatched it has IoU 0.
    """

    ignore: Collection[int] = ()
    _table: Contingency = field(default_factory=Contingency, init=False)

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """One view: ids (H, W) of the map, 0 = none, and of the ground truth, 0 = unlabelled."""
        self._table += Contingency.of(predicted, truth, (0, *self.ignore))

    def result(self, *, direct: bool = False, duplicate_ids: Collection[int] | None = None) -> InstanceResult:
        """Score of all views so far.

        direct: predicted ids are ground-truth ids already, nothing is matched. duplicate_ids: only these map ids
        (the confirmed ones) can be duplicates; default all.
        """
        area, objects = self._table.truth_pixels, self._table.without_prediction(0)
        truths, ids, hits = objects.truths.tolist(), objects.predictions.tolist(), objects.pixels
        iou = hits / (area[:, None] + hits.sum(axis=0)[None] - hits)
        if direct:
            pairs = [(row, ids.index(key)) for row, key in enumerate(truths) if key in ids]
        else:
            pairs = list(zip(*linear_sum_assignment(iou, maximize=True), strict=True))
        matched = {truths[row]: (ids[column], float(iou[row, column])) for row, column in pairs if iou[row, column] > 0}
        return InstanceResult(
            iou={key: matched[key][1] if key in matched else 0.0 for key in truths},
            pixels=dict(zip(truths, area.tolist(), strict=True)),
            match={key: value[0] for key, value in matched.items()},
            duplicates_pct=self._duplicates(truths, ids, hits, duplicate_ids),
        )

    @staticmethod
    def _duplicates(truths: list[int], ids: list[int], hits: np.ndarray, allowed: Collection[int] | None) -> float:
        if not truths or not ids:
            return 0.0
        majority = hits.argmax(axis=0)
        counted = [row for row, key in zip(majority, ids, strict=True) if allowed is None or key in allowed]
        return 100.0 * (len(counted) - len(set(counted))) / len(truths)


def by_largest_overlap(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Every mask of an id image (H, W) replaced by the ground-truth id that it overlaps most (0 when it overlaps none).

    This makes ids of single frames comparable over frames: the raw-mask score uses it.
    """
    table = Contingency.of(masks, truth, ignore=(0,)).without_prediction(0)  # unlabelled pixels have no say
    winner = np.zeros(int(masks.max()) + 1, np.int32)
    if table.pixels.size:
        winner[table.predictions] = table.truths[table.pixels.argmax(axis=0)]
    return winner[masks]


@dataclass
class RawMaskScore:
    """Score of the masks themselves, each given the ground-truth id that it overlaps most, over the same views."""

    ignore: Collection[int] = ()

    def __post_init__(self) -> None:
        self._score = InstanceScore(self.ignore)

    def update(self, masks: np.ndarray, truth: np.ndarray) -> None:
        self._score.update(by_largest_overlap(masks, truth), truth)

    def result(self) -> InstanceResult:
        return self._score.result(direct=True)
