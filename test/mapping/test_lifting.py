import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.lifting import SLOTS, add_votes, grow_labels, register_votes, relabel_votes


def votes(rows: int) -> GaussianMap:
    gaussians = GaussianMap()
    register_votes(gaussians)
    zero = torch.zeros
    gaussians.add(
        means=zero(rows, 3), quats=zero(rows, 4), log_scales=zero(rows, 3), opacity_logits=zero(rows), sh=zero(rows, 1, 3)
    )
    return gaussians


def cast(gaussians: GaussianMap, rows: list[int], objects: list[int], weight: float = 1.0) -> None:
    add_votes(gaussians, np.array(rows), np.array(objects, np.int32), np.full(len(rows), weight, np.float32))


def test_leader_is_the_object_with_most_votes():
    gaussians = votes(2)
    cast(gaussians, [0, 1], [5, 7])
    cast(gaussians, [0], [6])
    cast(gaussians, [0], [6])
    assert gaussians["object"].tolist() == [6, 7]


@given(st.lists(st.integers(10, 40), max_size=30))
def test_rare_objects_never_displace_the_frequent_one(noise):
    gaussians = votes(1)
    for other in noise:
        cast(gaussians, [0], [3])
        cast(gaussians, [0], [3])
        cast(gaussians, [0], [other])
    assert gaussians["object"].item() == (3 if noise else 0)
    table = gaussians["vote_object"].numpy()[0]
    assert len(set(table[table > 0])) == (table > 0).sum() <= SLOTS


def test_merging_adds_the_votes_of_both():
    gaussians = votes(1)
    cast(gaussians, [0], [1], 2.0)
    cast(gaussians, [0], [2], 1.5)
    cast(gaussians, [0], [3], 1.0)
    lut = np.array([0, 1, 3, 3])
    relabel_votes(gaussians, lut)
    assert gaussians["object"].item() == 3
    table, weight = gaussians["vote_object"].numpy()[0], gaussians["vote_weight"].numpy()[0]
    assert weight[table == 3].tolist() == [2.5] and weight[table == 1].tolist() == [2.0]


def test_forgetting_gives_the_row_to_the_next():
    gaussians = votes(1)
    cast(gaussians, [0], [1], 2.0)
    cast(gaussians, [0], [2], 1.0)
    relabel_votes(gaussians, np.array([0, 0, 2]))
    assert gaussians["object"].item() == 2


def test_rims_grow_to_the_similar_depth_only():
    labels = np.zeros((5, 9), np.int32)
    labels[:, :3], labels[:, 6:] = 1, 2
    depth = np.ones((5, 9), np.float32)
    depth[:, 5:] = 3.0
    rim = grow_labels(labels, depth, 4)
    assert (rim[:, 3:5] == 1).all() and (rim[:, 5] == 2).all()
    assert (rim[:, :3] == 0).all(), "only the rim is returned"
    assert (grow_labels(labels, depth, 1)[:, 4] == 0).all()
