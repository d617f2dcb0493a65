"""Train a map with objects from a recorded sequence, by one of the lifting methods (docs/training.md).

OUT holds the map folder (map/), checkpoints, the options used and metrics of every report. Ctrl-C keeps the best
checkpoint; --resume goes on from the last one. `gs-semantic train --list-options METHOD` names every option.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from gs_semantic.cli import options

EXAMPLES = """examples:
  gs-semantic train grouping sample/house house_grouping --preset quick
  gs-semantic train gradiseg sample/house house_gradiseg --eval sample/house_eval --json gradiseg.json
  gs-semantic train gradiseg sample/house out --set max_gaussians=80000 --set igd_threshold=0.5 --options-file mine.yaml
  gs-semantic train gradiseg sample/house out --resume
  gs-semantic train gradiseg sample/house sample/lounge trained --preset quick --at-once 2   # trained/house, ...
  gs-semantic train spatial_encoder sample/house sample/lounge encoder.safetensors --set iterations=3000"""

PRESETS = ("quick", "standard", "paper")  # those of segmentation.config
ROOM_WIDTH = 320  # px of frames that the encoder learns from
ENCODER = "spatial_encoder"  # in the place of a method


class ListOptions(argparse.Action):
    """Print the options of a method and end, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values, option_string=None):
        from gs_semantic.segmentation.config import describe_options
        from gs_semantic.segmentation.registry import method_class

        if values == ENCODER:
            from gs_semantic.segmentation.methods.coseg.encoder_training import EncoderConfig

            described = [(spec.name, spec.default, spec.metadata["text"]) for spec in fields(EncoderConfig)]
        else:
            described = describe_options(method_class(str(values)).Config)
        for name, default, text in described:
            print(f"{name}={default}\n    {text}")
        parser.exit()


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "method",
        help="the method: plain, grouping, gradiseg, ... (one that is unknown lists all); or spatial_encoder, which coseg "
        "uses and writes a file, OUT",
    )
    parser.add_argument("sequence", type=Path, nargs="+", help="recorded sequence, of any format (docs/data.md)")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write; of several recordings, above them")
    parser.add_argument("--preset", choices=PRESETS, default="standard", help="options to start from [standard]")
    parser.add_argument("--eval", type=Path, help="labelled sequence to score at; without, every 8th view is held out")
    parser.add_argument("--options-file", type=Path, metavar="FILE", help="YAML file with lines of 'name: value'")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option; may be repeated")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUT, with its options")
    parser.add_argument("--at-once", type=int, default=1, metavar="K", help="of several recordings, K at a time [1]")
    parser.add_argument("--list-options", action=ListOptions, metavar="METHOD", help="print a method's options and end")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.method == ENCODER:
        return run_encoder(arguments)
    return run_one(arguments) if len(arguments.sequence) == 1 else run_many(arguments)


def run_many(arguments: argparse.Namespace) -> int:
    """Every recording in a process of its own."""
    import json

    from gs_semantic.segmentation.jobs import LOG, names_of, run_processes

    shared = ["--preset", arguments.preset]
    shared += ["--resume"] if arguments.resume else []
    for flag, value in (("--eval", arguments.eval), ("--options-file", arguments.options_file)):
        shared += [flag, str(value)] if value else []
    shared += [word for pair in arguments.set for word in ("--set", pair)]
    commands = {}
    for name, sequence in names_of(arguments.sequence).items():
        folder = arguments.output / name
        words = ["train", arguments.method, str(sequence), str(folder), *shared, "--json", str(folder / "result.json")]
        commands[folder] = words
    with options.progress_bar(arguments.method, len(commands)) as advance:
        codes = run_processes(commands, arguments.at_once, advance)
    results: dict[str, float] = {}
    for folder, code in codes.items():
        if code:
            print(f"gs-semantic: {folder}: ended with exit code {code}; see {folder / LOG}", file=sys.stderr)
            continue
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))["results"]
        results |= {f"{folder.name}_{key}": value for key, value in found.items()}
    options.report(arguments, f"{arguments.method} on {len(commands)} recordings, {arguments.preset}", results)
    return max(codes.values())


def run_encoder(arguments: argparse.Namespace) -> int:
    """Train the spatial encoder on labelled recordings; scored at the frames that it holds out."""
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.segmentation.config import parse_overrides
    from gs_semantic.segmentation.methods.coseg.encoder_training import EncoderTrainer, Rooms, encoder_config

    config = encoder_config(parse_overrides(arguments.set))
    sequences = [open_sequence(path, max_width=ROOM_WIDTH) for path in arguments.sequence]
    trainer = EncoderTrainer(Rooms(sequences, config), config)
    with cancelled_by_interrupt() as cancelled, options.progress_bar(ENCODER, config.iterations) as advance:
        if not trainer.run(advance, cancelled.is_set):
            print("gs-semantic: cancelled; nothing was written", file=sys.stderr)
            return 0
    names = ", ".join(path.name for path in arguments.sequence)
    trainer.model.encoder.save(arguments.output, names)
    arguments.seed = config.seed
    frames = {"frames": len(trainer.rooms.train), "classes": len(trainer.rooms.names) - 1}
    options.report(arguments, f"spatial encoder of {names}", {**frames, **trainer.score()})
    return 0


def run_one(arguments: argparse.Namespace) -> int:
    from gs_semantic.segmentation.config import parse_overrides
    from gs_semantic.segmentation.progress import Listener, ProgressBar, TensorBoardWriter
    from gs_semantic.segmentation.trainer import TrainingJob, train

    job = TrainingJob(
        arguments.method,
        arguments.sequence[0],
        arguments.output,
        arguments.preset,
        arguments.options_file,
        parse_overrides(arguments.set),
        arguments.eval,
        arguments.resume,
    )
    config = job.config()  # what is wrong with it is said before anything is read
    with cancelled_by_interrupt() as cancelled, ProgressBar(arguments.method).shown() as bar:
        listeners: list[Listener] = [bar]
        board = TensorBoardWriter.make(arguments.output / "tensorboard")
        if board is not None:
            listeners.append(board)
        result = train(job, listeners, cancelled.is_set)
    results = {
        "iterations": result.iteration,
        "gaussians": result.gaussians,
        "minutes": result.minutes,
        "it_per_s": result.iteration / max(60 * result.minutes, 1e-9),
        **result.metrics,
    }
    arguments.seed = config.seed
    for warning in result.warnings:
        print(f"gs-semantic: {warning}", file=sys.stderr)
    options.report(arguments, f"{arguments.method} on {arguments.sequence[0]}, {arguments.preset}", results)
    if result.cancelled:
        best = "keeps the best checkpoint" if result.map is not None else "has no map, for nothing was evaluated yet"
        resume = "; go on with --resume" if result.iteration else ""
        print(
            f"gs-semantic: cancelled at iteration {result.iteration}; {arguments.output} {best}{resume}", file=sys.stderr
        )
    return 0


@contextmanager
def cancelled_by_interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets; a second Ctrl-C interrupts as usual."""
    cancelled = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def cancel(*_: object) -> None:
        cancelled.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, cancel)
    try:
        yield cancelled
    finally:
        signal.signal(signal.SIGINT, before)
