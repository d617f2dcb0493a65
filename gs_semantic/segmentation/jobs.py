"""Training of several recordings as independent processes: one that fails leaves the others alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gs_semantic.errors import InvalidRequestError
from gs_semantic.files import make_folder

LOG = "train.log"


def names_of(sequences: Sequence[Path]) -> dict[str, Path]:
    """A folder name for each recording: its own; InvalidRequestError when two have the same."""
    names: dict[str, Path] = {}
    for sequence in sequences:
        name = sequence.resolve().name
        if name in names:
            raise InvalidRequestError(f"{sequence}: another recording is named '{name}', too; train them one by one")
        names[name] = sequence
    return names


def run_processes(
    commands: Mapping[Path, Sequence[str]],
    at_once: int,
    ended: Callable[[Path, int], object] = lambda folder, code: None,
) -> dict[Path, int]:
    """Run `gs-semantic` with the words of each command, ``at_once`` at a time; exit codes by the folder of its log."""

    def one(item: tuple[Path, Sequence[str]]) -> int:
        folder, words = item
        make_folder(folder)
        with (folder / LOG).open("wb") as log:
            done = subprocess.run(
                [sys.executable, "-m", "gs_semantic.cli", *words], stdout=log, stderr=subprocess.STDOUT, check=False
            )
        ended(folder, done.returncode)
        return done.returncode

    with ThreadPoolExecutor(max(1, at_once)) as pool:
        return dict(zip(commands, pool.map(one, commands.items()), strict=True))
