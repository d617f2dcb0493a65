"""Stamps and pose jumps, without ROS."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.errors import InvalidInputError
from gs_semantic.nodes.stamps import StampWatch
from gs_semantic.nodes.transforms import JumpWatch

S = 1_000_000_000


def test_a_jump_back_is_told_once_for_all_topics() -> None:
    watch = StampWatch()
    for topic in ("color", "tf"):
        assert watch.jumped_back(topic, 100 * S) == 0
        assert watch.jumped_back(topic, int(99.5 * S)) == 0  # disorder is no jump
    assert watch.jumped_back("tf", 5 * S) == 95 * S
    assert "jumped back by 95.0 s" in str(watch.tell_jump("tf", 95 * S))
    assert watch.jumped_back("color", 5 * S) == 95 * S
    assert watch.tell_jump("color", 95 * S) is None
    assert watch.jumps == 1
    assert watch.jumped_back("color", 6 * S) == 0  # the new time goes on


def test_zero_and_the_future() -> None:
    watch = StampWatch()
    with pytest.raises(InvalidInputError, match="color: header.stamp is zero"):
        watch.check("color", 0)
    watch.check("color", 1)
    assert watch.ahead("color", 10 * S, 9 * S) is None
    assert "3.0 s ahead" in str(watch.ahead("color", 12 * S, 9 * S))
    assert watch.ahead("color", 12 * S, 0) is None  # no clock yet


def jumps(watch: JumpWatch, path: list[tuple[float, float]], camera: str = "") -> list[bool]:
    """Which poses (seconds, x) of a path jump."""
    return [watch.jump(camera, int(t * S), np.array([x, 0, 0]), 3.0) is not None for t, x in path]


def test_one_wrong_pose() -> None:
    assert jumps(JumpWatch(), [(1, 0), (1.1, 0.1), (1.2, 10), (1.3, 0.2)]) == [False, False, True, False]


def test_wrong_poses_that_do_not_agree_are_never_used() -> None:
    path = [(1.0, 0.0), *((1 + 0.1 * i, 20.0 * i * (-1) ** i) for i in range(1, 9))]
    assert jumps(JumpWatch(), path) == [False, *[True] * 8]


def test_three_that_agree_are_believed() -> None:
    assert jumps(JumpWatch(), [(1, 0), (1.1, 10), (1.2, 10.1), (1.3, 10.2), (1.4, 10.3)]) == [
        *(False, True, True, False, False)
    ]


def test_time_that_passed_and_time_that_starts_anew() -> None:
    watch = JumpWatch()
    assert jumps(watch, [(1, 0), (11, 25)]) == [False, False]  # 2.5 m/s for ten seconds
    assert jumps(watch, [(2, 100)]) == [False]  # a bag that starts again
    assert jumps(watch, [(2.1, 0)], "another camera") == [False]
