"""Speed of the CUDA back end on the opaque room or a map, and its agreement with the reference on a small room.

Frames are timed by CUDA events from the first launch to the finished images, so gaps in which the device waits for Python
count too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_semantic.benchmarks.render import IDENTITY, agreement, map_scene, room_scene, scene_facts
from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera
from gs_semantic.rendering import create_rasterizer
from gs_semantic.rendering.base import SplatTensors
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.cuda import PARAMETERS, CudaRasterizer

WARM_UP = 10  # frames
MODES = ("rgb", "features", "ids", "frame")


def run_cuda_render_bench(
    gaussians: int, mode: str, width: int = 640, height: int = 480, frames: int = 100, path: Path | None = None
) -> dict[str, Any]:
    """As ``run_render_bench``, on the GPU: fps of the median frame, every frame from a new pose.

    The map lies on the device, ready to be drawn, as in training and mapping; ready_ms is what a change of the whole map
    costs once. Raises InvalidRequestError for a mode that is
    not measured there or without a CUDA device, MissingExtraError without gsplat, UnexpectedSceneError as its twin.
    """
    if mode not in MODES:
        raise InvalidRequestError(f"mode '{mode}': on cuda expected one of {', '.join(MODES)}")
    rasterizer = create_rasterizer("cuda")
    assert isinstance(rasterizer, CudaRasterizer)
    scene = room_scene(gaussians, width, height) if path is None else map_scene(path, width, height)
    facts = scene_facts(CpuRasterizer(), scene, width, height)
    gaussians_there = SplatTensors(*(getattr(scene.gaussians, name).to(rasterizer.device) for name in PARAMETERS))
    draw = _drawer(mode, rasterizer, gaussians_there, scene.ids.to(rasterizer.device))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.no_grad():
        frame_ms = [_frame_ms(draw, scene.camera(k)) for k in range(-WARM_UP, frames)][WARM_UP:]
        ready_ms = []
        for _ in range(5):
            gaussians_there.means.add_(0)  # a new version of the map
            ready_ms.append(_frame_ms(draw, scene.camera(0)) - float(np.median(frame_ms)))
    fps = 1e3 / float(np.median(frame_ms))
    return {
        "fps": fps,
        "frame_ms_p50": float(np.median(frame_ms)),
        "frame_ms_p95": float(np.quantile(frame_ms, 0.95)),
        "frame_ms_min": float(np.min(frame_ms)),
        "ready_ms": max(float(np.median(ready_ms)), 0.0),
        "peak_mb_beside_scene": (torch.cuda.max_memory_allocated() - before) / 2**20,
        "gaussians": float(len(scene.gaussians)),
        "device": torch.cuda.get_device_name(),
        **facts,
        **agreement(rasterizer),
    }


def _drawer(mode: str, rasterizer: CudaRasterizer, gaussians: Any, ids: torch.Tensor) -> Callable[[Camera], Any]:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(len(gaussians), IDENTITY, generator=generator).to(rasterizer.device)
    drawers: dict[str, Callable[[Camera], Any]] = {
        "rgb": lambda camera: rasterizer.render(gaussians, camera),
        "features": lambda camera: rasterizer.render(gaussians, camera, features),
        "ids": lambda camera: rasterizer.render_ids(gaussians, camera, ids),
        "frame": lambda camera: (
            rasterizer.render(gaussians, camera, features),
            rasterizer.render_ids(gaussians, camera, ids),
        ),
    }
    return drawers[mode]


def _frame_ms(draw: Callable[[Camera], Any], camera: Camera) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    draw(camera)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))
