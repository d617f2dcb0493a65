"""What stamps may look like: zero, ahead of the clock, or starting anew. Knows no ROS; times are ns."""

from __future__ import annotations

import time

from gs_semantic.errors import InvalidInputError
from gs_semantic.nodes import faults

CLOCK_JUMP_NS = 1_000_000_000  # a stamp so much older than the last one means that the clock has started anew
FUTURE_NS = 1_000_000_000  # clocks of two machines differ less when they are synchronised at all
SAME_JUMP_S = 3.0  # topics that jump back within this time tell of the same jump


class StampWatch:
    """Follows the stamps of every topic."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._told_at = -SAME_JUMP_S
        self.jumps = 0  # of the clock, however many topics showed it

    def clear(self) -> None:
        self._newest.clear()

    def check(self, topic: str, stamp_ns: int) -> None:
        """InvalidInputError for a stamp that nothing can be matched with."""
        if stamp_ns == 0:
            raise InvalidInputError(faults.STAMP_ZERO.text(topic=topic))

    def jumped_back(self, topic: str, stamp_ns: int) -> int:
        """Take note of a stamp; by how much it lies before the topic's last epoch, 0 when time goes on."""
        newest = self._newest.get(topic, stamp_ns)
        back = newest - stamp_ns
        jumped = back > CLOCK_JUMP_NS
        self._newest[topic] = stamp_ns if jumped else max(newest, stamp_ns)
        return back if jumped else 0

    def tell_jump(self, topic: str, back_ns: int) -> InvalidInputError | None:
        """The report of a jump; None when another topic has just told of it."""
        now = time.monotonic()
        if now - self._told_at < SAME_JUMP_S:
            return None
        self._told_at = now
        self.jumps += 1
        return InvalidInputError(faults.CLOCK_BACK.text(topic=topic, seconds=back_ns / 1e9))

    @staticmethod
    def ahead(topic: str, stamp_ns: int, now_ns: int) -> InvalidInputError | None:
        """The report of a stamp in the future of a clock; such a frame is used all the same."""
        if not now_ns or stamp_ns - now_ns <= FUTURE_NS:
            return None
        return InvalidInputError(faults.STAMP_FUTURE.text(topic=topic, seconds=(stamp_ns - now_ns) / 1e9))
