"""RT-GS2 against what is left of it without its parts, on rooms that nobody trained on; resumable run by run.

A run is one training; its folder keeps it, and one that is finished is not trained again. Scores of a run are kept in a
JSON file beside it. All runs see the same rooms for as many iterations, and each is scored with the checkpoint that its
own validation rooms chose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_semantic.data.room_writer import INDEX, list_rooms, room_width
from gs_semantic.data.rooms import room_labels
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.consistency import ConsistencyScore, LabelledView, view_pairs_at_distance
from gs_semantic.evaluation.depth import DepthErrors, depth_errors
from gs_semantic.evaluation.image_quality import psnr, ssim
from gs_semantic.evaluation.segmentation import ClassScore
from gs_semantic.files import atomic_write, make_folder
from gs_semantic.gaussians import Camera
from gs_semantic.rendering import create_rasterizer
from gs_semantic.segmentation.generalization.checkpoints import load_learner, read_learner
from gs_semantic.segmentation.generalization.methods.rt_gs2 import (
    CLASSES,
    DEPTH,
    FEATURES,
    FINE_TUNE,
    IMAGE,
    LARGEST_DEPTH_M,
    RtGs2,
    mean_depth_errors,
)
from gs_semantic.segmentation.generalization.methods.segformer import SegformerLearner
from gs_semantic.segmentation.generalization.rt_gs2.rendering import draw_view, label_image, principal_colours
from gs_semantic.segmentation.generalization.rt_gs2.view_fusion import ViewFusion
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView
from gs_semantic.segmentation.generalization.trainer import LearningJob, learn
from gs_semantic.segmentation.loop import BEST, CHECKPOINT, METRICS
from gs_semantic.segmentation.progress import Listener
from gs_semantic.segmenters.weights import choose_device
from gs_semantic.share import share_path

FREQUENT = 8  # classes with the most pixels, scored apart
PAIRS_A_ROOM = 10  # of views, for consistency: 200 in 20 rooms
SHOWN = 2  # rooms of which pictures are kept


@dataclass(frozen=True)
class Part:
    """A training: its stage, the run it starts from, and what differs from the method's options. consistency: are its
    answers to pairs of views compared, too? fused: and what comes of them in the Gaussians?"""

    stage: str
    start: str = IMAGE
    overrides: Mapping[str, Any] = field(default_factory=dict)
    consistency: bool = False
    fused: bool = False


PARTS: Mapping[str, Part] = {
    FEATURES: Part(FEATURES, ""),
    IMAGE: Part(IMAGE, FEATURES),
    "rt_gs2": Part(CLASSES, consistency=True, fused=True),
    "image_only": Part(CLASSES, overrides={"inputs": "image"}, consistency=True),
    "features_only": Part(CLASSES, overrides={"inputs": "features"}),
    "no_smoothing": Part(CLASSES, overrides={"smoothing": 0.0}),
    "no_ceco": Part(CLASSES, overrides={"ceco": 0.0}),
    "depth": Part(DEPTH),
    "depth_image_only": Part(DEPTH, overrides={"inputs": "image"}),
    "finetuned": Part(FINE_TUNE, "rt_gs2", {"warmup": 0}),
}
RECORDINGS = ("house", "lounge")  # samples that are labelled with what was learned in made rooms


@dataclass(frozen=True)
class Run:
    part: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.part}-{self.seed}"


@dataclass
class RtGs2Suite:
    """rooms: folder of ``data make-rooms`` with all three splits. folder: where runs and scores are kept. overrides:
    options of all runs. room_count: test rooms that are scored (0: all). recordings: samples that are scored, too.
    photographs: further rooms, of whose training rooms the stage ``image`` looks at the photographs. segmenter: checkpoint
    of a 2D segmenter, to say how good the image-only network is. fewer_seeds: report parts that were run with some of the seeds, too, and with how
    many."""

    rooms: Path
    folder: Path
    preset: str = "quick"
    seeds: Sequence[int] = (0,)
    only: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    room_count: int = 0
    recordings: Sequence[str] = RECORDINGS
    photographs: Sequence[Path] = ()
    segmenter: Path | None = None
    fewer_seeds: bool = False

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in PARTS:
                raise InvalidRequestError(f"'{name}': expected one of {', '.join(PARTS)}")
        self._test: list[LearningScene] | None = None
        self._drew: RtGs2 | None = None

    # --- training ---------------------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """In the order in which they are trained."""
        return [Run(part, seed) for seed in self.seeds for part in PARTS if not self.only or part in self.only]

    def waiting(self) -> list[Run]:
        return [run for run in self.runs() if not self.finished(run)]

    def finished(self, run: Run) -> bool:
        """Was it trained to its last iteration?"""
        path = self.folder / run.name / CHECKPOINT
        if not path.is_file():
            return False
        content = read_learner(path)
        loop, config = content["training"]["loop"], content["config"]
        in_time = config.get("minutes", 0) and loop["seconds"] >= 60 * config["minutes"]
        return bool(loop["iteration"] >= config["iterations"] or in_time)

    def job(self, run: Run) -> LearningJob | None:
        """How a run is trained; None while the run that it starts from is not finished."""
        part = PARTS[run.part]
        start = None
        if part.start:
            before = Run(part.start, run.seed)
            if not self.finished(before):
                return None
            start = self.folder / before.name / BEST
        rooms, validation = (self.rooms, *(self.photographs if part.stage == IMAGE else ())), tuple[Path, ...]()
        if part.stage == FINE_TUNE:  # a room that is new to the network; its novel views are not learned from
            rooms = validation = (list_rooms(self.rooms, "test")[0],)
        return LearningJob(
            RtGs2.name,
            rooms,
            self.folder / run.name,
            validation,
            part.stage,
            self.preset,
            None,
            {**self.overrides, **part.overrides, "seed": run.seed},
            start,
            (self.folder / run.name / CHECKPOINT).is_file(),
        )

    def train(
        self, run: Run, listeners: Sequence[Listener] = (), cancelled: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train or go on with a run; False when it was cancelled, or has to wait for another one."""
        job = self.job(run)
        return job is not None and not learn(job, listeners, cancelled).cancelled

    # --- scores -----------------------------------------------------------------------------------------------------

    @property
    def test(self) -> list[LearningScene]:
        if self._test is None:
            folders = list_rooms(self.rooms, "test")
            self._test = [LearningScene(folder, room_labels()) for folder in folders[: self.room_count or None]]
        return self._test

    def scores(self, run: Run, progress: Callable[[], object] = lambda: None) -> dict[str, float] | None:
        """Scores of a finished run at the test rooms, worked out once; None when it is not finished."""
        if not self.finished(run):
            return None
        return self._kept(run.name, self.folder / run.name / BEST, lambda: self._scored(run, progress))

    def _kept(self, name: str, checkpoint: Path, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Scores of a checkpoint, worked out once for these test rooms."""
        path = self.folder / f"scores-{name}.json"
        made_of = {
            "rooms": [scene.name for scene in self.test],
            "format": json.loads((self.rooms / INDEX).read_text(encoding="utf-8")),
            "checkpoint_ns": checkpoint.stat().st_mtime_ns,
        }
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["made_of"] == made_of:
                kept: dict[str, float] = record["scores"]
                return kept
        scores = work()
        with atomic_write(path) as file:
            file.write((json.dumps({"made_of": made_of, "scores": scores}, indent=1) + "\n").encode())
        return scores

    def _learner(self, run: Run) -> RtGs2:
        """The best checkpoint of a run, on a GPU if there is one; what one draws of a scene the next ones look at."""
        learner = load_learner(self.folder / run.name / BEST)
        assert isinstance(learner, RtGs2)
        learner = learner.to(choose_device("auto"))
        if self._drew is not None:
            learner.share_views(self._drew)
        elif learner.config.inputs != "image":
            self._drew = learner
        return learner

    def _scored(self, run: Run, progress: Callable[[], object]) -> dict[str, float]:
        learner = self._learner(run)
        part = PARTS[run.part]
        if part.stage == FEATURES:
            return {}
        if part.stage == IMAGE:
            return self._images(learner.image_logits)
        if part.stage == FINE_TUNE:
            return {"miou": learner.evaluate(self.test[:1])["miou"]}
        if part.stage == DEPTH:
            return self._depth(learner, progress)
        return self._classes(learner, part, progress)

    def recorded(self, name: str, run: Run) -> float:
        """mIoU of a finished run at the views of a sample recording that its map was not made of."""
        best = self.folder / run.name / BEST
        return self._kept(f"{run.name}-{name}", best, lambda: {"miou": self._recorded(name, run)})["miou"]

    def _recorded(self, name: str, run: Run) -> float:
        learner = self._learner(run)
        scene = LearningScene(
            share_path("sample", name),
            learner.labels,
            max_width=room_width(self.rooms),
            map_folder=self.folder / f"map-{name}",
        )
        with torch.no_grad():
            return learner.evaluate([scene])["miou"]

    def _classes(self, learner: RtGs2, part: Part, progress: Callable[[], object]) -> dict[str, float]:
        """mIoU at novel views, and what else is asked of the part."""
        fused = part.fused
        per_view, together = ClassScore(), ClassScore()
        agree, agree_together = ConsistencyScore(), ConsistencyScore()
        quality: list[tuple[float, float]] = []
        for scene in self.test:
            gaussians, views = scene.gaussians, [*scene.views, *scene.novel]
            logits = Answers(learner, scene)
            fusion = ViewFusion(learner.rasterizer, gaussians)
            if fused:
                for number, view in enumerate(scene.views):
                    fusion.add(view.camera, logits[number])
            for number, view in enumerate(scene.novel, len(scene.views)):
                assert view.classes is not None
                truth = view.classes.astype(np.int64)
                per_view.update(every_label(logits[number]), truth)
                if fused:
                    together.update(fused_answer(fusion, view.camera), truth)
                    drawn = learner.rasterizer.render(gaussians, view.camera).rgb.clamp(0, 1).numpy()
                    quality.append((psnr(drawn, view.rgb / np.float32(255)), ssim(drawn, view.rgb / np.float32(255))))
            for pair in close_pairs(views) if part.consistency else ():
                agree.update(*(labelled(views[number], every_label(logits[number])) for number in pair))
                if fused:
                    agree_together.update(
                        *(labelled(views[number], fused_answer(fusion, views[number].camera)) for number in pair)
                    )
            progress()
        found = class_scores(per_view)
        if part.consistency:
            found["consistency"] = agree.value
        if fused:
            names = ("miou", "frequent_miou", "accuracy")
            found |= {f"fused_{name}": class_scores(together)[name] for name in names}
            found |= {"fused_consistency": agree_together.value, "compared_px": float(agree.compared)}
            found |= {
                "novel_psnr_db": float(np.mean([pair[0] for pair in quality])),
                "novel_ssim": float(np.mean([pair[1] for pair in quality])),
            }
        return found

    def segmented(self) -> dict[str, float]:
        """mIoU of the 2D segmenter at the test rooms' novel views: on photographs, and on what the map shows of them."""
        if self.segmenter is None:
            return {}
        learner = load_learner(self.segmenter)
        if not isinstance(learner, SegformerLearner):
            raise InvalidRequestError(f"{self.segmenter}: method '{learner.name}' is no 2D segmenter")
        found = self._kept(
            "segmenter2d", self.segmenter, lambda: self._images(lambda image: learner.probabilities([image])[0])
        )
        return {"segmenter2d_miou": found["photographs_miou"], "segmenter2d_rendered_miou": found["rendered_miou"]}

    def _images(self, answer: Callable[[np.ndarray], torch.Tensor]) -> dict[str, float]:
        """mIoU at the test rooms' novel views, on photographs and on what the map shows of them, of what makes class scores
        (K,H,W) of an image uint8 (H,W,3)."""
        rasterizer = create_rasterizer("auto")
        photographs, rendered = ClassScore(), ClassScore()
        for scene in self.test:
            for view in scene.novel:
                assert view.classes is not None
                truth = view.classes.astype(np.int64)
                drawn = rasterizer.render(scene.gaussians, view.camera).rgb.clamp(0, 1)
                for score, image in (
                    (photographs, view.rgb),
                    (rendered, (drawn * 255).round().to(torch.uint8).numpy()),
                ):
                    score.update(every_label(answer(image)), truth)
        return {"photographs_miou": photographs.result().miou, "rendered_miou": rendered.result().miou}

    def _depth(self, learner: RtGs2, progress: Callable[[], object]) -> dict[str, float]:
        errors: list[DepthErrors] = []
        for scene in self.test:
            for number, view in enumerate(scene.novel, len(scene.views)):
                assert view.depth is not None
                metres = learner.view_logits(scene, number)[0].numpy()
                errors.append(depth_errors(metres, view.depth, LARGEST_DEPTH_M))
            progress()
        found = mean_depth_errors(errors)
        del found["score"]
        return found

    # --- report -----------------------------------------------------------------------------------------------------

    def results(self, progress: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Means over seeds of parts whose runs are all finished; ``not_run`` lists the others."""
        results: dict[str, Any] = {}
        missing = []
        for part in PARTS:
            if self.only and part not in self.only:
                missing.append(part)
                continue
            found = {seed: self.scores(Run(part, seed), progress) for seed in self.seeds}
            whole = {seed: scores for seed, scores in found.items() if scores is not None}
            if not whole or (len(whole) < len(found) and not self.fewer_seeds):
                missing.append(part)
                continue
            if self.fewer_seeds:
                results[f"{part}_seeds"] = len(whole)
            for name in next(iter(whole.values())):
                values = [scores[name] for scores in whole.values()]
                results[_key(part, name)] = float(np.mean(values))
                if len(values) > 1:
                    results[f"{_key(part, name)}_std"] = float(np.std(values))
            if part == "rt_gs2":
                for name in self.recordings:
                    found_there = [self.recorded(name, Run(part, seed)) for seed in whole]
                    results[f"{name}_miou"] = float(np.mean(found_there))
            last = read_learner(self.folder / Run(part, next(iter(whole))).name / CHECKPOINT)
            results[f"{part}_iterations"] = last["training"]["loop"]["iteration"]
        results |= _gains(results) | self.segmented()
        return {**results, "test_rooms": len(self.test), "seeds": len(self.seeds), "not_run": missing}

    def pictures(self) -> Iterator[list[np.ndarray]]:
        """Rows of images of the first test rooms: drawn colour, features, truth, and RT-GS2's answer."""
        run = Run("rt_gs2", self.seeds[0])
        if not self.finished(run):
            return
        learner = self._learner(run)
        for scene in self.test[:SHOWN]:
            features = learner.features(scene.gaussians)
            basis = None
            for view in scene.novel[:: max(1, len(scene.novel) // 2)][:2]:
                images = draw_view(learner.rasterizer, scene.gaussians, features, view.camera)
                shown, basis = principal_colours(images.features[0].permute(1, 2, 0), basis)
                colour = (images.rgb[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
                assert view.classes is not None
                yield [
                    colour,
                    shown,
                    view.classes.astype(np.int64),
                    every_label(learner.logits(scene.gaussians, features, view.camera)),
                ]

    def curves(self) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """Learning curves of the runs that began: iteration and value of every loss term, by the run's name."""
        found: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for run in self.runs():
            path = self.folder / run.name / METRICS
            if not path.is_file():
                continue
            terms = found.setdefault(run.name, {})
            for report in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                for name in report:
                    if name.startswith("loss_"):
                        terms.setdefault(name[len("loss_") :], []).append((report["iteration"], report[name]))
        return found

    def prepare(self) -> None:
        make_folder(self.folder)


class Answers(dict[int, torch.Tensor]):
    """Logits (K,H,W) of a scene's views by number, worked out when they are first asked for."""

    def __init__(self, learner: RtGs2, scene: LearningScene) -> None:
        super().__init__()
        self.learner, self.scene = learner, scene

    def __missing__(self, number: int) -> torch.Tensor:
        self[number] = found = self.learner.view_logits(self.scene, number)
        return found


def every_label(logits: torch.Tensor) -> np.ndarray:
    """Class ids (H,W); the map of made rooms is closed, so every pixel has one."""
    return label_image(logits, torch.ones(logits.shape[1:], dtype=torch.bool))


def fused_answer(fusion: ViewFusion, camera: Camera) -> np.ndarray:
    """The same of answers that were brought back into the Gaussians."""
    return every_label(fusion.render(camera))


def labelled(view: SceneView, labels: np.ndarray) -> LabelledView:
    assert view.depth is not None
    return LabelledView(view.camera, labels, view.depth, view.classes)


def close_pairs(views: Sequence[SceneView]) -> list[tuple[int, int]]:
    """Pairs of views of one room, by number, that look at the same surfaces from 0.2 to 1 m apart; a room may have none."""
    depths = [view.depth for view in views if view.depth is not None]
    if len(depths) < len(views):
        return []
    try:
        return view_pairs_at_distance([view.camera for view in views], depths, PAIRS_A_ROOM)
    except InvalidRequestError:
        return []


def class_scores(score: ClassScore) -> dict[str, float]:
    """mIoU over all classes that occur, and over the most frequent of them."""
    found = score.result()
    pixels = dict(zip(score._total.truths.tolist(), score._total.truth_pixels.tolist(), strict=True))
    frequent = sorted(pixels, key=lambda key: -pixels[key])[:FREQUENT]
    return {
        "miou": found.miou,
        "frequent_miou": float(np.mean([found.iou[key] for key in frequent])),
        "mean_accuracy": found.mean_accuracy,
        "accuracy": found.accuracy,
    }


def _key(part: str, name: str) -> str:
    """Names of the report: those that stand for the method itself have no prefix."""
    if part == "depth":
        return f"depth_{name.removesuffix('_m')}" if name == "rmse_m" else f"depth_{name}"
    if part == "depth_image_only":
        return f"depth_{name.removesuffix('_m')}_image_only" if name == "rmse_m" else f"depth_{name}_image_only"
    if part == "rt_gs2" and name.startswith(("fused_", "novel_", "compared_")):
        return name
    return f"{part}_{name}"


def _gains(results: Mapping[str, Any]) -> dict[str, float]:
    """What the 3D features add, where both sides were run."""
    gains = {}
    if {"rt_gs2_miou", "image_only_miou"} <= set(results):
        gains["features_gain_miou"] = results["rt_gs2_miou"] - results["image_only_miou"]
    if {"depth_rmse", "depth_rmse_image_only"} <= set(results):
        gains["depth_rmse_gain"] = 1 - results["depth_rmse"] / results["depth_rmse_image_only"]
    return gains
