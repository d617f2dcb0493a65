"""Speed of training steps with the native rasteriser in an opaque room: complete loops, wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import native
from gs_semantic.rendering.base import Rendering, SplatTensors
from gs_semantic.rendering.cpu import PARAMETERS, CpuRasterizer
from gs_semantic.rendering.reference import ReferenceRasterizer
from gs_semantic.rendering.step import (
    FeatureOptimiser,
    PhotometricTarget,
    StepRates,
    optimise_photometric,
    register_adam,
)

CHANNELS = 16
TILE_SIZE = 32  # larger tiles than for answers: fewer sums per Gaussian to add up
VIEWS = 10
WARM_UP = 2 * VIEWS  # steps: weights are kept from the second one of a view on
DEPTH_WEIGHT = 0.1
SSIM_WEIGHT = 0.2
RATES = StepRates(means=2e-4, quats=1e-3, log_scales=5e-3, opacity_logits=2e-2, sh=2.5e-3)

# What is trained -> one step.
KINDS = {
    "full": "a new view, RGB and depth forward, SSIM + L1 + depth loss, backward, Adam on all parameters of all Gaussians",
    "features": "16 channels with frozen geometry: forward, squared loss, backward, Adam; tile lists are kept per view, "
    "in the second loop also the weights",
}


@dataclass
class _Stages:
    """Milliseconds of each stage, step by step."""

    ms: dict[str, list[float]] = field(default_factory=dict)
    _start: float = 0.0

    def start(self) -> None:
        self._start = time.perf_counter()

    def done(self, name: str) -> None:
        now = time.perf_counter()
        self.ms.setdefault(name, []).append(1e3 * (now - self._start))
        self._start = now

    def split(self, ms: dict[str, float]) -> None:
        """The time since the last stage, of which the parts in ``ms`` are known; the rest is the stage ``python``."""
        now = time.perf_counter()
        for name, value in ms.items():
            self.ms.setdefault(name, []).append(value)
        self.ms.setdefault("python", []).append(1e3 * (now - self._start) - sum(ms.values()))
        self._start = now


def run_train_bench(
    gaussians: int, what: str, width: int = 640, height: int = 480, steps: int = 300, threads: int | None = None
) -> dict[str, float]:
    """Train that many Gaussians for some steps; ``what`` is one of KINDS.

    it_per_s counts the whole loop over all steps; step_ms_p10 is what a step takes when other programs leave the cores
    alone, core_ms_per_step the time of all threads together; other *_ms are medians of the stages. psnr_before_db and
    psnr_db (full) and loss_before and loss (features) show that it trains. With features, kept_it_per_s is of a second loop
    that also keeps the weights of every view, kept_mb_per_view each. transpose_ratio is the time of a transpose pass of
    16 channels over that of rendering colour, depth and 16 channels. In a small room, against autograd through the
    float64 reference: gradient_rel_error_max, the largest relative error of a parameter's gradient, and
    reference_ratio, how many times as long the reference takes. Raises InvalidRequestError for an unknown kind.
    """
    if what not in KINDS:
        raise InvalidRequestError(f"what '{what}': expected one of {', '.join(KINDS)}")
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's own threads would only take the kernels' cores between two calls
    try:
        room, rasterizer = opaque_room(gaussians), CpuRasterizer(threads=threads)
        cameras = [room_camera(width, height, yaw=0.25 * float(np.sin(2.4 * k))) for k in range(VIEWS)]
        transpose_ratio = _transpose_ratio(room, rasterizer, cameras)
        results = _loop(_full(room, rasterizer, cameras) if what == "full" else _features(room, rasterizer, cameras), steps)
        if what == "features":
            kept = _features(room, rasterizer, cameras, keep_mb=1e4)
            faster = _loop(kept, steps)
            results |= {"kept_it_per_s": faster["it_per_s"], "kept_step_ms_p50": faster["step_ms_p50"]}
            results |= {"kept_loss": faster["loss"], "kept_mb_per_view": kept.kept_mb() / VIEWS}
        error, ratio = _against_reference(threads)
        return {
            **results,
            "transpose_ratio": transpose_ratio,
            "gradient_rel_error_max": error,
            "reference_ratio": ratio,
            "visible": float(rasterizer.open(room, cameras[0]).visible_count),
            "steps": float(steps),
            "threads": float(native.thread_count(threads)),
        }
    finally:
        torch.set_num_threads(torch_threads)


@dataclass
class _Prepared:
    """A loop's step (which takes its number) and what shows that it trains; kept_mb: of all views."""

    step: Callable[[int], None]
    stages: _Stages
    quality: Callable[[], float]
    quality_name: str
    kept_mb: Callable[[], float] = lambda: 0.0


def _loop(prepared: _Prepared, steps: int) -> dict[str, float]:
    """Run the loop and measure it."""
    before = prepared.quality()
    for k in range(WARM_UP):
        prepared.step(k)
    stages = prepared.stages
    stages.ms.clear()
    start, work = time.perf_counter(), time.process_time()
    for k in range(steps):
        prepared.step(k)
    elapsed, work = time.perf_counter() - start, time.process_time() - work
    step_ms = np.sum(list(stages.ms.values()), axis=0)
    return {
        "it_per_s": steps / elapsed,
        "step_ms_p50": float(np.median(step_ms)),
        "step_ms_p10": float(np.percentile(step_ms, 10)),
        "core_ms_per_step": 1e3 * work / steps,
        **{f"{name}_ms": float(np.median(values)) for name, values in stages.ms.items()},
        prepared.quality_name.format("_before"): before,
        prepared.quality_name.format(""): prepared.quality(),
    }


def _full(room: GaussianMap, rasterizer: CpuRasterizer, cameras: list[Camera]) -> _Prepared:
    """All parameters of a damaged copy of the room, towards renderings of the room."""
    targets = [rasterizer.render(room, camera) for camera in cameras]
    generator = torch.Generator().manual_seed(0)
    for name, noise in (("sh", 0.3), ("opacity_logits", 0.3), ("log_scales", 0.05)):
        room[name] = room[name] + noise * torch.randn(room[name].shape, generator=generator)
    register_adam(room)
    stages = _Stages()

    def step(k: int) -> None:
        wanted = PhotometricTarget(targets[k % VIEWS].rgb, targets[k % VIEWS].depth)
        stages.start()
        view = rasterizer.open(room, cameras[k % VIEWS], tile_size=TILE_SIZE)
        stages.done("open")
        result = optimise_photometric(view, room, wanted, RATES, ssim_weight=SSIM_WEIGHT, depth_weight=DEPTH_WEIGHT)
        stages.split(result.times_ms)

    def quality() -> float:
        errors = [
            float((rasterizer.render(room, camera).rgb - target.rgb).square().mean())
            for camera, target in zip(cameras, targets, strict=True)
        ]
        return -10 * float(np.log10(np.mean(errors)))

    return _Prepared(step, stages, quality, "psnr{}_db")


def _features(
    room: GaussianMap, rasterizer: CpuRasterizer, cameras: list[Camera], keep_mb: float = 0.0
) -> _Prepared:
    """Features from zero, towards images of one code per object; the views stay open."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.nn.functional.normalize(
        torch.randn(int(room["object"].max()) + 1, CHANNELS, generator=generator), dim=1
    )
    views = [rasterizer.open(room, camera, tile_size=TILE_SIZE) for camera in cameras]
    targets = [view.render(codes[room["object"].long()]).features for view in views]
    optimiser = FeatureOptimiser(torch.zeros(len(room), CHANNELS), 2.5e-3, keep_mb=keep_mb)
    stages = _Stages()

    def step(k: int) -> None:
        stages.start()
        optimiser.step(views[k % VIEWS], _known(targets[k % VIEWS]))
        stages.done("fused")

    def quality() -> float:
        images = [_known(view.render(optimiser.features).features) for view in views]
        return float(np.mean([float((i - _known(t)).square().mean()) for i, t in zip(images, targets, strict=True)]))

    return _Prepared(step, stages, quality, "loss{}", lambda: optimiser.kept_mb)


def _transpose_ratio(room: GaussianMap, rasterizer: CpuRasterizer, cameras: list[Camera]) -> float:
    """Median over two rounds of cameras, one view for either pass, as sorting is part of the first one."""
    features, image = torch.ones(len(room), CHANNELS), torch.ones(cameras[0].height, cameras[0].width, CHANNELS)
    ratios = []
    for camera in [*cameras, *cameras]:
        forward, transpose = (rasterizer.open(room, camera) for _ in range(2))
        forward.render(features)
        transpose.accumulate(image)
        ratios.append(transpose.times_ms["pass"] / forward.times_ms["pass"])
    return float(np.median(ratios))


def _known(image: torch.Tensor | None) -> torch.Tensor:
    assert image is not None
    return image


def _against_reference(threads: int | None) -> tuple[float, float]:
    """Over colour, depth and features of a small room: the largest relative error of the gradient of a parameter, and how
    many times as long the reference takes forward and backward."""
    room, camera = opaque_room(1500), room_camera(64, 48)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(room), CHANNELS, generator=generator)
    shapes = {"rgb": (48, 64, 3), "depth": (48, 64), "features": (48, 64, CHANNELS)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    back_ends: tuple[tuple[Any, torch.dtype], ...] = (
        (CpuRasterizer(threads=threads), torch.float32),
        (ReferenceRasterizer(), torch.float64),
    )
    gradients, seconds = [], []
    for rasterizer, dtype in back_ends:
        inputs = [getattr(room, name) for name in PARAMETERS] + [features]
        inputs = [value.detach().to(dtype).clone().requires_grad_() for value in inputs]
        parameters = SplatTensors(**dict(zip(PARAMETERS, inputs, strict=False)))
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            rendering: Rendering = rasterizer.render(parameters, camera, inputs[-1])
            loss = sum((weight.to(dtype) * getattr(rendering, name)).sum() for name, weight in weights.items())
            gradient = torch.autograd.grad(loss, inputs)
            best = min(best, time.perf_counter() - start)
        gradients.append(gradient)
        seconds.append(best)
    error = max(float((a.double() - b).norm() / b.norm()) for a, b in zip(*gradients, strict=True))
    return error, seconds[1] / seconds[0]
