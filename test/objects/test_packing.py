from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.labels import LabelSet
from gs_semantic.objects import packing
from gs_semantic.objects.registry import Box, ObjectRegistry, ObjectState, Provenance

YAW = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


def registry() -> ObjectRegistry:
    objects = ObjectRegistry(LabelSet({0: "void", 3: "chair", 9: "Türe"}))
    chair = objects.open(stamp_ns=5)
    chair.class_scores, chair.state, chair.num_gaussians, chair.revision = {3: 3.0, 9: 1.0}, ObjectState.CONFIRMED, 12, 77
    chair.centroid, chair.covariance = np.array([1.0, 2, 3]), np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    chair.box = Box(np.array([1.0, 0, 0]), np.array([0.5, 1, 2]), YAW)
    door = objects.open(stamp_ns=6, object_id=2**63 + 1, slot=70_000)
    door.class_scores, door.name, door.locked, door.provenance = {9: 1.0}, "Haustür", True, Provenance.OPERATOR
    objects.open()
    return objects


def test_objects_round_trip() -> None:
    objects = registry()
    chair, door, bare = packing.unpack_objects(packing.pack_objects(objects, objects).to_bytes())
    assert (chair.id, chair.slot, chair.class_id, chair.class_name, chair.name) == (1, 1, 3, "chair", "")
    assert (chair.state, chair.num_gaussians, chair.revision, chair.first_seen_ns) == (ObjectState.CONFIRMED, 12, 77, 5)
    assert chair.confidence == pytest.approx(0.75)
    assert chair.alternatives == ((3, 0.75), (9, 0.25))
    assert chair.box is not None
    np.testing.assert_allclose(chair.box.rotation, YAW, atol=1e-6)
    np.testing.assert_array_equal(chair.box.size, [0.5, 1, 2])
    np.testing.assert_array_equal(chair.centroid, [1, 2, 3])
    np.testing.assert_array_equal(chair.covariance, [[1, 2, 3], [2, 4, 5], [3, 5, 6]])
    assert (door.id, door.slot, door.label, door.class_name) == (2**63 + 1, 70_000, "Haustür", "Türe")
    assert door.locked and door.provenance is Provenance.OPERATOR
    assert (bare.box, bare.centroid, bare.alternatives, bare.class_name) == (None, None, (), "unknown")


def test_no_objects() -> None:
    assert packing.unpack_objects(packing.pack_objects([], ObjectRegistry()).to_bytes()) == []


def test_selected_objects_keep_their_names() -> None:
    objects = registry()
    packed = packing.pack_objects(objects, objects)
    [door] = packing.unpack_objects(packed.to_bytes(np.array([1])))
    assert door.label == "Haustür"


def test_records_of_a_later_version_are_read() -> None:
    """Fields are appended: a reader steps by the record length that the header tells."""
    objects = registry()
    data = packing.pack_objects(objects, objects).to_bytes()
    size, head = packing.OBJECT.itemsize, packing.HEADER.size
    longer = bytearray(data[:head])
    struct.pack_into("<HH", longer, 4, 2, size + 8)
    for i in range(3):
        longer += data[head + i * size : head + (i + 1) * size] + b"newfield"
    longer += data[head + 3 * size :]
    assert [obj.id for obj in packing.unpack_objects(bytes(longer))] == [1, 2**63 + 1, 2**63 + 2]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:10], "10 bytes, the header alone has 20"),
        (lambda data: data[:-3], "the header announces"),
        (lambda data: b"GSGA" + data[4:], "starts with b'GSGA'"),
        (lambda data: data + b"x", "the header announces"),
        (lambda data: data[:6] + b"\x04\x00" + data[8:], "records of 4 bytes"),
    ],
)
def test_damaged_blocks_are_refused(damage, words: str) -> None:
    objects = registry()
    data = packing.pack_objects(objects, objects).to_bytes()
    with pytest.raises(InvalidInputError, match=f"packed objects: .*{words}"):
        packing.unpack_objects(damage(data))


def test_gaussians_round_trip() -> None:
    gaussians = GaussianMap()
    gaussians.add(
        means=torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
        quats=torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 1]]),
        log_scales=torch.log(torch.tensor([[0.1, 0.2, 0.3], [1, 1, 1]])),
        opacity_logits=torch.tensor([0.0, 100.0]),
        sh=torch.zeros(2, 1, 3),
    )
    found = packing.unpack_gaussians(packing.pack_gaussians(gaussians, torch.tensor([1, 0])))
    assert found["uid"].tolist() == [1, 0]
    np.testing.assert_array_equal(found["position"], [[4, 5, 6], [1, 2, 3]])
    np.testing.assert_array_equal(found["rotation"], [[0, 0, 0, 1], [1, 0, 0, 0]])
    np.testing.assert_allclose(found["scale"][1], [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(found["opacity"], [1, 0.5])
    np.testing.assert_allclose(found["rgb"], 0.5)
    assert packing.GAUSSIAN.itemsize == 64


@given(st.integers(1, 23), st.integers(1, 17), st.integers(0, 2**32 - 1))
def test_masks_round_trip(width: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = rng.integers(0, 5, (height, width)).astype(np.int32)
    confidence = np.full((height, width), 51, np.uint8)
    ids, classes = np.array([0, 101, 102, 0, 104, 105], np.uint64), np.arange(6)  # slot 3 is hidden
    masks = packing.unpack_masks(packing.pack_masks(instance, confidence, ids, classes))
    shown = np.zeros_like(instance)
    for mask in masks:
        assert mask.id == 100 + mask.slot == 100 + mask.class_id
        assert mask.pixels == mask.mask.sum() > 0
        assert mask.mask.any(0)[[0, -1]].all() and mask.mask.any(1)[[0, -1]].all()  # the box is tight
        assert mask.confidence == pytest.approx(0.2)
        rows, columns = mask.mask.shape
        shown[mask.y : mask.y + rows, mask.x : mask.x + columns][mask.mask] = mask.slot
    np.testing.assert_array_equal(shown, np.where(instance == 3, 0, instance))


def test_cut_masks_are_refused() -> None:
    data = packing.pack_masks(np.ones((8, 8), np.int32), np.zeros((8, 8), np.uint8), np.ones(2), np.ones(2))
    record = np.frombuffer(data, packing.MASK, 1, packing.HEADER.size).copy()
    record["height"] = 99
    damaged = data[: packing.HEADER.size] + record.tobytes() + data[packing.HEADER.size + packing.MASK.itemsize :]
    with pytest.raises(InvalidInputError, match="packed masks: a mask at byte"):
        packing.unpack_masks(damaged)
