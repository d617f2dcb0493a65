"""Score a map folder, or a folder of predicted images, at the views of a labelled sequence.

Without --protocol a map gets the same numbers as from `bench map`, and a folder of images those of all protocols that its
images and the sequence allow. A folder of images is laid out as `render` writes it (instance/000000.png, ... by number
of the frame; also colour, semantic, depth), or holds id images only (000000.png, ...). What should be there and is not
scores as nothing seen.

protocols:
  segmentation  classes: mean IoU, mean accuracy, overall accuracy
  boundary      objects: mask IoU and boundary IoU, ids matched over all views; share of wrong ids, and of these at borders
  panoptic      PQ of the whole scene, objects against background
  replica       matched mean IoU and F-score, as on Replica
  lerf          masks of text prompts, as on LERF-Mask, grounded by the true mask of one view
  image         PSNR, SSIM, LPIPS (where its weights are on this machine)
  depth         eight errors of depth
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gs_semantic.cli import options, suite

if TYPE_CHECKING:
    from gs_semantic.benchmarks.predictions import Predictions
    from gs_semantic.benchmarks.scoring import Evaluation
    from gs_semantic.mapping.offline import MapOffline

PROTOCOLS = ("segmentation", "boundary", "panoptic", "replica", "lerf", "image", "depth")
EXAMPLES = """examples:
  gs-semantic evaluate house_map sample/house_eval
  gs-semantic evaluate lounge_map sample/lounge --skip-every 8 --json lounge_scores.json
  gs-semantic evaluate house_map sample/house_eval --protocol boundary --protocol replica
  gs-semantic render house_map views --trajectory sample/house_eval && gs-semantic evaluate views sample/house_eval
  gs-semantic evaluate suite gradiseg --json docs/results/gradiseg.json
  gs-semantic evaluate suite unified_lift --objects 25 --seeds 0 --json unified_lift_25.json"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("map", type=Path, help="map folder, folder of predicted images, or 'suite'")
    parser.add_argument("sequence", type=Path, help="labelled sequence to score against, or the suite's name")
    parser.add_argument(
        "--skip-every", type=int, default=0, metavar="K", help="score only at every K-th frame, as `map` withheld them"
    )
    parser.add_argument(
        "--protocol", action="append", default=[], choices=(*PROTOCOLS, "all"), help="see above; may be repeated"
    )
    parser.add_argument(
        "--average",
        choices=("dataset", "per_view"),
        default="dataset",
        help="classes: sum the pixels of all views, or average over views [dataset]",
    )
    options.add_masks(parser, default="perfect")
    suite.add_options(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.map == Path(suite.WORD):
        return suite.run(arguments)
    from gs_semantic.benchmarks.predictions import MapPredictions, open_predictions
    from gs_semantic.benchmarks.scoring import Evaluation
    from gs_semantic.data.formats import open_sequence

    evaluation = Evaluation.of(open_sequence(arguments.sequence), arguments.skip_every)
    predictions = open_predictions(arguments.map, evaluation)
    if isinstance(predictions, MapPredictions) and not arguments.protocol:
        return run_map(arguments, predictions.shown, evaluation)
    return run_protocols(arguments, predictions, evaluation)


def run_map(arguments: argparse.Namespace, shown: MapOffline, evaluation: Evaluation) -> int:
    from gs_semantic.benchmarks.scoring import score_views
    from gs_semantic.evaluation.damage import Damage

    damage = options.damage_of(arguments) or Damage()
    with options.progress_bar("scoring", len(evaluation)) as advance:
        results = score_views(shown, evaluation, damage, shown.confirmed_slots, advance)
    results["gaussians"] = len(shown.mapper.gaussians)
    options.report(arguments, f"{arguments.map} at {len(evaluation)} views of {arguments.sequence}", results)
    return 0


def run_protocols(arguments: argparse.Namespace, predictions: Predictions, evaluation: Evaluation) -> int:
    from gs_semantic.benchmarks.predictions import choose, score_protocols
    from gs_semantic.evaluation.protocols import ProtocolOptions

    sequence = evaluation.sequence
    names = [] if "all" in arguments.protocol else arguments.protocol
    protocols, left_out = choose(names, predictions, sequence, ProtocolOptions(sequence.group_ids, arguments.average))
    with options.progress_bar("scoring", len(evaluation)) as advance:
        results = score_protocols(protocols, predictions, evaluation, advance)
    options.report(arguments, f"{arguments.map} at {len(evaluation)} views of {arguments.sequence}", results)
    for protocol in protocols:
        left_out |= protocol.left_out
    for name, why in left_out.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    return 0
