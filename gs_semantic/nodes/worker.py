"""A thread that works through inputs, requests and background work. Knows no ROS."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Runs, one at a time and in this order: requests, inputs, a slice of background work.

    Inputs go through a queue that keeps the latest ``queue``; ``replaced`` counts those that were overtaken. ``queue`` may be
    changed at any time. ``idle``
    does one slice and returns whether there was something to do; it is called again at once if so, else after
    ``idle_period_s`` or when something comes. ``niceness`` lets other threads go first (Linux).
    """

    def __init__(
        self,
        name: str,
        process: Callable[[T], None],
        idle: Callable[[], bool] = lambda: False,
        queue: int = 1,
        idle_period_s: float = 0.05,
        niceness: int = 0,
    ) -> None:
        self._process, self._idle, self._idle_period_s = process, idle, idle_period_s
        self._niceness = niceness
        self._changed = threading.Condition()
        self.queue = queue
        self._inputs: deque[T] = deque()
        self._requests: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._running = False
        self.replaced = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, item: T) -> None:
        """Process this input when its turn comes, unless newer ones push it out before."""
        with self._changed:
            self._inputs.append(item)
            while len(self._inputs) > self.queue:
                self._inputs.popleft()
                self.replaced += 1
            self._changed.notify()

    def call(self, request: Callable[[], None]) -> bool:
        """Run this in the worker soon; False after ``stop``, when it will not be run."""
        with self._changed:
            if not self._stopping:
                self._requests.append(request)
                self._changed.notify()
            return not self._stopping

    @property
    def busy(self) -> bool:
        """Is there an input or a request that waits or is worked on?"""
        with self._changed:
            return self._running or bool(self._inputs or self._requests)

    def stop(self, timeout_s: float = 60.0) -> bool:
        """End after what runs now and the requests that wait; False when that took longer than the timeout."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._niceness and sys.platform == "linux":  # elsewhere it would be that of the whole process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        busy = True
        while True:
            with self._changed:
                self._running = False
                if not (self._stopping or self._requests or self._inputs or busy):
                    self._changed.wait(self._idle_period_s)
                if self._stopping and not self._requests:
                    return
                request = self._requests.popleft() if self._requests else None
                item = self._inputs.popleft() if self._inputs else None
                self._running = request is not None or item is not None
            if request is not None:
                request()
            if item is not None:
                self._process(item)
                time.sleep(0)  # let the executor's thread have the interpreter
            busy = True if request is not None or item is not None else self._idle()
