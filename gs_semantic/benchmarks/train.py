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
from gs_semantic.rendering.base import Rendering
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
VIEWS = 10
WARM_UP = 10  # steps
DEPTH_WEIGHT = 0.1
SSIM_WEIGHT = 0.2
RATES = StepRates(means=2e-4, quats=1e-3, log_scales=5e-3, opacity_logits=2e-2, sh=2.5e-3)

# What is trained -> one step.
KINDS = {
    "full": "a new view, RGB and depth forward, SSIM + L1 + depth loss, backward, Adam on all parameters of all Gaussians",
    "features": "16 channels with frozen geometry: forward, squared loss, backward, Adam; tile lists are kept per view",
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
    alone, core_ms_per_step the time of all threads together; other *_ms are medians of the stages. psnr_before_db and psnr_db (full) and
    loss_before and loss (features) show that it trains; gradient_rel_error_max is the largest relative error of a
    parameter's gradient in a small room against autograd through the float64 reference. Raises InvalidRequestError for
    an unknown kind.
    """
    if what not in KINDS:
        raise InvalidRequestError(f"what '{what}': expected one of {', '.join(KINDS)}")
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's own threads would only take the kernels' cores between two calls
    try:
        room, rasterizer = opaque_room(gaussians), CpuRasterizer(threads=threads)
        cameras = [room_camera(width, height, yaw=0.25 * float(np.sin(2.4 * k))) for k in range(VIEWS)]
        prepare = _full if what == "full" else _features
        step, stages, quality = prepare(room, rasterizer, cameras)
        before = quality()
        for k in range(WARM_UP):
            step(k)
        stages.ms.clear()
        start, work = time.perf_counter(), time.process_time()
        for k in range(steps):
            step(k)
        elapsed, work = time.perf_counter() - start, time.process_time() - work
        step_ms = np.sum(list(stages.ms.values()), axis=0)
        names = ("psnr_before_db", "psnr_db") if what == "full" else ("loss_before", "loss")
        return {
            "it_per_s": steps / elapsed,
            "step_ms_p50": float(np.median(step_ms)),
            "step_ms_p10": float(np.percentile(step_ms, 10)),
            "core_ms_per_step": 1e3 * work / steps,
            **{f"{name}_ms": float(np.median(values)) for name, values in stages.ms.items()},
            names[0]: before,
            names[1]: quality(),
            "gradient_rel_error_max": _gradient_error(threads),
            "visible": float(len(rasterizer.open(room, cameras[0]).visible)),
            "steps": float(steps),
            "threads": float(native.thread_count(threads)),
        }
    finally:
        torch.set_num_threads(torch_threads)


Prepared = tuple[Callable[[int], None], _Stages, Callable[[], float]]


def _full(room: GaussianMap, rasterizer: CpuRasterizer, cameras: list[Camera]) -> Prepared:
    """All parameters of a damaged copy of the room, towards renderings of the room."""
    targets = [rasterizer.render(room, camera) for camera in cameras]
    generator = torch.Generator().manual_seed(0)
    for name, noise in (("sh", 0.3), ("opacity_logits", 0.3), ("log_scales", 0.05)):
        room[name] = room[name] + noise * torch.randn(room[name].shape, generator=generator)
    register_adam(room)
    stages = _Stages()

    def step(k: int) -> None:
        target = targets[k % VIEWS]
        stages.start()
        view = rasterizer.open(room, cameras[k % VIEWS])
        stages.done("open")
        wanted = PhotometricTarget(target.rgb, target.depth)
        result = optimise_photometric(
            view, room, wanted, RATES, ssim_weight=SSIM_WEIGHT, depth_weight=DEPTH_WEIGHT
        )
        stages.split(result.times_ms)

    def quality() -> float:
        errors = [
            float((rasterizer.render(room, camera).rgb - target.rgb).square().mean())
            for camera, target in zip(cameras, targets, strict=True)
        ]
        return -10 * float(np.log10(np.mean(errors)))

    return step, stages, quality


def _features(room: GaussianMap, rasterizer: CpuRasterizer, cameras: list[Camera]) -> Prepared:
    """Features from zero, towards images of one code per object; the views stay open."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.nn.functional.normalize(
        torch.randn(int(room["object"].max()) + 1, CHANNELS, generator=generator), dim=1
    )
    views = [rasterizer.open(room, camera) for camera in cameras]
    targets = [view.render(codes[room["object"].long()]).features for view in views]
    import os; optimiser = FeatureOptimiser(torch.zeros(len(room), CHANNELS), 2.5e-3, keep_mb=float(os.environ.get('KEEP','0')))
    stages = _Stages()

    def step(k: int) -> None:
        stages.start()
        optimiser.step(views[k % VIEWS], _known(targets[k % VIEWS]))
        stages.done("fused")

    def quality() -> float:
        images = [_known(view.render(optimiser.features).features) for view in views]
        return float(np.mean([float((i - _known(t)).square().mean()) for i, t in zip(images, targets, strict=True)]))

    return step, stages, quality


def _known(image: torch.Tensor | None) -> torch.Tensor:
    assert image is not None
    return image


def _gradient_error(threads: int | None) -> float:
    """Largest relative error of the gradient of a parameter, over colour, depth and features of a small room."""
    room, camera = opaque_room(1500), room_camera(64, 48)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(room), CHANNELS, generator=generator)
    shapes = {"rgb": (48, 64, 3), "depth": (48, 64), "features": (48, 64, CHANNELS)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    back_ends: tuple[tuple[Any, torch.dtype], ...] = (
        (CpuRasterizer(threads=threads), torch.float32),
        (ReferenceRasterizer(), torch.float64),
    )
    gradients = []
    for rasterizer, dtype in back_ends:
        inputs = [getattr(room, name) for name in PARAMETERS] + [features]
        inputs = [value.detach().to(dtype).clone().requires_grad_() for value in inputs]
        parameters = _Parameters(**dict(zip(PARAMETERS, inputs, strict=False)))
        rendering: Rendering = rasterizer.render(parameters, camera, inputs[-1])
        loss = sum((weight.to(dtype) * getattr(rendering, name)).sum() for name, weight in weights.items())
        gradients.append(torch.autograd.grad(loss, inputs))
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(*gradients, strict=True))


@dataclass(eq=False)
class _Parameters:
    """The tensors that a rasteriser reads of a map."""

    means: torch.Tensor
    quats: torch.Tensor
    log_scales: torch.Tensor
    opacity_logits: torch.Tensor
    sh: torch.Tensor

    def __len__(self) -> int:
        return len(self.means)
