"""Score a map folder at the views of a labelled sequence: the same numbers as `bench map`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gs_semantic.cli import options

EXAMPLES = """examples:
  gs-semantic evaluate house_map sample/house_eval
  gs-semantic evaluate lounge_map sample/lounge --skip-every 8 --json lounge_scores.json"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("map", type=Path, help="map folder")
    parser.add_argument("sequence", type=Path, help="labelled sequence to score against")
    parser.add_argument(
        "--skip-every", type=int, default=0, metavar="K", help="score only at every K-th frame, as `map` withheld them"
    )
    options.add_masks(parser, default="perfect")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.offline import MapOffline
    from gs_semantic.benchmarks.scoring import Evaluation, score_views
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.evaluation.damage import Damage

    evaluation = Evaluation.of(open_sequence(arguments.sequence), arguments.skip_every)
    shown = MapOffline.open(arguments.map)
    damage = options.damage_of(arguments) or Damage()
    with options.progress_bar("scoring", len(evaluation)) as advance:
        results = score_views(shown, evaluation, damage, shown.confirmed_slots, advance)
    results["gaussians"] = len(shown.mapper.gaussians)
    options.report(arguments, f"{arguments.map} at {len(evaluation)} views of {arguments.sequence}", results)
    return 0
