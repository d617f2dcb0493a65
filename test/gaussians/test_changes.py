"""Which rows changed since when, and copies that take over just those."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.copies import CopyPool
from gs_semantic.gaussians.gaussian_map import CORE


def rows(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    specs = GaussianMap().specs
    return {name: torch.randn(count, *specs[name].shape, generator=generator) for name in CORE}


@pytest.fixture
def room():
    gaussians = GaussianMap()
    gaussians.register("object", (), torch.int32)
    gaussians.add(**rows(1000))
    return gaussians


def test_touched_rows_name_their_chunks(room):
    before = room.revision
    room.means[torch.tensor([3, 130, 131])] += 1
    room.touch(torch.tensor([3, 130, 131]))
    assert room.changed_chunks(before).tolist() == [0, 2]
    assert room.changed_chunks(room.revision).tolist() == []
    assert len(room.changed_chunks(before - 1)) == 16, "the rows were added then"


def test_extras_do_not_count_as_core(room):
    before = room.revision
    room["object"][70] = 4
    room.touch(torch.tensor([70]), core=False)
    room["object"] = torch.ones(1000, dtype=torch.int32)
    assert room.revision > before
    assert room.changed_chunks(before).tolist() == []
    assert len(room.changed_chunks(before, core=False)) == 16


def test_adding_and_removing_change_the_rows_concerned(room):
    before = room.revision
    room.add(**rows(30))
    assert room.changed_chunks(before).tolist() == [15, 16]
    before = room.revision
    room.remove(torch.tensor([5, 700]))  # the last two rows move there
    assert room.changed_chunks(before).tolist() == [0, 10, 16]
    before = room.revision
    mask = torch.ones(len(room), dtype=torch.bool)
    mask[900] = False
    room.keep(mask)
    assert room.changed_chunks(before).tolist() == [14, 15, 16]


def test_a_write_without_touch_makes_all_unknown(room):
    before = room.revision
    room.quats[7] = 1
    assert room.changed_chunks(before) is None
    room.add(**rows(1))
    assert len(room.changed_chunks(before)) == 16
    history = room.history
    room.continue_from(0, 3)
    assert room.history is not history, "a revision of the time before means nothing now"


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(a[name], b[name]) for name in b)


KINDS = ["touch", "extra", "add", "remove", "keep", "write", "hold"]
CHANGES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 10**6)))


@settings(max_examples=60)
@given(CHANGES)
def test_copies_equal_the_map(changes):
    gaussians, pool = GaussianMap(), CopyPool()
    gaussians.register("object", (), torch.int32)
    gaussians.add(**rows(300))
    held = []
    for kind, seed in changes:
        generator = torch.Generator().manual_seed(seed)
        some = torch.randint(max(1, len(gaussians)), (min(5, len(gaussians)),), generator=generator).unique()
        if kind == "touch":
            gaussians.means[some] += 1
            gaussians.touch(some)
        elif kind == "extra":
            gaussians["object"][some] += 1
            gaussians.touch(some, core=False)
        elif kind == "add":
            gaussians.add(**rows(seed % 400, seed))
        elif kind == "remove":
            gaussians.remove(some)
        elif kind == "keep":
            mask = torch.ones(len(gaussians), dtype=torch.bool)
            mask[some] = False
            gaussians.keep(mask)
        elif kind == "write":
            gaussians.log_scales[some] -= 1
            assert equal(pool.copy(gaussians, ["object"]), gaussians), "a write is seen before its touch, too"
            gaussians.log_scales[some] -= 1
            assert equal(pool.copy(gaussians, ["object"]), gaussians)
            gaussians.touch()
        copy = pool.copy(gaussians, ["object"])
        assert equal(copy, gaussians) and copy.revision == gaussians.revision and copy.history is gaussians.history
        if kind == "hold":
            held.append((copy, gaussians.snapshot()))
    assert all(equal(copy, then) for copy, then in held), "a copy that is held stays as it was"


def test_memory_is_used_again_when_nobody_holds_the_copy(room):
    pool = CopyPool()
    first = pool.copy(room)
    second = pool.copy(room)
    addresses = first.means.data_ptr(), second.means.data_ptr()
    assert addresses[0] != addresses[1]
    del first
    assert pool.copy(room).means.data_ptr() == addresses[0]


def test_a_changed_copy_goes_its_own_way(room):
    pool = CopyPool()
    copy = pool.copy(room)
    copy.means[0] += 1
    copy.touch(torch.tensor([0]))
    assert copy.history is not room.history
    del copy
    assert equal(pool.copy(room), pool.copy(room)) and torch.equal(pool.copy(room).means, room.means)
