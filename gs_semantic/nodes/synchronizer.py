"""Puts the messages of one instant together, counts what it does, and says which topic is missing.

The first stream (colour) leads: every leading item becomes one match, or is dropped. Knows no ROS; times are ns.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gs_semantic.nodes import faults
from gs_semantic.nodes.stamps import CLOCK_JUMP_NS

QUEUE = 10  # items kept per stream
DROPS_BEFORE_APART = 2  # in a row, while the stream goes on: its stamps do not fit; a single message may be lost
MISSES_BEFORE_GIVING_UP = 5  # leading items without an optional partner after which it is no longer waited for


@dataclass
class Counts:
    received: dict[str, int] = field(default_factory=dict)
    matched: int = 0
    without_optional: int = 0
    unmatched: dict[str, int] = field(default_factory=dict)  # dropped leading items by the stream that was missing
    disordered: int = 0  # leading items with a stamp not above the one before

    @property
    def dropped(self) -> int:
        return sum(self.unmatched.values()) + self.disordered


@dataclass
class Match:
    """Items of one instant by stream name."""

    stamp_ns: int
    items: dict[str, Any]
    arrived_ns: int  # when the leading item came, on the caller's clock
    source: str = ""  # name of the leading stream


@dataclass
class _Waiting:
    stamp_ns: int
    item: Any
    arrived_ns: int


@dataclass
class _Apart:
    """Drops in a row for want of a stream that goes on."""

    drops: int = 0
    received: int = 0  # of the stream, at the last drop
    difference_ns: int = 0  # of the stamp nearest to the dropped one


class _Stream:
    """Items of one topic by rising stamp."""

    def __init__(self) -> None:
        self.stamps: list[int] = []
        self.items: list[Any] = []

    def add(self, stamp_ns: int, item: Any) -> None:
        if self.is_before(stamp_ns):
            self.clear()
        at = bisect.bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            self.items[at] = item
            return
        self.stamps.insert(at, stamp_ns)
        self.items.insert(at, item)
        del self.stamps[:-QUEUE], self.items[:-QUEUE]

    def find(self, stamp_ns: int, slop_ns: int, patient: bool) -> Any | None:
        """The nearest item within the slop. While ``patient``, not before no nearer one can come."""
        if not self.stamps:
            return None
        at = bisect.bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            return self.items[at]
        if not slop_ns or (patient and at == len(self.stamps)):
            return None
        near = [i for i in (at - 1, at) if 0 <= i < len(self.stamps)]
        best = min(near, key=lambda i: abs(self.stamps[i] - stamp_ns))
        return self.items[best] if abs(self.stamps[best] - stamp_ns) <= slop_ns else None

    def difference(self, stamp_ns: int) -> int:
        """Of the nearest stamp to this one; there must be one."""
        return min((stamp - stamp_ns for stamp in self.stamps), key=abs)

    def is_before(self, stamp_ns: int) -> bool:
        """Are its items of a time before the clock jumped back to this stamp?"""
        return bool(self.stamps) and self.stamps[-1] > stamp_ns + CLOCK_JUMP_NS

    def clear(self) -> None:
        self.stamps.clear()
        self.items.clear()


class Synchronizer:
    """Matches streams by stamp: exactly (``slop_ns`` 0) or to the nearest within ``slop_ns``.

    required: streams without which a leading item waits up to ``wait_ns`` and is then dropped. optional: streams that
    it waits for up to ``optional_wait_ns`` and then goes on without; one that has been silent for a while is not
    waited for. gate: says why an item has to wait for something else (its pose), or None; its reason must start with
    the name of what is missing and a colon.
    """

    def __init__(
        self,
        leading: str,
        required: tuple[str, ...] = (),
        optional: tuple[str, ...] = (),
        slop_ns: int = 0,
        wait_ns: int = 500_000_000,
        optional_wait_ns: int = 50_000_000,
        gate: Callable[[int, Any], str | None] | None = None,
    ) -> None:
        self.leading, self.required, self.optional = leading, required, optional
        self.slop_ns, self.wait_ns, self.optional_wait_ns = slop_ns, wait_ns, optional_wait_ns
        self.counts = Counts(dict.fromkeys((leading, *required, *optional), 0))
        self.newest: dict[str, int] = {}
        self.last_drop = ""  # why the last leading item was dropped
        self._gate = gate or (lambda stamp_ns, item: None)
        self._waiting: deque[_Waiting] = deque()
        self._streams = {name: _Stream() for name in (*required, *optional)}
        self._misses = dict.fromkeys(optional, 0)
        self._apart: dict[str, _Apart] = {name: _Apart() for name in required}
        self._last_stamp = -1

    def require(self, name: str) -> None:
        """From now on, a leading item waits for this stream, which was released."""
        if name not in self.required:
            self.required = (*self.required, name)
            self._apart[name] = _Apart()

    def release(self, name: str) -> None:
        """From now on, a leading item does not wait for this required stream; what is there goes with it all the same."""
        self.required = tuple(other for other in self.required if other != name)
        self._apart.pop(name, None)

    def clear(self) -> None:
        """Forget all that waits (after a jump of the clock); counts stay."""
        self._waiting.clear()
        for stream in self._streams.values():
            stream.clear()
        self._last_stamp = -1
        self.newest.clear()

    def restart(self, stamp_ns: int) -> None:
        """The clock has jumped back to this stamp: forget what is of the time before; partners may have come already."""
        self._waiting.clear()
        for stream in self._streams.values():
            if stream.is_before(stamp_ns):
                stream.clear()
        self._last_stamp = -1
        self.newest.clear()

    @property
    def waiting(self) -> bool:
        """Is there a leading item that waits for something? Then ``poll`` has to be called from time to time."""
        return bool(self._waiting)

    def add(self, name: str, stamp_ns: int, item: Any, now_ns: int) -> list[Match]:
        """Take one item; returns the matches that are complete now, by rising stamp."""
        self.counts.received[name] += 1
        self.newest[name] = max(stamp_ns, self.newest.get(name, stamp_ns))
        if name == self.leading:
            if stamp_ns <= self._last_stamp:
                self.counts.disordered += 1
                stamps = {"stamp": stamp_ns / 1e9, "before": self._last_stamp / 1e9}
                self.last_drop = faults.STAMP_NOT_NEWER.text(topic=name, **stamps)
                return []
            self._last_stamp = stamp_ns
            self._waiting.append(_Waiting(stamp_ns, item, now_ns))
            if len(self._waiting) >= QUEUE:
                missing, reason = self._missing(self._waiting[0])
                if not missing:  # only something optional is late; one more, and its other partners would be forgotten
                    return [self._match(self._waiting.popleft()), *self.poll(now_ns)]
                if len(self._waiting) > QUEUE:
                    self._drop(self._waiting.popleft(), missing, reason)
        else:
            self._streams[name].add(stamp_ns, item)
            if name in self._misses and self._misses[name] >= MISSES_BEFORE_GIVING_UP:
                self._misses[name] = MISSES_BEFORE_GIVING_UP - 1  # it is back: wait for it again
        return self.poll(now_ns)

    def poll(self, now_ns: int) -> list[Match]:
        """Matches that are complete, or whose time to wait is over."""
        out: list[Match] = []
        ready = next(
            (i for i in range(len(self._waiting) - 1, -1, -1) if self._complete(self._waiting[i], now_ns)), -1
        )
        for _ in range(ready + 1):  # what an item overtakes will not become more complete
            waiting = self._waiting.popleft()
            missing, reason = self._missing(waiting)
            if missing:
                self._drop(waiting, missing, reason)
            else:
                out.append(self._match(waiting))
        while self._waiting and now_ns - self._waiting[0].arrived_ns >= self.wait_ns:
            waiting = self._waiting.popleft()
            self._drop(waiting, *self._missing(waiting))
        return out

    def explain(self) -> list[str]:
        """Sentences about topics that are missing or never match, for people."""
        received = self.counts.received
        silent = [name for name in (self.leading, *self.required) if not received[name]]
        out = [f"{name}: no message has come" for name in silent]
        out += [self._why_unmatched(name, 0) for name in self.required if self._apart[name].drops >= DROPS_BEFORE_APART]
        return out

    # --- one leading item -------------------------------------------------------------------------------------------

    def _complete(self, waiting: _Waiting, now_ns: int) -> bool:
        age = now_ns - waiting.arrived_ns
        patient = age < min(self.wait_ns, max(self.slop_ns, 1))
        if any(self._streams[name].find(waiting.stamp_ns, self.slop_ns, patient) is None for name in self.required):
            return False
        if age < self.optional_wait_ns and any(
            self._misses[name] < MISSES_BEFORE_GIVING_UP
            and self._streams[name].find(waiting.stamp_ns, self.slop_ns, patient) is None
            for name in self.optional
        ):
            return False
        return self._gate(waiting.stamp_ns, waiting.item) is None

    def _missing(self, waiting: _Waiting) -> tuple[str, str]:
        """Name of what is missing ('' when nothing is) and the reason."""
        for name in self.required:
            if self._streams[name].find(waiting.stamp_ns, self.slop_ns, False) is None:
                return name, self._why_unmatched(name, waiting.stamp_ns)
        reason = self._gate(waiting.stamp_ns, waiting.item)
        return (reason.partition(":")[0], reason) if reason else ("", "")

    def _why_unmatched(self, name: str, stamp_ns: int) -> str:
        """Stamps that do not fit when it happens in a row, else a message that did not come."""
        apart = self._apart[name]
        if apart.drops < DROPS_BEFORE_APART:
            return faults.UNMATCHED.text(topic=name, colour_topic=self.leading, stamp=stamp_ns / 1e9)
        limit = f"within {self.slop_ns / 1e6:g} ms" if self.slop_ns else "equal"
        details = {"topic": name, "colour_topic": self.leading, "limit": limit}
        return faults.STAMPS_APART.text(milliseconds=apart.difference_ns / 1e6, **details)

    def _match(self, waiting: _Waiting) -> Match:
        items = {self.leading: waiting.item}
        for name, stream in self._streams.items():
            found = stream.find(waiting.stamp_ns, self.slop_ns, False)
            if found is not None:
                items[name] = found
            if name in self._misses:
                self._misses[name] = 0 if found is not None else self._misses[name] + 1
        for apart in self._apart.values():
            apart.drops = 0
        self.counts.matched += 1
        self.counts.without_optional += any(name not in items for name in self.optional)
        return Match(waiting.stamp_ns, items, waiting.arrived_ns, self.leading)

    def _drop(self, waiting: _Waiting, missing: str, reason: str = "") -> None:
        missing = missing or self.leading
        self.counts.unmatched[missing] = self.counts.unmatched.get(missing, 0) + 1
        self.last_drop = reason or f"{missing}: the queue is full"
        if (apart := self._apart.get(missing)) is None:
            return
        received, stream = self.counts.received[missing], self._streams[missing]
        apart.drops = apart.drops + 1 if received > apart.received and stream.stamps else 0
        apart.received = received
        apart.difference_ns = stream.difference(waiting.stamp_ns) if stream.stamps else 0
