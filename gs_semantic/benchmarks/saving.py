"""``bench save``: seconds to save a map folder, flushed to the disk, and to load it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.registry import ObjectRegistry, ObjectState

IDENTITY_DIMS = 16
REPEATS = 3


def make_map(gaussians: int, objects: int) -> tuple[GaussianMap, ObjectRegistry]:
    """Random Gaussians of SH degree 0 with an identity of 16 floats; the first of them belong to objects of 100 each."""
    rng, full = np.random.default_rng(0), GaussianMap()
    full.register("identity", (IDENTITY_DIMS,))
    register_votes(full)
    registry = ObjectRegistry(LabelSet({0: "void", 1: "thing"}))
    for _ in range(objects):
        obj = registry.open()
        obj.state, obj.class_scores = ObjectState.CONFIRMED, {1: 1.0}
    slots = np.minimum(np.arange(gaussians) // 100 + 1, objects + 1) % (objects + 1)
    full.add(
        means=rng.normal(size=(gaussians, 3)).astype(np.float32),
        quats=rng.normal(size=(gaussians, 4)).astype(np.float32),
        log_scales=rng.normal(size=(gaussians, 3)).astype(np.float32),
        opacity_logits=rng.normal(size=gaussians).astype(np.float32),
        sh=rng.normal(size=(gaussians, 1, 3)).astype(np.float32),
        identity=rng.normal(size=(gaussians, IDENTITY_DIMS)).astype(np.float32),
        object=slots.astype(np.int32),
    )
    for obj in registry:
        update_geometry(obj, full, np.flatnonzero(slots == obj.slot))
    return full, registry


def run_saving(
    folder: Path, gaussians: int, objects: int, progress: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Median times of ``REPEATS`` maps."""
    full, registry = make_map(gaussians, objects)
    path, times = folder / "saved", np.zeros((REPEATS, 2))
    for number in range(REPEATS):
        start = time.perf_counter()
        save_map(path, full, registry)
        saved = time.perf_counter()
        loaded, _ = load_map(path)
        times[number] = saved - start, time.perf_counter() - saved
        assert len(loaded) == gaussians
        progress()
    save_s, load_s = np.median(times, axis=0).tolist()
    size = sum(file.stat().st_size for file in path.iterdir())
    return {"gaussians": gaussians, "objects": objects, "save_s": save_s, "load_s": load_s, "folder_mb": size / 1e6}
