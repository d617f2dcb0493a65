"""The time line: snapshots of a map that changes, evenly over all the time, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from gs_semantic.viewer.appearance import largest
from gs_semantic.viewer.source import Snapshot

KEPT = 32
PERIOD_S = 2.0
SPLATS = 100_000  # of a snapshot that is kept: the largest ones


class History:
    """Keeps at most ``KEPT`` snapshots. When there are more, every second one goes and new ones come half as often."""

    def __init__(self, earlier: Iterable[Snapshot] = (), splats: int = SPLATS) -> None:
        self._splats = splats
        self._given = [self._light(snapshot) for snapshot in earlier]
        self._kept: list[tuple[float, Snapshot]] = []
        self._period_s = PERIOD_S

    def note(self, snapshot: Snapshot, now_s: float) -> None:
        """The newest snapshot, at a time; kept when it differs from the last one and enough time has passed."""
        if not len(snapshot.splats):
            return
        if self._kept:
            then_s, last = self._kept[-1]
            if now_s - then_s < self._period_s or last.revision == snapshot.revision:
                return
        self._kept.append((now_s, self._light(snapshot)))
        if len(self._kept) > KEPT:
            del self._kept[1::2]
            self._period_s *= 2

    def before(self, revision: int) -> list[Snapshot]:
        """What is kept from before a revision, oldest first; snapshots that were given at the start come first."""
        return [*self._given, *(snapshot for _, snapshot in self._kept if snapshot.revision != revision)]

    def _light(self, snapshot: Snapshot) -> Snapshot:
        rows = np.sort(largest(snapshot.splats, self._splats))
        if len(rows) == len(snapshot.splats):
            return snapshot
        confidence = None if snapshot.confidence is None else snapshot.confidence[rows]
        return replace(snapshot, splats=snapshot.splats[rows], confidence=confidence)
