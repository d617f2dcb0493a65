"""Budgets of the mapper: memory, rate of answers, bandwidth. Each holds by giving something else up, and says what.

Knows no ROS. ``budget.mb`` is held by limits on Gaussians and keyframes, ``budget.hz`` by leaving frames without answer
above it and by resting the mapping thread below it, ``budget.mbps`` by sending less often.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from gs_semantic.nodes import faults

BURST_S = 0.5  # of unused bandwidth that may be used later
ACTIVE_S = 2.0  # a class of traffic that has not asked for so long has no share

# measured: resident bytes per Gaussian in units of the bytes of its row, which exists several times: copies for answers,
# packed forms of two rasterisers, gradients, what was sent of it
COPIES = 4.8
PEAK_LOOKS = 10  # what counts is the largest of so many looks: images that wait or are drawn come and go
SAFETY = 0.95  # of budget.mb that is aimed at
OVER = 0.985  # of budget.mb: from here on the map is cut
HOLD_S = 5.0  # between two cuts: memory comes back late
GROWN = 1.02  # times the memory before the cuts: they did not fail to free something, it has grown all the same
FUTILE = 0.25  # of the memory that cuts should have freed; with less, further ones would only lose the map
KEYFRAME_SHARE = 0.35  # of the memory beside the base that keyframes may take
FEWEST_GAUSSIANS, FEWEST_KEYFRAMES, FEWEST_ANSWERS = 1000, 4, 3
ANSWERS_SHARE = 0.05  # of budget.mb that answers kept for query_pixel may take
LARGEST_CUT = 0.15  # of the Gaussians, at a time
REST_STEP, REST_MOST = 0.1, 0.9


class Bandwidth:
    """Shares ``limit_mbps`` between classes of traffic; each may send while it is not in debt, and pays afterwards."""

    def __init__(self, *names: str) -> None:
        self.limit_mbps = 0.0
        self._level = dict.fromkeys(names, 0.0)  # bytes
        self._asked = dict.fromkeys(names, float("-inf"))
        self._filled = time.monotonic()
        self._lock = threading.Lock()

    def allowance(self, name: str) -> float:
        """Bytes that this class may send now; not positive: wait."""
        if not self.limit_mbps:
            return float("inf")
        with self._lock:
            now = time.monotonic()
            self._asked[name] = now
            self._fill(now)
            return self._level[name]

    def spend(self, name: str, sent: float) -> None:
        if self.limit_mbps:
            with self._lock:
                self._level[name] -= sent

    def _fill(self, now: float) -> None:
        """Distribute what has become free; what one class cannot keep goes to the others."""
        rate = self.limit_mbps * 1e6 / 8
        free, self._filled = (now - self._filled) * rate, now
        active = {name for name, asked in self._asked.items() if now - asked < ACTIVE_S}
        most = rate * BURST_S / max(len(active), 1)
        for name in self._level:
            self._level[name] = min(self._level[name], most) if name in active else 0.0
        while free > 0 and active:
            share = free / len(active)
            for name in list(active):
                taken = min(share, most - self._level[name])
                self._level[name] += taken
                free -= taken
                if self._level[name] >= most:
                    active.discard(name)


class Pace:
    """Lets through at most ``hz`` frames per second, evenly; 0: all."""

    def __init__(self) -> None:
        self._next = float("-inf")

    def take(self, hz: float) -> bool:
        if not hz:
            return True
        now, period = time.monotonic(), 1 / hz
        if now < self._next:
            return False
        self._next = max(self._next + period, now - period / 2) if self._next > now - period else now + period
        return True


class Rest:
    """How much of its time mapping leaves to answers, so that their rate is held."""

    def __init__(self) -> None:
        self.share = 0.0

    def adjust(self, answer_hz: float, goal_hz: float) -> None:
        """Once a second. goal_hz 0: nothing to hold."""
        if goal_hz and answer_hz < 0.95 * goal_hz:
            self.share = min(REST_MOST, self.share + REST_STEP)
        elif not goal_hz or answer_hz > 0.98 * goal_hz:
            self.share = max(0.0, self.share - REST_STEP / 4)

    def after(self, worked_s: float) -> float:
        """Seconds to rest after so much work."""
        return min(0.5, worked_s * self.share / (1 - self.share))


@dataclass(frozen=True)
class Limits:
    """What the map may hold."""

    gaussians: int
    keyframes: int
    cut: int = 0  # so many Gaussians are to be left now; 0: leave it as it is
    cannot: bool = False  # the process alone takes more than the budget


class Memory:
    """Turns ``budget.mb`` into limits on Gaussians and keyframes.

    What the process takes beside the map is measured all the time: resident memory, at its recent peak, less Gaussians x
    row x COPIES less keyframes x images. Limits are what fits into the rest. Memory that the map once had does not all come
    back when it gets smaller, so growth is limited in time, and cuts are few: step by step, and not when they do not help.
    """

    def __init__(self) -> None:
        self._looks: deque[float] = deque(maxlen=PEAK_LOOKS)
        self._cut_at = float("-inf")
        self._before_mb = 0.0  # resident before the first of the cuts
        self._expected_mb = 0.0  # what they should have freed; 0: none is needed

    def limits(
        self,
        budget_mb: float,
        rss_mb: float,
        gaussians: int,
        keyframes: int,
        row_bytes: float,
        keyframe_mb: float,
        reserve_mb: float,
        wanted: Limits,
    ) -> Limits:
        """Limits for the present state; ``wanted`` are those of the user, ``reserve_mb`` will be taken by others soon."""
        if not budget_mb:
            return wanted
        self._looks.append(rss_mb)
        rss_mb = max(self._looks)
        row_mb = COPIES * row_bytes / 1e6
        base = rss_mb + reserve_mb - gaussians * row_mb - keyframes * keyframe_mb
        room = SAFETY * budget_mb - base
        cannot = room <= FEWEST_GAUSSIANS * row_mb
        most_keyframes = wanted.keyframes
        if keyframe_mb:
            share = KEYFRAME_SHARE * max(room, 0.0) / keyframe_mb
            most_keyframes = int(min(wanted.keyframes, max(FEWEST_KEYFRAMES, share)))
        rest = room - most_keyframes * keyframe_mb
        most_gaussians = int(min(wanted.gaussians, max(FEWEST_GAUSSIANS, rest / row_mb)))
        if rss_mb <= OVER * budget_mb:
            self._expected_mb = 0.0
        if rss_mb <= OVER * budget_mb or not self._helps(rss_mb):
            return Limits(most_gaussians, most_keyframes, cannot=cannot)
        excess = int((rss_mb - SAFETY * budget_mb) / row_mb)
        left = max(gaussians - excess, int(gaussians * (1 - LARGEST_CUT)), FEWEST_GAUSSIANS)
        self._cut_at = time.monotonic()
        self._looks.clear()  # they were of the larger map
        self._expected_mb += (gaussians - left) * row_mb
        return Limits(min(most_gaussians, left), most_keyframes, cut=left, cannot=cannot)

    def _helps(self, rss_mb: float) -> bool:
        """Is it time for a cut, and have those before freed something?"""
        if time.monotonic() - self._cut_at < HOLD_S:
            return False
        if not self._expected_mb or rss_mb > GROWN * self._before_mb:  # the first one, or it has grown all the same
            self._before_mb, self._expected_mb = rss_mb, 0.0
            return True
        return self._before_mb - rss_mb >= FUTILE * self._expected_mb


def answers_within(budget_mb: float, answer_mb: float, wanted: int) -> int:
    """How many answers may be kept; ``wanted`` are those of the user."""
    if not (budget_mb and answer_mb):
        return wanted
    return min(wanted, max(FEWEST_ANSWERS, int(ANSWERS_SHARE * budget_mb / answer_mb)))


def held(parameter: str, limit: str, given_up: str) -> str:
    """The sentence about a budget that costs something."""
    return faults.BUDGET_HELD.text(parameter=parameter, limit=limit, given_up=given_up)
