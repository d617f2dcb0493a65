from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gs_semantic.nodes.environment import ros_environment

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig


@pytest.fixture
def make_rig(ros_domain_id: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    for name, value in ros_environment().items():
        monkeypatch.setenv(name, value)
    made: list[Rig] = []

    def make(*listen: str, **parameters: Any) -> Rig:
        made.append(Rig(listen or ("semantic/image",), **parameters))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()
