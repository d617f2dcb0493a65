"""Edits through services: what they do, that perception does not undo them, that they can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gs_semantic.msg import ObjectEvent
from rig import BOX_PIXEL, CAMERA, LAMP_PIXEL, Rig

from gs_semantic.client import SemanticMap
from gs_semantic.errors import ConflictError, InvalidRequestError, NothingThereError, UnknownObjectError
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.gaussians.ply import load_ply
from gs_semantic.nodes import qos
from gs_semantic.objects.regions import BoxShape, Region
from gs_semantic.objects.registry import ObjectState


@pytest.fixture
def planner(rig: Rig) -> Iterator[SemanticMap]:
    rig.listen("object_events", ObjectEvent, qos.EVENTS)
    rig.map_scene()
    rig.settled()
    with rig.planner() as planner:
        yield planner


def see_again(rig: Rig, times: int = 3) -> None:
    """More frames of the same scene: perception has its say."""
    for _ in range(times):
        rig.answer(rig.send())
        rig.settled()


def labels(planner: SemanticMap) -> list[str]:
    return [obj.label for obj in planner.list_objects()]


def left_half() -> Region:
    """Of the box in the scene."""
    pose = np.eye(4)
    u, v = BOX_PIXEL
    pose[:3, 3] = np.array([(u - 10 - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, 1.0]) * 1.8
    return Region(BoxShape(np.array([20 / CAMERA.fx * 1.8, 2.0, 1.0])), pose)


def test_rename_and_undo(planner: SemanticMap, rig: Rig) -> None:
    box = planner.find("box")
    assert planner.rename(box.id, "toolbox").name == "toolbox"
    see_again(rig)
    renamed = planner.find("toolbox")
    assert (renamed.id, renamed.class_name, renamed.locked) == (box.id, "box", True)
    assert planner.undo() == f"undone: rename object {box.id} from 'box' to 'toolbox'"
    assert (planner.find("box").name, planner.find("box").locked) == ("", False)
    rig.until(lambda: [e for e in rig.received["object_events"] if e.kind == ObjectEvent.RENAMED], "event")


def test_merge_stays_merged_after_mapping_and_loading_and_can_be_undone(
    planner: SemanticMap, rig: Rig, tmp_path: Path
) -> None:
    box, lamp = planner.find("box"), planner.find("lamp")
    whole = planner.merge(box.id, [lamp.id])
    assert whole.num_gaussians == box.num_gaussians + lamp.num_gaussians
    see_again(rig)
    assert [obj.id for obj in planner.list_objects()] == [box.id]
    with pytest.raises(UnknownObjectError, match=f"merged into it; use that id|part of object {box.id}"):
        planner.get_object(lamp.id)
    objects = load_map(planner.save(tmp_path / "map"))[1]
    assert objects.heir(lamp.id) == box.id
    rig.until(lambda: [e for e in rig.received["object_events"] if e.kind == ObjectEvent.MERGED], "event")
    planner.undo()
    see_again(rig, 1)
    assert {obj.id for obj in planner.list_objects()} == {box.id, lamp.id}
    assert planner.get_object(lamp.id).object.num_gaussians == pytest.approx(lamp.num_gaussians, rel=0.1)
    assert planner.query_pixel(*LAMP_PIXEL).object.id == lamp.id
    assert planner.query_pixel(*BOX_PIXEL).object.id == box.id


def test_split_stays_split_and_can_be_undone(planner: SemanticMap, rig: Rig) -> None:
    box = planner.find("box")
    part = planner.split(box.id, left_half())
    see_again(rig)
    u, v = BOX_PIXEL
    assert planner.query_pixel(u - 10, v).object.id == part
    assert planner.query_pixel(u + 10, v).object.id == box.id
    rig.until(lambda: [e for e in rig.received["object_events"] if e.kind == ObjectEvent.SPLIT], "event")
    [event] = [e for e in rig.received["object_events"] if e.kind == ObjectEvent.SPLIT]
    assert (event.object_id, list(event.others)) == (box.id, [part])
    planner.undo()
    see_again(rig, 1)
    assert planner.query_pixel(u - 10, v).object.id == box.id
    assert sorted(labels(planner)) == ["box", "lamp"]


def test_delete_does_not_come_back_and_can_be_undone(planner: SemanticMap, rig: Rig) -> None:
    box = planner.find("box")
    before = planner.get_object(box.id, gaussians=True).gaussians
    planner.delete(box.id)
    assert labels(planner) == ["lamp"]
    assert [o.id for o in planner.list_objects(states=[ObjectState.REMOVED])] == [box.id]
    see_again(rig)
    assert labels(planner) == ["lamp"], "it is seen, and not shown"
    planner.undo()
    see_again(rig, 1)
    back = planner.get_object(box.id, gaussians=True).gaussians
    assert set(before["uid"]) <= set(back["uid"])
    assert planner.query_pixel(*BOX_PIXEL).object.id == box.id


def test_move_takes_the_gaussians_along(planner: SemanticMap, rig: Rig) -> None:
    box = planner.find("box")
    motion = np.eye(4)
    motion[:3, 3] = [0.1, -0.2, -0.3]
    moved = planner.move(box.id, motion)
    np.testing.assert_allclose(moved.box.centre, box.box.centre + motion[:3, 3], atol=0.02)
    rig.until(lambda: [e for e in rig.received["object_events"] if e.kind == ObjectEvent.MOVED], "event")
    planner.undo()
    np.testing.assert_allclose(planner.find("box").box.centre, box.box.centre, atol=0.02)


def test_a_locked_object_keeps_class_and_gaussians(planner: SemanticMap, rig: Rig) -> None:
    box = planner.find("box")
    assert planner.lock(box.id).locked
    assert not planner.lock(box.id, False).locked


def test_edits_of_removed_or_unknown_objects_are_refused(planner: SemanticMap) -> None:
    box = planner.find("box")
    planner.delete(box.id)
    for edit in (
        lambda: planner.rename(box.id, "x"),
        lambda: planner.merge(box.id, [planner.find("lamp").id]),
        lambda: planner.delete(box.id),
        lambda: planner.move(box.id, np.eye(4)),
    ):
        with pytest.raises(UnknownObjectError, match="was removed"):
            edit()
    with pytest.raises(UnknownObjectError, match="4711"):
        planner.lock(4711)


def test_concurrent_edits_are_found_by_the_revision(planner: SemanticMap, rig: Rig) -> None:
    mine, box, lamp = planner.list_objects().revision, planner.find("box"), planner.find("lamp")
    see_again(rig)  # mapping alone is no conflict
    assert planner.rename(box.id, "mine", expected_revision=mine).name == "mine"
    with pytest.raises(ConflictError, match=f"object {box.id} was changed at map revision"):
        planner.rename(box.id, "yours", expected_revision=mine)
    assert planner.find("mine").id == box.id
    now = planner.list_objects().revision
    planner.merge(box.id, [lamp.id], expected_revision=now)
    with pytest.raises(ConflictError, match="was merged into"):
        planner.delete(lamp.id, expected_revision=now)


def test_edits_that_mean_nothing_are_refused(planner: SemanticMap) -> None:
    box = planner.find("box")
    with pytest.raises(InvalidRequestError, match="two objects"):
        planner.merge(box.id, [])
    with pytest.raises(InvalidRequestError, match="given twice"):
        planner.merge(box.id, [box.id])
    with pytest.raises(NothingThereError, match="none of the"):
        planner.split(box.id, Region(BoxShape(np.ones(3) * 0.01)))
    with pytest.raises(InvalidRequestError, match="motion"):
        planner.move(box.id, np.full((4, 4), np.nan))
    with pytest.raises(NothingThereError, match="no edit to undo"):
        planner.undo()
    with pytest.raises(InvalidRequestError, match="characters"):
        planner.rename(box.id, "x" * 1000)


def test_extract_gaussians_and_collision_parts(planner: SemanticMap, tmp_path: Path) -> None:
    box = planner.find("box")
    path = planner.extract(box.id, tmp_path / "box.ply")
    assert len(load_ply(path)) == box.num_gaussians
    planner.extract(box.id, tmp_path / "box.obj", "collision", max_parts=3)
    lines = (tmp_path / "box.obj").read_text().splitlines()
    corners = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    assert 1 <= sum(line.startswith("o ") for line in lines) <= 3
    points = planner.get_object(box.id, gaussians=True).gaussians["position"]
    np.testing.assert_allclose(corners.min(0), points.min(0), atol=0.01)
    np.testing.assert_allclose(corners.max(0), points.max(0), atol=0.01)
    assert planner.extract(box.id, tmp_path / "box.glb", "collision").read_bytes()[:4] == b"glTF"
    with pytest.raises(InvalidRequestError, match=".obj or .glb"):
        planner.extract(box.id, tmp_path / "box.txt", "collision")
    with pytest.raises(UnknownObjectError):
        planner.extract(4711, tmp_path / "x.ply")


def test_corrected_poses_move_gaussians_and_objects(planner: SemanticMap, rig: Rig) -> None:
    box = planner.find("box")
    stamps = [stamp for stamp, _ in rig.mapper.mapper.keyframes.trail.values()]
    pose = np.eye(4)
    pose[:3, 3] = [0.5, 0.0, 0.1]
    assert planner.correct_poses(dict.fromkeys(stamps, pose)) == len(rig.mapper.mapper.gaussians)
    rig.until(lambda: rig.mapper.settled, "objects")
    moved = planner.get_object(box.id).object
    np.testing.assert_allclose(moved.box.centre, box.box.centre + pose[:3, 3], atol=0.02)
    with pytest.raises(InvalidRequestError, match="not that of a keyframe"):
        planner.correct_poses({17: pose})
