"""The protocols by name: what each one needs of a view, and the numbers that it gives.

Every protocol compares what is shown at views with what is true there. What should be shown and is not counts as nothing
seen (id 0, no depth, black), so leaving out difficult views never pays.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from gs_semantic.errors import GsSemanticError
from gs_semantic.evaluation.boundary import ErrorPlaces, MaskPairScore, ObjectMaskScore
from gs_semantic.evaluation.depth import DepthErrors, depth_errors
from gs_semantic.evaluation.image_quality import psnr, ssim
from gs_semantic.evaluation.instances import InstanceScore
from gs_semantic.evaluation.lerf import IdView, fitted, score_prompts
from gs_semantic.evaluation.panoptic import BACKGROUND, FOREGROUND, PanopticScore, two_classes
from gs_semantic.evaluation.perceptual import BACKBONES, Lpips
from gs_semantic.evaluation.replica import ReplicaScore
from gs_semantic.evaluation.segmentation import Average, ClassScore


@dataclass(frozen=True)
class ViewImages:
    """What is shown at one view, or true there; None where nothing is. Images are of one size (H, W).

    rgb: uint8 (H, W, 3). depth: metres, 0 or NaN is none. instance: object ids, 0 = none. semantic: class ids, 0 = void.
    confidence: 0..1 of ``instance``. prompts: masks bool of any size, by text prompt.
    """

    rgb: np.ndarray | None = None
    depth: np.ndarray | None = None
    instance: np.ndarray | None = None
    semantic: np.ndarray | None = None
    confidence: np.ndarray | None = None
    prompts: Mapping[str, np.ndarray] | None = None

    @property
    def kinds(self) -> set[str]:
        """Names of what is there."""
        return {field.name for field in fields(self) if getattr(self, field.name) is not None}


@dataclass(frozen=True)
class ProtocolOptions:
    """ignore: true instance ids that join several objects. average: of class scores, see ``ClassScore``."""

    ignore: Collection[int] = ()
    average: Average = "dataset"


class Protocol(ABC):
    """``update`` with every view, then ``results``. ``truth`` and ``shown``: the kinds that it needs of each."""

    name: ClassVar[str]
    truth: ClassVar[str]
    shown: ClassVar[tuple[str, ...]]  # one of them suffices

    def __init__(self, options: ProtocolOptions) -> None:
        self.options = options
        self.left_out: dict[str, str] = {}  # results that cannot be had, and why

    @abstractmethod
    def update(self, index: int, shown: ViewImages, truth: ViewImages) -> None:
        """One view; ``truth`` has what the protocol needs."""

    @abstractmethod
    def results(self) -> dict[str, float | None]:
        """Scores of all views so far by name; None for those of ``left_out``."""


class Segmentation(Protocol):
    """Mean IoU, mean accuracy and overall accuracy of classes."""

    name, truth, shown = "segmentation", "semantic", ("semantic",)

    def __init__(self, options: ProtocolOptions) -> None:
        super().__init__(options)
        self._score = ClassScore(average=options.average)

    def update(self, index: int, shown: ViewImages, truth: ViewImages) -> None:
        assert truth.semantic is not None
        self._score.update(_or_nothing(shown.semantic, truth.semantic), truth.semantic)

    def results(self) -> dict[str, float | None]:
        scores = self._score.result()
        return {
            "semantic_miou": scores.miou,
            "semantic_mean_accuracy": scores.mean_accuracy,
            "semantic_accuracy": scores.accuracy,
        }


class Boundary(Protocol):
    """Mask IoU and boundary IoU of objects, whose ids are matched one to one over all views; and where errors lie."""

    name, truth, shown = "boundary", "instance", ("instance",)

    def __init__(self, options: ProtocolOptions) -> None:
        super().__init__(options)
        self._objects, self._match = ObjectMaskScore(options.ignore), InstanceScore(options.ignore)
        self._errors = ErrorPlaces(options.ignore)

    def update(self, index: int, shown: ViewImages, truth: ViewImages) -> None:
        assert truth.instance is not None
        predicted = _or_nothing(shown.instance, truth.instance)
        for score in (self._objects, self._match, self._errors):
            score.update(predicted, truth.instance)

    def results(self) -> dict[str, float | None]:
        match = self._match.result().match
        result, (wrong, at_borders) = self._objects.result(match), self._errors.result(match)
        return {
            "mask_miou": result.miou,
            "boundary_miou": result.mean_boundary_iou,
            "wrong_ids": wrong,
            "of_these_at_borders": at_borders,
        }


class Panoptic(Protocol):
    """PQ of the whole scene with two classes, objects and background, as on Messy Rooms.

    Where the truth has no instance, its class decides: with one it is background, without it is unknown.
    """

    name, truth, shown = "panoptic", "instance", ("instance",)

    def __init__(self, options: ProtocolOptions) -> None:
        super().__init__(options)
        self._score = PanopticScore(things=[FOREGROUND], stuff=[BACKGROUND], keep_missed=True)

    def update(self, index: int, shown: ViewImages, truth: ViewImages) -> None:
        assert truth.instance is not None
        predicted = _or_nothing(shown.instance, truth.instance)
        unknown = np.isin(truth.instance, list(self.options.ignore))
        unknown |= (truth.instance == 0) & (truth.semantic == 0 if truth.semantic is not None else True)
        self._score.update(two_classes(predicted), predicted, two_classes(truth.instance, unknown), truth.instance)

    def results(self) -> dict[str, float | None]:
        result = self._score.result()
        results: dict[str, float | None] = {
            "pq_scene": result.mean.pq,
            "sq_scene": result.mean.sq,
            "rq_scene": result.mean.rq,
        }
        if FOREGROUND in result.by_class:
            results["pq_objects"] = result.by_class[FOREGROUND].pq
        return results


class Replica(Protocol):
    """Matched mean IoU and F-score, as Gaga and Unified-Lift report them on Replica."""

    name, truth, shown = "replica", "instance", ("instance",)

    def __init__(self, options: ProtocolOptions) -> None:
        super().__init__(options)
        self._score = ReplicaScore()

    def update(self, index: int, shown: ViewImages, truth: ViewImages) -> None:
        assert truth.instance is not None
        self._score.update(_or_nothing(shown.instance, truth.instance), truth.instance)

    def results(self) -> dict[str, float | None]:
        result = self._score.result()
        return {
            "replica_miou": result.miou,
            "replica_f_score": result.f_score,
            "replica_precision": result.precision,
            "replica_recall": result.recall,
        }


class LerfMask(Protocol):
    """Mask IoU and boundary IoU of text prompts: of masks that are shown, or of ids selected by oracle grounding."""

    name, truth, shown = "lerf", "prompts", ("prompts", "instance")

    def __init__(self, options: ProtocolOptions) -> None:
        super().__init__(options)
        self._truth: dict[str, dict[int, np.ndarray]] = {}
        self._ids: dict[int, IdView] = {}
        self._masks: dict[int, Mapping[str, np.ndarray]] = {}

    def update(self, index: int, shown: ViewImages, truth: ViewImages) -> None:
        assert truth.prompts is not None
        for prompt, mask in truth.prompts.items():
            self._truth.setdefault(prompt, {})[index] = mask
        if shown.prompts is not None:
            self._masks[index] = shown.prompts
        elif shown.instance is not None:
            self._ids[index] = IdView.hard(shown.instance, shown.confidence)

    def results(self) -> dict[str, float | None]:
        score = self._of_masks() if self._masks else score_prompts(self._ids, self._truth)
        results: dict[str, float | None] = {"lerf_miou": score.miou, "lerf_boundary_miou": score.mean_boundary_iou}
        for prompt, (mask, boundary) in score.by_name().items():
            results |= {f"lerf_iou {prompt}": mask, f"lerf_boundary_iou {prompt}": boundary}
        return results

    def _of_masks(self) -> MaskPairScore:
        score = MaskPairScore()
        for prompt, masks in self._truth.items():
            for index, mask in masks.items():
                shown = self._masks.get(index, {}).get(prompt)
                score.update(prompt, None if shown is None else fitted(shown, mask.shape), mask)
        return score


class Image(Protocol):
    """PSNR, SSIM, and LPIPS with the backbones whose weights are on this machine; means over views."""

    name, truth, shown = "image", "rgb", ("rgb",)

    def __init__(self, options: ProtocolOptions) -> None:
        super().__init__(options)
        self._psnr, self._ssim = list[float](), list[float]()
        self._lpips, self._distances = dict[str, Lpips](), {name: list[float]() for name in BACKBONES}
        for name in BACKBONES:
            try:
                self._lpips[name] = Lpips.load(name)
            except GsSemanticError as error:
                self.left_out[f"lpips_{name}"] = str(error)

    def update(self, index: int, shown: ViewImages, truth: ViewImages) -> None:
        assert truth.rgb is not None
        rgb = _or_nothing(shown.rgb, truth.rgb)
        self._psnr.append(psnr(rgb, truth.rgb))
        self._ssim.append(ssim(rgb, truth.rgb))
        for name, lpips in self._lpips.items():
            self._distances[name].append(lpips(rgb, truth.rgb))

    def results(self) -> dict[str, float | None]:
        results: dict[str, float | None] = {
            "psnr_db": _mean(value for value in self._psnr if math.isfinite(value)),
            "ssim": _mean(self._ssim),
        }
        for name, distances in self._distances.items():
            results[f"lpips_{name}"] = _mean(distances) if name in self._lpips else None
        return results


class Depth(Protocol):
    """The eight errors of depth images; means over the views that have any to compare."""

    name, truth, shown = "depth", "depth", ("depth",)

    def __init__(self, options: ProtocolOptions) -> None:
        super().__init__(options)
        self._views: list[DepthErrors] = []

    def update(self, index: int, shown: ViewImages, truth: ViewImages) -> None:
        assert truth.depth is not None
        self._views.append(depth_errors(_or_nothing(shown.depth, truth.depth), truth.depth))

    def results(self) -> dict[str, float | None]:
        views = self._views
        return {
            "depth_abs_rel": _mean(view.abs_rel for view in views),
            "depth_abs_diff_m": _mean(view.abs_diff for view in views),
            "depth_sq_rel_m": _mean(view.sq_rel for view in views),
            "depth_rmse_m": _mean(view.rmse for view in views),
            "depth_delta_1": _mean(view.delta[0] for view in views),
            "depth_delta_2": _mean(view.delta[1] for view in views),
            "depth_delta_3": _mean(view.delta[2] for view in views),
            "depth_completeness": _mean(view.completeness for view in views),
        }


PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol for protocol in (Segmentation, Boundary, Panoptic, Replica, LerfMask, Image, Depth)
}


def _or_nothing(image: np.ndarray | None, truth: np.ndarray) -> np.ndarray:
    return np.zeros_like(truth) if image is None else image


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; NaN without any."""
    numbers = [value for value in values if not math.isnan(value)]
    return float(np.mean(numbers)) if numbers else float("nan")
