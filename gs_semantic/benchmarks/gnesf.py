"""``bench gnesf``: votes on a map that grows, frame by frame, and a vote of several views on a whole map."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.data.rooms import room_labels
from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.rendering import Rasterizer, create_rasterizer
from gs_semantic.segmentation.generalization.checkpoints import load_learner
from gs_semantic.segmentation.generalization.gnesf.live import AGAIN_NS, LiveVotes
from gs_semantic.segmentation.generalization.gnesf.prepared import PreparedViews
from gs_semantic.segmentation.generalization.methods.gnesf import Gnesf, GnesfConfig
from gs_semantic.segmentation.generalization.scenes import SceneView

WARM_UP = 3  # frames
TURN_RAD = 0.02  # from one frame to the next
REVOTES = 3


def run_gnesf(
    checkpoint: str = "",
    gaussians: int = 60_000,
    whole: int = 200_000,
    views: int = 8,
    width: int = 320,
    height: int = 240,
    frames: int = 40,
    threads: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Times in opaque rooms, every frame from a new pose, a second after the one before.

    vote_ms: median of a frame's features and votes, and of adding them to the sums of the Gaussians that it sees, of
    ``gaussians``; updated: how many they were. prepare_ms: of what comes before: a view drawn, judged by the 2D segmenter,
    and the map's depth in it. revote_s: all ``views`` vote on all ``whole`` Gaussians again. Medians. checkpoint: file or
    method's name; empty: untrained votes of views, as fast as learned ones. Where a checkpoint has votes of neighbours,
    revote_s has them, too, but for finding who is near whom, once a map. threads: of torch (None: as it is set).
    InvalidRequestError: a checkpoint of another method.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    method = load_learner(checkpoint) if checkpoint else Gnesf(GnesfConfig(), room_labels()).eval()
    if not isinstance(method, Gnesf):
        raise InvalidRequestError(f"{checkpoint}: is of method '{method.name}'; expected one of gnesf")
    rasterizer = create_rasterizer("auto")
    room = opaque_room(gaussians)
    live = LiveVotes(method, rasterizer)
    votes, prepares, counts = [], [], []
    for frame in range(WARM_UP + frames):
        begun = time.perf_counter()
        view = _prepared(method, room, [TURN_RAD * frame], (width, height), rasterizer)
        ready = time.perf_counter()
        rows = live.vote(room, view, (frame + 1) * AGAIN_NS)
        if frame >= WARM_UP:
            votes.append(time.perf_counter() - ready)
            prepares.append(ready - begun)
            counts.append(len(rows))
        progress()
    room = opaque_room(whole)
    turns = np.linspace(-0.4, 0.4, views).tolist()
    prepared = _prepared(method, room, turns, (width, height), rasterizer)
    again = []
    for _ in range(REVOTES):
        begun = time.perf_counter()
        known = method.classes_of(room, prepared)
        again.append(time.perf_counter() - begun)
        progress()
    return {
        "vote_ms": float(np.median(votes)) * 1e3,
        "vote_p95_ms": float(np.percentile(votes, 95)) * 1e3,
        "updated": int(np.median(counts)),
        "prepare_ms": float(np.median(prepares)) * 1e3,
        "revote_s": float(np.median(again)),
        "revote_gaussians": len(room),
        "revote_views": views,
        "revote_labelled": int((known.classes > 0).sum()),
        "frames": frames,
        "torch_threads": torch.get_num_threads(),
    }


def _prepared(
    method: Gnesf, room: GaussianMap, turns: list[float], size: tuple[int, int], rasterizer: Rasterizer
) -> PreparedViews:
    shown = []
    for turn in turns:
        camera = room_camera(*size, turn)
        rgb = rasterizer.render(room, camera).rgb
        shown.append(SceneView(f"turn {turn:.2f}", camera, (rgb.clamp(0, 1) * 255).to(torch.uint8).numpy()))
    return method.prepare(shown, room, rasterizer)
