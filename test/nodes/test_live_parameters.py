"""Parameters of the running mapper: live changes, refusals with a reason, and what they do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rclpy.parameter import Parameter
from rig import BOX_PIXEL, LAMP_PIXEL, Rig

from gs_semantic.errors import InvalidInputError


def set_one(rig: Rig, name: str, value: object) -> str:
    """Empty when it was taken, else the reason."""
    [result] = rig.mapper.set_parameters([Parameter(name, value=value)])
    return "" if result.successful else result.reason


def test_a_live_change_takes_effect(rig: Rig) -> None:
    rig.map_scene()
    before = rig.status_after().gaussians
    assert set_one(rig, "depth_max_m", 1.0) == ""  # the whole scene is behind that
    assert rig.mapper.mapper.config.depth_max_m == 1.0
    rig.mapper.mapping.call(rig.mapper.reset)
    rig.answer(rig.send())
    rig.settled()
    assert before > 0 and rig.status_after().gaussians == 0
    assert set_one(rig, "depth_max_m", 15.0) == ""
    rig.still_works()


def test_ignored_classes(rig: Rig) -> None:
    assert set_one(rig, "ignored_classes", [7]) == ""
    for _ in range(4):
        stamp = rig.send()
        semantic = rig.answer(stamp)
        rig.settled()
    assert semantic[BOX_PIXEL[::-1]] == 3 and semantic[LAMP_PIXEL[::-1]] == 0


def test_out_of_range_is_refused_with_the_range(rig: Rig) -> None:
    reason = set_one(rig, "depth_max_m", 5000.0)
    assert "depth_max_m" in reason and "1000" in reason
    assert rig.mapper.mapper.config.depth_max_m == 15.0
    rig.still_works()


def test_values_that_do_not_go_together_are_refused(rig: Rig) -> None:
    assert "depth_min_m = 5 is not below depth_max_m = 4" in (
        rig.mapper.set_parameters_atomically(
            [Parameter("depth_min_m", value=5.0), Parameter("depth_max_m", value=4.0)]
        ).reason
    )
    assert (rig.mapper.mapper.config.depth_min_m, rig.mapper.mapper.config.depth_max_m) == (0.2, 15.0)
    rig.still_works()


def test_what_is_built_in_is_refused_with_the_way_to_do_it(rig: Rig) -> None:
    reason = set_one(rig, "pose_source", "odom")
    assert "pose_source" in reason and "ros2 lifecycle set /rig/mapper" in reason
    rig.still_works()


def test_a_wrong_type_is_refused(rig: Rig) -> None:
    assert "type" in set_one(rig, "depth_max_m", "far")
    assert rig.mapper.mapper.config.depth_max_m == 15.0
    rig.still_works()


def test_out_of_range_at_the_start(make_rig: Callable[..., Rig]) -> None:
    with pytest.raises(InvalidInputError, match=r"parameter depth_max_m: 5000.0 is outside \[0.1, 1000.0\]"):
        make_rig(depth_max_m=5000.0)
    make_rig().still_works()
