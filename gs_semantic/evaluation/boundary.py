"""Scores of single masks, inside and at their borders: mask IoU and boundary IoU as the LERF-Mask data set scores them.

Boundary IoU follows Cheng et al. (Boundary IoU, CVPR 2021): only the bands along the inner borders are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np

from gs_semantic.evaluation.contingency import Contingency, ViewMeans, mean

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


def boundary_bands(ids: np.ndarray, width: int | None = None) -> np.ndarray:
    """An id image (H, W) with 0 wherever a pixel lies outside the boundary band of its own id's mask; int64.

    All masks of an image at once: a pixel is in its band when the square around it holds another id or leaves the image.
    """
    size = 2 * (band_width(*ids.shape) if width is None else width) + 1
    keys, dense = np.unique(ids, return_inverse=True)
    labels = (dense.reshape(ids.shape) + 1).astype(np.float32)  # 0 is what lies outside; float32 counts to 2^24
    square, outside = np.ones((size, size), np.uint8), {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    inside = cv2.erode(labels, square, **outside) == cv2.dilate(labels, square, **outside)
    return np.where(inside, 0, keys[dense.reshape(ids.shape)]).astype(np.int64)


def near_borders(ids: np.ndarray, reach_px: int = 1) -> np.ndarray:
    """bool (H, W): pixels of an id image with another id no farther than ``reach_px``, as in a square."""
    dense = np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.float32)
    square = np.ones((2 * reach_px + 1, 2 * reach_px + 1), np.uint8)
    return cv2.dilate(dense, square) != cv2.erode(dense, square)


@dataclass
class ErrorPlaces:
    """Which share of the labelled pixels has the wrong id, and which share of these lies at borders of the truth.

    Pixels whose truth is 0 or in ``ignore`` do not count. At borders: the next pixel, also diagonally, has another id.
    """

    ignore: Collection[int] = ()
    _all: Contingency = field(default_factory=Contingency, init=False)
    _border: Contingency = field(default_factory=Contingency, init=False)

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """One view: id images (H, W), 0 = none."""
        _check(predicted, truth)
        ignored = (0, *self.ignore)
        self._all += Contingency.of(predicted, truth, ignored)
        self._border += Contingency.of(predicted, np.where(near_borders(truth), truth, 0), ignored)

    def result(self, match: Mapping[int, int]) -> tuple[float, float]:
        """Both shares, 0..1, when ``match`` gives the predicted id of each true one; NaN where nothing is labelled or wrong."""
        wrong, total = _wrong(self._all, match)
        at_borders, _ = _wrong(self._border, match)
        return wrong / total if total else float("nan"), at_borders / wrong if wrong else float("nan")


def _wrong(table: Contingency, match: Mapping[int, int]) -> tuple[int, int]:
    """Pixels whose prediction is not the match of their truth, and all."""
    own = np.array([match.get(key, -1) for key in table.truths.tolist()], np.int64)
    right = table.pixels[own[:, None] == table.predictions[None]].sum()
    return int(table.pixels.sum() - right), int(table.pixels.sum())


@dataclass
class MaskPairScore:
    """Mask IoU and boundary IoU of named masks over views: mean over the views of a name, then plain mean over names.

    A name is whatever identifies an object, such as a prompt of LERF-Mask. Only views where the truth shows it count. A
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

    def by_name(self) -> dict[Hashable, tuple[float, float]]:
        """Mask IoU and boundary IoU of every name, each the mean over its views."""
        return {name: (float(np.mean(self._mask[name])), float(np.mean(self._boundary[name]))) for name in self._mask}

    @property
    def miou(self) -> float:
        """Mean mask IoU over names; NaN without any."""
        return mean([mask for mask, _ in self.by_name().values()])

    @property
    def mean_boundary_iou(self) -> float:
        """Mean boundary IoU over names (mBIoU); NaN without any."""
        return mean([boundary for _, boundary in self.by_name().values()])


@dataclass
class ObjectMaskScore:
    """Mask IoU and boundary IoU of all objects of id images, averaged as by ``MaskPairScore``.

    Predicted ids need not be the true ones: ``result`` takes which belongs to which, so a match made on other views, as
    on those of training, can be used. Pixels whose truth is 0 (unlabelled) or in ``ignore`` belong to no object in
    either image.
    """

    ignore: Collection[int] = ()
    _masks: ViewMeans = field(default_factory=ViewMeans, init=False)
    _bands: ViewMeans = field(default_factory=ViewMeans, init=False)

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """One view: id images (H, W), 0 = none."""
        _check(predicted, truth)
        nobody = np.isin(truth, (0, *self.ignore))
        predicted, truth = np.where(nobody, 0, predicted), np.where(nobody, 0, truth)
        self._masks.update(Contingency.of(predicted, truth))
        self._bands.update(Contingency.of(boundary_bands(predicted), boundary_bands(truth)))

    def result(self, match: Mapping[int, int] | None = None) -> ObjectMaskResult:
        """Scores when ``match`` gives the predicted id of each true one (None: the same); without a match it scores 0."""
        pairs = {key: key if match is None else match.get(key, 0) for key in self._masks.truths if key}
        iou, boundary = (
            {key: means.iou(key, own) if own else 0.0 for key, own in pairs.items()}
            for means in (self._masks, self._bands)
        )
        return ObjectMaskResult(iou, boundary)


@dataclass(frozen=True)
class ObjectMaskResult:
    """Mask IoU and boundary IoU by true id, each the mean over the views that show the object."""

    iou: dict[int, float]
    boundary_iou: dict[int, float]

    @property
    def miou(self) -> float:
        """Mean mask IoU over objects; NaN without any."""
        return mean(list(self.iou.values()))

    @property
    def mean_boundary_iou(self) -> float:
        """Mean boundary IoU over objects (mBIoU); NaN without any."""
        return mean(list(self.boundary_iou.values()))


def _check(prediction: np.ndarray, truth: np.ndarray) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(f"predicted {prediction.shape} and truth {truth.shape} must have the same shape")


def _iou(a: np.ndarray, b: np.ndarray) -> float | None:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else None
