"""Scores of a trained map at held-out views: colour, masks and their boundaries.

Ids are matched with the true ones once, on training views (Hungarian over pooled pixels); at held-out views nothing is
matched any more, so that an object that changes its id there is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gs_semantic.evaluation.boundary import ObjectMaskScore
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.evaluation.instances import InstanceScore
from gs_semantic.evaluation.panoptic import BACKGROUND, FOREGROUND, PanopticScore, two_classes
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.scene import View

MATCH_VIEWS = 24  # training views that ids are matched on


def match_ids(method: LiftingMethod, views: int = MATCH_VIEWS) -> dict[int, int]:
    """True id -> trained id, one to one, by overlap of predictions with true ids at training views spread evenly.

    Where the method was trained with the true ids, each id is its own match.
    """
    if method.scene.ids_are_true and not method.makes_ids:
        return {int(key): int(key) for key in method.scene.ids}
    score = InstanceScore(method.scene.ignored_ids)
    labelled = [view for view in method.scene.train if view.truth is not None]
    for view in labelled[:: max(1, len(labelled) // views)][:views]:
        predicted = method.predict(view.camera).ids
        if predicted is not None and view.truth is not None:
            score.update(predicted, view.truth)
    return score.result().match


def score_views(
    method: LiftingMethod,
    views: Sequence[View],
    stop: Callable[[], bool] = lambda: False,
    background: bool = False,
) -> dict[str, float]:
    """psnr_db; for a method with ids also miou and mboundary_iou (``ObjectMaskScore``). Empty when ``stop`` says so.

    background: true id 0 is a background before which objects stand, not unknown; then also pq_scene, 0..1.
    An id of the truth that the training views do not show, or that nothing was matched with, scores 0.
    """
    masks, colour, labelled = ObjectMaskScore(method.scene.ignored_ids), [], False
    panoptic = PanopticScore(things=[FOREGROUND], stuff=[BACKGROUND], keep_missed=True)
    for view in views:
        if stop():
            return {}
        shown = method.predict(view.camera)
        colour.append(psnr(shown.rgb, view.rgb))
        if shown.ids is not None and view.ids is not None:
            labelled = True
            masks.update(shown.ids, view.ids)
            if background:
                panoptic.update(two_classes(shown.ids), shown.ids, two_classes(view.ids), view.ids)
    results = {}
    finite = [value for value in colour if np.isfinite(value)]
    if finite:
        results["psnr_db"] = float(np.mean(finite))
    if labelled:
        scores = masks.result(match_ids(method))
        results |= {"miou": scores.miou, "mboundary_iou": scores.mean_boundary_iou}
        if background:
            results["pq_scene"] = panoptic.result().mean.pq
    return results
