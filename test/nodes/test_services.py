"""Services through the planner's client, against a mapper that has mapped the made-up scene."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rig import BOX_PIXEL, CAMERA, LAMP_PIXEL, WALL_PIXEL, Rig

from gs_semantic.client import SemanticMap
from gs_semantic.errors import (
    ErrorCode,
    GsSemanticError,
    InvalidRequestError,
    MapFormatError,
    MapFrameMismatchError,
    StorageError,
    UnknownObjectError,
)
from gs_semantic.gaussians import Camera
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.nodes import conversions


@pytest.fixture
def planner(rig: Rig) -> Iterator[SemanticMap]:
    rig.map_scene()
    rig.settled()
    with rig.planner() as planner:
        yield planner


def by_label(planner: SemanticMap) -> dict[str, int]:
    return {obj.label: obj.id for obj in planner.list_objects()}


def centre(pixel: tuple[int, int], depth: float = 1.8) -> np.ndarray:
    """Point in the map frame (the camera stands in its origin)."""
    return np.array([(pixel[0] - CAMERA.cx) / CAMERA.fx, (pixel[1] - CAMERA.cy) / CAMERA.fy, 1.0]) * depth


def test_list_objects(planner: SemanticMap, rig: Rig) -> None:
    objects = planner.list_objects()
    assert [obj.label for obj in objects] == ["box", "lamp"]
    assert (objects.total, objects.frame_id) == (2, "map")
    assert objects.revision > 0
    assert objects.stamp_ns == conversions.to_ns(rig.received["semantic/image"][-1].header.stamp)


def test_list_objects_filters(planner: SemanticMap) -> None:
    ids = by_label(planner)
    assert [obj.id for obj in planner.list_objects(classes=["lamp"])] == [ids["lamp"]]
    assert [obj.id for obj in planner.list_objects(classes=[3])] == [ids["box"]]
    assert len(planner.list_objects(classes=["lamp", 3])) == 2
    assert len(planner.list_objects(classes=["ghost"])) == 0
    assert len(planner.list_objects(min_confidence=1.5)) == 0


def test_list_objects_by_pages(planner: SemanticMap) -> None:
    first = planner.list_objects(max_results=1)
    assert (len(first), first.total) == (1, 2)
    second = planner.list_objects(max_results=1, after_id=first[-1].id)
    assert second[0].id > first[0].id
    assert len(planner.list_objects(after_id=second[-1].id)) == 0


def test_list_objects_since_a_revision(planner: SemanticMap, rig: Rig) -> None:
    before = planner.list_objects()
    changed = planner.list_objects(since_revision=before.revision)
    assert len(changed) == 0
    assert changed.present_ids == {obj.id for obj in before}
    rig.map_scene()
    assert len(planner.list_objects(since_revision=before.revision)) == 2


def test_get_object_with_its_gaussians(planner: SemanticMap) -> None:
    answer = planner.get_object(by_label(planner)["box"], gaussians=True)
    assert answer.object.label == "box"
    assert answer.frame_id == "map"
    assert len(answer.gaussians) == answer.object.num_gaussians > 100
    np.testing.assert_allclose(answer.gaussians["position"].mean(0), centre(BOX_PIXEL), atol=0.05)
    np.testing.assert_allclose(answer.gaussians["rgb"].mean(0), np.array([200, 30, 30]) / 255, atol=0.05)
    assert len(np.unique(answer.gaussians["uid"])) == len(answer.gaussians)


def test_get_object_with_some_of_its_gaussians(planner: SemanticMap) -> None:
    answer = planner.get_object(by_label(planner)["lamp"], gaussians=True, max_gaussians=10)
    assert len(answer.gaussians) == 10


def test_get_object_without_gaussians(planner: SemanticMap) -> None:
    assert len(planner.get_object(by_label(planner)["lamp"]).gaussians) == 0


def test_query_pixel(planner: SemanticMap) -> None:
    answer = planner.query_pixel(*LAMP_PIXEL)
    assert answer.object.label == "lamp"
    assert answer.confidence > 0.5
    np.testing.assert_allclose(answer.point, centre(LAMP_PIXEL), atol=0.03)


def test_query_pixel_of_an_earlier_frame(planner: SemanticMap, rig: Rig) -> None:
    stamp = conversions.to_ns(rig.received["semantic/image"][-1].header.stamp)
    rig.answer(rig.send())
    assert planner.query_pixel(*BOX_PIXEL, stamp_ns=stamp).image_stamp_ns == stamp
    with pytest.raises(InvalidRequestError, match=r"stamp 0.000017 s is not that of an answered frame"):
        planner.query_pixel(*BOX_PIXEL, stamp_ns=17_000)


def test_query_pixel_without_anybody_listening(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.map_scene()
    rig.node.destroy_subscription(next(s for s in rig.node.subscriptions if s.topic_name.endswith("semantic/image")))
    rig.until(lambda: not rig.mapper.answerers[""].wanted, "end of the subscription")
    mapped = rig.mapper.statistics.frames_mapped
    stamp = rig.send()
    rig.until(lambda: rig.mapper.statistics.frames_mapped > mapped, "the frame")
    with rig.planner() as planner:
        answer = planner.query_pixel(*BOX_PIXEL)
        assert (answer.object.label, answer.image_stamp_ns) == ("box", stamp)


def test_query_region(planner: SemanticMap) -> None:
    answer = planner.query_box(centre(BOX_PIXEL), (0.2, 0.2, 0.2), gaussians=True)
    assert [obj.label for obj in answer.objects] == ["box"]
    assert answer.gaussians_inside[0] == (np.abs(answer.gaussians["position"] - centre(BOX_PIXEL)) <= 0.1).all(1).sum() > 0
    both = planner.query_sphere((0, 0, 2), 3.0)
    assert {obj.label for obj in both.objects} == {"box", "lamp"}
    assert [obj.label for obj in planner.query_sphere((0, 0, 2), 3.0, classes=["lamp"]).objects] == ["lamp"]
    assert len(planner.query_sphere((50, 0, 0), 1.0).objects) == 0


def test_query_region_by_the_share_inside(planner: SemanticMap) -> None:
    half = centre(BOX_PIXEL) + [-0.2, 0, 0]
    assert len(planner.query_box(half, (0.4, 2, 2)).objects) == 1
    assert len(planner.query_box(half, (0.4, 2, 2), min_inside=0.9).objects) == 0


def test_query_region_in_another_frame(planner: SemanticMap) -> None:
    found = planner.query_box(centre(LAMP_PIXEL), (0.1, 0.1, 0.1), frame_id="camera")  # stands in the map's origin
    assert [obj.label for obj in found.objects] == ["lamp"]
    with pytest.raises(InvalidRequestError, match="frame_id 'nowhere'.*unknown"):
        planner.query_sphere((0, 0, 0), 1.0, frame_id="nowhere")


def test_query_region_turned(planner: SemanticMap) -> None:
    long_in_x = (4.0, 0.02, 0.4)
    assert len(planner.query_box((0, 0, 1.8), long_in_x).objects) == 2
    turned = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))  # 90 degrees about z
    assert len(planner.query_box((0, 0, 1.8), long_in_x, turned).objects) == 0


def test_render_view(planner: SemanticMap) -> None:
    view = planner.render_view(
        np.eye(4), semantic=True, semantic_color=True, instance=True, confidence=True, depth=True
    )
    u, v = BOX_PIXEL
    assert view.semantic[v, u] == 3
    assert view.object_ids[view.instance[v, u]] == by_label(planner)["box"]
    assert view.confidence[v, u] > 128
    assert view.depth[v, u] == pytest.approx(1.8, abs=0.03)
    np.testing.assert_allclose(view.color[v, u], [200, 30, 30], atol=40)  # one keyframe, not optimised
    assert view.semantic[WALL_PIXEL[::-1]] == 0


def test_render_view_from_elsewhere_with_another_camera(planner: SemanticMap) -> None:
    camera = Camera(80, 60, 65.0, 65.0, 39.5, 29.5)
    pose = np.eye(4)
    pose[:3, 3] = centre(LAMP_PIXEL) - [0, 0, 1.0]
    view = planner.render_view(pose, camera, color=False, semantic=True, depth=True)
    assert view.color is None
    assert view.semantic.shape == (60, 80)
    assert view.semantic[30, 40] == 7
    assert view.depth[30, 40] == pytest.approx(1.0, abs=0.03)


def test_render_view_refuses(planner: SemanticMap) -> None:
    with pytest.raises(InvalidRequestError, match="include_"):
        planner.render_view(np.eye(4), color=False)
    with pytest.raises(InvalidRequestError, match="100000x100000"):
        planner.render_view(np.eye(4), Camera(100_000, 100_000, 1.0, 1.0, 0.0, 0.0))


def test_save_and_load(planner: SemanticMap, rig: Rig, tmp_path: Path) -> None:
    before = planner.list_objects()
    ids = by_label(planner)
    folder = planner.save(tmp_path / "map")
    planner.reset()
    assert len(planner.list_objects()) == 0
    assert planner.load(folder) == sum(obj.num_gaussians for obj in before) + planner_void(rig)
    assert by_label(planner) == ids
    assert planner.render_view(np.eye(4), CAMERA, color=False, semantic=True).semantic[BOX_PIXEL[::-1]] == 3
    rig.map_scene()
    assert by_label(planner) == ids  # seen again, not opened anew


def planner_void(rig: Rig) -> int:
    return int((rig.mapper.mapper.gaussians["object"] == 0).sum())


def test_reset_does_not_give_ids_again(planner: SemanticMap, rig: Rig) -> None:
    old = set(by_label(planner).values())
    planner.reset()
    rig.map_scene()
    assert not old & set(by_label(planner).values())
    with pytest.raises(UnknownObjectError):
        planner.get_object(min(old))


def test_map_of_another_frame_is_refused(planner: SemanticMap, rig: Rig, tmp_path: Path) -> None:
    rig.mapper.inputs._parameters.global_frame = "elsewhere"
    folder = planner.save(tmp_path / "map")
    rig.mapper.inputs._parameters.global_frame = ""
    with pytest.raises(MapFrameMismatchError, match="frame 'elsewhere', this node maps in 'map'"):
        planner.load(folder)
    assert len(planner.list_objects()) == 2


def test_an_unexpected_failure_is_an_answer(planner: SemanticMap, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rig.mapper.rasterizer, "render_ids", lambda *_: 1 / 0)
        with pytest.raises(GsSemanticError, match="render_view: ZeroDivisionError") as caught:
            planner.render_view(np.eye(4), semantic=True)
    assert caught.value.code == ErrorCode.UNKNOWN
    assert planner.render_view(np.eye(4), semantic=True).semantic is not None


def test_calls_from_many_threads(planner: SemanticMap) -> None:
    ids, found = by_label(planner), []

    def ask(label: str) -> None:
        for _ in range(10):
            found.append((label, planner.get_object(ids[label]).object.label))

    threads = [threading.Thread(target=ask, args=(label,)) for label in ("box", "lamp", "box")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30
    assert all(asked == answered for asked, answered in found)


def test_no_mapper_is_told(ros_domain_id: int) -> None:
    told = pytest.raises(GsSemanticError, match="/nobody/mapper/list_objects: no such service.*ROS_DOMAIN_ID")
    with SemanticMap("/nobody/mapper", timeout_s=0.2) as planner, told:
        planner.list_objects()


@pytest.mark.parametrize("parameters, words", [
    ({"localization_map": "floor 3"}, "made in localisation map 'floor 2', this node's is 'floor 3'"),
    ({"localization_map": "floor 2", "anchor_frame": "marker"}, "anchored at frame 'dock', this node at 'marker'"),
    ({"localization_map": "", "anchor_frame": "dock"}, "anchor 'dock' is 0.50 m and 0.0 degrees from where it was"),
])  # fmt: skip
def test_a_map_whose_anchor_does_not_fit_is_refused_by_name(
    planner: SemanticMap, rig: Rig, tmp_path: Path, parameters: dict[str, str], words: str
) -> None:
    now = rig.mapper.parameters
    now.localization_map, now.anchor_frame = "floor 2", "dock"
    rig.place("dock", (1.0, 2.0, 0.0))
    folder = planner.save(tmp_path / "map")
    map_id = rig.mapper.mapper.gaussians.map_id
    planner.load(folder)  # nothing has changed: it fits
    rig.place("dock", (1.5, 2.0, 0.0))
    now.localization_map, now.anchor_frame = parameters.get("localization_map", ""), parameters.get("anchor_frame", "")
    with pytest.raises(MapFrameMismatchError, match=f"map {map_id} .*{words}"):
        planner.load(folder)
    assert len(planner.list_objects()) == 2, "the present map stays"


def test_a_map_without_an_anchor_is_refused_where_one_is_asked_for(planner: SemanticMap, rig: Rig, tmp_path: Path) -> None:
    folder = planner.save(tmp_path / "map")
    rig.mapper.parameters.localization_map = "floor 2"
    with pytest.raises(MapFrameMismatchError, match="has no anchor"):
        planner.load(folder)


def test_a_corrupt_or_foreign_folder_is_refused_and_nothing_lost(planner: SemanticMap, tmp_path: Path) -> None:
    folder = planner.save(tmp_path / "map")
    (folder / "map.json").write_text("{")
    with pytest.raises(MapFormatError, match="map.json: is not JSON"):
        planner.load(folder)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("sun")
    with pytest.raises(MapFormatError, match="not a map folder"):
        planner.load(tmp_path / "photos")
    with pytest.raises(StorageError, match="not a map"):
        planner.save(tmp_path / "photos")
    assert len(planner.list_objects()) == 2


def test_saving_while_mapping_goes_on(planner: SemanticMap, rig: Rig, tmp_path: Path) -> None:
    mapped = rig.mapper.statistics.frames_mapped
    for number in range(4):
        rig.send()
        planner.save(tmp_path / f"map{number}")
    rig.until(lambda: rig.mapper.statistics.frames_mapped >= mapped + 1, "mapping")
    rig.settled()
    for number in range(4):
        gaussians, objects = load_map(tmp_path / f"map{number}")
        assert len(gaussians) > 0 and {objects.class_name(obj) for obj in objects.present()} == {"box", "lamp"}
