"""Train the small 2D segmenter on the images of many rooms (docs/generalization.md).

ROOMS is a folder of `gs-semantic data make-rooms`. OUT holds best.pt, checkpoint.pt, the options and metrics of every
report; --resume goes on from the last checkpoint. Several processes: torchrun --nproc-per-node 2 -m gs_semantic.cli ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gs_semantic.cli import generalize

EXAMPLES = """examples:
  gs-semantic data make-rooms rooms --count 40 && gs-semantic train2d rooms segmenter2d
  gs-semantic train2d rooms segmenter2d --resume
  gs-semantic train2d rooms quick2d --preset quick --set batch=4"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rooms", type=Path, nargs="+", help="folder of rooms, or scenes to train on with --validation")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    generalize.add_training(parser)
    parser.set_defaults(method="segformer", stage="")


def run(arguments: argparse.Namespace) -> int:
    return generalize.run_train(arguments)
