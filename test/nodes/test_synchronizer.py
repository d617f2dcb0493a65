from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gs_semantic.nodes import faults
from gs_semantic.nodes.synchronizer import QUEUE, Match, Synchronizer

MS = 1_000_000


def stamps(matches: list[Match]) -> list[int]:
    return [match.stamp_ns for match in matches]


def test_exact_match_in_any_order() -> None:
    sync = Synchronizer("color", ("depth",))
    assert sync.add("color", 10, "c", 0) == []
    [match] = sync.add("depth", 10, "d", 0)
    assert match.items == {"color": "c", "depth": "d"}
    assert sync.add("depth", 20, "d", 0) == []
    [match] = sync.add("color", 20, "c", 0)
    assert match.stamp_ns == 20
    assert (sync.counts.matched, sync.counts.dropped) == (2, 0)


def test_exact_does_not_match_near_stamps() -> None:
    sync = Synchronizer("color", ("depth",), wait_ns=100)
    sync.add("depth", 11, "d", 0)
    sync.add("color", 10, "c", 0)
    assert sync.poll(99) == []
    assert sync.poll(100) == []
    assert sync.counts.unmatched == {"depth": 1}
    assert "depth: no message with the stamp of color" in sync.last_drop


def test_approximate_takes_the_nearest_of_both_sides() -> None:
    sync = Synchronizer("color", ("depth",), slop_ns=10 * MS)
    sync.add("depth", 95 * MS, "before", 0)
    assert sync.add("color", 100 * MS, "c", 0) == []  # a nearer one may still come
    [match] = sync.add("depth", 103 * MS, "after", 1)
    assert match.items["depth"] == "after"


def test_approximate_does_not_wait_for_ever() -> None:
    sync = Synchronizer("color", ("depth",), slop_ns=10 * MS)
    sync.add("depth", 95 * MS, "before", 0)
    sync.add("color", 100 * MS, "c", 0)
    [match] = sync.poll(10 * MS)
    assert match.items["depth"] == "before"


def test_approximate_keeps_within_the_slop() -> None:
    sync = Synchronizer("color", ("depth",), slop_ns=10 * MS, wait_ns=50 * MS)
    sync.add("depth", 80 * MS, "d", 0)
    sync.add("color", 100 * MS, "c", 0)
    sync.add("depth", 120 * MS, "d", 0)
    assert sync.poll(50 * MS) == []
    assert sync.counts.unmatched == {"depth": 1}


def test_masks_are_waited_for_and_then_not() -> None:
    sync = Synchronizer("color", (), ("mask",), optional_wait_ns=50)
    assert sync.add("color", 10, "c", 0) == []
    [match] = sync.add("mask", 10, "m", 20)
    assert match.items["mask"] == "m"
    assert sync.add("color", 20, "c", 100) == []
    [match] = sync.poll(150)
    assert "mask" not in match.items
    assert sync.counts.without_optional == 1


def test_silent_masks_are_not_waited_for_until_they_come_back() -> None:
    sync = Synchronizer("color", (), ("mask",), optional_wait_ns=50)
    for i in range(1, 6):
        sync.add("color", i, "c", 100 * i)
        assert stamps(sync.poll(100 * i + 50)) == [i]
    assert stamps(sync.add("color", 6, "c", 600)) == [6]  # at once
    sync.add("mask", 6, "late", 601)
    assert sync.add("color", 7, "c", 700) == []
    assert stamps(sync.add("mask", 7, "m", 710)) == [7]


def test_gate_holds_a_frame_until_its_pose_is_there() -> None:
    known: set[int] = set()
    sync = Synchronizer("color", gate=lambda stamp, _: None if stamp in known else "pose: too new", wait_ns=100)
    assert sync.add("color", 10, "c", 0) == []
    known.add(10)
    assert stamps(sync.poll(10)) == [10]
    sync.add("color", 20, "c", 200)
    assert sync.poll(300) == []
    assert sync.counts.unmatched == {"pose": 1}
    assert sync.last_drop == "pose: too new"


def test_a_complete_frame_takes_waiting_ones_along_in_order() -> None:
    sync = Synchronizer("color", ("depth",), ("mask",), optional_wait_ns=1000)
    sync.add("color", 10, "c", 0)
    sync.add("depth", 10, "d", 0)  # waits for its mask
    sync.add("color", 20, "c", 1)  # waits for depth
    sync.add("color", 30, "c", 2)
    sync.add("mask", 30, "m", 2)
    assert stamps(sync.add("depth", 30, "d", 3)) == [10, 30]
    assert sync.counts.unmatched == {"depth": 1}


def test_stamps_must_rise() -> None:
    sync = Synchronizer("color")
    assert stamps(sync.add("color", 10, "c", 0)) == [10]
    assert sync.add("color", 10, "c", 0) == []
    assert sync.add("color", 9, "c", 0) == []
    assert sync.counts.disordered == 2
    assert "not newer than the one before" in sync.last_drop
    sync.clear()
    assert stamps(sync.add("color", 5, "c", 0)) == [5]


def test_explains_silence_and_stamps_that_never_match() -> None:
    sync = Synchronizer("color", ("depth",), wait_ns=10)
    assert sync.explain() == ["color: no message has come", "depth: no message has come"]
    sync.add("color", 100 * MS, "c", 0)
    assert sync.explain() == ["depth: no message has come"]
    sync.add("depth", 107 * MS, "d", 0)
    sync.poll(20)
    assert sync.explain() == []  # one message may be lost
    sync.add("color", 200 * MS, "c", 30)
    sync.add("depth", 207 * MS, "d", 30)
    sync.poll(50)
    (text,) = sync.explain()
    assert faults.named_in(text) is faults.STAMPS_APART
    assert "depth: no stamp is equal to one of color; the nearest are +7.0 ms apart" in text
    sync.add("depth", 300 * MS, "d", 60)
    sync.add("color", 300 * MS, "c", 60)
    assert sync.explain() == []


def test_a_stream_that_has_stopped_is_not_one_whose_stamps_are_apart() -> None:
    sync = Synchronizer("color", ("depth",), wait_ns=10)
    sync.add("depth", 100 * MS, "d", 0)
    assert stamps(sync.add("color", 100 * MS, "c", 0)) == [100 * MS]
    for number in range(2, 6):
        sync.add("color", number * 100 * MS, "c", number * 100)
        sync.poll(number * 100 + 50)
    assert faults.named_in(sync.last_drop) is faults.UNMATCHED
    assert sync.explain() == []


@given(
    st.lists(st.tuples(st.sampled_from(["color", "depth", "mask"]), st.integers(0, 40)), max_size=120),
    st.integers(0, 3),
)
def test_every_frame_is_matched_once_or_counted_as_dropped(events: list[tuple[str, int]], slop: int) -> None:
    sync = Synchronizer("color", ("depth",), ("mask",), slop_ns=slop, wait_ns=20, optional_wait_ns=5)
    out: list[Match] = []
    for now, (name, stamp) in enumerate(events):
        out += sync.add(name, stamp, (name, stamp), now)
        assert len(sync._waiting) <= QUEUE
        assert all(len(stream.items) <= QUEUE for stream in sync._streams.values())
    out += sync.poll(len(events) + 100)
    assert stamps(out) == sorted(set(stamps(out)))
    assert sync.counts.matched == len(out)
    assert sync.counts.matched + sync.counts.dropped == sync.counts.received["color"]
    assert not sync.waiting
    for match in out:
        assert all(abs(stamp - match.stamp_ns) <= slop for _, stamp in match.items.values())


def test_a_full_queue_hands_over_what_waits_for_optional_streams_only() -> None:
    """A slow source of masks costs masks, not frames."""
    sync = Synchronizer("color", ("depth",), ("masks",), wait_ns=10_000 * MS, optional_wait_ns=10_000 * MS)
    out: list[Match] = []
    for number in range(1, QUEUE + 3):
        out += sync.add("depth", number, "d", number)
        out += sync.add("color", number, "c", number)
    assert stamps(out) == [1, 2, 3] and sync.counts.dropped == 0
    assert out[0].items == {"color": "c", "depth": "d"}
    out = sync.add("masks", QUEUE + 2, "m", QUEUE + 3)
    assert stamps(out) == list(range(4, QUEUE + 3)) and out[-1].items["masks"] == "m"
