"""Scores of a trained map at held-out views: colour, masks and their boundaries.

Ids are matched with the true ones once, on training views (Hungarian over pooled pixels); at held-out views nothing is
matched any more, so that an object that changes its id there is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from gs_semantic.evaluation.instances import InstanceScore
from gs_semantic.evaluation.metrics import psnr
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.scene import View

MATCH_VIEWS = 24  # training views that ids are matched on
LEAST_PIXELS = 100  # of a true mask in a view, for its boundary to be scored there

BoundaryIou = Callable[[np.ndarray, np.ndarray], float | None]


def match_ids(method: LiftingMethod, views: int = MATCH_VIEWS) -> dict[int, int]:
    """Trained id -> true id, one to one, by overlap of predictions with true ids at training views spread evenly.

    Where the method was trained with the true ids, each id is its own match.
    """
    if method.scene.ids_are_true:
        return {int(key): int(key) for key in method.scene.ids}
    score = InstanceScore(method.scene.ignored_ids)
    labelled = [view for view in method.scene.train if view.truth is not None]
    for view in labelled[:: max(1, len(labelled) // views)][:views]:
        predicted = method.predict(view.camera).ids
        if predicted is not None and view.truth is not None:
            score.update(predicted, view.truth)
    return {predicted: true for true, predicted in score.result().match.items()}


def translated(ids: np.ndarray, match: dict[int, int]) -> np.ndarray:
    """An id image with true ids in place of trained ones; 0 where there is no match."""
    values, inverse = np.unique(ids, return_inverse=True)
    return np.array([match.get(int(value), 0) for value in values], np.int64)[inverse].reshape(ids.shape)


def score_views(
    method: LiftingMethod,
    views: Sequence[View],
    match: dict[int, int] | None = None,
    boundary_iou: BoundaryIou | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """psnr_db; where the method has ids also miou and, with ``boundary_iou``, mboundary_iou. Empty when stopped.

    miou: mean over true ids of the IoU over the pixels of all views. mboundary_iou: mean over true ids of the mean over
    the views that show LEAST_PIXELS of them. Without ``match`` (trained -> true id), ids are matched for the best score
    on these very views. An id that nothing was matched with scores 0.
    """
    pooled, colour = InstanceScore(method.scene.ignored_ids), []
    boundaries: defaultdict[int, list[float]] = defaultdict(list)
    labelled = False
    for view in views:
        if stop():
            return {}
        shown = method.predict(view.camera)
        colour.append(psnr(shown.rgb, view.rgb))
        if shown.ids is None or view.ids is None:
            continue
        labelled = True
        ids = shown.ids if match is None else translated(shown.ids, match)
        pooled.update(ids, view.ids)
        if boundary_iou is not None:
            _add_boundaries(boundaries, ids, view.ids, method.scene.ignored_ids, boundary_iou)
    results = {}
    finite = [value for value in colour if np.isfinite(value)]
    if finite:
        results["psnr_db"] = float(np.mean(finite))
    if labelled:
        results["miou"] = pooled.result(direct=match is not None).miou
    if boundaries:
        results["mboundary_iou"] = float(np.mean([np.mean(values) for values in boundaries.values()]))
    return results


def _add_boundaries(
    boundaries: defaultdict[int, list[float]],
    predicted: np.ndarray,
    truth: np.ndarray,
    ignored: frozenset[int],
    boundary_iou: BoundaryIou,
) -> None:
    for key, pixels in zip(*np.unique(truth, return_counts=True), strict=True):
        if key == 0 or int(key) in ignored or pixels < LEAST_PIXELS:
            continue
        value = boundary_iou(predicted == key, truth == key)
        if value is not None:
            boundaries[int(key)].append(value)
