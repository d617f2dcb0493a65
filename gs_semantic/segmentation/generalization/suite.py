"""The comparison of ``gs-semantic evaluate suite gnesf``: unseen rooms and recordings, by learned votes and what they
are to be better than. Finished rooms are kept, so that it can be stopped and gone on with."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from gs_semantic.data.room_writer import INDEX, list_rooms, room_width
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.contingency import Contingency
from gs_semantic.evaluation.segmentation import SegmentationScores
from gs_semantic.files import atomic_write, make_folder
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import Rasterizer, create_rasterizer
from gs_semantic.segmentation.generalization.checkpoints import load_learner
from gs_semantic.segmentation.generalization.gnesf.prepared import PreparedViews
from gs_semantic.segmentation.generalization.method import GaussianClasses, splat
from gs_semantic.segmentation.generalization.methods.gnesf import Gnesf
from gs_semantic.segmentation.generalization.methods.gnesf_volume import EVALUATED_STEP, GnesfVolume, SceneGrid
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView
from gs_semantic.segmenters.weights import choose_device

SUITES = ("gnesf",)
OTHERWISE = {  # rows of the first checkpoint of learned votes, with other options
    "uniform": {"answer": "uniform", "blend": "mean", "neighbours": "none"},
    "uniform_log": {"answer": "uniform", "blend": "log", "neighbours": "none"},
    "uniform_neighbours": {"answer": "uniform", "blend": "log", "neighbours": "alike"},
    "gnesf_alone": {"neighbours": "none"},  # votes of views without those of neighbours
}
NAMES = {
    "gnesf": "learned votes", "no_visibility": "without visibility", "direct": "direct regression",
    "gnesf_volume": "volume rendering",
}  # fmt: skip
GATES = {"segmenter2d": 0.55, "direct": 0.30}  # mIoU that a comparison asks for
COMPARED = (
    "segmenter2d",
    "segmenter2d_rendered",
    "uniform",
    "uniform_log",
    "uniform_neighbours",
    "gnesf_alone",
    "no_visibility",
    "direct",
    "gnesf_volume",
)
VIEW_COUNTS = (4, 8, 16)  # source views, besides all
PICTURED = 3  # test rooms that are shown, besides the first recording
POINT_STEP = 3  # every so many pixels each way of a novel view's recorded depth are 3D points to be labelled


@dataclass
class OpenScene:
    """A scene that is being scored, with what its views are for each 2D segmenter: most checkpoints share one."""

    scene: LearningScene
    _prepared: dict[str, PreparedViews] = field(default_factory=dict)

    def views_of(self, learner: Gnesf, rasterizer: Rasterizer) -> PreparedViews:
        key = _digest(learner.classifier)
        if key not in self._prepared:
            self._prepared[key] = learner.prepare(self.scene.views, self.scene.gaussians, rasterizer)
        return self._prepared[key]


@dataclass
class GnesfSuite:
    """rooms: folder with a test split. checkpoints: of GNeSF; which part of the comparison one plays follows from its
    options (answer, visibility); several of one kind are seeds. recordings: by the names of their results. folder: where
    finished scenes are kept. device: where networks run; auto: a GPU if there is one. threads: of drawing (None: all).
    room_count: test rooms that are scored (0: all).
    """

    rooms: Path
    checkpoints: Sequence[Path]
    folder: Path
    recordings: Mapping[str, Path] = field(default_factory=dict)
    progress: Callable[[], object] = lambda: None
    device: str = "auto"
    threads: int | None = None
    room_count: int = 0

    def __post_init__(self) -> None:
        self.learners: dict[str, list[tuple[Path, Gnesf]]] = {}
        for path in self.checkpoints:
            learner = load_learner(path)
            if not isinstance(learner, Gnesf):
                raise InvalidRequestError(f"{path}: is of method '{learner.name}'; the suite compares those of gnesf")
            self.learners.setdefault(variant_of(learner), []).append((path, learner.to(choose_device(self.device))))
        if "gnesf" not in self.learners:
            raise InvalidRequestError("none of the checkpoints is of learned votes (answer=vote, visibility=depth)")
        ways = sorted({learner.config.neighbours for _, learner in self.learners["gnesf"]})
        if len(ways) > 1:
            raise InvalidRequestError(
                f"checkpoints of learned votes with neighbours={', '.join(ways)} are no seeds of one another; give those of "
                "one kind, and the others to a run of their own"
            )
        self.rasterizer: Rasterizer = create_rasterizer("auto", threads=self.threads)

    @property
    def scenes(self) -> list[tuple[str, Path]]:
        rooms = list_rooms(self.rooms, "test")[: self.room_count or None]
        return [("rooms", room) for room in rooms] + list(self.recordings.items())

    def run(self, jobs: int = 1) -> dict[str, Any]:
        """All scores by name; ..._std over seeds where there are several. jobs: processes, each with one thread."""
        if jobs > 1:
            settings = (self.rooms, self.checkpoints, self.folder, self.recordings)
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(jobs, spawn, _begin_work, (*settings, self.device)) as pool:
                for _ in pool.map(_work, *zip(*self.scenes, strict=True)):
                    self.progress()
        totals: dict[tuple[str, str, int], Contingency] = {}
        for group, folder in self.scenes:
            for (name, seed), table in self._tables(group, folder).items():
                key = (group, name, seed)
                totals[key] = totals.get(key, Contingency()) + table
            if jobs == 1:
                self.progress()
        results: dict[str, Any] = {"test_rooms": sum(group == "rooms" for group, _ in self.scenes)}
        for group, name in dict.fromkeys((group, name) for group, name, _ in totals):
            found = [SegmentationScores.of(table) for (g, n, _), table in totals.items() if (g, n) == (group, name)]
            prefix = name if group == "rooms" else group if name == "gnesf" else f"{group}_{name}"
            for score in ("miou", "mean_accuracy"):
                values = [getattr(one, score) for one in found]
                results[f"{prefix}_{score}"] = statistics.fmean(values)
                if len(values) > 1:
                    results[f"{prefix}_{score}_std"] = statistics.stdev(values)
        return results | gains(results)

    def pictures(self) -> list[dict[str, np.ndarray]]:
        """One novel view of each of a few scenes: "photograph" uint8 (H,W,3), and class ids int16 (H,W) of "truth" and of
        the rows of the comparison, each by its first checkpoint. A view with classes if there is one. Kept as the scores are."""
        rooms = [scene for scene in self.scenes if scene[0] == "rooms"][:PICTURED]
        return [self._picture(*scene) for scene in [*rooms, *list(self.recordings.items())[:1]]]

    def _picture(self, group: str, folder: Path) -> dict[str, np.ndarray]:
        chosen = {variant: learners[0] for variant, learners in self.learners.items()}
        made_of = self._made_of(group, folder, *(path for path, _ in chosen.values()))
        path = self.folder / f"{group}_{folder.name}_{made_of}_picture.npz"
        if not path.is_file():
            opened, voting = self._open(group, folder), chosen["gnesf"][1]
            gaussians = opened.scene.gaussians
            views = [view for view in opened.scene.novel if view.classes is not None] or opened.scene.novel
            view = views[len(views) // 2]
            truth = np.zeros(view.rgb.shape[:2], np.int16) if view.classes is None else view.classes
            shown = {"photograph": view.rgb, "truth": truth}
            shown["2D segmenter"] = _image_classes(voting, view.rgb, truth.shape)
            others = {"uniform vote": _changed(voting, **OTHERWISE["uniform"])}
            others |= {NAMES[variant]: learner for variant, (_, learner) in chosen.items()}
            for name, learner in others.items():
                prepared = opened.views_of(learner, self.rasterizer)
                if isinstance(learner, GnesfVolume):
                    field = SceneGrid.of(prepared.views, prepared, learner.config.voxels)
                    shown[name] = learner.render(prepared, field, view.camera, EVALUATED_STEP)[0]
                else:
                    known = learner.classes_of(gaussians, prepared)
                    shown[name] = splat(gaussians, known, view.camera, self.rasterizer).classes
            make_folder(self.folder)
            with atomic_write(path) as file:
                small = {name: image if image.ndim == 3 else image.astype(np.int16) for name, image in shown.items()}
                np.savez_compressed(file, allow_pickle=False, **small)
        with np.load(path) as kept:
            return dict(kept)

    def _tables(self, group: str, folder: Path) -> dict[tuple[str, int], Contingency]:
        """Of a scene, by row and seed. What each checkpoint has to say of it is kept in a file of its own."""
        opened: list[OpenScene] = []
        tables: dict[tuple[str, int], Contingency] = {}
        for variant, learners in self.learners.items():
            if variant == GnesfVolume.name and group != "rooms":
                continue  # minutes for every view
            for seed, (checkpoint, learner) in enumerate(learners):
                first = variant == "gnesf" and seed == 0  # has the rows that are of the 2D segmenter alone
                made_of = self._made_of(group, folder, checkpoint)
                path = self.folder / f"{group}_{folder.name}_{made_of}{'_first' if first else ''}.json"
                if not path.is_file():
                    if not opened:
                        opened.append(self._open(group, folder))
                    found = self._score(opened[0], variant, learner, first)
                    make_folder(self.folder)
                    with atomic_write(path) as file:
                        file.write(json.dumps([_record(name, table) for name, table in found.items()]).encode())
                for name, table in map(_restored, json.loads(path.read_text(encoding="utf-8"))):
                    tables[name, seed] = table
        return tables

    def _open(self, group: str, folder: Path) -> OpenScene:
        labels = self.learners["gnesf"][0][1].labels
        width = 0 if group == "rooms" else room_width(self.rooms)
        maps: Path | str = "beside" if group == "rooms" else self.folder / f"map_{group}_{self._made_of(group, folder)}"
        return OpenScene(LearningScene(folder, labels, max_width=width, map_folder=maps))

    def _made_of(self, group: str, folder: Path, *checkpoints: Path) -> str:
        """Tells kept files apart. A room follows from its name and what all rooms have in common, a recording is known by its
        place."""
        digest = hashlib.sha256((self.rooms / INDEX).read_bytes())
        digest.update(b"" if group == "rooms" else str(folder.resolve()).encode())
        for checkpoint in checkpoints:
            digest.update(checkpoint.read_bytes())
        return digest.hexdigest()[:12]

    def _score(self, scene: OpenScene, variant: str, learner: Gnesf, first: bool) -> dict[str, Contingency]:
        tables: dict[str, Contingency] = {}

        def count(name: str, predicted: np.ndarray, truth: np.ndarray) -> None:
            table = Contingency.of(predicted.astype(np.int64), truth.astype(np.int64), (0,))
            tables[name] = tables.get(name, Contingency()) + table

        gaussians, views = scene.scene.gaussians, scene.views_of(learner, self.rasterizer)
        known: dict[str, GaussianClasses] = {}
        field: SceneGrid | None = None
        if isinstance(learner, GnesfVolume):
            field = SceneGrid.of(views.views, views, learner.config.voxels)
        else:
            known[variant] = learner.classes_of(gaussians, views)
        if first:
            for name, options in OTHERWISE.items():
                known[name] = _changed(learner, **options).classes_of(gaussians, views)
            known |= self._of_fewer(learner, gaussians, views)
        for view in scene.scene.novel:
            if view.classes is None:
                continue
            for name, classes in known.items():
                count(name, splat(gaussians, classes, view.camera, self.rasterizer).classes, view.classes)
            if isinstance(learner, GnesfVolume) and field is not None:
                found = learner.render(views, field, view.camera, EVALUATED_STEP)[0]
                count(variant, found, view.classes[::EVALUATED_STEP, ::EVALUATED_STEP])
            if first:
                self._count_images(learner, gaussians, view, count)
            if variant == "gnesf":
                count("gnesf_points", *nearest_classes(gaussians, known["gnesf"], view))
        return tables

    def _of_fewer(self, learner: Gnesf, gaussians: GaussianMap, views: PreparedViews) -> dict[str, GaussianClasses]:
        """The votes of some of the views, spread evenly, by the name of their row."""
        found = {}
        for number in VIEW_COUNTS:
            if number < len(views):
                some = np.unique(np.linspace(0, len(views) - 1, number).round().astype(int))
                found[f"gnesf_views{number}"] = learner.classes_of(gaussians, views.subset(some.tolist()))
        return found

    def _count_images(self, learner: Gnesf, gaussians: GaussianMap, view: SceneView, count: Any) -> None:
        """The 2D segmenter alone: on the photograph, which a novel view does not have, and on the rendered image."""
        assert view.classes is not None
        for name, rgb in (("segmenter2d", view.rgb), ("segmenter2d_rendered", self._rendered(gaussians, view.camera))):
            count(name, _image_classes(learner, rgb, view.classes.shape), view.classes)

    @torch.no_grad()
    def _rendered(self, gaussians: GaussianMap, camera: Camera) -> np.ndarray:
        rgb = self.rasterizer.render(gaussians, camera).rgb
        return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


_suite: GnesfSuite | None = None  # of a process that scores


def _begin_work(
    rooms: Path, checkpoints: Sequence[Path], folder: Path, recordings: Mapping[str, Path], device: str
) -> None:
    global _suite
    torch.set_num_threads(1)
    _suite = GnesfSuite(rooms, checkpoints, folder, recordings, device=device, threads=1)


def _work(group: str, folder: Path) -> None:
    assert _suite is not None
    _suite._tables(group, folder)


def variant_of(learner: Gnesf) -> str:
    """Which part of the comparison a checkpoint plays."""
    if learner.name != Gnesf.name:
        return learner.name
    if learner.config.answer == "direct":
        return "direct"
    return "no_visibility" if learner.config.visibility == "none" else "gnesf"


def gains(results: Mapping[str, Any]) -> dict[str, Any]:
    """By how much mIoU learned votes are better than what they are compared with. Said only where the 2D segmenter and
    direct regression are good enough for a comparison to mean something (``GATES``); whether they are is said always."""
    passed = {name: results.get(f"{name}_miou", 0.0) >= least for name, least in GATES.items()}
    found: dict[str, Any] = {f"{name}_at_least_{GATES[name]:.2f}": good for name, good in passed.items()}
    if all(passed.values()):
        for name in COMPARED:
            if f"{name}_miou" in results:
                found[f"gain_over_{name}"] = results["gnesf_miou"] - results[f"{name}_miou"]
    return found


def nearest_classes(gaussians: GaussianMap, known: GaussianClasses, view: SceneView) -> tuple[np.ndarray, np.ndarray]:
    """3D segmentation of points: those of a view's recorded depth get the class of the nearest Gaussian that has one.

    Classes found and true, (P,) each; empty without depth or classes.
    """
    classes = known.classes.numpy()
    rows = np.flatnonzero(classes)
    if view.depth is None or view.classes is None or not len(rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    part = np.s_[::POINT_STEP, ::POINT_STEP]
    points = view.camera.unproject(view.depth)[part].reshape(-1, 3)
    truth = view.classes[part].ravel()
    finite = np.isfinite(points).all(axis=1)
    nearest = cKDTree(gaussians["means"].numpy()[rows]).query(points[finite])[1]
    return classes[rows][nearest], truth[finite]


def _image_classes(learner: Gnesf, rgb: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What the 2D segmenter alone says of an image: class ids (H,W)."""
    scores = learner.opinions.scores([rgb])
    found = torch.nn.functional.interpolate(scores, size=shape, mode="bilinear", align_corners=False)
    return found[0].argmax(dim=0).numpy() + 1


def _digest(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _changed(learner: Gnesf, **options: Any) -> Gnesf:
    """The same network with other options, sharing its weights."""
    other = Gnesf(replace(learner.config, **options), learner.labels)
    other.load_state_dict(learner.state_dict())
    return other.to(learner.device).eval()


def _record(name: str, table: Contingency) -> dict[str, Any]:
    parts = {part: getattr(table, part).tolist() for part in ("truths", "predictions", "pixels")}
    return {"name": name, **parts}


def _restored(record: dict[str, Any]) -> tuple[str, Contingency]:
    truths, predictions, pixels = (np.array(record[name], np.int64) for name in ("truths", "predictions", "pixels"))
    return record["name"], Contingency(truths, predictions, pixels.reshape(len(truths), len(predictions)))
