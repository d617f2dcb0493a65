"""What the governor does by the clock, without a node."""

from __future__ import annotations

import pytest

from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.nodes import governor as module
from gs_semantic.nodes.governor import GIVE_BACK_S, TICK_S, Governor
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.statistics import Statistics


class FakeTime:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_freed_memory_is_given_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, given = FakeTime(), []
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "give_back", lambda: given.append(clock.now))
    governor, mapper = Governor(NodeParameters(), MapperConfig(), Statistics()), Mapper()
    for _ in range(int(3.5 * GIVE_BACK_S / TICK_S)):
        clock.now += TICK_S
        governor.tick(mapper, answering=False)
    assert given == [100.0 + n * GIVE_BACK_S for n in (1, 2, 3)]
