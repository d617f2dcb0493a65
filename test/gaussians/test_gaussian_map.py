"""Rows of the map: attributes and optimiser state stay aligned through every change of rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import CORE, rgb_to_sh, rotation_matrices, sh_to_rgb

WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


def core_rows(count: int) -> dict[str, torch.Tensor]:
    return {
        "means": torch.randn(count, 3),
        "quats": torch.randn(count, 4),
        "log_scales": torch.full((count, 3), -3.0),
        "opacity_logits": torch.randn(count),
        "sh": torch.randn(count, 1, 3),
    }


@dataclass
class Model:
    """The same rows as plain Python tuples (uid, tag, moment)."""

    rows: list[tuple[int, int, float]] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    next_tag: int = 1

    def tags(self, count: int) -> list[int]:
        self.next_tag += count
        return list(range(self.next_tag - count, self.next_tag))


def fresh_map() -> GaussianMap:
    gaussians = GaussianMap()
    gaussians.register("tag", (), torch.int64)
    gaussians.register("echo", (3,), fill=7.0)
    gaussians.register_state("means", "moment", ())
    return gaussians


def add_tagged(gaussians: GaussianMap, model: Model, count: int) -> None:
    tags = torch.tensor(model.tags(count), dtype=torch.int64)
    rows = gaussians.add(**core_rows(count), tag=tags, echo=tags[:, None] * WEIGHTS)
    gaussians.state("means", "moment")[rows] = tags.float()
    new = gaussians["uid"][rows].tolist()
    assert model.used.isdisjoint(new), "a uid was given twice"
    model.used.update(new)
    model.rows += [(uid, tag, float(tag)) for uid, tag in zip(new, tags.tolist(), strict=True)]


def copies(gaussians: GaussianMap, model: Model, rows: torch.Tensor, parents: list[tuple[int, int, float]]) -> None:
    new = gaussians["uid"][rows].tolist()
    assert model.used.isdisjoint(new) and len(set(new)) == len(new)
    model.used.update(new)
    model.rows += [(uid, tag, 0.0) for uid, (_, tag, _) in zip(new, parents, strict=True)]


def check(gaussians: GaussianMap, model: Model) -> None:
    state = gaussians.state("means", "moment")
    found = list(zip(gaussians["uid"].tolist(), gaussians["tag"].tolist(), state.tolist(), strict=True))
    assert found == model.rows
    assert torch.equal(gaussians["echo"], gaussians["tag"][:, None] * WEIGHTS)
    assert {len(gaussians[name]) for name in gaussians} == {len(model.rows)}
    assert len(set(gaussians["uid"].tolist())) == len(gaussians)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "keep", "clone", "split", "merge"]), st.integers(0, 2**32 - 1)), max_size=12
    )
)
def test_every_row_operation_keeps_attributes_and_state_aligned(steps):
    gaussians, model = fresh_map(), Model()
    add_tagged(gaussians, model, 5)
    for name, seed in steps:
        rng = np.random.default_rng(seed)
        chosen = rng.random(len(gaussians)) < 0.5
        index = torch.from_numpy(np.flatnonzero(chosen))
        parents = [model.rows[i] for i in index.tolist()]
        revision = gaussians.revision
        if name == "add":
            add_tagged(gaussians, model, int(rng.integers(0, 2000 if seed % 7 == 0 else 5)))
        elif name == "keep":
            gaussians.keep(torch.from_numpy(chosen))
            model.rows = parents
        elif name == "clone":
            copies(gaussians, model, gaussians.clone(index), parents)
        elif name == "split":
            children = gaussians.split(index, children=3)
            model.rows = [row for row, gone in zip(model.rows, chosen, strict=True) if not gone]
            copies(gaussians, model, children, [row for row in parents for _ in range(3)])
        else:
            other = fresh_map()
            other.register("only_there", (2,), fill=-1.0)
            count = int(rng.integers(1, 4))
            tags = torch.tensor(model.tags(count), dtype=torch.int64)
            other.add(**core_rows(count), tag=tags, echo=tags[:, None] * WEIGHTS, only_there=torch.ones(count, 2))
            rows = gaussians.merge(other)
            assert (gaussians["only_there"][rows] == 1).all()
            copies(gaussians, model, rows, [(0, tag, 0.0) for tag in tags.tolist()])
        check(gaussians, model)
        assert gaussians.revision >= revision


def test_rows_without_a_value_get_the_fill_value_and_registering_later_fills_old_rows():
    gaussians = GaussianMap()
    gaussians.add(**core_rows(3))
    gaussians.register("object", (), torch.int32, fill=-5)
    assert gaussians["object"].tolist() == [-5, -5, -5]
    gaussians.add(**core_rows(2), object=torch.tensor([1, 2], dtype=torch.int32))
    assert gaussians["object"].tolist() == [-5, -5, -5, 1, 2]
    assert gaussians["keyframe"].tolist() == [-1] * 5
    assert set(gaussians.extras) == {"uid", "keyframe", "object"}


def test_split_shrinks_children_and_draws_them_from_the_parent():
    gaussians = GaussianMap()
    rows = core_rows(2000)
    rows["means"][:] = torch.tensor([1.0, 2.0, 3.0])
    rows["log_scales"][:] = torch.tensor([0.5, 0.1, 0.1]).log()
    rows["quats"][:] = torch.tensor([2**-0.5, 0.0, 0.0, 2**-0.5])  # 90 degrees about z: the long axis becomes y
    gaussians.add(**rows)
    gaussians.split(torch.arange(2000), children=2, shrink=1.6)
    assert len(gaussians) == 4000
    assert torch.allclose(gaussians.log_scales.exp(), torch.tensor([0.5, 0.1, 0.1]) / 1.6)
    spread = (gaussians.means - torch.tensor([1.0, 2.0, 3.0])).std(dim=0)
    assert torch.allclose(spread, torch.tensor([0.1, 0.5, 0.1]), rtol=0.1)


def test_snapshot_is_independent_and_keeps_state_and_counters():
    gaussians, model = fresh_map(), Model()
    add_tagged(gaussians, model, 4)
    copy = gaussians.snapshot()
    gaussians.means.fill_(0)
    gaussians.keep(torch.tensor([True, False, False, False]))
    check(copy, model)
    assert not (copy.means == 0).all()
    assert copy.map_id == gaussians.map_id and copy.next_uid == gaussians.next_uid
    assert copy.add(**core_rows(1)).tolist() == [4]


def test_wrong_rows_are_refused_by_name():
    gaussians = GaussianMap()
    with pytest.raises(ValueError, match="missing.*sh"):
        gaussians.add(**{name: value for name, value in core_rows(2).items() if name != "sh"})
    with pytest.raises(ValueError, match="unknown.*colour"):
        gaussians.add(**core_rows(2), colour=torch.zeros(2))
    with pytest.raises(ValueError, match="'quats' has shape"):
        gaussians.add(**{**core_rows(2), "quats": torch.zeros(2, 3)})
    with pytest.raises(KeyError, match="no attribute 'colour'"):
        gaussians["colour"]
    with pytest.raises(ValueError, match="'means' exists"):
        gaussians.register("means", (2,))
    assert len(gaussians) == 0


def test_core_names_and_colour_conversion():
    assert all(name in GaussianMap() for name in CORE)
    colours = torch.rand(10, 3)
    assert torch.allclose(sh_to_rgb(rgb_to_sh(colours)), colours, atol=1e-6)
    rotation = rotation_matrices(torch.randn(20, 4, dtype=torch.float64))
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(20, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(20, dtype=torch.float64))
