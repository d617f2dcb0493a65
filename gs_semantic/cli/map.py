"""Map a recorded sequence offline: every frame is finished before the next. Writes a map folder."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from gs_semantic.cli import options

EXAMPLES = """examples:
  gs-semantic map sample/house house_map
  gs-semantic map sample/house house_map --masks damaged --seed 3 --param seed_min_size_m=0.02
  gs-semantic map sample/lounge lounge_map --skip-every 8 --json lounge.json
  gs-semantic map sample/house house_map --no-depth --refine 500"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sequence", type=Path, help="recorded sequence, of any format (docs/data.md)")
    parser.add_argument("map", type=Path, help="map folder to write")
    options.add_masks(parser, default="perfect")
    options.add_noise(parser)
    parser.add_argument("--max-width", type=int, default=0, metavar="PX", help="scale wider images down to this [0: no]")
    options.add_no_depth(parser)
    parser.add_argument("--skip-every", type=int, default=0, metavar="K", help="withhold every K-th frame [0: none]")
    parser.add_argument("--refine", type=int, default=0, metavar="N", help="further optimisation steps at the end [0]")
    options.add_params(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.offline import COLOUR_ONLY, MapOffline, map_sequence
    from gs_semantic.benchmarks.scoring import mapped
    from gs_semantic.data.formats import open_sequence

    sequence = open_sequence(arguments.sequence, noise=options.noise_of(arguments), max_width=arguments.max_width)
    use_depth = sequence.has_depth and not arguments.no_depth
    shown = MapOffline.create(sequence.labels, [*(() if use_depth else COLOUR_ONLY), *arguments.param])
    indices = mapped(sequence, arguments.skip_every)
    started = time.perf_counter()
    with options.progress_bar("mapping", len(indices)) as advance:
        keyframes = map_sequence(shown, sequence, indices, options.damage_of(arguments), advance, use_depth)
    with options.progress_bar("refining", arguments.refine) as advance:
        shown.refine(arguments.refine, advance)
    seconds = time.perf_counter() - started
    shown.save(arguments.map)
    results = {
        "frames": len(indices),
        "keyframes": keyframes,
        "gaussians": len(shown.mapper.gaussians),
        "objects": len(shown.mapper.objects.present()),
        "frames_per_s": len(indices) / seconds,
    }
    options.report(arguments, f"map of {arguments.sequence} in {arguments.map}", results)
    return 0
