"""``gs-semantic``: demo, run, doctor, map, train, train2d, generalize, render, evaluate, edit, view, data, bench.

Every verb is a module with ``configure(parser)`` and ``run(arguments) -> exit code``; what is heavy is imported when a
verb runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from gs_semantic import __version__
from gs_semantic.cli import (
    bench,
    data,
    demo,
    doctor,
    edit,
    evaluate,
    generalize,
    map,
    render,
    run,
    train,
    train2d,
    view,
)
from gs_semantic.errors import GsSemanticError

EXIT_ERROR = 2  # wrong input or usage, like argparse
EXIT_INTERRUPTED = 130  # what a shell reports for Ctrl-C
EXIT_PIPE_CLOSED = 141  # ... and for a program whose reader, like `head`, has seen enough

VERBS = {
    "demo": (demo, "map the sample over real topics and leave pictures and numbers"),
    "run": (run, "start the live nodes, without ROS's launch"),
    "doctor": (doctor, "say what is wrong with the installation and the live topics, and how to mend it"),
    "map": (map, "map a recorded sequence offline into a map folder"),
    "train": (train, "train a map with objects from a recorded sequence, by one of the lifting methods"),
    "train2d": (train2d, "train the small 2D segmenter on the images of many rooms"),
    "generalize": (generalize, "learn from many rooms to label scenes never seen, and label one"),
    "render": (render, "render views of a map folder to images"),
    "evaluate": (evaluate, "score a map or predicted images against a labelled sequence"),
    "edit": (edit, "remove, extract, move or swap objects of a map"),
    "view": (view, "look at a saved map in the browser, click and name its objects"),
    "data": (data, "look at recorded sequences; write them as ROS 2 bags"),
    "bench": (bench, "measure mapping, rendering and memory"),
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples as written and leaves room for long option names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="gs-semantic",
        formatter_class=HelpFormatter,
        description="A live 3D Gaussian map in which every Gaussian knows its object.",
        epilog="examples:\n"
        "  gs-semantic demo\n"
        "  gs-semantic run segment sequence:=sample/house masks:=damaged\n"
        "  gs-semantic map sample/house house_map && gs-semantic evaluate house_map sample/house_eval\n"
        "  gs-semantic bench map --sequence sample/house --eval sample/house_eval --json result.json",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gs-semantic {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (module, summary) in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=summary,
            description=(module.__doc__ or "").strip(),
            epilog=module.EXAMPLES,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        module.configure(verb)
        verb.set_defaults(handler=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors the user can mend are one line on stderr."""
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # here, where a closed pipe is no surprise, and not when the interpreter ends
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:  # for what is still in the buffer
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED


def _run(words: list[str]) -> int:
    arguments = build_parser().parse_args(words)
    arguments.command = "gs-semantic " + " ".join(words)
    try:
        return int(arguments.handler(arguments) or 0)
    except GsSemanticError as error:
        print(f"gs-semantic: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("gs-semantic: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
