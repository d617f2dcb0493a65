"""Comparisons of methods, cell by cell: a cell is one variant with one kind of masks and one seed.

Every finished cell is a JSON file in the suite's folder, so a suite that was interrupted goes on where it was. Averages
are made of rows whose cells, one per seed, are all there; what was not run is listed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gs_semantic.data.formats import open_sequence
from gs_semantic.errors import InvalidRequestError
from gs_semantic.files import atomic_write, make_folder
from gs_semantic.segmentation.config import TrainingConfig, make_config
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.progress import Listener
from gs_semantic.segmentation.registry import method_class
from gs_semantic.segmentation.scene import Scene, View, make_scene
from gs_semantic.segmentation.trainer import Trainer

SHOWN_VIEWS = 3  # held-out views whose predictions are kept for pictures
MASKS: Mapping[str, Mapping[str, Any]] = {
    "perfect": {"masks": "perfect", "ids": "recorded"},
    "damaged": {"masks": "damaged", "ids": "tracked"},
}


@dataclass(frozen=True)
class Variant:
    """A method with some options changed. equal_count_to: the variant whose number of Gaussians is this one's limit."""

    method: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    equal_count_to: str = ""
    equal_length_to: str = ""


SUITES: Mapping[str, Mapping[str, Variant]] = {
    "gradiseg": {
        "plain": Variant("plain"),
        "grouping": Variant("grouping"),
        "gradiseg": Variant("gradiseg"),
        "grouping_equal_count": Variant("grouping", equal_count_to="gradiseg", equal_length_to="gradiseg"),
        "no_igd": Variant("gradiseg", {"igd": False}),
        "no_laknn": Variant("gradiseg", {"la_knn": False}),
        "longest_axis": Variant("gradiseg", {"igd_axis": "longest"}),
        "random_children": Variant("gradiseg", {"igd_children": "random"}),
    }
}


@dataclass(frozen=True)
class Cell:
    variant: str
    masks: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.masks}-{self.seed}"


@dataclass
class Suite:
    """A named comparison on one recording. overrides: options of all variants. Images are trained on in the preset's
    size and scored as recorded."""

    name: str
    sequence: Path
    evaluation: Path
    folder: Path
    preset: str = "quick"
    seeds: Sequence[int] = (0, 1, 2)
    masks: Sequence[str] = ("perfect",)
    only: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in SUITES:
            raise InvalidRequestError(f"suite '{self.name}': expected one of {', '.join(SUITES)}")
        self.variants = SUITES[self.name]
        for given, known in ((self.only, self.variants), (self.masks, MASKS)):
            for name in given:
                if name not in known:
                    raise InvalidRequestError(f"'{name}': expected one of {', '.join(known)}")
        self._scenes: dict[str, Scene] = {}

    def cells(self) -> list[Cell]:
        """In the order in which they are run: all variants of one seed before the next."""
        variants = [name for name in self.variants if not self.only or name in self.only]
        return [Cell(v, masks, seed) for masks in self.masks for seed in self.seeds for v in variants]

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
        return record["results"] if record["made_of"] == self._made_of(config) else None

    def _made_of(self, config: TrainingConfig) -> dict[str, Any]:
        return {"sequence": str(self.sequence), "evaluation": str(self.evaluation), "options": asdict(config)}

    def config(self, cell: Cell) -> TrainingConfig | None:
        """Options of a cell; None while the cell that it is made equal to was not run."""
        variant = self.variants[cell.variant]
        kind = method_class(variant.method).Config
        values = {**self.overrides, "seed": cell.seed, "mask_seed": cell.seed, **MASKS[cell.masks], **variant.overrides}
        if variant.equal_length_to:
            other = self.config(Cell(variant.equal_length_to, cell.masks, cell.seed))
            assert other is not None
            values["densify_until"] = getattr(other, "igd_until", other.densify_until)
        if variant.equal_count_to:
            found = self.result(Cell(variant.equal_count_to, cell.masks, cell.seed))
            if found is None:
                return None
            values["max_gaussians"] = int(found["gaussians"])
        return make_config(kind, self.preset, overrides=values)

    def run(
        self, cell: Cell, listeners: Sequence[Listener] = (), cancelled: Callable[[], bool] = lambda: False
    ) -> bool:
        """Train and score a cell; False when it was cancelled, or has to wait for another one."""
        config = self.config(cell)
        if config is None:
            return False
        make_folder(self.folder)
        scene = self._scene(config)
        method = method_class(self.variants[cell.variant].method)(config, scene)
        result = Trainer(method, listeners=listeners, cancelled=cancelled).run()
        if result.cancelled:
            return False
        results = {**result.metrics, "gaussians": len(method.gaussians), "minutes": result.minutes}
        self._keep_pictures(cell, method, scene.held_out)
        with atomic_write(self.folder / f"{cell.name}.json") as file:
            record = {"made_of": self._made_of(config), "results": results}
            file.write(json.dumps(record, indent=1).encode())
        return True

    def _scene(self, config: TrainingConfig) -> Scene:
        """The recording with a cell's masks; it is the same for all variants, and kept."""
        key = json.dumps(
            [config.masks, config.ids, config.mask_seed, config.seed, config.width, config.initial_gaussians]
        )
        if key not in self._scenes:
            self._scenes.clear()
            evaluation = open_sequence(self.evaluation)
            self._scenes[key] = make_scene(open_sequence(self.sequence, max_width=config.width), config, evaluation)
        return self._scenes[key]

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

    def results(self) -> dict[str, Any]:
        """Mean and standard deviation over seeds of every row that is whole; ``cells_missing`` lists the others' cells.

        Names: <variant>_<score>, with damaged masks damaged_<variant>_<score>; with several seeds also ..._std.
        """
        results: dict[str, Any] = {}
        for masks, variant in self._rows():
            found = [self.result(Cell(variant, masks, seed)) for seed in self.seeds]
            whole = [record for record in found if record is not None]
            if len(whole) < len(found):
                continue
            prefix = "" if masks == "perfect" else f"{masks}_"
            for name in whole[0]:
                values = [record[name] for record in whole]
                short = "mbiou" if name == "mboundary_iou" else name
                results[f"{prefix}{variant}_{short}"] = statistics.fmean(values)
                if len(values) > 1:
                    results[f"{prefix}{variant}_{short}_std"] = statistics.stdev(values)
        missing = [cell.name for cell in self.waiting()]
        return {"preset": self.preset, "iterations": self._iterations(), **results, "cells_missing": ", ".join(missing)}

    def _iterations(self) -> int:
        return int(self.overrides.get("iterations", make_config(TrainingConfig, self.preset).iterations))

    def _rows(self) -> Iterator[tuple[str, str]]:
        for masks in self.masks:
            for name in self.variants:
                if not self.only or name in self.only:
                    yield masks, name

    def pictures(self, masks: str, seed: int) -> dict[str, dict[str, np.ndarray]]:
        """Kept images of the variants that were run: rgb0, ids0, photo0, truth0, rgb1, ..."""
        found = {}
        for kind, variant in self._rows():
            path = self.folder / f"{Cell(variant, masks, seed).name}.npz"
            if kind == masks and path.is_file():
                with np.load(path) as images:
                    found[variant] = dict(images)
        return found
