"""Map a recorded sequence offline: every frame is finished before the next. Writes a map folder."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gs_semantic.cli import options

if TYPE_CHECKING:
    from gs_semantic.mapping.offline import MapOffline

EXAMPLES = """examples:
  gs-semantic map sample/house house_map
  gs-semantic map sample/house house_map --masks damaged --seed 3 --param seed_min_size_m=0.02
  gs-semantic map sample/lounge lounge_map --skip-every 8 --json lounge.json
  gs-semantic map sample/house house_map --no-depth --refine 500
  gs-semantic map photographs photographs_map --fit 6000 --skip-every 8"""

SEEDS = ("auto", "points", "matching")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sequence", type=Path, help="recorded sequence, of any format (docs/data.md)")
    parser.add_argument("map", type=Path, help="map folder to write")
    options.add_masks(parser, default="perfect")
    options.add_noise(parser)
    parser.add_argument(
        "--max-width", type=int, default=0, metavar="PX", help="scale wider images down to this [0: no]"
    )
    options.add_no_depth(parser)
    parser.add_argument(
        "--skip-every",
        type=int,
        default=0,
        metavar="K",
        help="withhold every K-th frame, and score the map there [0: none]",
    )
    parser.add_argument(
        "--semantics",
        type=Path,
        metavar="CHECKPOINT",
        help="label the map by a method that generalises (gs-semantic generalize), in the place of masks",
    )
    parser.add_argument(
        "--language", metavar="WEIGHTS", help="folder of CLIP or SigLIP weights: objects get embeddings that words find"
    )
    parser.add_argument("--refine", type=int, default=0, metavar="N", help="further optimisation steps at the end [0]")
    fit = parser.add_argument_group("fitting to whole photographs, at the end")
    fit.add_argument("--fit", type=int, default=0, metavar="N", help="steps, one photograph each [0: no fitting]")
    fit.add_argument(
        "--seeds",
        choices=SEEDS,
        default="auto",
        help="what a map fitted without depth starts from: points of the reconstruction, matching of the images, or "
        "points where there are any [auto]",
    )
    fit.add_argument("--fit-gaussians", type=int, default=200_000, metavar="N", help="grow up to so many [200000]")
    fit.add_argument(
        "--sh-degree", type=int, default=1, help="of colour that depends on the direction of view, 0 to 3 [1]"
    )
    fit.add_argument("--no-exposure", action="store_true", help="all photographs have the same exposure")
    options.add_params(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from gs_semantic.benchmarks.scoring import mapped
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.mapping.fitting import FitSettings, map_from_points
    from gs_semantic.mapping.offline import COLOUR_ONLY, LABELS_ONLY, MapOffline, map_sequence

    sequence = open_sequence(arguments.sequence, noise=options.noise_of(arguments), max_width=arguments.max_width)
    use_depth = sequence.has_depth and not arguments.no_depth
    points = None if use_depth or not arguments.fit or arguments.seeds == "matching" else sequence.sparse_points()
    if points is None and arguments.seeds == "points":
        raise _no_points(arguments)
    settings = None
    if arguments.fit:
        settings = FitSettings(
            steps=arguments.fit,
            max_gaussians=arguments.fit_gaussians,
            sh_degree=arguments.sh_degree,
            exposure=not arguments.no_exposure,
            detailed=points is None,
        )
        settings.validate()
    defaults = () if use_depth else COLOUR_ONLY if points is None else LABELS_ONLY
    source = None
    if arguments.semantics:
        from gs_semantic.segmentation.generalization.apply import live_source

        source = live_source(arguments.semantics)
    language = None
    if arguments.language:
        from gs_semantic.segmenters.language import LanguageFeatures
        from gs_semantic.segmenters.weights import Weights

        language = LanguageFeatures(Weights(arguments.language))
    shown = MapOffline.create(sequence.labels, [*defaults, *arguments.param], source, language)
    indices = mapped(sequence, arguments.skip_every)
    masks = options.damage_of(arguments) if sequence.has_instances and source is None else None
    started = time.perf_counter()

    def fit() -> None:
        if settings is not None:
            with options.progress_bar("fitting", settings.steps) as advance:
                shown.fit([sequence[i] for i in indices], settings, advance)

    keyframes = 0
    if points is not None:
        shown.mapper.load(map_from_points(points), shown.mapper.objects)
        fit()
    if points is None or masks is not None:
        with options.progress_bar("mapping", len(indices)) as advance:
            keyframes = map_sequence(shown, sequence, indices, masks, advance, use_depth)
        if arguments.refine:
            with options.progress_bar("refining", arguments.refine) as advance:
                shown.refine(arguments.refine, advance)
    if points is None:
        fit()
    seconds = time.perf_counter() - started
    shown.save(arguments.map)
    results = {
        "frames": len(indices),
        "keyframes": keyframes,
        "gaussians": len(shown.mapper.gaussians),
        "objects": len(shown.mapper.objects.present()),
        "frames_per_s": len(indices) / seconds,
        "seconds": seconds,
        **_scores(arguments, shown),
    }
    options.report(arguments, f"map of {arguments.sequence} in {arguments.map}", results)
    return 0


def _no_points(arguments: argparse.Namespace) -> Exception:
    from gs_semantic.errors import InvalidRequestError

    return InvalidRequestError(
        f"--seeds points: needs --fit, a recording without depth (or --no-depth), and points in {arguments.sequence}"
    )


def _scores(arguments: argparse.Namespace, shown: MapOffline) -> dict[str, float]:
    """Scores at the frames that were withheld; none when all were used."""
    from gs_semantic.benchmarks.scoring import Evaluation, score_views
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.evaluation.damage import Damage

    if not arguments.skip_every:
        return {}
    clean = open_sequence(arguments.sequence, max_width=arguments.max_width)
    views = Evaluation.of(clean, arguments.skip_every)
    damage = options.damage_of(arguments) or Damage()
    with options.progress_bar("scoring", len(views)) as advance:
        scores = score_views(shown, views, damage, shown.confirmed_slots, advance)
    return {"evaluation_views": len(views), **scores}
