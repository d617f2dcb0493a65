"""``gs-semantic evaluate suite NAME``: a comparison of methods, run cell by cell, with plots and pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gs_semantic.cli import options

if TYPE_CHECKING:
    import numpy as np

    from gs_semantic.segmentation.generalization.rt_gs2.suite import RtGs2Suite
    from gs_semantic.segmentation.generalization.suite import GnesfSuite
    from gs_semantic.segmentation.suite import Suite

WORD = "suite"  # in the place of a map
TRAINING_ON_ROOMS = "rt_gs2"  # the suite that trains on rooms


def add_options(parser: argparse.ArgumentParser) -> None:
    about = "`evaluate suite NAME` trains and compares methods (docs/training.md); a NAME that is unknown lists all"
    group = parser.add_argument_group("suites", about)
    group.add_argument("--train-on", type=Path, metavar="SEQUENCE", help="recording to train on [sample/house]")
    group.add_argument(
        "--eval", type=Path, metavar="SEQUENCE", help="labelled recording to score at [sample/house_eval]"
    )
    group.add_argument("--folder", type=Path, help="where finished cells are kept [suite_NAME]")
    group.add_argument("--preset", choices=("quick", "standard", "paper"), default="quick", help="[quick]")
    group.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="[0 1 2]")
    group.add_argument("--kinds", nargs="+", default=[], help="masks: perfect, damaged, untracked, ... [the suite's]")
    group.add_argument(
        "--objects", type=int, nargs="+", default=[], help="objects of the scenes, for suites on scenes made in code"
    )
    group.add_argument("--only", nargs="+", default=[], metavar="VARIANT", help="these variants alone")
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of all variants")
    group.add_argument("--rooms", type=Path, metavar="FOLDER", help="of a suite on unseen rooms: folder with a test split")
    group.add_argument(
        "--checkpoints", type=Path, nargs="+", default=[], metavar="FILE", help="what that suite compares, and its seeds; rt_gs2: a 2D segmenter"
    )
    group.add_argument("--test-rooms", type=int, default=0, metavar="N", help="unseen rooms that are scored [all]")
    group.add_argument(
        "--photographs", type=Path, nargs="+", default=[], metavar="FOLDER", help="rt_gs2: more rooms, without maps"
    )
    group.add_argument("--no-recordings", action="store_true", help="unseen rooms alone, not the sample's recordings")
    group.add_argument("--jobs", type=int, default=1, metavar="N", help="gnesf: processes that score [1]")
    group.add_argument(
        "--fewer-seeds", action="store_true", help="also report what was not run with all seeds, saying with how many"
    )
    group.add_argument("--cells", type=int, default=-1, metavar="N", help="run N more cells at most; 0: only report")


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.errors import InvalidRequestError
    from gs_semantic.segmentation.config import parse_overrides
    from gs_semantic.segmentation.generalization.suite import SUITES as GENERALIZING
    from gs_semantic.segmentation.progress import ProgressBar
    from gs_semantic.segmentation.suite import SUITES, Suite
    from gs_semantic.share import share_path

    name = str(arguments.sequence)
    if name == TRAINING_ON_ROOMS:
        return run_rt_gs2(arguments)
    if name in GENERALIZING:
        return run_generalizing(arguments, name)
    if name not in SUITES:
        known = ", ".join([*SUITES, *GENERALIZING, TRAINING_ON_ROOMS])
        raise InvalidRequestError(f"suite '{name}': expected one of {known}")
    suite = Suite(
        name,
        arguments.train_on or share_path("sample", "house"),
        arguments.eval or share_path("sample", "house_eval"),
        arguments.folder or Path(f"suite_{name}"),
        arguments.preset,
        arguments.seeds,
        arguments.kinds,
        arguments.only,
        parse_overrides(arguments.set),
        arguments.objects,
    )
    run_cells(suite, arguments.cells, lambda text: ProgressBar(text))
    results = suite.results(arguments.fewer_seeds)
    draw(suite, results)
    arguments.seed = arguments.seeds[0]
    on = f"scenes of {', '.join(map(str, suite.objects))} objects" if suite.objects else suite.sequence
    options.report(arguments, f"suite {name}, {arguments.preset}, on {on}", results)
    return 0


def run_rt_gs2(arguments: argparse.Namespace) -> int:
    from gs_semantic.cli import pictures
    from gs_semantic.segmentation.config import parse_overrides
    from gs_semantic.segmentation.generalization.rt_gs2.suite import RtGs2Suite
    from gs_semantic.segmentation.progress import ProgressBar

    rooms, folder = arguments.rooms or Path("rooms"), arguments.folder or Path(f"suite_{TRAINING_ON_ROOMS}")
    suite = RtGs2Suite(
        rooms, folder, arguments.preset, arguments.seeds, arguments.only, parse_overrides(arguments.set), arguments.test_rooms
    )
    suite.photographs, suite.fewer_seeds = arguments.photographs, arguments.fewer_seeds
    suite.segmenter = arguments.checkpoints[0] if arguments.checkpoints else None
    if arguments.no_recordings:
        suite.recordings = ()
    suite.prepare()
    waiting = suite.waiting()
    for waited in waiting[: arguments.cells if arguments.cells >= 0 else None]:
        with ProgressBar(waited.name).shown() as bar:
            if not suite.train(waited, [bar]):
                break
    with options.progress_bar("scoring", len(suite.runs()) * len(suite.test)) as advance:
        results = suite.results(advance) | _speed_on_cpu()
    rows = [[row[0], row[1], *_coloured(row[2:])] for row in suite.pictures()]
    if rows:
        sheet = pictures.contact_sheet(rows, ["drawn colour", "3D features", "truth", "RT-GS2"])
        pictures.write_image(folder / "views.png", sheet)
    _draw_curves(suite)
    arguments.seed = arguments.seeds[0]
    options.report(arguments, f"suite {TRAINING_ON_ROOMS}, {arguments.preset}, on {rooms}", results)
    return 0


def _draw_curves(suite: RtGs2Suite) -> None:
    """curves.png, into the suite's folder: the loss of every run, those of one kind together."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = suite.curves()
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5))
    for axis, term in zip(axes, ("contrast", "cross_entropy", "depth"), strict=True):
        for name, terms in curves.items():
            if term in terms:
                axis.plot(*zip(*terms[term], strict=True), label=name, linewidth=1)
        axis.set(title=term, xlabel="iteration", yscale="log")
        if axis.lines:
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(suite.folder / "curves.png", dpi=110)
    plt.close(figure)


def _speed_on_cpu() -> dict[str, Any]:
    """Frames per second of the small size on the CPU, and the milliseconds of each stage; true when nothing else runs."""
    from gs_semantic.benchmarks.rt_gs2 import run_rt_gs2 as measure

    found = measure()
    stages = ("fps", "frame_ms", "render_ms", "network_ms", "classes_ms", "features_s")
    return {f"{stage}_small_cpu": found[stage] for stage in stages}


def run_generalizing(arguments: argparse.Namespace, name: str) -> int:
    """A suite on rooms that were never seen, and on the recordings of the sample."""
    from gs_semantic.errors import InvalidRequestError
    from gs_semantic.segmentation.generalization.suite import GnesfSuite
    from gs_semantic.share import share_path

    if arguments.rooms is None or not arguments.checkpoints:
        raise InvalidRequestError(f"suite {name}: needs --rooms FOLDER and --checkpoints FILE... (docs/generalization.md)")
    recordings = {"house": share_path("sample", "house"), "lounge": share_path("sample", "lounge")}
    if arguments.no_recordings:
        recordings = {}
    folder = arguments.folder or Path(f"suite_{name}")
    suite = GnesfSuite(arguments.rooms, arguments.checkpoints, folder, recordings, room_count=arguments.test_rooms)
    with options.progress_bar("scenes", len(suite.scenes)) as advance:
        suite.progress = advance
        results = suite.run(arguments.jobs)
    options.report(arguments, f"suite {name} on unseen rooms", results)
    draw_classes(suite)
    return 0


def draw_classes(suite: GnesfSuite) -> None:
    """views.png, into the suite's folder: a novel view of each of a few scenes, the truth and what the variants say."""
    from gs_semantic.cli import pictures
    from gs_semantic.labels import palette

    shown = suite.pictures()
    labels = next(iter(suite.learners.values()))[0][1].labels
    colours = palette(max(labels.names) + 1)
    rows = [[one["photograph"], *(colours[image] for name, image in one.items() if name != "photograph")] for one in shown]
    sheet = pictures.contact_sheet(rows, list(shown[0]), width=240)
    named = [(labels.name(key), colours[key]) for key in sorted(labels.names)]
    pictures.write_image(suite.folder / "views.png", pictures.with_legend(sheet, named))


def run_cells(suite: Suite, limit: int, bar: Any) -> None:
    """Run what is waiting, at most ``limit`` cells (negative: all)."""
    ran = 0
    while ran != limit:
        ready = [cell for cell in suite.waiting() if suite.config(cell) is not None]
        if not ready:
            return
        with bar(ready[0].name).shown() as shown:
            if not suite.run(ready[0], [shown]):
                return
        ran += 1
        print(f"{ready[0].name}: {suite.result(ready[0])}", file=sys.stderr)


def draw(suite: Suite, results: dict[str, Any]) -> None:
    """scores.png, and <masks>_views.png with the truth and the variants side by side, into the suite's folder."""
    from gs_semantic.cli import pictures

    suite.folder.mkdir(parents=True, exist_ok=True)
    _draw_scores(suite, results)
    for masks in suite.masks:
        found = suite.pictures(masks, suite.seeds[0])
        if found:
            first = next(iter(found.values()))
            count = sum(key.startswith("photo") for key in first)
            with_ids = [name for name, images in found.items() if "ids0" in images]
            rows = [
                [first[f"photo{i}"], *_coloured([first[f"truth{i}"], *(found[n][f"ids{i}"] for n in with_ids)])]
                for i in range(count)
                if f"truth{i}" in first
            ]
            if rows:
                sheet = pictures.contact_sheet(rows, ["camera", "truth", *with_ids])
                pictures.write_image(suite.folder / f"{masks}_views.png", sheet)


def _coloured(ids: list[np.ndarray]) -> list[np.ndarray]:
    """Id images with one colour for each id in all of them."""
    import numpy as np

    from gs_semantic.labels import palette

    known = np.unique(np.concatenate([np.unique(image) for image in ids] + [np.zeros(1, np.int64)]))
    colours = palette(len(known), seed=3)
    return [colours[np.searchsorted(known, image)] for image in ids]


def _draw_scores(suite: Suite, results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    for axis, (score, title) in zip(axes, (("miou", "mIoU"), ("mbiou", "mBIoU"), ("psnr_db", "PSNR, dB")), strict=True):
        names = [key.removesuffix(f"_{score}") for key in results if key.endswith(f"_{score}")]
        values = [results[f"{name}_{score}"] for name in names]
        errors = [results.get(f"{name}_{score}_std", 0.0) for name in names]
        axis.barh(names[::-1], values[::-1], xerr=errors[::-1], color="#4878a8")
        axis.set_title(f"{title} ({suite.preset})")
        if values:
            low = min(v - e for v, e in zip(values, errors, strict=True))
            axis.set_xlim(left=max(0.0, low - 0.1 * abs(low)))
    figure.tight_layout()
    figure.savefig(suite.folder / "scores.png", dpi=120)
    plt.close(figure)
