"""Scores of a segmenter's masks, frame by frame, against ground-truth instances."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from gs_semantic.evaluation.contingency import Contingency, mean

LARGE_PIXELS = 2000  # pixels in one frame from which an instance counts as large there
MASK_SHARE = 0.02  # a mask counts as a part of an instance when it holds at least this share of it


@dataclass
class MaskScore:
    """Every visible instance of every frame is compared with the masks of that frame.

    Pixels whose ground truth is 0 or in ``ignore`` are left out; instances with fewer than ``least`` pixels are not
    counted. Mask numbers need not mean the same in another frame.
    """

    ignore: Collection[int] = ()
    least: int = 100
    _best: list[tuple[float, int]] = field(default_factory=list)  # (best IoU, pixels) of each visible instance
    _parts: list[int] = field(default_factory=list)  # masks that lie mostly on it
    _labelled: int = 0
    _counted: int = 0
    _foreign: int = 0

    def update(self, masks: np.ndarray, truth: np.ndarray) -> None:
        """One frame: mask numbers (H, W), 0 = none, and true instance ids (H, W), 0 = unlabelled."""
        table = Contingency.of(masks, truth, (0, *self.ignore))
        area, hits = table.truth_pixels, table.without_prediction(0).pixels
        self._counted += int(area.sum())
        self._labelled += int(hits.sum())
        if not hits.size:
            self._best += [(0.0, int(pixels)) for pixels in area if pixels >= self.least]
            self._parts += [0] * int((area >= self.least).sum())
            return
        iou = hits / (area[:, None] + hits.sum(axis=0)[None] - hits)
        majority = hits.argmax(axis=0)
        part = hits >= np.maximum(MASK_SHARE * area, 1)[:, None]
        part &= majority[None] == np.arange(len(area))[:, None]
        self._foreign += int(hits.sum() - hits.max(axis=0).sum())
        for i in np.nonzero(area >= self.least)[0]:
            self._best.append((float(iou[i].max()), int(area[i])))
            self._parts.append(int(part[i].sum()))

    def results(self) -> dict[str, float]:
        """best_iou, best_iou_large: mean over instances of the IoU with the best mask (large: LARGE_PIXELS and more).

        masks_per_instance: masks that lie mostly on an instance (1 is right, more is over-segmentation).
        foreign_pixels_pct: pixels of masks that belong to another instance than most of the mask (under-segmentation).
        labelled_pct: share of the ground truth's pixels that have a mask. NaN where nothing was seen.
        """
        best = [iou for iou, _ in self._best]
        large = [iou for iou, pixels in self._best if pixels >= LARGE_PIXELS]
        return {
            "best_iou": mean(best),
            "best_iou_large": mean(large),
            "masks_per_instance": mean(self._parts),
            "foreign_pixels_pct": _percent(self._foreign, self._labelled),
            "labelled_pct": _percent(self._labelled, self._counted),
        }


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else float("nan")
