"""Comparisons of methods, cell by cell: a cell is one variant on one scene with one kind of masks and one seed.

Every finished cell is a JSON file in the suite's folder, so a suite that was interrupted goes on where it was. Averages
are made of rows whose cells, one per seed, are all there (of others where asked for); what was not run is listed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gs_semantic.data.folder_writer import write_folder
from gs_semantic.data.formats import open_sequence
from gs_semantic.data.procedural import ObjectScene, ProceduralSequence
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.damage import NOISE
from gs_semantic.files import atomic_write, make_folder
from gs_semantic.segmentation.config import TrainingConfig, make_config
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.methods.contrastive import ClusteredContrast
from gs_semantic.segmentation.methods.coseg.method import CosegConfig
from gs_semantic.segmentation.methods.unified_lift import AS_PUBLISHED, BY_NEED, UnifiedLift
from gs_semantic.segmentation.progress import Listener
from gs_semantic.segmentation.registry import method_class
from gs_semantic.segmentation.scene import Scene, View, make_scene
from gs_semantic.segmentation.scoring import protocol_scores, score_views, semantic_extras
from gs_semantic.segmentation.trainer import MAP, Trainer, TrainingJob, train

SHOWN_VIEWS = 3  # held-out views whose predictions are kept for pictures
MASKS: Mapping[str, Mapping[str, Any]] = {
    "perfect": {"masks": "perfect", "ids": "recorded"},
    "damaged": {"masks": "damaged", "ids": "tracked"},
    "untracked": {"masks": "shuffled", "ids": "recorded"},
    "untracked_damaged": {"masks": "damaged", "ids": "recorded"},
    **{level: {"masks": level, "ids": "recorded"} for level in NOISE},
}
VIEWS, VIEW_SIZE = (90, 30), (320, 240)  # of scenes of objects: to train on and held out; px
COMPLETE = "complete.json"  # in the folder of a map that was built to its end
SHARED_OPTIONS = {spec.name for spec in fields(TrainingConfig)}
CLUSTER_SIZES = (10, 20, 50, 100, 200)  # smallest clusters that are tried
ANSWER_TEMPERATURES = (0.1, 0.03, 0.015)
ONE_OBJECT = 0.35  # the share that is tried


@dataclass(frozen=True)
class Variant:
    """A method with some options changed. equal_count_to: the variant whose number of Gaussians is this one's limit.

    built: starts from a map that was trained without identities, one for all such variants of a seed. A variant beside
    them that builds its own map has all iterations together.
    """

    method: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    equal_count_to: str = ""
    equal_length_to: str = ""
    built: bool = False


@dataclass(frozen=True)
class Comparison:
    """Variants, the first of which all others leave a part out of or stand beside; what is run unless told otherwise.

    objects: sizes of the scenes made in code that it is about; without, it is run on a recording. overrides: options of
    all variants. segment_for: iterations after the building of maps, by preset
    (the option ``iterations`` sets both, ``segment_for`` this one alone). suffixes: of the names of results, by
    kind of masks; without, all but the first have their kind as a prefix. protocols: scores are those of the Replica and
    the LERF-Mask protocol, too.
    """

    variants: Mapping[str, Variant]
    masks: Sequence[str] = ("perfect",)
    objects: Sequence[int] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    segment_for: Mapping[str, int] = field(default_factory=dict)
    suffixes: Mapping[str, str] = field(default_factory=dict)
    protocols: bool = False


def _unified(**changes: Any) -> Variant:
    return Variant("unified_lift", {"unlabelled": "background", **changes})


def _published(**changes: Any) -> Variant:
    return _unified(**{**AS_PUBLISHED, **changes})


def _coseg(**changes: Any) -> Variant:
    return Variant("coseg", changes, built=True)


HDBSCAN = "hdbscan"
HDBSCAN_BALANCED = "hdbscan_balanced"  # on the features of balanced draws, those that the codebook has
PUBLISHED = "published_codebook"  # the control of the codebook's ablations, which leave out or change a part of it
# as few as a reconstruction has, and growth in as many rounds
SPARSE = {"initial_gaussians": 5000, "densify_every": 25}
# a map of so few that many reach over borders, and IGD that may more than double them
SMALL = {**SPARSE, "max_gaussians": 20_000}
GROWN = {**SMALL, "igd_total_share": 1.5, "igd_round_share": 0.3, "igd_quantile": 0.8}
OWN_SIDE = {"la_side": "identity", "la_candidates": 10}
SUITES: Mapping[str, Comparison] = {
    "gradiseg": Comparison(
        {
            "plain": Variant("plain"),
            "grouping": Variant("grouping"),
            "gradiseg": Variant("gradiseg"),
            "grouping_equal_count": Variant("grouping", equal_count_to="gradiseg", equal_length_to="gradiseg"),
            "no_igd": Variant("gradiseg", {"igd": False}),
            "no_laknn": Variant("gradiseg", {"la_knn": False}),
            "grouping_borders": Variant("grouping", {"identity_near_borders": 0.5}),
            "gradiseg_borders": Variant("gradiseg", {"identity_near_borders": 0.5}),
            "gradiseg_own_side": Variant("gradiseg", OWN_SIDE),
            "longest_axis": Variant("gradiseg", {"igd_axis": "longest"}),
            "random_children": Variant("gradiseg", {"igd_children": "random"}),
            "sparse_grouping": Variant("grouping", SPARSE),
            "sparse_gradiseg": Variant("gradiseg", SPARSE),
            "sparse_grouping_equal_count": Variant(
                "grouping", SPARSE, equal_count_to="sparse_gradiseg", equal_length_to="sparse_gradiseg"
            ),
            "sparse_no_igd": Variant("gradiseg", {**SPARSE, "igd": False}),
            "sparse_no_laknn": Variant("gradiseg", {**SPARSE, "la_knn": False}),
            "small_plain": Variant("plain", SMALL),
            "small_grouping": Variant("grouping", SMALL),
            "small_gradiseg": Variant("gradiseg", GROWN),
            "small_grouping_equal_count": Variant(
                "grouping", SMALL, equal_count_to="small_gradiseg", equal_length_to="small_gradiseg"
            ),
            "small_own_side": Variant("gradiseg", {**GROWN, **OWN_SIDE}),
            "small_no_igd": Variant("gradiseg", {**SMALL, "igd": False}),
            "small_no_laknn": Variant("gradiseg", {**GROWN, "la_knn": False}),
        }
    ),
    "unified_lift": Comparison(
        {
            "unified_lift": _unified(),
            "grouping_tracked": Variant("grouping", {"ids": "tracked"}),
            "grouping_untracked": Variant("grouping"),
            HDBSCAN: Variant("contrastive", {"unlabelled": "background"}),
            HDBSCAN_BALANCED: Variant(
                "contrastive", {"unlabelled": "background", "draw_balance": BY_NEED["draw_balance"]}
            ),
            PUBLISHED: _published(),
            "no_area_aware": _published(area_aware=False),
            "no_filter": _published(filter_below=1.0),
            "filter_075": _published(filter_below=0.75),
            "filter_085": _published(filter_below=0.85),
            "no_blocking": _published(block_gradients=False),
            "paper_weights": _published(weighting="paper"),
            "all_pixels": _published(association_pixels=0),
            "unbalanced": _published(contrast_balance=0.0, contrast_balance_end=-1.0),
            "steady_balance": _published(contrast_balance_end=-1.0),
            "balanced_draws": _published(draw_balance=BY_NEED["draw_balance"]),
        },
        masks=("untracked",),
        objects=(25, 50, 100, 500),
    ),
    "protocols": Comparison(
        {
            "unified_lift": Variant("unified_lift"),
            PUBLISHED: Variant("unified_lift", AS_PUBLISHED),
            "grouping_tracked": Variant("grouping", {"ids": "tracked", "unlabelled": "ignore"}),
            "grouping_untracked": Variant("grouping", {"unlabelled": "ignore"}),
            HDBSCAN: Variant("contrastive"),
        },
        masks=("untracked",),
        protocols=True,
    ),
    "coseg": Comparison(
        {
            "coseg": _coseg(),
            "grouping": Variant("grouping", {"unlabelled": "ignore"}),
            "votes": Variant("votes", {"unlabelled": "ignore"}, built=True),
            "coseg_ce": _coseg(loss="ce"),
            "no_2d": _coseg(image_features=False),
            "no_spatial": _coseg(spatial_features=False),
            "single_scale": _coseg(scales=1),
            "no_3d_term": _coseg(regularise_weight=0.0),
        },
        masks=("noise_high", "noise_mid", "noise_low"),
        overrides={"labels": "semantic"},
        segment_for={"quick": 1500, "standard": 6000, "paper": 6000},
        suffixes={"noise_high": "", "noise_mid": "_mid", "noise_low": "_low"},
    ),
}
ABLATIONS = (
    "no_area_aware", "no_filter", "filter_075", "filter_085", "no_blocking", "paper_weights", "all_pixels", "unbalanced",
    "steady_balance", "balanced_draws", "unified_lift",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    variant: str
    masks: str
    seed: int
    objects: int = 0  # in a scene made in code; 0: the recording

    @property
    def name(self) -> str:
        scene = f"{self.objects}_objects-" if self.objects else ""
        return f"{self.variant}-{scene}{self.masks}-{self.seed}"


@dataclass
class Suite:
    """A named comparison, on a recording or on scenes of ``objects``; what is empty is as the comparison has it.

    overrides: options of all variants whose method has them. Images are trained on in the preset's size and scored as recorded.
    """

    name: str
    sequence: Path
    evaluation: Path
    folder: Path
    preset: str = "quick"
    seeds: Sequence[int] = (0, 1, 2)
    masks: Sequence[str] = ()
    only: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    objects: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.name not in SUITES:
            raise InvalidRequestError(f"suite '{self.name}': expected one of {', '.join(SUITES)}")
        comparison = SUITES[self.name]
        self.variants = comparison.variants
        self.masks = self.masks or comparison.masks
        if self.objects and not comparison.objects:
            raise InvalidRequestError(f"suite '{self.name}' is run on a recording, not on scenes of objects")
        self.objects = self.objects or comparison.objects
        for given, known in ((self.only, self.variants), (self.masks, MASKS)):
            for name in given:
                if name not in known:
                    raise InvalidRequestError(f"'{name}': expected one of {', '.join(known)}")
        self._scenes: dict[str, Scene] = {}

    def cells(self) -> list[Cell]:
        """In the order in which they are run: all variants of one seed before the next."""
        variants = [name for name in self.variants if not self.only or name in self.only]
        return [
            Cell(variant, masks, seed, objects)
            for objects in self.objects or (0,)
            for masks in self.masks
            for seed in self.seeds
            for variant in variants
        ]

    def waiting(self) -> list[Cell]:
        """Cells that were not run with these options."""
        return [cell for cell in self.cells() if self.result(cell) is None]

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What a cell found; None when it was not run, or with other options."""
        config = self.config(cell)
        path = self.folder / f"{cell.name}.json"
        if config is None or not path.is_file():
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        same = _but_back_end(record["made_of"]) == _but_back_end(self._made_of(cell, config))
        return record["results"] if same else None

    def _made_of(self, cell: Cell, config: TrainingConfig) -> dict[str, Any]:
        if cell.objects:
            return {"objects": cell.objects, "views": [*VIEWS, *VIEW_SIZE], "options": asdict(config)}
        return {"sequence": str(self.sequence), "evaluation": str(self.evaluation), "options": asdict(config)}

    def config(self, cell: Cell) -> TrainingConfig | None:
        """Options of a cell; None while the cell that it is made equal to was not run."""
        variant = self.variants[cell.variant]
        kind = method_class(variant.method).Config
        comparison = SUITES[self.name]
        values = {**comparison.overrides, "seed": cell.seed, "mask_seed": cell.seed, **MASKS[cell.masks]}
        values |= {**self._known_overrides(kind), **variant.overrides}
        if comparison.segment_for:
            more = self.overrides.get("iterations", comparison.segment_for[self.preset])
            more = self.overrides.get("segment_for", more)
            if variant.built:
                values |= {"initial": "map", "initial_map": str(self._built(cell.seed) / MAP)}
                learned = issubclass(kind, CosegConfig)
                values |= {"iterations": more, "segment_for": more} if learned else {"iterations": 1}
            else:
                values["iterations"] = self._iterations() + more
        if variant.equal_length_to:
            other = self.config(replace(cell, variant=variant.equal_length_to))
            assert other is not None
            values["densify_until"] = getattr(other, "igd_until", other.densify_until)
        if variant.equal_count_to:
            found = self.result(replace(cell, variant=variant.equal_count_to))
            if found is None:
                return None
            values["max_gaussians"] = int(found["gaussians"])
        return make_config(kind, self.preset, overrides=values)

    def _known_overrides(self, kind: type[TrainingConfig]) -> dict[str, Any]:
        """The suite's options that a method has; those that none of its methods has are left in, to be refused."""
        known = [{spec.name for spec in fields(method_class(v.method).Config)} for v in self.variants.values()]
        own, of_others = {spec.name for spec in fields(kind)}, set[str]().union(*known)
        return {name: value for name, value in self.overrides.items() if name in own or name not in of_others}

    def _built(self, seed: int) -> Path:
        """Folder of the training run whose map the built variants of a seed start from."""
        return self.folder / f"built-{self.preset}-{seed}"

    def _build(self, seed: int, listeners: Sequence[Listener], cancelled: Callable[[], bool]) -> bool:
        """Train that map unless it is there; False when cancelled. One that was interrupted is started anew."""
        folder = self._built(seed)
        if (folder / COMPLETE).is_file():
            return True
        overrides = {"seed": seed} | {key: value for key, value in self.overrides.items() if key in SHARED_OPTIONS}
        job = TrainingJob("plain", self.sequence, folder, self.preset, None, overrides, self.evaluation)
        result = train(job, listeners, cancelled)
        if not result.cancelled:
            with atomic_write(folder / COMPLETE) as file:
                record = {"psnr_db": result.metrics.get("psnr_db"), "minutes": result.minutes}
                file.write(json.dumps(record).encode())
        return not result.cancelled

    def run(
        self, cell: Cell, listeners: Sequence[Listener] = (), cancelled: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train and score a cell; False when it was cancelled, or has to wait for another one."""
        config = self.config(cell)
        if config is None:
            return False
        make_folder(self.folder)
        if self.variants[cell.variant].built and not self._build(cell.seed, listeners, cancelled):
            return False
        scene = self._scene(cell, config)
        method = method_class(self.variants[cell.variant].method)(config, scene)
        result = Trainer(method, listeners=listeners, cancelled=cancelled).run()
        if result.cancelled:
            return False
        scores = score_views(method, scene.held_out, background=True) if cell.objects else result.metrics
        results = {**scores, "gaussians": len(method.gaussians), "minutes": result.minutes}
        if isinstance(method, ClusteredContrast) and cell.objects:
            results |= _by_cluster_size(method, scene.held_out)
        if isinstance(method, UnifiedLift) and cell.objects:
            results |= _by_rule(method, scene.held_out)
        if scene.semantic:
            results |= semantic_extras(method, scene.held_out)
        if SUITES[self.name].protocols:
            results |= protocol_scores(method, scene.held_out)
        self._keep_pictures(cell, method, scene.held_out)
        with atomic_write(self.folder / f"{cell.name}.json") as file:
            record = {"made_of": self._made_of(cell, config), "results": results}
            file.write(json.dumps(record, indent=1).encode())
        return True

    def _scene(self, cell: Cell, config: TrainingConfig) -> Scene:
        """The recording with a cell's masks; it is the same for all variants, and kept."""
        key = json.dumps(
            [config.masks, config.ids, config.mask_seed, config.seed, config.width, config.initial_gaussians]
            + [cell.objects, config.labels, config.initial, config.initial_map]
        )
        if key not in self._scenes:
            self._scenes.clear()
            sequence, evaluation = self._sequences(cell.objects, config.width)
            self._scenes[key] = make_scene(sequence, config, evaluation)
        return self._scenes[key]

    def _sequences(self, objects: int, width: int) -> tuple[FrameSequence, FrameSequence]:
        """What is trained on, and what is scored at."""
        train, held_out = self._recorded(objects) if objects else (self.sequence, self.evaluation)
        return open_sequence(train, max_width=width), open_sequence(held_out)

    def _recorded(self, objects: int) -> tuple[Path, Path]:
        """Recordings of a scene made in code, to train on and held out; casting their rays takes a minute, once."""
        scene, folder = ObjectScene.make(objects), self.folder / f"scene-{objects}_objects"
        found = []
        for name, count, phase in zip(("train", "held_out"), VIEWS, (0, 0.5), strict=True):
            found.append(folder / name)
            if not found[-1].is_dir():
                make_folder(folder)
                write_folder(ProceduralSequence(scene, scene.cameras(count, VIEW_SIZE, phase)), found[-1])
        return found[0], found[1]

    def _keep_pictures(self, cell: Cell, method: LiftingMethod, views: Sequence[View]) -> None:
        if not views:
            return
        chosen = [views[i] for i in np.linspace(0, len(views) - 1, min(SHOWN_VIEWS, len(views))).astype(int)]
        shown = [method.predict(view.camera) for view in chosen]
        images = {f"rgb{i}": one.rgb for i, one in enumerate(shown)}
        images |= {f"ids{i}": one.ids for i, one in enumerate(shown) if one.ids is not None}
        images |= {f"photo{i}": view.rgb for i, view in enumerate(chosen)}
        images |= {f"truth{i}": view.ids for i, view in enumerate(chosen) if view.ids is not None}
        with atomic_write(self.folder / f"{cell.name}.npz") as file:
            np.savez_compressed(file, **images)  # type: ignore[arg-type]

    # --- results ----------------------------------------------------------------------------------------------------

    def results(self, fewer_seeds: bool = False) -> dict[str, Any]:
        """Mean and standard deviation over seeds of every row that is whole; ``cells_missing`` lists the others' cells.

        fewer_seeds: also of rows with some of the seeds; <variant>_seeds says with how many.

        Names: <variant>_<score>, with damaged masks damaged_<variant>_<score>; with several seeds also ..._std. Where the
        comparison has suffixes of masks: <variant>_<score><suffix>.
        """
        comparison = SUITES[self.name]
        results: dict[str, Any] = {}
        for objects, masks, variant in self._rows():
            found = [self.result(Cell(variant, masks, seed, objects)) for seed in self.seeds]
            whole = [record for record in found if record is not None]
            if not whole or (len(whole) < len(found) and not fewer_seeds):
                continue
            suffix = comparison.suffixes.get(masks, "")
            prefix = "" if masks == comparison.masks[0] or suffix else f"{masks}_"
            prefix += f"objects{objects}_" if objects else ""
            if len(whole) < len(found):
                results[f"{prefix}{variant}_seeds{suffix}"] = len(whole)
            for name in [name for name in whole[0] if all(name in record for record in whole)]:
                values = [record[name] for record in whole]
                short = "mbiou" if name == "mboundary_iou" else name
                results[f"{prefix}{variant}_{short}{suffix}"] = statistics.fmean(values)
                if len(values) > 1:
                    results[f"{prefix}{variant}_{short}{suffix}_std"] = statistics.stdev(values)
        if self.objects:
            for masks in self.masks:
                results |= self._over_scenes(results, masks)
        if "coseg_parameters" in results:
            results |= {"minutes": results["coseg_minutes"], "parameters": round(results["coseg_parameters"])}
        missing = [cell.name for cell in self.waiting()]
        return {"preset": self.preset, "iterations": self._iterations(), **results, "cells_missing": ", ".join(missing)}

    def _over_scenes(self, results: dict[str, Any], masks: str) -> dict[str, Any]:
        """PQ of every variant as the mean over the scenes, where all were run, and what follows from it.

        HDBSCAN: with the smallest cluster that is best on the first scene, and with that which is best on each.
        ablations: what a change of the published codebook is worth, seed by seed, mean and standard deviation; that of
        ``unified_lift`` is all that the presets have beyond it. minutes: of training, by variant. Of all masks but the
        comparison's first, names have their kind as a prefix.
        """
        prefix = "" if masks == SUITES[self.name].masks[0] else f"{masks}_"

        def over(key: str) -> list[float]:
            values = [results.get(f"{prefix}objects{objects}_{key}") for objects in self.objects]
            return [value for value in values if value is not None] if None not in values else []

        found: dict[str, Any] = {}
        names = [name for name in self.variants if name not in (HDBSCAN, HDBSCAN_BALANCED)]
        found |= {f"{name}_pq_scene": statistics.fmean(over(f"{name}_pq_scene")) for name in names
                  if over(f"{name}_pq_scene")}  # fmt: skip
        for name in (HDBSCAN, HDBSCAN_BALANCED):
            by_size = {size: over(f"{name}_{size}_pq_scene") for size in CLUSTER_SIZES}
            if all(by_size.values()):
                chosen = max(by_size, key=lambda size: by_size[size][0])
                found[f"{name}_min_cluster_size"] = chosen
                found[f"{name}_pq_scene"] = statistics.fmean(by_size[chosen])
                found[f"{name}_best_pq_scene"] = statistics.fmean(map(max, zip(*by_size.values(), strict=True)))
        changes = {name: self._changes(name, masks) for name in ABLATIONS}
        found["ablations"] = {name: statistics.fmean(values) for name, values in changes.items() if values}
        spread = {name: statistics.stdev(values) for name, values in changes.items() if len(values) > 1}
        if spread:
            found["ablations_std"] = spread
        minutes = {name: over(f"{name}_minutes") for name in self.variants}
        found["minutes"] = {name: statistics.fmean(values) for name, values in minutes.items() if values}
        return {f"{prefix}{name}": value for name, value in found.items()}

    def _changes(self, variant: str, masks: str) -> list[float]:
        """PQ of a variant less that of the control, the mean over the scenes, for each seed that both were run with."""
        if PUBLISHED not in self.variants:
            return []
        changes = []
        for seed in self.seeds:
            both = [
                [self.result(Cell(name, masks, seed, objects)) for name in (variant, PUBLISHED)]
                for objects in self.objects
            ]
            if all(one is not None and other is not None for one, other in both):
                changes.append(statistics.fmean(one["pq_scene"] - other["pq_scene"] for one, other in both))  # type: ignore[index]
        return changes

    def _iterations(self) -> int:
        return int(self.overrides.get("iterations", make_config(TrainingConfig, self.preset).iterations))

    def _rows(self) -> Iterator[tuple[int, str, str]]:
        for objects in self.objects or (0,):
            for masks in self.masks:
                for name in self.variants:
                    if not self.only or name in self.only:
                        yield objects, masks, name

    def pictures(self, masks: str, seed: int) -> dict[str, dict[str, np.ndarray]]:
        """Kept images, of the first scene, of the variants that were run: rgb0, ids0, photo0, truth0, rgb1, ..."""
        found = {}
        first = self.objects[0] if self.objects else 0
        for objects, kind, variant in self._rows():
            path = self.folder / f"{Cell(variant, masks, seed, objects).name}.npz"
            if (objects, kind) == (first, masks) and path.is_file():
                with np.load(path) as images:
                    found[variant] = dict(images)
        return found


def _but_back_end(made_of: Mapping[str, Any]) -> dict[str, Any]:
    """All back ends draw the same, so cells of a report may come from different machines."""
    return {**made_of, "options": {**made_of["options"], "rasterizer": ""}}


def _by_rule(method: UnifiedLift, views: Sequence[View]) -> dict[str, float]:
    """What the rule of answers alone changes: at_<temperature>_pq_scene for every ``answer_temperature`` that is tried,
    one_object_pq_scene with codes that answer together joined (``one_object``)."""
    config, results = method.config, {}
    tried = {
        f"at_{temperature}": replace(config, answer_temperature=temperature) for temperature in ANSWER_TEMPERATURES
    }
    for name, rule in (tried | {"one_object": replace(config, one_object=ONE_OBJECT)}).items():
        method.config = rule
        results[f"{name}_pq_scene"] = score_views(method, views, background=True)["pq_scene"]
    method.config = config
    return results


def _by_cluster_size(method: ClusteredContrast, views: Sequence[View]) -> dict[str, float]:
    """<size>_pq_scene and <size>_seconds of clustering for every smallest cluster that is tried."""
    results = {}
    for size in CLUSTER_SIZES:
        method.use_cluster_size(size)
        results[f"{size}_pq_scene"] = score_views(method, views, background=True)["pq_scene"]
        results[f"{size}_seconds"] = method.cluster_seconds
    return results
