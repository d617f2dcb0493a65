"""Speed of lifting dense feature maps onto the Gaussians of an opaque room: one pass over views, wall clock."""

from __future__ import annotations

import time

import numpy as np
import torch

from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.segmentation.unprojection import Unprojection


def run_unproject_bench(
    gaussians: int,
    views: int = 100,
    channels: int = 256,
    width: int = 160,
    height: int = 120,
    threads: int | None = None,
) -> dict[str, float]:
    """Maps of random values of the given size; making them is not timed. seen_pct: Gaussians that any view shows."""
    room = opaque_room(gaussians)
    sums = Unprojection(room, CpuRasterizer(threads=threads), channels)
    image = torch.rand(height, width, channels, generator=torch.Generator().manual_seed(0))
    cameras = [room_camera(width, height, yaw=2 * np.pi * k / views) for k in range(views)]
    sums.add(cameras[0], image)  # what happens once: the map is packed
    sums = Unprojection(room, sums.rasterizer, channels)
    begun = time.perf_counter()
    for camera in cameras:
        sums.add(camera, image)
    lifted = sums.result()
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "view_ms": 1e3 * seconds / views,
        "views": views,
        "gaussians": gaussians,
        "channels": channels,
        "seen_pct": 100 * float((lifted.weight_sum > 0).float().mean()),
    }
