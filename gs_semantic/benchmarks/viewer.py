"""The viewer's choice of splats: how long it takes, how much is sent, and how far the view is from that of the whole map."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_semantic.data.opaque_room import OBJECTS, opaque_room, room_camera
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.mapping.view import MapView, pack_registry
from gs_semantic.objects.registry import ObjectRegistry, ObjectState
from gs_semantic.objects.splats import make_splats, map_of_splats
from gs_semantic.rendering import RasterSettings, create_rasterizer
from gs_semantic.viewer.appearance import colours, covariances, largest
from gs_semantic.viewer.picking import Picker
from gs_semantic.viewer.settings import SPLATS

SENT_BYTES = 32  # a splat, to the browser
SIZE = (640, 480)
TURN = 0.7  # rad between the first and the last view of the room, from one of its corners


def run_viewer_bench(
    gaussians: int = 1_000_000, splats: int = SPLATS, views: int = 8, path: Path | None = None
) -> dict[str, Any]:
    """A room of that many Gaussians, or the map at ``path`` seen from its middle, from ``views`` directions.

    choose_ms: choice, covariances and colours of one sending; psnr_db: of what is sent against all splats, both drawn by the
    rasteriser, mean over the views; first_pick_s, pick_ms: a click on a new revision, and on one that was clicked before.
    """
    if path is None:
        shown, objects = opaque_room(gaussians), ObjectRegistry()
        for _ in range(OBJECTS):
            objects.open().state = ObjectState.CONFIRMED
    else:
        shown, objects = load_map(path)
    view = MapView.of(shown, objects, 0, pack_registry(objects))
    every = make_splats(view, np.arange(len(shown)))
    whole, _ = map_of_splats(every)
    low, high = np.percentile(every["position"], (5, 95), axis=0)
    rasterizer = create_rasterizer("auto", RasterSettings(eps2d=0.3))  # the blur that browsers draw with
    seconds, quality = [], []
    for number in range(views):
        turn = TURN * (number / max(views - 1, 1) - 0.5) if path is None else 2 * np.pi * number / views
        camera = room_camera(*SIZE, turn)
        if path is not None:
            pose = camera.T_world_camera.copy()
            pose[:3, 3] = (low + high) / 2
            camera = camera.at(pose)
        start = time.perf_counter()
        chosen = every[largest(every, splats, camera)]
        covariances(chosen, camera)
        colours(chosen, {}, "colour")
        seconds.append(time.perf_counter() - start)
        part, _ = map_of_splats(chosen)
        with torch.no_grad():
            images = [rasterizer.render(drawn, camera).rgb.clamp(0, 1).numpy() for drawn in (whole, part)]
        quality.append(psnr(images[1], np.round(images[0] * 255).astype(np.uint8)))
    picks = []
    start = time.perf_counter()
    picker = Picker(every)
    for _ in range(4):
        picker.along((low + high) / 2, np.array([1.0, 0.2, 0.0]))
        picks.append(time.perf_counter() - start)
        start = time.perf_counter()
    return {
        "gaussians": len(every),
        "splats": min(splats, len(every)),
        "sent_mb": min(splats, len(every)) * SENT_BYTES / 1e6,
        "choose_ms": 1e3 * float(np.median(seconds)),
        "psnr_db": float(np.mean(quality)),
        "least_psnr_db": float(np.min(quality)),
        "first_pick_s": picks[0],
        "pick_ms": 1e3 * float(np.median(picks[1:])),
    }
