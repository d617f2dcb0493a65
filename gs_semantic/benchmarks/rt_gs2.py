"""``bench rt_gs2``: from an unseen map to label images, stage by stage. Weights do not change the speed, so none are needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gs_semantic.benchmarks.process import peak_rss_mb
from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.data.rooms import room_labels
from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.rendering import Rasterizer, create_rasterizer
from gs_semantic.rendering.base import SplatTensors
from gs_semantic.segmentation.config import make_config
from gs_semantic.segmentation.generalization.methods.rt_gs2 import CLASSES, RtGs2, RtGs2Config
from gs_semantic.segmentation.generalization.rt_gs2.inference import Inference
from gs_semantic.segmentation.generalization.rt_gs2.network import FusionNetwork
from gs_semantic.segmentation.generalization.rt_gs2.rendering import (
    draw_view,
    label_ids,
    label_image,
    on_device,
)

WARM_UP = 3  # frames
PIPELINED = 200  # frames
TURN_RAD = 0.02  # from one frame to the next


def run_rt_gs2(
    size: str = "small",
    gaussians: int = 100_000,
    width: int = 320,
    height: int = 240,
    frames: int = 40,
    device: str = "cpu",
    threads: int | None = None,
    max_points: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Times of an opaque room of that many Gaussians, every frame from a new pose, one at a time.

    features_s: the point transformer over all Gaussians, once a scene, in pieces of at most ``max_points`` (0: as the method
    does; on a GPU all at once); features_peak_mb: the most memory that was in use in the meantime, of the GPU, or else of
    this process; room_mb: and before. render_ms, network_ms, classes_ms, frame_ms:
    medians of drawing colour and features, the 2D network, the best class of every pixel, and all of it; fps: of the
    median frame. pipelined_fps, on a GPU alone: frames per second of many, where the network looks at one while the next one
    is drawn, until their classes are on the CPU. core_ms: processor time of a frame, of all threads, which other programs change little. threads: of torch (None: as it is set); the rasteriser has its own. Beside other programs one is faster
    than several that wait for each other. InvalidRequestError for a device that is not there.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidRequestError("device cuda: there is no GPU that torch can use; choose cpu")
    room = opaque_room(gaussians)
    torch.manual_seed(0)
    overrides: dict[str, Any] = {"size": size}
    if device == "cuda" and not max_points:
        max_points = max(1000, gaussians)  # in one pass
    if max_points:
        overrides["max_points"] = max_points
    method = RtGs2(make_config(RtGs2Config, "paper", overrides=overrides), room_labels())
    method.begin(CLASSES)
    method = method.to(device).eval()
    network = method.networks[CLASSES]
    assert isinstance(network, FusionNetwork)
    ready = Inference(network)
    rasterizer = create_rasterizer("cuda" if device == "cuda" else "auto")
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    room_mb = _peak_mb(device)
    start = time.perf_counter()
    features = method.features(room)
    features_s = time.perf_counter() - start
    features_peak_mb = _peak_mb(device)
    if device == "cuda":
        start = time.perf_counter()  # the first one loads kernels
        method.features(room)
        features_s = time.perf_counter() - start
    shown = on_device(room, device)
    features = features.to(device)
    progress()
    times, core_s = [], []
    with torch.inference_mode():
        for frame in range(WARM_UP + frames):
            camera = room_camera(width, height, TURN_RAD * frame)
            core, marks = time.process_time(), [time.perf_counter()]
            images = draw_view(rasterizer, shown, features, camera)
            wait()
            marks.append(time.perf_counter())
            logits = ready(images.rgb, images.features)
            wait()
            marks.append(time.perf_counter())
            label_image(logits, images.covered)
            marks.append(time.perf_counter())
            if frame >= WARM_UP:
                times.append(np.diff(marks))
                core_s.append(time.process_time() - core)
            progress()
        pipelined = _pipelined_fps(rasterizer, shown, features, ready, width, height) if device == "cuda" else None
    render, net, classes = np.median(np.array(times), axis=0) * 1e3
    frame_ms = float(np.median(np.array(times).sum(axis=1))) * 1e3
    return {
        "fps": 1e3 / frame_ms,
        **({} if pipelined is None else {"pipelined_fps": pipelined}),
        "frame_ms": frame_ms,
        "core_ms": float(np.median(core_s)) * 1e3,
        "render_ms": float(render),
        "network_ms": float(net),
        "classes_ms": float(classes),
        "features_s": features_s,
        "features_peak_mb": features_peak_mb,
        "room_mb": room_mb,
        "gaussians": len(room),
        "transformer_parameters": sum(p.numel() for p in method.transformer.parameters()),
        "network_parameters": sum(p.numel() for p in network.parameters()),
        "frames": frames,
        "torch_threads": torch.get_num_threads(),
    }


def _peak_mb(device: str) -> float:
    """The most memory so far, of the GPU's tensors or of this process."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else peak_rss_mb(os.getpid())


def _pipelined_fps(
    rasterizer: Rasterizer,
    gaussians: GaussianMap | SplatTensors,
    features: torch.Tensor,
    ready: Inference,
    width: int,
    height: int,
) -> float:
    """Frames per second from poses to class images in the CPU's memory, drawing on one stream, the network on another."""
    draw, look = torch.cuda.Stream(), torch.cuda.Stream()
    classes = torch.empty(PIPELINED, height, width, dtype=torch.int32, pin_memory=True)
    cameras = [room_camera(width, height, TURN_RAD * frame) for frame in range(PIPELINED)]
    torch.cuda.synchronize()
    begin = 0.0
    for frame in range(-WARM_UP, PIPELINED):
        if frame == 0:
            torch.cuda.synchronize()
            begin = time.perf_counter()
        with torch.cuda.stream(draw):
            images = draw_view(rasterizer, gaussians, features, cameras[frame])
        look.wait_stream(draw)
        with torch.cuda.stream(look):
            found = label_ids(ready(images.rgb, images.features), images.covered)
            classes[frame].copy_(found, non_blocking=True)
        for image in (images.rgb, images.features, images.covered):
            image.record_stream(look)
    torch.cuda.synchronize()
    return PIPELINED / (time.perf_counter() - begin)
