"""Kills a process that saves a map, again and again, at random moments, and reads the map after each kill.

    python kill_saving.py FOLDER KILLS

Forks before anything has started threads, so that a hundred processes need no hundred starts of Python.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from test_map_folder import sample_map

from gs_semantic.gaussians.map_folder import load_map, save_map


def save_without_end(folder: Path, first: int, told: int) -> None:
    """Save maps of rising revision; the pipe ``told`` gets a line before and after each."""
    gaussians, objects = sample_map(0, count=400)
    for revision in range(first, first + 10_000):
        gaussians.revision = revision
        gaussians.means.fill_(float(revision))
        os.write(told, f"begin {revision}\n".encode())
        save_map(folder, gaussians, objects)
        os.write(told, f"done {revision}\n".encode())


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(0)
    torch.set_num_threads(1)
    save_map(folder, *sample_map(0, count=400))
    start = time.monotonic()
    save_map(folder, *sample_map(0, count=400))
    longest = 1.5 * (time.monotonic() - start)
    revision = load_map(folder)[0].revision
    valid = during = 0
    revisions = set()
    for _ in range(kills):
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            save_without_end(folder, revision + 1, there)
        os.close(there)
        first = os.read(here, 4096)  # it saves now
        time.sleep(chance.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(here, "rb") as pipe:
            lines = (first + pipe.read()).decode().splitlines()
        done = [int(line.split()[1]) for line in lines if line.startswith("done")]
        begun = int([line for line in lines if line.startswith("begin")][-1].split()[1])
        during += lines[-1].startswith("begin")
        gaussians, objects = load_map(folder)
        whole = bool((gaussians.means == gaussians.revision).all()) or gaussians.revision == revision
        valid += whole and len(objects) == 4 and max([revision, *done]) <= gaussians.revision <= begun
        revision = gaussians.revision
        revisions.add(revision)
    print(json.dumps({"kills": kills, "valid": valid, "during_a_save": during, "revisions": len(revisions)}))


if __name__ == "__main__":
    main()
