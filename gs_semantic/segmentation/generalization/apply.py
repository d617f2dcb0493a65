"""Applying what was learned: the Gaussians of a recorded sequence, or of a map, get classes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.segmentation import ClassScore
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.mapping.semantics import SemanticSource
from gs_semantic.objects.edit import PROBABILITY
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.registry import ObjectRegistry, ObjectState
from gs_semantic.rendering import Rasterizer, create_rasterizer
from gs_semantic.segmentation.generalization.checkpoints import load_learner
from gs_semantic.segmentation.generalization.classifier import TransformersClassifier
from gs_semantic.segmentation.generalization.method import GaussianClasses, GeneralizableSegmenter
from gs_semantic.segmentation.generalization.scenes import LearningScene
from gs_semantic.segmenters.weights import Weights


@dataclass(frozen=True)
class ApplyJob:
    """checkpoint: of a method that generalises. sequence: posed images of the scene. output: map folder to write.
    map: map folder of the scene; None: the sequence is mapped first. views: source views at most, spread evenly (0: all).
    width: wider images are scaled down to it (0: no). segmenter: folder or name of a semantic segmentation model of
    transformers to vote over, in the place of the checkpoint's own."""

    checkpoint: Path
    sequence: Path
    output: Path
    map: Path | None = None
    views: int = 0
    width: int = 0
    segmenter: str = ""


@dataclass(frozen=True)
class ApplyResult:
    """metrics: miou, mean_accuracy, accuracy at the views that were not looked from, where the sequence has labels;
    labelled_share: of Gaussians. missing: classes of the recording that were never learned, which are not scored."""

    cancelled: bool
    gaussians: int
    labelled_share: float
    views: int
    seconds: float
    metrics: dict[str, float]
    missing: tuple[str, ...] = ()


class _Cancelled(Exception):
    pass


def load_segmenter(path: str | Path) -> GeneralizableSegmenter:
    """A learner that can label Gaussians; InvalidRequestError for one that only learns images."""
    learner = load_learner(path)
    if not isinstance(learner, GeneralizableSegmenter):
        raise InvalidRequestError(f"{path}: method '{learner.name}' labels images, not Gaussians")
    return learner


def live_source(path: str | Path, rasterizer: Rasterizer | None = None) -> SemanticSource:
    """What labels a growing map by a checkpoint (``Mapper(semantics=...)``)."""
    return load_segmenter(path).live(rasterizer or create_rasterizer("auto"))


def apply(
    job: ApplyJob,
    progress: Callable[[int, int], object] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
    rasterizer: Rasterizer | None = None,
) -> ApplyResult:
    """Label a scene and write its map. progress: views done, and all views.

    Raises InvalidInputError naming what does not fit: no view, views that do not see the map, none of the classes known.
    """
    started = time.perf_counter()
    method, rasterizer = load_segmenter(job.checkpoint), rasterizer or create_rasterizer("auto")
    if job.segmenter:
        method.use_classifier(TransformersClassifier(Weights(job.segmenter), method.labels))

    def go_on(_: object = None) -> None:
        if cancelled():
            raise _Cancelled

    scene = LearningScene(job.sequence, method.labels, max_width=job.width, map_folder=None, mapping=go_on)
    try:
        go_on()
        gaussians = load_map(job.map)[0] if job.map is not None else scene.gaussians
        views = scene.views
        if job.views < 0:
            raise InvalidRequestError(f"views: {job.views}; expected 1 or more, or 0 for all")
        if job.views:
            views = [views[i] for i in np.unique(np.linspace(0, len(views) - 1, job.views).round().astype(int))]
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress(done, len(views))
            go_on()

        known = method.segment(gaussians, views, rasterizer, advance)
    except _Cancelled:
        return ApplyResult(True, 0, 0.0, 0, time.perf_counter() - started, {})
    write_classes(job.output, gaussians, known, method.labels)
    metrics = score(method, gaussians, known, scene, rasterizer) if scene.labelled and scene.novel else {}
    share = float((known.classes > 0).float().mean())
    seconds = time.perf_counter() - started
    return ApplyResult(False, len(gaussians), share, len(views), seconds, metrics, scene.class_map.missing)


def score(
    method: GeneralizableSegmenter,
    gaussians: GaussianMap,
    known: GaussianClasses,
    scene: LearningScene,
    rasterizer: Rasterizer,
) -> dict[str, float]:
    """Classes shown at the novel views of a scene, against the recorded ones."""
    total = ClassScore()
    for view in scene.novel:
        if view.classes is not None:
            shown = method.show(gaussians, known, view.camera, rasterizer)
            total.update(shown.classes, view.classes.astype(np.int64))
    result = total.result()
    return {"miou": result.miou, "mean_accuracy": result.mean_accuracy, "accuracy": result.accuracy}


def write_classes(folder: Path, gaussians: GaussianMap, known: GaussianClasses, labels: LabelSet) -> None:
    """Write a map in which ``object`` is the class of each Gaussian, and every class that occurs is one object.

    Its slot is the class id; the probability stands in ``object_probability``, and in the vote table as the one vote.
    """
    labelled = gaussians.snapshot()
    register_votes(labelled)
    labelled.register(PROBABILITY, ())
    classes = known.classes
    labelled["object"] = classes
    labelled[PROBABILITY] = known.probabilities.max(dim=1).values
    labelled["vote_object"].zero_()
    labelled["vote_weight"].zero_()
    labelled["vote_object"][:, 0] = classes
    labelled["vote_weight"][:, 0] = torch.where(classes > 0, labelled[PROBABILITY], 0)
    objects = ObjectRegistry(labels)
    for key in torch.unique(classes[classes > 0]).tolist():
        obj = objects.open(object_id=int(key), slot=int(key))
        obj.state = ObjectState.CONFIRMED
        obj.name = labels.name(key)
        obj.class_scores[int(key)] = 1.0
        update_geometry(obj, labelled, np.flatnonzero(classes.numpy() == key))
    save_map(folder, labelled, objects, labels, optimiser_state=False)
