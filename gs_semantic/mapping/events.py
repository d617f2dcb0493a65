"""What one step of the mapper tells the outside."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gs_semantic.gaussians import Camera


@dataclass(frozen=True)
class LabelImages:
    """Label images rendered from the map at ``camera``; all (H, W).

    instance: int32 object slots, 0 = none (only objects that are confirmed or stale unless asked otherwise).
    semantic: uint16 class ids, 0 = void. confidence: uint8, 255 = certain. depth: float32 metres, 0 = nothing there.
    """

    stamp_ns: int
    camera: Camera
    instance: np.ndarray
    semantic: np.ndarray
    confidence: np.ndarray
    depth: np.ndarray


@dataclass
class Events:
    """Outcome of ``Mapper.step``.

    answer: label images for the frame that was given (None without a frame or when not asked for).
    keyframe: the frame was taken as a keyframe. integrated: stamps of the keyframes whose integration (seeding,
    lifting and the planned optimisation steps) finished in this step. objects_changed: slots of objects that were
    opened, confirmed, merged, went stale or changed geometry. timings_ms: core time by stage.
    """

    answer: LabelImages | None = None
    keyframe: bool = False
    integrated: list[int] = field(default_factory=list)
    objects_changed: set[int] = field(default_factory=set)
    map_revision: int = 0
    iterations: int = 0
    identity_iterations: int = 0
    warnings: list[str] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)
