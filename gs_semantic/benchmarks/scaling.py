"""How the cost of a frame grows with Gaussians, channels, pixels and threads: measured, as JSON and as curves.

    python -m gs_semantic.benchmarks.scaling --out docs/results/curves

writes render_scaling.json and render_scaling.png there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from gs_semantic.benchmarks.render import room_scene, time_frames
from gs_semantic.errors import GsSemanticError
from gs_semantic.rendering import native
from gs_semantic.rendering.cpu import CpuRasterizer, RasterView
from gs_semantic.report import Report

GAUSSIANS = (25_000, 50_000, 100_000, 200_000, 400_000, 1_000_000)
CHANNELS = (0, 4, 8, 16, 32, 48, 64)
SIZES = ((160, 120), (320, 240), (640, 480), (960, 720), (1280, 960))
MIDDLE = 200_000  # Gaussians, where something else varies
FRAMES = 24
PATIENCE_S = 8.0  # for a quiet moment, per point

Draw = Callable[[RasterView], Any]


_scene = lru_cache(maxsize=8)(room_scene)  # each is drawn several times


def frame_ms(
    count: int, width: int, height: int, channels: int | None, threads: int | None, patience_s: float
) -> float:
    """Median time of a frame with so many feature channels, or of an id image where ``channels`` is None."""
    scene = _scene(count, width, height)
    rasterizer = CpuRasterizer(threads=threads)
    features = torch.rand(count, channels) if channels else None

    def frame(k: int) -> tuple[float, list[float], int]:
        view = rasterizer.open(scene.gaussians, scene.camera(k), tile_size=32)
        if channels is None:
            view.render_ids(scene.ids)
        else:
            view.render(features)
        stages = list(view.times_ms.values())
        return sum(stages), stages, view.evaluations

    times = sorted(ms for ms, _, _ in time_frames(frame, FRAMES, threads, patience_s).frames)
    return times[len(times) // 2]


def measure(
    gaussians: tuple[int, ...] = GAUSSIANS,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    patience_s: float = PATIENCE_S,
) -> dict[str, Any]:
    """Curves as lists of (x, milliseconds of a frame), by name."""
    middle = min(MIDDLE, max(gaussians))
    most = native.thread_count(None)
    cost = partial(frame_ms, patience_s=patience_s)
    curves: dict[str, Any] = {
        "gaussians_rgb": [(n, cost(n, 640, 480, 0, None)) for n in gaussians],
        "gaussians_features": [(n, cost(n, 640, 480, 16, None)) for n in gaussians],
        "gaussians_ids": [(n, cost(n, 640, 480, None, None)) for n in gaussians],
        "channels": [(c, cost(middle, 640, 480, c, None)) for c in CHANNELS],
        "pixels_rgb": [(w * h, cost(middle, w, h, 0, None)) for w, h in sizes],
        "threads_rgb": [(t, cost(middle, 640, 480, 0, t)) for t in range(1, most + 1)],
        "threads_features": [(t, cost(middle, 640, 480, 16, t)) for t in range(1, most + 1)],
    }
    return curves


def plot(curves: dict[str, Any], path: Path) -> None:
    """Draw the curves of ``measure``, with a proportional line from each first point to compare with."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "Gaussians": ["gaussians_rgb", "gaussians_features", "gaussians_ids"],
        "feature channels": ["channels"],
        "pixels": ["pixels_rgb"],
        "threads": ["threads_rgb", "threads_features"],
    }
    figure, axes = pyplot.subplots(1, len(panels), figsize=(16, 4), constrained_layout=True)
    for axis, (label, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            x, y = zip(*curves[name], strict=True)
            axis.plot(x, y, marker="o", label=name.split("_")[-1])
            if label in ("Gaussians", "pixels"):
                axis.plot(x, [y[-1] * value / x[-1] for value in x], ":", color="grey", linewidth=1)
        if label in ("Gaussians", "pixels"):
            axis.set_xscale("log")
            axis.set_yscale("log")
        axis.set_xlabel(label)
        axis.set_ylabel("ms per frame")
        axis.set_ylim(bottom=None if axis.get_yscale() == "log" else 0)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gs_semantic.benchmarks.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for render_scaling.json and .png")
    parser.add_argument("--quick", action="store_true", help="few points, to try the program")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="longest wait for a quiet machine, s [8]")
    options = parser.parse_args()
    try:
        gaussians = (2_000, 4_000) if options.quick else GAUSSIANS
        sizes = ((64, 48), (128, 96)) if options.quick else SIZES
        curves = measure(gaussians, sizes, options.patience)
        options.out.mkdir(parents=True, exist_ok=True)
        Report(command="python -m gs_semantic.benchmarks.scaling", results=curves).write(
            options.out / "render_scaling.json"
        )
        plot(curves, options.out / "render_scaling.png")
    except GsSemanticError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
