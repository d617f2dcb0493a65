"""How many splats a page is sent: few at first, more while its browser draws them fluently, fewer when it does not."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import viser

FIRST = 30_000
FEWEST = 8_000  # however slow
FLUENT_S, SLOW_S = 0.15, 1.5  # for one picture: more are sent below, fewer above
PATIENCE_S = 30.0  # with one picture


class Pace:
    """``allowed`` splats of at most ``limit``. One measurement at a time, in a thread of its own."""

    def __init__(self, limit: int) -> None:
        self.allowed = min(FIRST, limit)
        self.seconds: float | None = None  # that the last picture took
        self._limit = self._fluent = limit
        self._settled = False
        self._thread: threading.Thread | None = None

    @property
    def settled(self) -> bool:
        """Will it stay as it is?"""
        return self._settled

    @property
    def told(self) -> str:
        """What people are told about it."""
        if self.allowed == self._limit or self.seconds is None or not self._settled:
            return ""
        return f"; a picture takes this browser {self.seconds:.1f} s, so it gets no more"

    def note(self, seconds: float) -> None:
        """A picture of ``allowed`` splats took so long."""
        self.seconds = seconds
        if seconds > SLOW_S and self.allowed > FEWEST:
            self.allowed = max(FEWEST, self.allowed // 2)
            self._fluent = self.allowed  # at most: no more ups after a down
            self._settled = self.allowed == FEWEST
        elif seconds < FLUENT_S and self.allowed < self._fluent:
            self.allowed = min(2 * self.allowed, self._fluent)
        else:
            self._settled = True

    def measure(self, client: viser.ClientHandle, wake: threading.Event) -> None:
        """Let the page draw what it was sent, unless it is known how long that takes. Returns at once; ``wake`` is set later."""
        if self._settled or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._draw, args=(client, wake), name="pace", daemon=True)
        self._thread.start()

    def _draw(self, client: viser.ClientHandle, wake: threading.Event) -> None:
        height, width = max(int(client.camera.image_height), 1), max(int(client.camera.image_width), 1)
        try:
            client.get_render(height, width, timeout=PATIENCE_S)  # until what was sent has come
            start = time.monotonic()
            client.get_render(height, width, timeout=PATIENCE_S)
            self.note(time.monotonic() - start)
        except TimeoutError:
            self.note(PATIENCE_S)
        except RuntimeError as error:  # it was closed, or could not
            logging.getLogger(__name__).info("a page did not say how fast it draws: %s", error)
        wake.set()
