"""Scores of a trained map at held-out views: colour, masks and their boundaries.

Ids are matched with the true ones once, on training views (Hungarian over pooled pixels); at held-out views nothing is
matched any more, so that an object that changes its id there is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from gs_semantic.evaluation.boundary import ObjectMaskScore
from gs_semantic.evaluation.compactness import components_by_object
from gs_semantic.evaluation.feature_field import FeatureFieldScore
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.evaluation.instances import InstanceScore
from gs_semantic.evaluation.lerf import IdView, score_prompts
from gs_semantic.evaluation.panoptic import BACKGROUND, FOREGROUND, PanopticScore, two_classes
from gs_semantic.evaluation.replica import ReplicaScore
from gs_semantic.evaluation.segmentation import ClassScore
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

    Of a semantic scene: miou, mean_accuracy and accuracy over the pixels of all views (``ClassScore``), and the means of
    views scored one by one as view_miou, view_accuracy.
    background: true id 0 is a background before which objects stand, not unknown; then also pq_scene, 0..1.
    An id of the truth that the training views do not show, or that nothing was matched with, scores 0.
    """
    masks, colour, labelled = ObjectMaskScore(method.scene.ignored_ids), [], False
    classes, by_view = ClassScore(), ClassScore(average="per_view")
    panoptic = PanopticScore(things=[FOREGROUND], stuff=[BACKGROUND], keep_missed=True)
    for view in views:
        if stop():
            return {}
        shown = method.predict(view.camera)
        colour.append(psnr(shown.rgb, view.rgb))
        if shown.ids is not None and view.ids is not None:
            labelled = True
            if method.scene.semantic:
                classes.update(shown.ids, view.ids)
                by_view.update(shown.ids, view.ids)
                continue
            masks.update(shown.ids, view.ids)
            if background:
                panoptic.update(two_classes(shown.ids), shown.ids, two_classes(view.ids), view.ids)
    results = {}
    finite = [value for value in colour if np.isfinite(value)]
    if finite:
        results["psnr_db"] = float(np.mean(finite))
    if labelled and method.scene.semantic:
        whole, views_mean = classes.result(), by_view.result()
        results |= {"miou": whole.miou, "mean_accuracy": whole.mean_accuracy, "accuracy": whole.accuracy}
        results |= {"view_miou": views_mean.miou, "view_accuracy": views_mean.accuracy}
    elif labelled:
        scores = masks.result(match_ids(method))
        results |= {"miou": scores.miou, "mboundary_iou": scores.mean_boundary_iou}
        if background:
            results["pq_scene"] = panoptic.result().mean.pq
    return results


def protocol_scores(method: LiftingMethod, views: Sequence[View]) -> dict[str, float]:
    """replica_miou, replica_f_score, replica_precision, replica_recall; lerf_miou, lerf_mbiou (``evaluation.protocols``).

    In the place of LERF-Mask's prompts stand the true objects of the views: a prompt is grounded by its mask in the first view
    that shows it, whose ids are looked for in all.
    """
    replica, shown, truth = ReplicaScore(), dict[int, IdView](), dict[int, dict[int, np.ndarray]]()
    for number, view in enumerate(views):
        seen = method.predict(view.camera)
        if seen.ids is None or view.ids is None:
            continue
        replica.update(seen.ids, view.ids)
        shown[number] = IdView.hard(seen.ids, seen.confidence)
        for key in set(np.unique(view.ids).tolist()) - {0, *method.scene.ignored_ids}:
            truth.setdefault(key, {})[number] = view.ids == key
    if not truth:
        return {}
    found, prompts = replica.result(), score_prompts(shown, {str(key): masks for key, masks in truth.items()})
    return {
        "replica_miou": found.miou,
        "replica_f_score": found.f_score,
        "replica_precision": found.precision,
        "replica_recall": found.recall,
        "lerf_miou": prompts.miou,
        "lerf_mbiou": prompts.mean_boundary_iou,
    }


def semantic_extras(method: LiftingMethod, views: Sequence[View], reach_m: float = 0.1) -> dict[str, float]:
    """More about a method whose ids are classes.

    components_per_class: pieces of a class's Gaussians (``components_by_object``), mean over classes. rgb_and_ids_fps:
    views per second, colour and ids together. parameters, parameters_<part>: learnable numbers beside geometry and
    colour. feature_calinski_harabasz, feature_davies_bouldin: of a method's lifted 2D features.
    """
    begun = time.perf_counter()
    for view in views:
        method.predict(view.camera)
    results = {"rgb_and_ids_fps": len(views) / (time.perf_counter() - begun)} if views else {}
    classes = method.gaussian_classes()[0]
    pieces = components_by_object(method.gaussians.means.cpu().numpy(), classes, reach_m)
    if pieces:
        results["components_per_class"] = float(np.mean(list(pieces.values())))
    parts = method.parameters()
    results["parameters"] = sum(count for name, count in parts.items() if not name.startswith("frozen"))
    results |= {f"parameters_{name}": count for name, count in parts.items()}
    features = method.lifted_features()
    if features is not None:
        score = FeatureFieldScore()
        for view in views:
            if view.ids is not None:
                shown = method.rasterizer.render(method.gaussians, view.camera, features.float()).features
                assert shown is not None
                score.update(shown.cpu().numpy(), view.ids)
        found = score.result()
        results["feature_calinski_harabasz"] = found.calinski_harabasz
        results["feature_davies_bouldin"] = found.davies_bouldin
    return results
