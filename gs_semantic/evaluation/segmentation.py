"""Scores of class images: mean IoU, mean accuracy, overall accuracy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.contingency import Contingency

Average = Literal["dataset", "per_view"]


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of one confusion table. Only *valid classes* count: those that the ground truth shows.

    iou: by valid class. miou: their mean (mIoU). mean_accuracy: mean over valid classes of the share of a class's
    pixels that is right (mAcc). accuracy: share of all pixels that is right (oAcc). NaN without any pixel.
    """

    iou: dict[int, float]
    miou: float
    mean_accuracy: float
    accuracy: float

    @classmethod
    def of(cls, table: Contingency) -> SegmentationScores:
        if not table.pixels.size:
            return cls({}, float("nan"), float("nan"), float("nan"))
        same = table.truths[:, None] == table.predictions[None]
        hits, truth = (table.pixels * same).sum(axis=1), table.truth_pixels
        predicted = (table.predicted_pixels[None] * same).sum(axis=1)
        iou = hits / (truth + predicted - hits)
        return cls(
            iou=dict(zip(table.truths.tolist(), iou.tolist(), strict=True)),
            miou=float(iou.mean()),
            mean_accuracy=float(np.mean(hits / truth)),
            accuracy=float(hits.sum() / truth.sum()),
        )


@dataclass
class ClassScore:
    """Compares class images; pixels whose ground truth is in ``ignore`` (void) are left out.

    Classes that the ground truth never shows do not enter the means, but predicting them costs accuracy and the IoU
    of the class that is there. average: ``dataset`` sums the pixels of all views before dividing; ``per_view``
    scores every view by itself and takes the mean over views (then ``iou`` is the mean over the views that show the
    class). The two must not stand in one table.
    """

    ignore: Collection[int] = (0,)
    average: Average = "dataset"
    _total: Contingency = field(default_factory=Contingency, init=False)
    _views: list[SegmentationScores] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.average not in get_args(Average):
            raise InvalidRequestError(f"average: '{self.average}' is not one of {', '.join(get_args(Average))}")

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """One view: class ids (H, W) of one shape; a predicted id that is no class (0, -1) is simply wrong."""
        table = Contingency.of(predicted, truth, self.ignore)
        if not table.pixels.size:
            return
        if self.average == "dataset":
            self._total += table
        else:
            self._views.append(SegmentationScores.of(table))

    def result(self) -> SegmentationScores:
        """Scores of all views so far."""
        if self.average == "dataset":
            return SegmentationScores.of(self._total)
        views = self._views
        if not views:
            return SegmentationScores.of(Contingency())
        classes = sorted({key for view in views for key in view.iou})
        return SegmentationScores(
            iou={key: float(np.mean([view.iou[key] for view in views if key in view.iou])) for key in classes},
            miou=float(np.mean([view.miou for view in views])),
            mean_accuracy=float(np.mean([view.mean_accuracy for view in views])),
            accuracy=float(np.mean([view.accuracy for view in views])),
        )
