"""The time line: snapshots of a map that changes, evenly over all the time, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from gs_semantic.viewer.detail import Detail, as_splats
from gs_semantic.viewer.source import Snapshot

KEPT = 32
PERIOD_S = 2.0
SPLATS = 100_000  # of a snapshot that is kept: neighbours are merged
REST = 10  # times as long as keeping one took, nothing is kept
TREES = 2  # that are kept: of what pages look at


class History:
    """Keeps at most ``KEPT`` snapshots. When there are more, every second one goes and new ones come half as often."""

    def __init__(self, earlier: Iterable[Snapshot] = (), splats: int = SPLATS) -> None:
        self._splats = splats
        self._given = [self._light(snapshot) for snapshot in earlier]
        self._kept: list[tuple[float, Snapshot]] = []
        self._period_s, self._next_s = PERIOD_S, float("-inf")
        self._trees: list[tuple[Snapshot, Detail]] = []

    def detail(self, snapshot: Snapshot) -> Detail:
        """The tree of a snapshot, for all pages that look at it."""
        for known, tree in self._trees:
            if known is snapshot:
                return tree
        tree = Detail(snapshot.splats, snapshot.confidence)
        self._trees = [*self._trees[1 - TREES :], (snapshot, tree)]
        return tree

    def note(self, snapshot: Snapshot, now_s: float) -> None:
        """The newest snapshot, at a time; kept when it differs from the last one and enough time has passed."""
        if not len(snapshot.splats):
            return
        if self._kept:
            then_s, last = self._kept[-1]
            if now_s - then_s < self._period_s or now_s < self._next_s or last.revision == snapshot.revision:
                return
        start_s = time.monotonic()
        self._kept.append((now_s, self._light(snapshot)))
        self._next_s = now_s + REST * (time.monotonic() - start_s)
        if len(self._kept) > KEPT:
            del self._kept[1::2]
            self._period_s *= 2

    def before(self, revision: int) -> list[Snapshot]:
        """What is kept from before a revision, oldest first; snapshots that were given at the start come first."""
        return [*self._given, *(snapshot for _, snapshot in self._kept if snapshot.revision != revision)]

    def _light(self, snapshot: Snapshot) -> Snapshot:
        if len(snapshot.splats) <= self._splats:
            return snapshot
        nodes = self.detail(snapshot).cut(self._splats).nodes
        confidence = None if snapshot.confidence is None else nodes["confidence"]
        return replace(snapshot, splats=as_splats(nodes), confidence=confidence)
