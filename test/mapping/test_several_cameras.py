"""Keyframes of several cameras that feed one map."""

from __future__ import annotations

import numpy as np

from gs_semantic.gaussians import Camera, Frame
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.keyframes import KeyframeStore

BEHIND = np.diag([-1.0, 1.0, -1.0, 1.0])


def frame(number: int, camera: str, pose: np.ndarray) -> Frame:
    rgb = np.zeros((6, 8, 3), np.uint8)
    return Frame(number * 1_000_000, Camera(8, 6, 5.0, 5.0, 3.5, 2.5, pose), rgb, frame_id=camera)


def test_each_camera_is_compared_with_itself() -> None:
    """Two cameras that look in different directions and stand still: one keyframe each, not one per frame."""
    store = KeyframeStore(MapperConfig())
    taken = []
    for number in range(10):
        name, pose = (("front", np.eye(4)), ("rear", BEHIND))[number % 2]
        seen = frame(number, name, pose)
        if store.wanted(seen):
            taken.append((store.note(seen), name))
    assert taken == [(0, "front"), (1, "rear")]
    moved = BEHIND.copy()
    moved[0, 3] = 1.0
    assert store.wanted(frame(11, "rear", moved)) and not store.wanted(frame(11, "front", np.eye(4)))
