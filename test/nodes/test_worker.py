from __future__ import annotations

import threading

from gs_semantic.nodes.worker import Worker

PATIENCE_S = 60.0

class Gate:
    """Lets a test hold a worker inside an input, and see the order of what it did."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.done: list[object] = []

    def process(self, item: object) -> None:
        self.entered.set()
        assert self.leave.wait(PATIENCE_S)
        self.done.append(item)


def test_the_latest_inputs_are_kept() -> None:
    gate = Gate()
    worker: Worker[object] = Worker("test", gate.process, queue=2)
    worker.start()
    worker.submit(1)
    assert gate.entered.wait(PATIENCE_S)
    for item in (2, 3, 4):
        worker.submit(item)
    assert worker.busy
    assert worker.replaced == 1
    gate.leave.set()
    worker.call(lambda: None)
    while worker.busy:
        threading.Event().wait(0.001)
    assert worker.stop()
    assert gate.done == [1, 3, 4]


def test_a_queue_that_is_made_shorter() -> None:
    gate = Gate()
    worker: Worker[object] = Worker("test", gate.process, queue=3)
    worker.start()
    worker.submit(1)
    assert gate.entered.wait(PATIENCE_S)
    for item in (2, 3, 4):
        worker.submit(item)
    worker.queue = 1
    worker.submit(5)
    assert worker.replaced == 3
    gate.leave.set()
    while worker.busy:
        threading.Event().wait(0.001)
    assert worker.stop()
    assert gate.done == [1, 5]


def test_requests_go_before_inputs_and_both_before_slices() -> None:
    gate = Gate()
    slices = threading.Event()

    def idle() -> bool:
        gate.done.append("slice")
        slices.set()
        return False

    worker: Worker[object] = Worker("test", gate.process, idle, queue=2)
    worker.submit("a")
    worker.start()
    assert gate.entered.wait(PATIENCE_S)
    worker.submit("b")
    worker.call(lambda: gate.done.append("request"))
    gate.leave.set()
    assert slices.wait(PATIENCE_S)
    assert worker.stop()
    assert gate.done[:4] == ["a", "request", "b", "slice"]


def test_slices_follow_each_other_while_there_is_work() -> None:
    left, empty = [5], threading.Event()

    def idle() -> bool:
        left[0] -= 1
        if left[0] == 0:
            empty.set()
        return left[0] > 0

    worker: Worker[object] = Worker("test", lambda item: None, idle, idle_period_s=3600.0)
    worker.start()
    assert empty.wait(PATIENCE_S)
    assert worker.stop()
    assert left == [0]


def test_requests_that_wait_are_done_before_the_end_and_none_after_it() -> None:
    gate = Gate()
    worker: Worker[object] = Worker("test", gate.process)
    worker.start()
    worker.submit(1)
    assert gate.entered.wait(PATIENCE_S)
    assert worker.call(lambda: gate.done.append("request"))
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    gate.leave.set()
    stopper.join(PATIENCE_S)
    assert gate.done == [1, "request"]
    assert not worker.call(lambda: gate.done.append("late"))
    assert gate.done == [1, "request"]
