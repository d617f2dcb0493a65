"""Two maps of one place become one: which object is which, names, tombstones, frames, and what is not doubled."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gs_semantic.cli import EXIT_ERROR, main
from gs_semantic.errors import InvalidRequestError, MapFrameMismatchError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import Anchor
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.objects import edit
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.merging import merge_maps
from gs_semantic.objects.registry import ObjectRegistry, ObjectState

PLACES = {"chair": (0.0, 0.0), "mug": (2.0, 0.5), "lamp": (-1.0, 2.0), "box": (3.0, -2.0)}
SIDE = 0.4


def make_map(things: list[str], classes: dict[str, int], seed: int = 0) -> tuple[GaussianMap, ObjectRegistry]:
    """Cubes of 300 points at the places of things, on a floor; objects in the order given."""
    rng, gaussians = np.random.default_rng(seed), GaussianMap()
    register_votes(gaussians)
    objects = ObjectRegistry(LabelSet({0: "void", **{number: name for name, number in classes.items()}}))
    floor = np.column_stack([rng.uniform(-3, 4, (2000, 2)), np.zeros(2000)])
    means, slots = [floor], [np.zeros(2000, np.int32)]
    for name in things:
        obj = objects.open(seed + 1)
        obj.state, obj.class_scores, obj.observations = ObjectState.CONFIRMED, {classes[name]: 3.0}, 5
        means.append(np.array([*PLACES[name], 0.1]) + rng.uniform(0, SIDE, (300, 3)))
        slots.append(np.full(300, obj.slot, np.int32))
    place, slot = np.concatenate(means).astype(np.float32), np.concatenate(slots)
    count = len(place)
    gaussians.add(
        means=place,
        quats=np.tile(np.float32([1, 0, 0, 0]), (count, 1)),
        log_scales=np.full((count, 3), -4, np.float32),
        opacity_logits=np.full(count, 2, np.float32),
        sh=np.zeros((count, 1, 3), np.float32),
        object=slot,
        vote_object=np.column_stack([slot, *[np.zeros(count, np.int32)] * 3]),
        vote_weight=np.column_stack([3.0 * (slot > 0), *[np.zeros(count)] * 3]).astype(np.float32),
        keyframe=np.zeros(count, np.int32),
    )
    for obj in objects:
        update_geometry(obj, gaussians, np.flatnonzero(slot == obj.slot))
    return gaussians, objects


@pytest.fixture
def first() -> tuple[GaussianMap, ObjectRegistry]:
    return make_map(["chair", "mug", "lamp"], {"chair": 1, "mug": 2, "lamp": 3})


def second(things: tuple[str, ...] = ("box", "lamp", "chair")) -> tuple[GaussianMap, ObjectRegistry]:
    """Other ids, slots and class ids for the same things."""
    return make_map(list(things), {"lamp": 1, "box": 2, "chair": 7, "mug": 9}, seed=1)


def test_same_things_keep_the_first_maps_ids_and_new_ones_get_fresh_ones(first) -> None:
    gaussians, objects = first
    before = gaussians.map_id
    report = merge_maps(first, second())
    assert report.ids() == {1: 4, 2: 3, 3: 1}
    assert [found.what for found in report.objects] == ["added", "same", "same"]
    assert all(found.overlap > 0.5 for found in report.objects if found.what == "same")
    names = {obj.id: objects.class_name(obj) for obj in objects.present()}
    assert names == {1: "chair", 2: "mug", 3: "lamp", 4: "box"}
    assert objects.by_id(1).observations == 10 and objects.by_id(4).observations == 5
    np.testing.assert_allclose(objects.by_id(4).centroid[:2], np.array(PLACES["box"]) + SIDE / 2, atol=0.03)
    labels = gaussians["object"].numpy()
    box = objects.by_id(4).slot
    assert (labels == box).sum() == 300 and (gaussians["vote_object"].numpy()[labels == box, 0] == box).all()
    assert gaussians.map_id != before and objects.next_id == 5


def test_surfaces_are_not_doubled(first) -> None:
    count = len(first[0])
    report = merge_maps(first, second(("lamp",)))
    assert report.covered + report.added == 2300 and report.covered > 300
    assert len(first[0]) == count + report.added
    again = merge_maps(first, second(("lamp",)))
    assert again.added == 0, "all of it is there"
    assert len(torch.unique(first[0]["uid"])) == len(first[0])
    assert (first[0]["keyframe"][count:] == -1).all(), "not of a keyframe of this map"


def test_the_first_maps_names_and_deletions_count(first) -> None:
    _, objects = first
    objects.by_id(1).name, objects.by_id(1).locked = "throne", True
    dead = objects.by_id(3)
    gaussians = first[0]
    gaussians.keep(gaussians["object"] != dead.slot)
    dead.state, dead.locked = ObjectState.REMOVED, True
    other = second()
    other[1].by_id(3).name = "seat"
    report = merge_maps(first, other)
    what = {found.second_id: found for found in report.objects}
    assert what[3].disagreements == ("first map: throne, second map: seat",) and objects.by_id(1).name == "throne"
    assert what[2].what == "deleted" and what[2].id == 3 and 2 not in report.ids()
    near = np.linalg.norm(gaussians.means.numpy()[:, :2] - np.array(PLACES["lamp"]) - SIDE / 2, axis=1) < 0.2
    assert not gaussians["object"].numpy()[near].any()
    assert (gaussians.means.numpy()[near, 2] < 0.05).all(), "its Gaussians did not come back"


def test_a_name_of_the_second_map_is_taken_where_the_first_has_none(first) -> None:
    other = second()
    other[1].by_id(2).name = "reading lamp"
    merge_maps(first, other)
    assert first[1].by_id(3).name == "reading lamp"


def test_what_stands_elsewhere_is_another_object(first) -> None:
    other = second(("chair",))
    moved = np.eye(4)
    moved[0, 3] = 1.0
    edit.move(other[0], other[1], list(other[1]), moved)
    report = merge_maps(first, other)
    assert report.count("added") == 1 and report.count("same") == 0


def test_maps_of_different_frames_are_brought_together(first) -> None:
    pose = edit.turn_about(np.zeros(3), np.array([0.0, 0.0, 30.0]), np.array([5.0, 1.0, 0.0]))
    other = second()
    edit.move_map(*other, np.linalg.inv(pose))
    report = merge_maps(first, other, pose)
    assert report.ids() == {1: 4, 2: 3, 3: 1}


def test_anchors_tell_where_the_frames_are(first) -> None:
    pose = edit.turn_about(np.zeros(3), np.array([0.0, 0.0, -70.0]), np.array([0.5, 1.0, 0.2]))
    dock = edit.turn_about(np.zeros(3), np.array([0.0, 0.0, 12.0]), np.array([1.0, 2.0, 0.0]))
    other = second()
    first[0].anchor = other[0].anchor = Anchor("", "dock", dock)
    edit.move_map(*other, pose)
    assert not np.allclose(other[0].anchor.T_map_frame, dock), "the anchor moves with its map"
    assert merge_maps(first, other).ids() == {1: 4, 2: 3, 3: 1}


def test_maps_that_nothing_ties_together_are_refused(first) -> None:
    other = second()
    other[0].frame_id = "attic"
    with pytest.raises(MapFrameMismatchError, match="'map' and 'attic'"):
        merge_maps(first, other)
    other[0].frame_id = "map"
    first[0].anchor, other[0].anchor = Anchor("ground floor"), Anchor("attic")
    with pytest.raises(MapFrameMismatchError, match="'ground floor' and 'attic'"):
        merge_maps(first, other)
    with pytest.raises(InvalidRequestError, match="rigid"):
        merge_maps(first, second(), np.diag([2.0, 1, 1, 1]))


def test_colours_of_different_degrees_are_refused(first) -> None:
    with pytest.raises(InvalidRequestError, match="degree 0 and 1"):
        merge_maps(first, (GaussianMap(1), ObjectRegistry()))


def test_an_object_without_gaussians_brings_nothing(first) -> None:
    other = second()
    ghost = other[1].open()
    ghost.state, ghost.class_scores = ObjectState.CONFIRMED, {2: 1.0}
    report = merge_maps(first, other)
    assert [found.what for found in report.objects] == ["added", "same", "same", "empty"] and ghost.id not in report.ids()
    assert len(first[1].present()) == 4


def test_an_empty_map_changes_nothing(first) -> None:
    count = len(first[0])
    report = merge_maps(first, (GaussianMap(), ObjectRegistry()))
    assert report.objects == () and report.added == 0 and len(first[0]) == count


def test_on_the_command_line(first, tmp_path) -> None:
    for name, (gaussians, objects) in (("a", first), ("b", second())):
        save_map(tmp_path / name, gaussians, objects)
    paths = [str(tmp_path / name) for name in ("a", "b", "both")]
    assert main(["edit", "merge-maps", *paths, "--json", str(tmp_path / "ids.json")]) == 0
    results = json.loads((tmp_path / "ids.json").read_text())["results"]
    assert results["objects_same"] == 2 and results["objects_added"] == 1 and results["id_1"].startswith("added as 4: box")
    gaussians, objects = load_map(tmp_path / "both")
    assert len(gaussians) == results["gaussians"] and len(objects.present()) == 4
    assert main(["edit", "merge-maps", paths[0], str(tmp_path / "none"), paths[2]]) == EXIT_ERROR
    assert len(load_map(tmp_path / "both")[0]) == results["gaussians"], "the old one stays"
