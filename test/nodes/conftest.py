from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig


@pytest.fixture
def make_rig(ros_domain_id: int) -> Iterator[Callable[..., Rig]]:
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
