"""Speed of the native rasteriser on an opaque room or a map, and its agreement with the reference on a small room.

Frames are timed in batches. A batch counts only if a loop of fused multiply-adds ran at nearly the machine's full speed
right before and after it, so that other load on the machine is not measured. ``fps_at_440_gflops`` scales the rate to a
machine on which that loop gives 440 Gflop/s on all its threads.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.errors import GsSemanticError, InvalidRequestError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import Rasterizer, native
from gs_semantic.rendering.cpu import CpuRasterizer, RasterView
from gs_semantic.rendering.reference import ReferenceRasterizer

IDENTITY = 16  # feature channels
WARM_UP = 4  # frames
BATCH = 4  # frames between two looks at the machine
CALIBRATION_MS = 1.0
QUIET = 0.85  # share of the machine's full speed that a batch needs
REFERENCE_GFLOPS = 440.0  # of the machine of the published figures

# Mode -> what is drawn.
MODES = {
    "rgb": "colour, depth and alpha",
    "features": "colour, depth, alpha and 16 feature channels",
    "ids": "object ids, confidence and depth",
    "frame": "colour, depth, alpha and 16 feature channels, then object ids and confidence, of one projection",
    "accumulate": "the transpose pass of an image with 16 channels",
    "labels": "the transpose pass of a label image",
    "backward": "colour, depth and 16 features, forward and backward",
}
TILE_SIZES = {"backward": 16}  # others 32 pixels

# The opaque room at 640x480, by Gaussians: (pixels drawn per Gaussian and image pixel, evaluations on 4x4 blocks).
EXPECTED = {50_000: (32.7, 0.83e6), 200_000: (32.9, 1.04e6), 1_000_000: (34.6, 1.65e6)}
IN_VIEW = (0.45, 0.50)  # share of the Gaussians
REMAINING = (0.003, 0.012)  # mean transmittance behind everything
TOLERANCE = 0.10


class UnexpectedSceneError(GsSemanticError):
    """The room is easier or harder than the one that figures are compared on."""


@dataclass(frozen=True)
class Scene:
    """What is drawn: a map, its ids (N,), and a camera for every frame."""

    gaussians: GaussianMap
    ids: torch.Tensor
    camera: Callable[[int], Camera]
    is_room: bool


def run_render_bench(
    gaussians: int,
    mode: str,
    width: int = 640,
    height: int = 480,
    frames: int = 100,
    threads: int | None = None,
    isa: str | None = None,
    path: Path | None = None,
) -> dict[str, Any]:
    """Draw an opaque room of that many Gaussians, or the map at ``path``, from a slowly turning camera.

    ``mode`` is one of MODES. fps and frame_ms_p50 are of the median frame from projection to finished image, every
    frame from a new pose, nothing reused; pack_ms is what a change of the whole map costs once. project_ms, bin_ms and
    pass_ms (sort and blend) are its stages. psnr_vs_reference_db and id_agreement_pct compare a small room with the
    float64 reference, ratio_vs_reference is its time for that room over ours. ``isa`` (scalar, avx2, avx512, neon)
    measures in a process of its own. Raises InvalidRequestError for an unknown mode or instruction set, and
    UnexpectedSceneError where the room is not the one that figures are compared on.
    """
    if mode not in MODES:
        raise InvalidRequestError(f"mode '{mode}': expected one of {', '.join(MODES)}")
    arguments = (gaussians, mode, width, height, frames, threads, path)
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


def _measure(
    count: int, mode: str, width: int, height: int, frames: int, threads: int | None, path: Path | None
) -> dict[str, Any]:
    scene = room_scene(count, width, height) if path is None else map_scene(path, width, height)
    rasterizer = CpuRasterizer(threads=threads)
    draw = _drawer(mode, len(scene.gaussians), scene.ids, width, height)
    tile_size = TILE_SIZES.get(mode, 32)
    _give_back_free_memory()
    before_mb = _memory_mb("VmRSS", forget_peak=True)
    timing = time_frames(lambda k: _frame(rasterizer, scene, draw, k, tile_size), frames, threads)
    peak_mb = _memory_mb("VmHWM") - before_mb
    packs = []
    for _ in range(5):
        scene.gaussians.touch()
        rasterizer.open(scene.gaussians, scene.camera(0))
        packs.append(rasterizer.pack_ms)
    project, binning, last_pass = np.median(np.array([frame[1] for frame in timing.frames]), axis=0)
    frame_ms = [frame[0] for frame in timing.frames]
    fps = 1e3 / float(np.median(frame_ms))
    return {
        "fps": fps,
        "fps_at_440_gflops": fps * REFERENCE_GFLOPS / timing.gflops,
        "frame_ms_p50": float(np.median(frame_ms)),
        "frame_ms_min": float(np.min(frame_ms)),
        "project_ms": float(project),
        "bin_ms": float(binning),
        "pass_ms": float(last_pass),
        "pack_ms": float(np.median(packs)),
        "calibration_gflops": timing.gflops,
        "quiet_batches_pct": timing.quiet_pct,
        "threads": float(native.thread_count(threads)),
        "isa": native.isa(),
        "cores": float(os.cpu_count() or 1),
        "gaussians": float(len(scene.gaussians)),
        **scene_facts(rasterizer, scene, width, height),
        "evaluations": float(timing.frames[-1][2]),
        "peak_mb_beside_scene": peak_mb,
        **_cpu_agreement(threads),
    }


def room_scene(count: int, width: int, height: int) -> Scene:
    """The opaque room and a camera that turns a little with every frame."""
    room = opaque_room(count)
    return Scene(room, room["object"], lambda k: room_camera(width, height, yaw=0.2 * np.sin(0.05 * k)), True)


def map_scene(path: Path, width: int, height: int) -> Scene:
    """A map folder or PLY file, seen from its middle by a camera that turns around the upright axis (z)."""
    from gs_semantic.gaussians.map_folder import load_map
    from gs_semantic.gaussians.ply import load_ply

    gaussians = load_map(path)[0] if path.is_dir() else load_ply(path)
    if len(gaussians) == 0:
        raise InvalidRequestError(f"{path}: has no Gaussians to draw")
    middle = gaussians.means.median(dim=0).values.double().numpy()
    focal = 525.0 / 640.0 * width

    def camera(k: int) -> Camera:
        angle = 0.05 * k
        forward = np.array([np.cos(angle), np.sin(angle), 0.0])
        right = np.array([np.sin(angle), -np.cos(angle), 0.0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = middle
        return Camera(width, height, focal, focal, width / 2 - 0.5, height / 2 - 0.5, pose)

    ids = torch.arange(len(gaussians), dtype=torch.int32) // 64
    return Scene(gaussians, ids, camera, False)


@dataclass(frozen=True)
class Timing:
    """Frames as (milliseconds, stage milliseconds, evaluations), and how the machine was meanwhile."""

    frames: list[tuple[float, list[float], int]]
    gflops: float
    quiet_pct: float


def time_frames(
    frame: Callable[[int], tuple[float, list[float], int]], frames: int, threads: int | None, patience_s: float = 60.0
) -> Timing:
    """Time so many frames while nothing else runs; after ``patience_s``, or in a short run, whatever was measured."""
    speeds, batches = [calibrate(threads) for _ in range(20)], []
    start, k = time.monotonic(), -WARM_UP
    quiet: list[tuple[float, list[tuple[float, list[float], int]]]] = []
    while True:
        before = calibrate(threads)
        batch = [frame(k + i) for i in range(BATCH)]
        after = calibrate(threads)
        k += BATCH
        if k <= 0:
            continue
        speeds += [before, after]
        batches.append((min(before, after), batch))
        quiet = [item for item in batches if item[0] >= QUIET * max(speeds)]
        if BATCH * len(quiet) >= frames or time.monotonic() - start > patience_s or frames <= BATCH:
            break
    taken = quiet or batches
    timed = [one for _, batch in taken for one in batch]
    return Timing(timed, float(np.median([speed for speed, _ in taken])), 100.0 * len(quiet) / len(batches))


def calibrate(threads: int | None) -> float:
    """Gflop/s that the machine gives at this moment."""
    return float(native.library().gs_calibrate(CALIBRATION_MS, threads or 0))


def _frame(
    rasterizer: CpuRasterizer, scene: Scene, draw: Callable[[RasterView], Any], k: int, tile_size: int
) -> tuple[float, list[float], int]:
    camera = scene.camera(k)
    start = time.perf_counter()
    view = rasterizer.open(scene.gaussians, camera, tile_size=tile_size)
    draw(view)
    elapsed = 1e3 * (time.perf_counter() - start)
    return elapsed, list(view.times_ms.values()), view.evaluations


def _drawer(mode: str, count: int, ids: torch.Tensor, width: int, height: int) -> Callable[[RasterView], Any]:
    features = torch.rand(count, IDENTITY, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(height, width, dtype=torch.int32)
    labels[:, : width // 2] = 1
    grad_rgb, grad_depth = torch.ones(height, width, 3), torch.ones(height, width)
    image = torch.ones(height, width, IDENTITY)

    def train(view: RasterView) -> Any:
        return view.backward(view.render(features), grad_rgb, grad_depth, None, image, features)

    drawers: dict[str, Callable[[RasterView], Any]] = {
        "rgb": lambda view: view.render(),
        "features": lambda view: view.render(features),
        "ids": lambda view: view.render_ids(ids),
        "frame": lambda view: (view.render(features), view.render_ids(ids)),
        "accumulate": lambda view: view.accumulate(image),
        "labels": lambda view: view.accumulate_labels(labels),
        "backward": train,
    }
    return drawers[mode]


def scene_facts(rasterizer: CpuRasterizer, scene: Scene, width: int, height: int) -> dict[str, float]:
    """How hard the scene is; for the room, checked against what figures are compared on."""
    view = rasterizer.open(scene.gaussians, scene.camera(0), tile_size=32)
    alpha = view.render().alpha
    evaluations = view.evaluations
    drawn = int(view.accumulate(torch.ones(height, width, 1)).pixel_count.sum(dtype=torch.int64))
    facts = {
        "in_view_pct": 100.0 * len(view.visible) / len(scene.gaussians),
        "remaining_transmittance": 1.0 - float(alpha.double().mean()),
        "drawn_per_pixel": drawn / (width * height),
        "block_evaluations": float(evaluations),
    }
    if scene.is_room and (width, height) == (640, 480) and len(scene.gaussians) >= min(EXPECTED):
        check_room(len(scene.gaussians), facts)
    return facts


def check_room(count: int, facts: dict[str, float]) -> None:
    """Raises UnexpectedSceneError where a room of 50,000 Gaussians or more at 640x480 is not as hard as it should be."""
    known = np.log(list(EXPECTED))
    per_pixel, evaluations = (
        float(np.interp(np.log(count), known, [values[k] for values in EXPECTED.values()])) for k in range(2)
    )
    limits = {
        "in_view_pct": tuple(100 * share for share in IN_VIEW),
        "remaining_transmittance": REMAINING,
        "drawn_per_pixel": (per_pixel * (1 - TOLERANCE), per_pixel * (1 + TOLERANCE)),
        "block_evaluations": (evaluations * (1 - TOLERANCE), evaluations * (1 + TOLERANCE)),
    }
    for name, (low, high) in limits.items():
        if not low <= facts[name] <= high:
            raise UnexpectedSceneError(
                f"room of {count} Gaussians: {name} is {facts[name]:.4g}, expected {low:.4g} to {high:.4g}; figures of "
                "another scene cannot be compared, so restore the room or its expected figures"
            )


@lru_cache(maxsize=4)
def _cpu_agreement(threads: int | None) -> dict[str, float]:
    return agreement(CpuRasterizer(threads=threads))


def agreement(rasterizer: Rasterizer) -> dict[str, float]:
    """How well a back end agrees with the float64 reference on a small room, and how much sooner it is done."""
    room, camera = opaque_room(3000), room_camera(64, 48)
    oracle = ReferenceRasterizer(dtype=torch.float64)
    start = time.perf_counter()
    expected = oracle.render(room, camera).rgb
    reference_ms = 1e3 * (time.perf_counter() - start)
    own_ms = []
    for _ in range(10):
        start = time.perf_counter()
        image = rasterizer.render(room, camera).rgb
        own_ms.append(1e3 * (time.perf_counter() - start))
    ids, wanted = (r.render_ids(room, camera, room["object"]).ids for r in (rasterizer, oracle))
    mse = float(((image - expected) ** 2).mean())
    return {
        "psnr_vs_reference_db": -10 * float(np.log10(max(mse, 1e-20))),
        "id_agreement_pct": 100 * float((ids == wanted).float().mean()),
        "ratio_vs_reference": reference_ms / float(np.median(own_ms)),
    }


def _give_back_free_memory() -> None:
    """So that what making the scene needed does not hide what drawing it needs."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc only
    if trim is not None:
        trim(0)


def _memory_mb(field: str, *, forget_peak: bool = False) -> float:
    """A memory figure of this process (VmRSS now, VmHWM the peak since it was last forgotten); 0 where there is none."""
    try:
        if forget_peak:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field + ":"):
                return float(line.split()[1]) / 1024.0
    except OSError:  # another system, or a container that hides it
        return 0.0
    return 0.0
