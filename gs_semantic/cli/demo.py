"""Map the repository's sample through real ROS topics and leave pictures and numbers in demo_output/.

Replay, mapper and a client run as processes. Every frame's masks have new ids and are damaged (dropped, merged, split,
eroded). The client asks the object services while the map grows, saves the map, loads it again and compares.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gs_semantic.cli import options

if TYPE_CHECKING:
    import numpy as np

    from gs_semantic.mapping.offline import MapOffline

EXAMPLES = """examples:
  gs-semantic demo
  gs-semantic demo --masks shuffled --output shuffled_demo
  gs-semantic demo --sequence my_recording --rate-hz 10"""

SNAPSHOTS = 6
COLUMNS = ("colour", "raw masks", "map: colour", "map: semantic", "map: instance", "map: confidence", "map: depth")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sequence", type=Path, help="recorded sequence [sample/house]")
    parser.add_argument("--eval", type=Path, help="labelled views to score at [sample/house_eval, else each 8th frame]")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for the results [demo_output]")
    parser.add_argument("--rate-hz", type=float, default=5.0, help="frames per second of the replay [5]")
    options.add_masks(parser, default="damaged")
    options.add_params(parser)


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.mapping import RESULT_KEYS, MapBench
    from gs_semantic.cli import pictures
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.errors import InvalidInputError
    from gs_semantic.report import Report, print_table
    from gs_semantic.share import share_path

    evaluation = arguments.eval
    if arguments.sequence is None:
        arguments.sequence = share_path("sample", "house")
        evaluation = evaluation or share_path("sample", "house_eval")
    sequence = open_sequence(arguments.sequence)
    if not (sequence.has_instances and sequence.has_depth):
        raise InvalidInputError(f"{arguments.sequence}: the demo needs depth and instance masks; `map` needs no masks")
    output: Path = arguments.output
    with pictures.writing(output), tempfile.TemporaryDirectory(prefix="gs_semantic_demo_") as temporary:
        with options.progress_bars() as progress:
            bench = MapBench(
                arguments.sequence,
                Path(temporary),
                evaluation,
                arguments.masks,
                arguments.seed,
                parameters=options.live_params(arguments),
                keep_map=output / "map",
                progress=progress,
            )
            outcome = bench.quality("tour", arguments.rate_hz, snapshots=SNAPSHOTS)
        for question, answer in outcome.recording.task["questions"]:
            print(f"  {question:<34} {answer}")
        seen = outcome.recording.rate()
        rates = {
            "answer_hz": seen.answer_hz,
            "answered_pct": seen.answered_pct,
            "latency_p50_ms": seen.latency_p50_ms,
            "latency_p95_ms": seen.latency_p95_ms,
            **outcome.recording.mapping_results(),
        }
        results = outcome.results | rates
        _draw(output, outcome.folder, outcome.shown, sequence.poses, arguments.rate_hz)
    ordered = {key: results.get(key) for key in RESULT_KEYS} | results
    Report(arguments.command, {"masks": arguments.seed}, ordered).write(output / "metrics.json")
    views = f"{results['evaluation_views']} views that were not given to the map"
    print_table(f"{views}, {arguments.masks} masks", compare(results))
    size = f"{results['gaussians']:,} Gaussians, {results['objects']} objects"
    print(f"answers: {seen.answer_hz:.1f} per second, 95 % within {seen.latency_p95_ms:.0f} ms; map: {size}")
    print(f"look at {output / 'montage.png'} and {output / 'top_view.png'}; numbers: {output / 'metrics.json'}")
    return 0


def compare(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The map beside the raw masks, as columns of a table."""
    rows = {  # (of the raw masks, of the map)
        "instance mIoU": ("raw_mask_miou", "instance_miou"),
        "instance mIoU, large objects": ("raw_mask_miou_large", "instance_miou_large"),
        "semantic mIoU": ("raw_semantic_miou", "semantic_miou"),
        "duplicate ids, %": ("", "duplicate_ids_pct"),
        "PSNR, dB": ("", "psnr_db"),
    }
    return {
        heading: {row: results.get(keys[side]) for row, keys in rows.items() if keys[side]}
        for side, heading in ((0, "raw masks"), (1, "map"))
    }


def _draw(output: Path, live: Path, shown: MapOffline, poses: np.ndarray, rate_hz: float) -> None:
    """The two pictures, from the client's snapshots and from the map."""
    import numpy as np

    from gs_semantic.cli import pictures

    palette = pictures.Palette.of(shown.mapper.objects)
    rows, times = [], []
    for file in sorted(live.glob("snapshot_*.npz")):
        snap = np.load(file)
        rows.append(
            [
                snap["colour"],
                pictures.mask_colours(snap["masks"]),
                snap["map_colour"],
                palette.semantic(snap["semantic"]),
                palette.instance(snap["instance"]),
                np.repeat(snap["confidence"][..., None], 3, axis=2),
                pictures.depth_colours(snap["depth"]),
            ]
        )
        times.append(f"{float(snap['number']) / rate_hz:.1f} s")
    pictures.write_image(output / "montage.png", pictures.contact_sheet(rows, COLUMNS, times, width=260))
    objects = [(obj, shown.mapper.objects.class_name(obj)) for obj in shown.mapper.objects.present()]
    view = pictures.top_view(
        shown.mapper.gaussians, objects, shown.mapper.rasterizer, pictures.Ground.of(poses)
    )
    pictures.write_image(output / "top_view.png", view)
