"""The stream of splats: a receiver's copy follows the map through additions, changes, removals and losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.view import MapView, pack_registry
from gs_semantic.objects.registry import ObjectRegistry
from gs_semantic.objects.splats import (
    FIRST,
    LAST,
    SPLAT,
    Chunk,
    SplatCopy,
    SplatSender,
    make_splats,
    pack_splats,
    unpack_splats,
)

WHOLE = 1 << 20


def add(gaussians: GaussianMap, count: int, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    gaussians.register("object", (), torch.int32)
    gaussians.add(
        means=random.normal(size=(count, 3)).astype(np.float32),
        quats=random.normal(size=(count, 4)).astype(np.float32),
        log_scales=random.uniform(-6, -2, (count, 3)).astype(np.float32),
        opacity_logits=random.normal(size=count).astype(np.float32),
        sh=random.uniform(-1, 1, (count, 1, 3)).astype(np.float32),
        keyframe=np.full(count, seed, np.int32),
    )


def view_of(gaussians: GaussianMap) -> MapView:
    objects = ObjectRegistry()
    return MapView.of(gaussians, objects, 0, pack_registry(objects))


def send(sender: SplatSender, gaussians: GaussianMap, limit: int = WHOLE) -> list[Chunk]:
    view = view_of(gaussians)
    sender.update(view)
    chunks = []
    while (chunk := sender.take(view, limit)) is not None:
        chunks.append(chunk)
    return chunks


def check(copy: SplatCopy, gaussians: GaussianMap) -> None:
    """The copy shows the map, within what is not worth sending."""
    view = view_of(gaussians)
    expected = make_splats(view, np.arange(len(gaussians)))
    expected = expected[np.argsort(expected["uid"])]
    np.testing.assert_array_equal(copy.splats["uid"], expected["uid"])
    np.testing.assert_allclose(copy.splats["position"], expected["position"], atol=0.1 * np.exp(-2) + 0.001)
    np.testing.assert_array_equal(copy.splats["keyframe"], expected["keyframe"])
    assert np.abs(copy.splats["rgb"].astype(int) - expected["rgb"]).max(initial=0) <= 4


def test_a_splat_has_52_bytes_and_keeps_its_values() -> None:
    assert SPLAT.itemsize == 52
    gaussians = GaussianMap()
    add(gaussians, 100)
    [chunk] = send(SplatSender(), gaussians)
    assert chunk.flags == FIRST | LAST and (chunk.count, chunk.removed) == (100, 0)
    assert len(chunk.data) == 20 + 100 * 52
    splats, removed = unpack_splats(chunk.data)
    assert not len(removed)
    splats = splats[np.argsort(splats["uid"])]
    np.testing.assert_array_equal(splats["position"], gaussians.means.numpy())
    np.testing.assert_allclose(splats["scale"].astype(np.float32), gaussians.log_scales.exp().numpy(), rtol=1e-3)
    quats = torch.nn.functional.normalize(gaussians.quats, dim=-1).numpy()
    np.testing.assert_allclose(splats["rotation"] / 32767, quats, atol=2e-5)
    np.testing.assert_allclose(splats["opacity"] / 255, gaussians.opacity_logits.sigmoid().numpy(), atol=0.002)


def test_only_what_changed_visibly_is_sent() -> None:
    gaussians, sender = GaussianMap(), SplatSender()
    add(gaussians, 1000)
    copy = SplatCopy()
    for chunk in send(sender, gaussians):
        copy.apply(chunk)
    with torch.no_grad():
        gaussians.means[10] += 0.5
        gaussians.means[20] += 1e-5  # nobody sees that
        gaussians.sh[30] += 0.5
    gaussians.touch(torch.tensor([10, 20, 30]))
    [chunk] = send(sender, gaussians)
    assert (chunk.count, chunk.removed, chunk.flags) == (2, 0, 0)
    assert copy.apply(chunk)
    check(copy, gaussians)
    assert send(sender, gaussians) == []


def test_chunks_respect_the_limit_and_end_with_the_whole_map() -> None:
    gaussians, sender, copy = GaussianMap(), SplatSender(), SplatCopy()
    add(gaussians, 1000)
    chunks = send(sender, gaussians, limit=5000)
    assert len(chunks) == 11 and all(len(chunk.data) <= 5000 for chunk in chunks)
    assert [chunk.flags for chunk in chunks] == [FIRST, *[0] * 9, LAST]
    for chunk in chunks:
        assert not copy.complete
        assert copy.apply(chunk)
    assert copy.complete
    check(copy, gaussians)


def test_a_late_joiner_gets_the_whole_map() -> None:
    gaussians, sender, early, late = GaussianMap(), SplatSender(), SplatCopy(), SplatCopy()
    add(gaussians, 300)
    for chunk in send(sender, gaussians):
        early.apply(chunk)
    gaussians.remove(torch.arange(50))
    sender.restart()
    for chunk in send(sender, gaussians, limit=4000):
        assert early.apply(chunk) and late.apply(chunk)
    for copy in (early, late):
        check(copy, gaussians)


def test_a_lost_chunk_is_noticed_and_mended_by_the_whole_map() -> None:
    gaussians, sender, copy = GaussianMap(), SplatSender(), SplatCopy()
    add(gaussians, 100)
    for chunk in send(sender, gaussians):
        copy.apply(chunk)
    add(gaussians, 10, seed=1)
    assert len(send(sender, gaussians)) == 1  # lost
    add(gaussians, 10, seed=2)
    [chunk] = send(sender, gaussians)
    assert not copy.apply(chunk)
    assert not copy.complete
    sender.restart()
    for chunk in send(sender, gaussians):
        assert copy.apply(chunk)
    check(copy, gaussians)


def test_another_map_replaces_the_copy() -> None:
    sender, copy = SplatSender(), SplatCopy()
    for seed in range(2):
        gaussians = GaussianMap()
        add(gaussians, 50 + seed, seed)
        for chunk in send(sender, gaussians):
            copy.apply(chunk)
        check(copy, gaussians)
        assert copy.map_id == gaussians.map_id


def test_bytes_that_are_no_splats_change_nothing() -> None:
    gaussians, sender, copy = GaussianMap(), SplatSender(), SplatCopy()
    add(gaussians, 100)
    [chunk] = send(sender, gaussians)
    copy.apply(chunk)
    with pytest.raises(InvalidInputError, match="packed splats: 99 bytes"):
        copy.apply(Chunk(2, 0, 5, chunk.map_id, 1, 0, chunk.data[:99]))
    check(copy, gaussians)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "move", "keep"]), st.integers(1, 90)), max_size=12))
def test_the_copy_follows_any_history(steps: list[tuple[str, int]]) -> None:
    gaussians, sender, copy = GaussianMap(), SplatSender(), SplatCopy()
    random = np.random.default_rng(len(steps))
    add(gaussians, 200)
    for number, (kind, amount) in enumerate(steps):
        count = len(gaussians)
        index = torch.from_numpy(np.unique(random.integers(0, max(count, 1), amount))[: max(count - 1, 0)])
        if kind == "add":
            add(gaussians, amount, number + 1)
        elif kind == "remove" and len(index):
            gaussians.remove(index)
        elif kind == "move" and len(index):
            gaussians.means[index] += 1.0
            gaussians.touch(index)
        elif kind == "keep" and count > 1:
            mask = torch.ones(count, dtype=torch.bool)
            mask[index] = False
            gaussians.keep(mask)
        for chunk in send(sender, gaussians, limit=3000 if number % 2 else WHOLE):
            assert copy.apply(chunk)
        check(copy, gaussians)


def test_a_copy_of_many_chunks_is_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order of keys, with removals and returns, whatever the indices hold."""
    monkeypatch.setattr("gs_semantic.objects.splats.SMALL_INDEX", 40)
    random, copy, expected = np.random.default_rng(3), SplatCopy(), dict[int, int]()
    for sequence in range(300):
        records = np.zeros(random.integers(0, 30), SPLAT)
        records["uid"] = random.choice(600, len(records), replace=False)
        records["keyframe"] = random.integers(0, 1000, len(records))
        removed = random.choice(600, random.integers(0, 40 if sequence > 150 else 5), replace=False).astype(np.uint64)
        removed = np.setdiff1d(removed, records["uid"])
        held, before = copy.splats, copy.splats.copy()
        copy.apply(Chunk(sequence, 0, sequence, "map", len(records), len(removed), pack_splats(records, removed)))
        expected |= dict(zip(records["uid"].tolist(), records["keyframe"].tolist(), strict=True))
        for key in removed.tolist():
            expected.pop(key, None)
        assert dict(zip(copy.splats["uid"].tolist(), copy.splats["keyframe"].tolist(), strict=True)) == expected
        assert len(copy) == len(expected) and (np.diff(copy.splats["uid"].astype(np.int64)) > 0).all()
        assert (held == before).all()  # who holds an older state keeps it
