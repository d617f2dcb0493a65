"""One run at a time: a new one cancels that which is under way and begins when it has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Cancel:
    """Why a run should end, if it should."""

    def __init__(self, asked: Callable[[], bool] = lambda: False) -> None:
        self._event, self._asked = threading.Event(), asked

    def set(self) -> None:
        self._event.set()

    def __call__(self) -> bool:
        return self._event.is_set() or self._asked()


class Turns:
    """Whose turn it is. Everything may be called from any thread; ``own`` waits, the others do not."""

    def __init__(self) -> None:
        self._turn = threading.Lock()  # held by the run under way
        self._guard = threading.Lock()
        self._current: Cancel | None = None

    @contextmanager
    def own(self, cancel: Cancel) -> Iterator[None]:
        """End the run under way, wait for it, and be the run under way meanwhile."""
        with self._guard:
            if self._current is not None:
                self._current.set()
            self._current = cancel
        with self._turn:
            try:
                yield
            finally:
                with self._guard:
                    if self._current is cancel:
                        self._current = None

    def cancel(self) -> bool:
        """Ask the run under way to end; False when there is none."""
        with self._guard:
            running = self._current
        if running is not None:
            running.set()
        return running is not None

    def wait(self) -> None:
        """Until the run under way has ended."""
        with self._turn:
            pass
