"""Which rows of a map changed since when, so that a copy or a mirror of it need not be renewed as a whole."""

from __future__ import annotations

import numpy as np
import torch

CHUNK = 64  # rows that share an entry; the native kernels pack as many at a time


class ChangeRecord:
    """For each chunk of ``CHUNK`` rows, the revision that changed it last.

    ``history`` is one object for a map and for the copies made of it: of those that share it, two with the same
    revision have the same rows.
    """

    def __init__(self) -> None:
        self.history = object()
        self._core = np.zeros(0, np.int64)  # revision of the last change of a core attribute
        self._any = np.zeros(0, np.int64)  # of any attribute

    def note(self, rows: torch.Tensor | slice | None, revision: int, count: int, core: bool = True) -> None:
        """Rows (int64 indices, a slice, or None for all) of a map with ``count`` rows changed at ``revision``.

        ``core`` false: only attributes beyond the core ones did.
        """
        chunks = -(-count // CHUNK)
        if chunks > len(self._any):
            grown = max(chunks, len(self._any) * 3 // 2)
            self._core, self._any = (
                np.concatenate([old, np.full(grown - len(old), revision, np.int64)]) for old in (self._core, self._any)
            )
        where: slice | np.ndarray
        if rows is None:
            where = np.s_[:]
        elif isinstance(rows, slice):
            where = np.s_[rows.start // CHUNK : -(-rows.stop // CHUNK)]
        else:
            where = rows.cpu().numpy() // CHUNK
        self._any[where] = revision
        if core:
            self._core[where] = revision

    def since(self, revision: int, count: int, core: bool = True) -> np.ndarray:
        """int32: rising numbers of the chunks of a map with ``count`` rows that changed after ``revision``."""
        last = (self._core if core else self._any)[: -(-count // CHUNK)]
        return np.nonzero(last > revision)[0].astype(np.int32)

    def copy(self) -> ChangeRecord:
        """The record of an equal copy of the map."""
        copy = ChangeRecord()
        copy.history, copy._core, copy._any = self.history, self._core.copy(), self._any.copy()
        return copy
