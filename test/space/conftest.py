"""A mapped room of known geometry."""

from __future__ import annotations

import pytest
from mapped_room import STEP, cameras_of
from scene import camera, frame

from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.space.distance import DistanceField
from gs_semantic.space.seen import SeenSpace


@pytest.fixture(scope="session")
def mapped() -> tuple[Mapper, DistanceField]:
    mapper = Mapper(MapperConfig(steps_per_keyframe=2))
    for number in range(10):
        mapper.step(frame(camera(STEP * number), 10**8 * (number + 1)), answer=False)
        mapper.finish()
    seen = SeenSpace()
    assert seen.update(mapper.gaussians, cameras_of(mapper), mapper.rasterizer)
    return mapper, DistanceField(mapper.gaussians, seen)
