"""Options that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from gs_semantic.data.noise import SensorNoise
    from gs_semantic.evaluation.damage import Damage

STDOUT = Path("-")
MASKS = ("none", "perfect", "shuffled", "damaged")


def add_masks(parser: argparse.ArgumentParser, default: str = "shuffled") -> None:
    parser.add_argument(
        "--masks",
        choices=MASKS,
        default=default,
        help="masks given to the map: none, perfect (as recorded), shuffled (ids redrawn per frame) or damaged "
        f"(also dropped, merged, split, eroded) [{default}]",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of mask damage and noise [0]")


def add_noise(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--depth-noise", action="store_true", help="noise of 1.5 mm x z^2 and 5 %% holes on the depth")
    parser.add_argument("--pose-noise", action="store_true", help="noise of 1 cm and 0.5 degrees on the poses")


def add_no_depth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-depth",
        action="store_true",
        help="withhold recorded depth: colour and poses only, depth is found by matching",
    )


def add_params(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the mapper, see docs/interfaces.md; may be repeated",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="write the results there; without FILE to standard output, and no table",
    )


def damage_of(arguments: argparse.Namespace) -> Damage | None:
    """The Damage that --masks and --seed ask for; None for no masks at all."""
    from gs_semantic.evaluation.damage import Damage

    if arguments.masks == "none":
        return None
    return Damage("none" if arguments.masks == "perfect" else arguments.masks, arguments.seed)


def noise_of(arguments: argparse.Namespace) -> SensorNoise | None:
    """The SensorNoise that --depth-noise and --pose-noise ask for; None without."""
    from gs_semantic.data.noise import SensorNoise

    if not (arguments.depth_noise or arguments.pose_noise):
        return None
    noise = SensorNoise(seed=arguments.seed)
    if not arguments.depth_noise:
        return SensorNoise(0.0, 0.0, noise.pose_m, noise.pose_deg, noise.seed)
    if not arguments.pose_noise:
        return SensorNoise(noise.depth_sigma, noise.holes, 0.0, 0.0, noise.seed)
    return noise


def live_params(arguments: argparse.Namespace) -> dict[str, Any]:
    """The --param pairs as parameters of the mapper node, checked."""
    from gs_semantic.mapping.offline import mapper_config

    config = mapper_config(arguments.param)
    return {name: getattr(config, name) for name in (pair.partition("=")[0] for pair in arguments.param)}


def size(text: str) -> tuple[int, int]:
    """Width and height of a text like 640x480."""
    from gs_semantic.errors import InvalidRequestError

    words = text.lower().split("x")
    if len(words) != 2 or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise InvalidRequestError(f"--size {text}: expected WIDTHxHEIGHT, for example 640x480")
    return int(words[0]), int(words[1])


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """Progress bars that follow each other: yields a function (text, steps) that starts one and returns its step."""
    with ExitStack() as shown:

        def start(text: str, steps: int) -> Callable[[], None]:
            shown.close()  # the one before
            bar = shown.enter_context(_bar())
            task = bar.add_task(text, total=steps)
            return lambda: bar.advance(task)

        yield start


@contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[..., None]]:
    """One progress bar on stderr; yields a function to be called once per step."""
    with progress_bars() as start:
        step = start(text, total)
        yield lambda *_: step()


@contextmanager
def growing_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar whose length is told with every step; yields a function (done, total)."""
    with _bar() as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def report(arguments: argparse.Namespace, title: str, results: Mapping[str, Any]) -> None:
    """Print the results as a table, and write them where --json says."""
    from gs_semantic.report import Report

    seeds = {"masks": arguments.seed} if hasattr(arguments, "seed") else {}
    outcome = Report(command=arguments.command, results=dict(results), seeds=seeds)
    if arguments.json == STDOUT:
        print(outcome.text(), end="")
        return
    outcome.print(title)
    if arguments.json:
        outcome.write(arguments.json)
