"""Scores of single masks, inside and at their borders: mask IoU and boundary IoU as the LERF-Mask data set scores them.

Boundary IoU follows Cheng et al. (Boundary IoU, CVPR 2021): only the bands along the inner borders are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

import cv2
import numpy as np

BAND_SHARE = 0.02  # width of the band as a share of the image's diagonal


def mask_iou(prediction: np.ndarray, truth: np.ndarray) -> float | None:
    """Intersection over union of two masks, bool (H, W); None where both are empty."""
    _check(prediction, truth)
    return _iou(prediction, truth)


def boundary_iou(prediction: np.ndarray, truth: np.ndarray, *, width: int | None = None) -> float | None:
    """Intersection over union of the boundary bands of two masks, bool (H, W); None where both bands are empty.

    width: of the band in pixels, default ``band_width``.
    """
    _check(prediction, truth)
    return _iou(boundary_band(prediction, width), boundary_band(truth, width))


def band_width(height: int, width: int) -> int:
    """max(1, round(0.02 sqrt(h^2 + w^2))) pixels: 16 at 640x480, 8 at 320x240."""
    return max(1, round(BAND_SHARE * float(np.hypot(height, width))))


def boundary_band(mask: np.ndarray, width: int | None = None) -> np.ndarray:
    """Pixels of a mask, bool (H, W), that are nearer than ``width`` to its border; what lies outside the image is not
    in the mask, so the image's border counts.

    As near as in a square: the mask less what ``width`` erosions by 3x3 pixels leave of it.
    """
    size = 2 * (band_width(*mask.shape) if width is None else width) + 1
    pixels = mask.astype(np.uint8)
    inside = cv2.erode(pixels, np.ones((size, size), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inside == 0)


@dataclass
class MaskPairScore:
    """Mask IoU and boundary IoU of named masks over views: mean over the views of a name, then plain mean over names.

    A name is whatever identifies an object: a prompt (LERF-Mask) or an id. Only views where the truth shows it count. A
    prediction that is missing there scores 0, so leaving out difficult objects never pays.
    """

    _mask: dict[Hashable, list[float]] = field(default_factory=dict, init=False)
    _boundary: dict[Hashable, list[float]] = field(default_factory=dict, init=False)

    def update(self, name: Hashable, prediction: np.ndarray | None, truth: np.ndarray) -> None:
        """One view of one object: masks bool (H, W); ``prediction`` None where there is none."""
        if not truth.any():
            return
        if prediction is None:
            prediction = np.zeros_like(truth)
        for scores, value in (
            (self._mask, mask_iou(prediction, truth)),
            (self._boundary, boundary_iou(prediction, truth)),
        ):
            assert value is not None  # the truth is not empty
            scores.setdefault(name, []).append(value)

    def update_ids(self, predicted: np.ndarray, truth: np.ndarray, ignore: Collection[int] = ()) -> None:
        """One view of all objects: id images (H, W) whose ids mean the same, that is, are matched already.

        Pixels whose truth is 0 (unlabelled) or in ``ignore`` belong to no object in either image.
        """
        _check(predicted, truth)
        nobody = (0, *ignore)
        predicted = np.where(np.isin(truth, nobody), 0, predicted)
        for key in np.setdiff1d(truth, nobody).tolist():
            self.update(key, predicted == key, truth == key)

    def by_name(self) -> dict[Hashable, tuple[float, float]]:
        """Mask IoU and boundary IoU of every name, each the mean over its views."""
        return {name: (float(np.mean(self._mask[name])), float(np.mean(self._boundary[name]))) for name in self._mask}

    @property
    def miou(self) -> float:
        """Mean mask IoU over names; NaN without any."""
        return _mean([mask for mask, _ in self.by_name().values()])

    @property
    def mean_boundary_iou(self) -> float:
        """Mean boundary IoU over names (mBIoU); NaN without any."""
        return _mean([boundary for _, boundary in self.by_name().values()])


def _check(prediction: np.ndarray, truth: np.ndarray) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(f"predicted {prediction.shape} and truth {truth.shape} must have the same shape")


def _iou(a: np.ndarray, b: np.ndarray) -> float | None:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else None


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
