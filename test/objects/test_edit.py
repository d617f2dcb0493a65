"""Editing maps of a few Gaussians, counted and moved by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gs_semantic.errors import InvalidRequestError, NothingThereError, UnknownObjectError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.lifting import add_votes, register_votes
from gs_semantic.objects import edit
from gs_semantic.objects.edit import Selection
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.registry import ObjectRegistry, Provenance
from gs_semantic.rendering.harmonics import rotate_harmonics, spherical_harmonics

TABLE, MUG, ROOM = 1, 2, 3
CORNERS = np.stack(np.meshgrid(*[[0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def make_map(votes: bool = True, degree: int = 0) -> tuple[GaussianMap, ObjectRegistry]:
    """A table 1 m wide at the origin, a mug 0.1 m wide at x = 5 m, an unlabelled Gaussian inside the table and the room."""
    rng = np.random.default_rng(0)
    table = np.concatenate([CORNERS, rng.uniform(0, 1, (40, 3))])
    mug = CORNERS * 0.1 + [5.0, 0.0, 0.4]
    means = np.concatenate([table, mug, [[0.5, 0.5, 0.5]], [[9.0, 9.0, 9.0]]])
    labels = np.repeat([TABLE, MUG, 0, ROOM], [len(table), len(mug), 1, 1]).astype(np.int32)
    gaussians = GaussianMap(degree)
    gaussians.register("object", (), torch.int32)
    count = len(means)
    gaussians.add(
        means=means.astype(np.float32),
        quats=rng.normal(size=(count, 4)).astype(np.float32),
        log_scales=np.full((count, 3), -3, np.float32),
        opacity_logits=np.ones(count, np.float32),
        sh=rng.normal(size=(count, (degree + 1) ** 2, 3)).astype(np.float32),
        object=labels,
    )
    if votes:
        register_votes(gaussians)
        rows = np.flatnonzero(labels)
        for _ in range(2):
            add_votes(gaussians, rows, labels[rows], np.ones(len(rows), np.float32))
    objects = ObjectRegistry(LabelSet({0: "void", 7: "table", 8: "mug", 9: "room"}))
    for class_id in (7, 8, 9):
        obj = objects.open()
        obj.class_scores = {class_id: 1.0}
        update_geometry(obj, gaussians, np.flatnonzero(labels == obj.slot))
    return gaussians, objects


def labels_of(gaussians: GaussianMap) -> dict[int, int]:
    return dict(
        zip(*(part.tolist() for part in np.unique(gaussians["object"].numpy(), return_counts=True)), strict=True)
    )


@pytest.mark.parametrize("votes", [True, False], ids=["votes", "labels only"])
def test_remove(votes):
    gaussians, objects = make_map(votes)
    uids = gaussians["uid"][gaussians["object"] != TABLE].tolist()
    edit.remove(gaussians, objects, [objects.by_id(TABLE)])
    assert labels_of(gaussians) == {0: 1, MUG: 8, ROOM: 1} and gaussians["uid"].tolist() == uids
    assert sorted(obj.id for obj in objects) == [MUG, ROOM] and objects.next_id == 4
    if votes:
        assert not (gaussians["vote_object"] == TABLE).any()
    assert objects.open().slot == TABLE  # free again, and nothing in the map has it


def test_votes_for_what_was_removed_are_forgotten():
    gaussians, objects = make_map()
    row = np.flatnonzero(gaussians["object"].numpy() == MUG)[:1]
    add_votes(gaussians, row, np.array([TABLE]), np.ones(1, np.float32))
    edit.remove(gaussians, objects, [objects.by_id(TABLE)])
    assert labels_of(gaussians)[MUG] == 8 and not (gaussians["vote_object"] == TABLE).any()


def test_extract():
    gaussians, objects = make_map()
    map_id = gaussians.map_id
    edit.extract(gaussians, objects, [objects.by_id(MUG), objects.by_id(ROOM)])
    assert labels_of(gaussians) == {MUG: 8, ROOM: 1} and gaussians.map_id != map_id
    assert sorted(obj.id for obj in objects) == [MUG, ROOM]


def test_the_rule_of_gaussian_grouping_takes_what_lies_inside():
    rule = Selection(probability=0.3, hull=True)
    gaussians, objects = make_map()
    edit.remove(gaussians, objects, [objects.by_id(TABLE)], rule)
    assert labels_of(gaussians) == {MUG: 8, ROOM: 1}  # the unlabelled one in the middle is gone, too
    gaussians, objects = make_map()
    edit.extract(gaussians, objects, [objects.by_id(TABLE)], rule)
    assert labels_of(gaussians) == {TABLE: 49}  # and belongs to the table when that is kept


def test_probability_of_votes_and_of_training():
    gaussians, _ = make_map()
    row = int(np.flatnonzero(gaussians["object"].numpy() == MUG)[0])
    add_votes(gaussians, np.array([row]), np.array([TABLE]), np.ones(1, np.float32))
    assert edit.probability_of(gaussians, TABLE)[row] == pytest.approx(1 / 3)
    assert Selection(0.3).of(gaussians, TABLE)[row] and not Selection(0.34).of(gaussians, TABLE)[row]
    gaussians.register(edit.PROBABILITY, ())
    gaussians[edit.PROBABILITY] = torch.full((len(gaussians),), 0.25)
    assert edit.probability_of(gaussians, MUG)[row] == 0.25 and edit.probability_of(gaussians, TABLE)[row] == 0
    assert not Selection(0.3).of(gaussians, MUG).any() and Selection(0.2).of(gaussians, MUG).sum() == 8


def test_outliers_do_not_blow_up_the_hull():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 1, (200, 3)), [[30.0, 30.0, 30.0]]])
    assert len(edit.without_outliers(points)) == 200  # evenly spread points lie within half their range of the middle
    between = np.array([[5.0, 5.0, 5.0], [0.5, 0.5, 0.5], [0.5, 0.5, 1.5]])
    assert edit.inside_hull(between, points).tolist() == [True, True, False]
    assert edit.inside_hull(between, edit.without_outliers(points)).tolist() == [False, True, False]


def test_a_flat_hull_has_nothing_inside():
    flat = CORNERS * [1, 1, 0]
    assert not edit.inside_hull(np.array([[0.5, 0.5, 0.0]]), flat).any()
    assert not edit.inside_hull(np.zeros((1, 3)), CORNERS[:3]).any()


def test_move_is_rigid():
    gaussians, objects = make_map(degree=1)
    before = gaussians.snapshot()
    motion = edit.turn_about(np.array([5.0, 0.0, 0.4]), np.array([0.0, 0.0, 90.0]), np.array([0.0, 0.0, 1.0]))
    edit.move(gaussians, objects, [objects.by_id(MUG)], motion)
    own = before["object"].numpy() == MUG
    expected = before.means.numpy()[own] @ motion[:3, :3].T + motion[:3, 3]
    assert np.allclose(gaussians.means.numpy()[own], expected, atol=1e-5)
    turned = motion[:3, :3] @ rotation_matrices(before.quats)[own].double().numpy()
    assert np.allclose(rotation_matrices(gaussians.quats)[own].numpy(), turned, atol=1e-5)
    assert not torch.equal(gaussians.sh[own], before.sh[own])
    for name in ("means", "quats", "sh"):
        assert torch.equal(gaussians[name][~own], before[name][~own])
    mug = objects.by_id(MUG)
    assert mug.provenance is Provenance.OPERATOR and mug.box.centre == pytest.approx([4.95, 0.05, 1.45], abs=1e-4)
    assert gaussians.revision > before.revision


def test_colours_turn_with_their_gaussians():
    generator = torch.Generator().manual_seed(3)
    sh = torch.randn(5, 16, 3, generator=generator, dtype=torch.float64)
    rotation = torch.from_numpy(Rotation.from_euler("xyz", [20, -50, 110], degrees=True).as_matrix())
    seen = torch.nn.functional.normalize(torch.randn(9, 3, generator=generator, dtype=torch.float64), dim=-1)

    def colours(coefficients, directions):
        return torch.einsum("dk,nkc->ndc", spherical_harmonics(directions, 16), coefficients)

    turned = rotate_harmonics(sh, rotation)
    assert torch.allclose(colours(turned, seen @ rotation.T), colours(sh, seen), atol=1e-9)
    assert torch.equal(turned[:, 0], sh[:, 0])


def test_swap_puts_each_where_the_other_stood():
    gaussians, objects = make_map()
    table, mug = objects.by_id(TABLE), objects.by_id(MUG)
    edit.swap(gaussians, objects, table, mug)
    assert mug.box.centre == pytest.approx(
        [0.5, 0.5, 0.05], abs=0.03
    )  # on the floor, in the middle of where the table was
    assert table.box.centre == pytest.approx([5.05, 0.05, 0.9], abs=0.03)  # on what the mug stood on
    assert labels_of(gaussians) == {0: 1, TABLE: 48, MUG: 8, ROOM: 1}
    before = gaussians.means.clone()
    edit.swap(gaussians, objects, table, mug)
    edit.swap(gaussians, objects, table, mug)
    assert torch.allclose(gaussians.means, before, atol=1e-4)


def test_objects_are_found_by_id_and_name():
    _, objects = make_map()
    objects.by_id(MUG).name = "Anna's mug"
    assert [obj.id for obj in edit.find_objects(objects, ["Anna's mug", "1", "2"])] == [MUG, TABLE]
    with pytest.raises(UnknownObjectError, match="no object is called 'mug'; there are: Anna's mug, room, table"):
        edit.find_objects(objects, ["mug"])
    objects.by_id(ROOM).class_scores = {7: 1.0}
    with pytest.raises(UnknownObjectError, match="2 objects are called 'table'; give one of the ids 1, 3"):
        edit.find_objects(objects, ["table"])
    with pytest.raises(UnknownObjectError, match="object 9 is not in the map"):
        edit.find_objects(objects, ["9"])


def test_what_cannot_be_done_is_named():
    gaussians, objects = make_map()
    table, nobody = objects.by_id(TABLE), objects.open()
    for error, call, text in (
        (NothingThereError, lambda: edit.remove(gaussians, objects, [nobody]), "object 4: no Gaussian"),
        (NothingThereError, lambda: edit.remove(GaussianMap(), objects, [table]), "the map has no labels"),
        (InvalidRequestError, lambda: edit.extract(gaussians, objects, []), "no object is given"),
        (InvalidRequestError, lambda: edit.swap(gaussians, objects, table, table), "with itself"),
        (InvalidRequestError, lambda: edit.move(gaussians, objects, [table], 2 * np.eye(4)), "expected a rigid 4x4"),
        (InvalidRequestError, lambda: Selection(probability=1.0), "probability 1.0 is not from 0 to below 1"),
    ):
        with pytest.raises(error, match=text):
            call()
    assert labels_of(gaussians) == {0: 1, TABLE: 48, MUG: 8, ROOM: 1}
