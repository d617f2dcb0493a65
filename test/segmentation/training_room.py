"""A recording of the ray-cast room of the mapping tests, small enough to train on in a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scene import camera, frame

from gs_semantic.data.sequence import FrameSequence
from gs_semantic.gaussians import Camera, Frame
from gs_semantic.segmentation.config import TrainingConfig, make_config
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.registry import method_class
from gs_semantic.segmentation.scene import Scene, make_scene

WIDTH, HEIGHT, STEP = 64, 48, 0.1
SMALL = {"width": 0, "initial_gaussians": 800, "evaluate_every": 10, "report_every": 5, "identity_pixels": 512}
SMALL |= {"contrast_pixels": 1024, "association_pixels": 1024, "cluster_points": 400, "min_cluster_size": 10}


class RoomSequence(FrameSequence):
    """A walk past the boxes. without: kinds of images left out; ids: table of other ids."""

    format = "room"

    def __init__(self, frames: int = 10, ids: dict[int, int] | None = None, without: tuple[str, ...] = ()) -> None:
        super().__init__("room")
        self.poses = np.array([camera(STEP * k).T_world_camera for k in range(frames)])
        self.has_depth, self.has_instances = "depth" not in without, "instances" not in without
        self.ids = ids or {}

    def _camera(self, index: int) -> Camera:
        return camera(STEP * index, WIDTH, HEIGHT)

    def _read(self, index: int) -> Frame:
        shown = frame(self._camera(index))
        assert shown.instances is not None
        instances = shown.instances.copy()
        for old, new in self.ids.items():
            instances[shown.instances == old] = new
        masks = {self.ids.get(key, key): info for key, info in shown.masks.items()}
        changes: dict[str, Any] = {"instances": instances, "masks": masks}
        changes |= {} if self.has_depth else {"depth": None}
        changes |= {} if self.has_instances else {"instances": None, "masks": {}}
        return replace(shown, **changes)


def small_config(method: str, **changes: Any) -> TrainingConfig:
    """Options of a run of a few dozen iterations."""
    kind = method_class(method).Config
    known = {name: value for name, value in SMALL.items() if name in kind.__dataclass_fields__}
    return make_config(kind, "quick", overrides={"iterations": 20, **known, **changes})


def small_method(method: str, sequence: FrameSequence | None = None, **changes: Any) -> LiftingMethod:
    config = small_config(method, **changes)
    return method_class(method)(config, small_scene(config, sequence))


def small_scene(config: TrainingConfig, sequence: FrameSequence | None = None) -> Scene:
    return make_scene(sequence or RoomSequence(), config)
