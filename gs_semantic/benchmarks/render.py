"""Speed of the native rasteriser on an opaque room, and its agreement with the reference on a small one."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering import native
from gs_semantic.rendering.cpu import CpuRasterizer, RasterView
from gs_semantic.rendering.reference import ReferenceRasterizer

IDENTITY = 16  # feature channels
WARM_UP = 5  # frames

# Mode -> what is drawn.
MODES = {
    "rgb": "colour, depth and alpha",
    "features": "colour, depth, alpha and 16 feature channels",
    "ids": "object ids, confidence and depth",
    "labels": "the transpose pass of a label image",
    "backward": "colour, depth and 16 features, forward and backward",
}


def run_render_bench(
    gaussians: int,
    mode: str,
    width: int = 640,
    height: int = 480,
    frames: int = 100,
    threads: int | None = None,
    isa: str | None = None,
) -> dict[str, float]:
    """Draw an opaque room of that many Gaussians from a slowly turning camera; ``mode`` is one of MODES.

    fps, frame_ms_p50 and frame_ms_min are whole frames, from map to tensors, as a caller sees them. project_ms, bin_ms
    and pass_ms (sort and blend) are its stages; pack_ms is what a change of the map costs. psnr_vs_reference_db and
    id_agreement_pct compare a small room with the float64 reference. ``isa`` (scalar, avx2, avx512) measures in a
    process of its own. Raises InvalidRequestError for an unknown mode or instruction set.
    """
    if mode not in MODES:
        raise InvalidRequestError(f"mode '{mode}': expected one of {', '.join(MODES)}")
    arguments = (gaussians, mode, width, height, frames, threads)
    if isa is None or isa == native.isa():
        return _measure(*arguments)
    before = os.environ.get("GS_SEMANTIC_ISA")
    os.environ["GS_SEMANTIC_ISA"] = isa
    try:
        context: Any = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
            return pool.submit(_measure, *arguments).result()
    except native.NativeLibraryError as error:
        raise InvalidRequestError(f"isa '{isa}': {error}") from error
    finally:
        if before is None:
            del os.environ["GS_SEMANTIC_ISA"]
        else:
            os.environ["GS_SEMANTIC_ISA"] = before


def _measure(gaussians: int, mode: str, width: int, height: int, frames: int, threads: int | None) -> dict[str, float]:
    room = opaque_room(gaussians)
    rasterizer = CpuRasterizer(threads=threads)
    draw = _drawer(mode, gaussians, room["object"], width, height)
    tile_size = 32 if mode == "ids" else 16
    frame_ms, stages = [], []
    for k in range(-WARM_UP, max(frames, 1)):
        camera = room_camera(width, height, yaw=0.2 * np.sin(0.05 * k))
        start = time.perf_counter()
        view = rasterizer.open(room, camera, tile_size=tile_size)
        draw(view)
        elapsed = 1e3 * (time.perf_counter() - start)
        if k >= 0:
            frame_ms.append(elapsed)
            stages.append(list(view.times_ms.values()))
    packs = []
    for _ in range(10):
        room.touch()
        rasterizer.open(room, camera)
        packs.append(rasterizer.pack_ms)
    project, binning, last_pass = np.median(np.array(stages), axis=0)
    return {
        "fps": 1e3 / float(np.mean(frame_ms)),
        "frame_ms_p50": float(np.median(frame_ms)),
        "frame_ms_min": float(np.min(frame_ms)),
        "pack_ms": float(np.median(packs)),
        "project_ms": float(project),
        "bin_ms": float(binning),
        "pass_ms": float(last_pass),
        "threads": float(native.thread_count(threads)),
        "visible": float(len(view.visible)),
        **_agreement(threads),
    }


def _drawer(mode: str, count: int, ids: torch.Tensor, width: int, height: int) -> Callable[[RasterView], Any]:
    features = torch.rand(count, IDENTITY, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(height, width, dtype=torch.int32)
    labels[:, : width // 2] = 1
    grad_rgb, grad_depth = torch.ones(height, width, 3), torch.ones(height, width)
    grad_features = torch.ones(height, width, IDENTITY)

    def train(view: RasterView) -> Any:
        return view.backward(view.render(features), grad_rgb, grad_depth, None, grad_features, features)

    drawers: dict[str, Callable[[RasterView], Any]] = {
        "rgb": lambda view: view.render(),
        "features": lambda view: view.render(features),
        "ids": lambda view: view.render_ids(ids),
        "labels": lambda view: view.accumulate_labels(labels),
        "backward": train,
    }
    return drawers[mode]


def _agreement(threads: int | None) -> dict[str, float]:
    room, camera = opaque_room(4000), room_camera(80, 60)
    cpu, oracle = CpuRasterizer(threads=threads), ReferenceRasterizer(dtype=torch.float64)
    image, expected = cpu.render(room, camera).rgb, oracle.render(room, camera).rgb
    ids, wanted = (r.render_ids(room, camera, room["object"]).ids for r in (cpu, oracle))
    mse = float(((image - expected) ** 2).mean())
    return {
        "psnr_vs_reference_db": -10 * float(np.log10(max(mse, 1e-20))),
        "id_agreement_pct": 100 * float((ids == wanted).float().mean()),
    }
