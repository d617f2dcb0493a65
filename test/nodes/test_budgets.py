"""Budgets, each by itself on a clock of its own, and in the running node."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rclpy.parameter import Parameter
from rig import Rig

from gs_semantic.nodes import budgets
from gs_semantic.nodes.budgets import Bandwidth, Limits, Memory, Pace, Rest, answers_within


class FakeTime:
    """``time.monotonic`` that the test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(budgets, "time", fake)
    return fake


def flow(clock: FakeTime, bandwidth: Bandwidth, sizes: dict[str, int], seconds: float) -> dict[str, float]:
    """Mbit/s that each class gets when it always has a message of its size to send."""
    sent = dict.fromkeys(sizes, 0)
    for _ in range(int(seconds * 100)):
        clock.now += 0.01
        for name, size in sizes.items():
            if bandwidth.allowance(name) > 0:
                bandwidth.spend(name, size)
                sent[name] += size
    return {name: 8e-6 * total / seconds for name, total in sent.items()}


def test_one_class_gets_the_whole_bandwidth(clock: FakeTime) -> None:
    bandwidth = Bandwidth("answers", "map")
    bandwidth.limit_mbps = 10.0
    assert flow(clock, bandwidth, {"map": 50_000}, 60)["map"] == pytest.approx(10, rel=0.05)


def test_two_classes_share_it(clock: FakeTime) -> None:
    bandwidth = Bandwidth("answers", "map")
    bandwidth.limit_mbps = 10.0
    rates = flow(clock, bandwidth, {"answers": 900_000, "map": 30_000}, 120)  # one image is more than a second's worth
    assert sum(rates.values()) == pytest.approx(10, rel=0.1)
    assert rates["map"] == pytest.approx(5, rel=0.2)


def test_what_one_class_does_not_need_goes_to_the_other(clock: FakeTime) -> None:
    bandwidth = Bandwidth("answers", "map")
    bandwidth.limit_mbps = 10.0
    sent = 0
    for step in range(6000):
        clock.now += 0.01
        if bandwidth.allowance("map") > 0 and step % 100 == 0:
            bandwidth.spend("map", 12_500)  # 0.1 Mbit/s
        if bandwidth.allowance("answers") > 0:
            bandwidth.spend("answers", 20_000)
            sent += 20_000
    assert 8e-6 * sent / 60 == pytest.approx(9.9, rel=0.05)


def test_no_limit() -> None:
    assert Bandwidth("map").allowance("map") == float("inf")


def test_pace_is_even_and_not_above(clock: FakeTime) -> None:
    pace = Pace()
    taken = []
    for _ in range(3000):
        clock.now += 1 / 30
        if pace.take(8.0):
            taken.append(clock.now)
    assert len(taken) == pytest.approx(800, abs=10)
    assert pace.take(0.0) and pace.take(0.0)


def test_rest_grows_until_the_rate_is_held_and_ends_afterwards() -> None:
    rest = Rest()
    for _ in range(5):
        rest.adjust(answer_hz=5.0, goal_hz=10.0)
    assert rest.share == pytest.approx(0.5) and rest.after(0.02) == pytest.approx(0.02)
    for _ in range(30):
        rest.adjust(answer_hz=10.0, goal_hz=10.0)
    assert rest.share == 0 and rest.after(1.0) == 0
    rest.adjust(answer_hz=0.0, goal_hz=0.0)
    assert rest.share == 0


def test_memory_becomes_limits(clock: FakeTime) -> None:
    memory, wanted = Memory(), Limits(600_000, 160)
    per, base = budgets.COPIES * 400e-6, 300.0

    def limits(budget_mb: float, rss_mb: float, gaussians: int, reserve_mb: float = 0.0) -> Limits:
        return memory.limits(budget_mb, rss_mb, gaussians, 20, 400, 2.0, reserve_mb, wanted)

    assert limits(0.0, 5000.0, 10) == wanted
    fits = limits(700.0, base + 100_000 * per + 20 * 2.0, 100_000)
    assert not fits.cut and fits.keyframes < 160
    # what would fit fills the budget, and leaves room for what comes
    assert base + fits.gaussians * per + fits.keyframes * 2.0 == pytest.approx(budgets.SAFETY * 700, rel=0.01)
    later = limits(700.0, base + 100_000 * per + 20 * 2.0, 100_000, reserve_mb=50.0)
    assert later.gaussians < fits.gaussians
    assert limits(200.0, 400.0, 1000).cannot


def test_the_peak_counts_and_not_the_moment(clock: FakeTime) -> None:
    """Memory swings with images that come and go: limits leave room for what has just been."""

    def room(*looks: float) -> int:
        memory = Memory()
        return [memory.limits(700.0, rss, 50_000, 10, 400, 2.0, 0.0, Limits(600_000, 160)) for rss in looks][
            -1
        ].gaussians

    assert room(640.0, 680.0, 640.0) == room(680.0) < room(640.0)
    assert room(680.0, *[640.0] * budgets.PEAK_LOOKS) == room(640.0)


def test_fewer_answers_are_kept_within_a_budget() -> None:
    assert answers_within(0.0, 3.4, 30) == answers_within(700.0, 0.0, 30) == answers_within(10_000.0, 3.4, 30) == 30
    assert answers_within(700.0, 3.5, 30) == 10
    assert answers_within(100.0, 30.0, 30) == budgets.FEWEST_ANSWERS and answers_within(100.0, 30.0, 2) == 2


def test_a_map_that_is_too_large_is_cut_step_by_step_and_not_in_vain(clock: FakeTime) -> None:
    memory, wanted = Memory(), Limits(600_000, 160)

    def cut(rss_mb: float, gaussians: int) -> int:
        clock.now += 1.0
        return memory.limits(600.0, rss_mb, gaussians, 10, 400, 2.0, 0.0, wanted).cut

    assert cut(budgets.OVER * 600.0 - 1.0, 200_000) == 0
    assert cut(800.0, 200_000) == 170_000
    assert [cut(800.0, 170_000) for _ in range(10)] == [0] * 10  # nothing was freed: the map stays
    assert cut(840.0, 170_000) > 0  # it has grown all the same
    clock.now += budgets.HOLD_S
    assert 0 < cut(700.0, 144_500) < 144_500  # that helped: go on


def test_memory_that_goes_up_and_down_does_not_pass_for_freed(clock: FakeTime) -> None:
    memory, gaussians = Memory(), 200_000
    for second in range(300):
        clock.now += 1.0
        rss_mb = 800.0 + 7.0 * (-1) ** (second // 7)
        cut = memory.limits(600.0, rss_mb, gaussians, 10, 400, 2.0, 0.0, Limits(600_000, 160)).cut
        gaussians = cut or gaussians
    assert gaussians > 140_000


def test_a_smaller_limit_trims_the_map(rig: Rig) -> None:
    rig.map_scene()
    rig.settled()
    assert len(rig.mapper.view.gaussians) > 2000
    [result] = rig.mapper.set_parameters([Parameter("max_gaussians", value=2000)])
    assert result.successful
    rig.until(lambda: rig.mapper.settled and len(rig.mapper.view.gaussians) <= 2000, "a smaller map")
    rig.told("max_gaussians = 2000 is reached")
    rig.check(rig.answer(rig.send()))  # large Gaussians stay, so the scene is still covered
    rig.mapper.set_parameters([Parameter("max_gaussians", value=600_000)])
    rig.until(lambda: not rig.received["status"][-1].given_up, "end of the report")
    rig.still_works()


def test_memory_that_cannot_be_held_is_told(rig: Rig) -> None:
    rig.map_scene()
    rig.mapper.set_parameters([Parameter("budget.mb", value=50.0)])
    rig.told("budget.mb = 50 MB is reached", "the smallest map")
    rig.until(lambda: rig.mapper.governor.answers_kept < rig.mapper.parameters.answers_kept, "fewer answers")
    rig.mapper.set_parameters([Parameter("budget.mb", value=0.0)])
    rig.until(lambda: not rig.received["status"][-1].given_up, "end of the report")
    rig.still_works()


def test_answers_are_not_more_than_the_budget(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.map_scene()
    rig.settled()
    rig.mapper.set_parameters([Parameter("budget.hz", value=0.001)])
    rig.answer(rig.send())
    rig.settled()  # an answer may come before its frame is counted as mapped
    before = rig.mapper.statistics.frames_mapped
    for count in (1, 2, 3):  # within a quarter of an hour
        rig.send()
        rig.until(lambda count=count: rig.mapper.statistics.frames_mapped >= before + count, "a mapped frame")
    assert not rig.answered(rig.next_stamp() - 100_000_000)
    rig.told("budget.hz = 0.001 Hz is reached", "mapped without an answer")
    rig.mapper.set_parameters([Parameter("budget.hz", value=0.0)])
    rig.still_works()
