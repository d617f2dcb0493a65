"""Learn to label scenes that were never seen, and label one (docs/generalization.md).

`train` learns a method from many rooms; OUT holds best.pt, checkpoint.pt, the options and metrics of every report.
`apply` labels the Gaussians of a recorded sequence, or of a map, with a checkpoint; MAP is a map folder like any other,
in which every class that was found is one object. `pack` makes a checkpoint small. `methods` lists what there is.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from gs_semantic.cli import options
from gs_semantic.cli.train import PRESETS, cancelled_by_interrupt

EXAMPLES = """examples:
  gs-semantic generalize train gnesf rooms gnesf_run
  gs-semantic generalize train gnesf rooms gnesf_run --resume
  torchrun --nproc-per-node 2 -m gs_semantic.cli generalize train gnesf rooms gnesf_run
  gs-semantic generalize apply gnesf_run/best.pt sample/house house_classes --json house.json
  gs-semantic generalize apply gnesf_run/best.pt sample/house out --map house_map --views 24
  gs-semantic generalize pack classes/best.pt depth/best.pt rt_gs2.pt
  gs-semantic generalize methods"""


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="generalize_verb", required=True, metavar="WHAT")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXAMPLES,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )

    train = add("train", "Learn a method from many rooms.")
    train.add_argument("method", help="the method (see `methods`)")
    train.add_argument("rooms", type=Path, nargs="+", help="folder of rooms, or scenes to train on with --validation")
    train.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    train.add_argument("--stage", default="", help="part of the training, for methods with several [the first]")
    add_training(train)
    apply = add("apply", "Label a scene that was never seen, with a checkpoint.")
    apply.add_argument("checkpoint", type=Path, help="best.pt of a training, or a method whose checkpoint is shipped")
    apply.add_argument("sequence", type=Path, help="recorded sequence of the scene, of any format, or a room")
    apply.add_argument("output", type=Path, metavar="MAP", help="map folder to write")
    apply.add_argument("--map", type=Path, help="map folder of the scene; without, the sequence is mapped first")
    apply.add_argument("--views", type=int, default=0, metavar="N", help="look from N views, spread evenly [0: all]")
    apply.add_argument(
        "--segmenter",
        default="",
        metavar="MODEL",
        help="vote over a semantic segmentation model of transformers: its folder",
    )
    apply.add_argument("--max-width", type=int, default=0, metavar="PX", help="scale wider images down to this [0: no]")
    options.add_json(apply)
    pack = add("pack", "Write the weights of a training in 16 bit, or of several stages of a method in one file.")
    pack.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="best.pt of trainings")
    pack.add_argument("output", type=Path, metavar="OUT", help="file to write")
    add("methods", "List the methods, their stages and their options.")


def add_training(parser: argparse.ArgumentParser) -> None:
    """What every training of many scenes takes."""
    parser.add_argument("--validation", type=Path, nargs="+", default=[], help="scenes to choose the checkpoint at")
    parser.add_argument("--preset", choices=PRESETS, default="standard", help="options to start from [standard]")
    parser.add_argument("--options-file", type=Path, metavar="FILE", help="YAML file with lines of 'name: value'")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option; may be repeated")
    parser.add_argument("--from", dest="start", type=Path, metavar="CHECKPOINT", help="weights to start from")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUT, with its options")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    verbs = {"train": run_train, "apply": run_apply, "pack": run_pack, "methods": run_methods}
    return verbs[arguments.generalize_verb](arguments)


def run_train(arguments: argparse.Namespace) -> int:
    from gs_semantic.segmentation.config import parse_overrides
    from gs_semantic.segmentation.generalization.trainer import LearningJob, learn
    from gs_semantic.segmentation.progress import Listener, ProgressBar, TensorBoardWriter

    job = LearningJob(
        arguments.method,
        tuple(arguments.rooms),
        arguments.output,
        tuple(arguments.validation),
        arguments.stage,
        arguments.preset,
        arguments.options_file,
        parse_overrides(arguments.set),
        arguments.start,
        arguments.resume,
    )
    config = job.config()  # what is wrong with it is said before anything is read
    first = os.environ.get("RANK", "0") == "0"
    with cancelled_by_interrupt() as cancelled, ProgressBar(arguments.method).shown(first) as bar:
        listeners: list[Listener] = [bar] if first else []
        board = TensorBoardWriter.make(arguments.output / "tensorboard") if first else None
        if board is not None:
            listeners.append(board)
        result = learn(job, listeners, cancelled.is_set)
    if not first:
        return 0
    results: dict[str, Any] = {"iterations": result.iteration, "minutes": result.minutes, **result.metrics}
    arguments.seed = config.seed
    title = " ".join(word for word in (arguments.method, result.stage, arguments.preset) if word)
    options.report(arguments, title, results)
    if result.cancelled:
        print(f"gs-semantic: cancelled at iteration {result.iteration}; go on with --resume", file=sys.stderr)
    return 0


def run_apply(arguments: argparse.Namespace) -> int:
    from gs_semantic.segmentation.generalization.apply import ApplyJob, apply

    job = ApplyJob(
        arguments.checkpoint,
        arguments.sequence,
        arguments.output,
        arguments.map,
        arguments.views,
        arguments.max_width,
        arguments.segmenter,
    )
    with cancelled_by_interrupt() as cancelled, options.growing_bar("views") as advance:
        result = apply(job, advance, cancelled.is_set)
    if result.cancelled:
        print("gs-semantic: cancelled; nothing was written", file=sys.stderr)
        return 130
    results: dict[str, Any] = {
        "gaussians": result.gaussians,
        "labelled_share": result.labelled_share,
        "views": result.views,
        "time_s": result.seconds,
        **result.metrics,
    }
    if arguments.views > result.views:
        print(f"gs-semantic: {arguments.views} views were asked for, the recording has {result.views}", file=sys.stderr)
    if result.missing:
        print(f"gs-semantic: never learned, so not scored: {', '.join(result.missing)}", file=sys.stderr)
    options.report(arguments, f"{arguments.checkpoint} on {arguments.sequence}", results)
    return 0


def run_pack(arguments: argparse.Namespace) -> int:
    from gs_semantic.segmentation.generalization.checkpoints import pack_learners

    learner = pack_learners(arguments.checkpoints, arguments.output)
    print(f"{arguments.output}: {learner.name}, {arguments.output.stat().st_size / 1e6:.1f} MB")
    return 0


def run_methods(arguments: argparse.Namespace) -> int:
    from gs_semantic.segmentation.config import describe_options
    from gs_semantic.segmentation.generalization.registry import all_learners

    for name, kind in all_learners().items():
        print(f"{name}: {kind.summary}; stages: {', '.join(kind.stages)}")
        for option, default, text in describe_options(kind.Config):
            print(f"    {option}={default}\n        {text}")
    return 0
