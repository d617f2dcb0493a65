"""Speed of the per-scene lifting methods: whole training steps on a recording with a fixed number of Gaussians."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from gs_semantic.data.formats import open_sequence
from gs_semantic.segmentation.config import make_config
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.registry import method_class
from gs_semantic.segmentation.scene import Scene, make_scene

WARM_UP = 30  # steps: buffers grow, neighbours are found
MEMORY_STEPS = 5  # steps whose losses are watched; one in five has the regulariser
HALF = 0.5  # of the schedule is done when the steps are timed: all terms are on


def run_lifting_bench(
    method: str,
    sequence: Path,
    gaussians: int = 100_000,
    steps: int = 200,
    preset: str = "standard",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train on a recording for some steps of the middle of a preset's schedule, with densification off.

    it_per_s counts the whole loop; step_ms_p10 is what a step takes when other programs leave the cores alone; *_ms are
    means of its parts: rendering (forward), losses with their backward pass and the heads' step (losses), backward pass
    and Adam of the map (step), colour loss and the rest (other). loss_peak_mb: most memory that the losses hold at
    once beside map and images. schedule_minutes: iterations of the preset at that rate, without evaluation; the number
    of Gaussians is that of its end from the start, so it is an upper bound.
    """
    kind = method_class(method)
    fixed = {"initial_gaussians": gaussians, "max_gaussians": gaussians, "densify_until": 0, "sh_every": 1}
    config = make_config(kind.Config, preset, overrides={**fixed, **(overrides or {})})
    scene = make_scene(open_sequence(sequence, max_width=config.width), config)
    trained = kind(config, scene)
    threads = torch.get_num_threads()
    torch.set_num_threads(trained.torch_threads or threads)
    try:
        results = _timed(trained, scene, steps, int(HALF * config.iterations))
        results["loss_peak_mb"] = max(_loss_memory(trained, scene, k) for k in range(1, MEMORY_STEPS + 1)) / 1e6
    finally:
        torch.set_num_threads(threads)
    camera = scene.train[0].camera
    sizes = {"gaussians": len(trained.gaussians), "width": camera.width, "height": camera.height}
    return {**results, **sizes, "ids": scene.class_count - 1, "schedule_minutes": config.iterations / results["it_per_s"] / 60}


def _timed(method: LiftingMethod, scene: Scene, steps: int, first: int) -> dict[str, float]:
    order = np.random.default_rng(0).integers(0, len(scene.train), WARM_UP + steps).tolist()
    for k, view in enumerate(order[:WARM_UP]):
        method.step(first + k, view)
    taken, stages = [], dict[str, float]()
    with _watched(method.engine, "forward", stages), _watched(method.engine, "step", stages):
        begun, work = time.perf_counter(), time.process_time()
        for k, view in enumerate(order[WARM_UP:], first + WARM_UP):
            start = time.perf_counter()
            method.step(k, view)
            taken.append(time.perf_counter() - start)
        elapsed, work = time.perf_counter() - begun, time.process_time() - work
    return {
        "it_per_s": steps / elapsed,
        "step_ms_p50": 1e3 * float(np.median(taken)),
        "step_ms_p10": 1e3 * float(np.percentile(taken, 10)),
        "core_ms_per_step": 1e3 * work / steps,
        **{f"{name}_ms": 1e3 * seconds / steps for name, seconds in stages.items()},
        "losses_and_rest_ms": 1e3 * (sum(taken) - sum(stages.values())) / steps,
    }


@contextmanager
def _watched(owner: object, name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add up meanwhile what calls of a method take."""
    inner: Callable[..., Any] = getattr(owner, name)
    seconds[name] = 0.0

    def timed(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = inner(*arguments, **named)
        seconds[name] += time.perf_counter() - start
        return result

    setattr(owner, name, timed)
    try:
        yield
    finally:
        delattr(owner, name)


def _loss_memory(method: LiftingMethod, scene: Scene, iteration: int) -> int:
    """Most bytes that the losses of one step hold at once, from rendered features on and through their backward pass."""
    index = iteration % len(scene.train)
    rendered = method.engine.forward(scene.train[index].camera).rendering.features
    assert rendered is not None
    image = rendered.detach().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        terms = method.pixel_losses(iteration, index, image)
        own = method.gaussian_losses(iteration)
        terms = terms | (own.terms if own is not None else {})
        torch.stack(list(terms.values())).sum().backward()
    method.update_heads(iteration)
    held = most = 0
    assert watched.profiler is not None
    changes = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    for change in sorted(changes, key=lambda e: e.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return most
