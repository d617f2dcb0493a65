"""Queries of planners beyond those of test_services: regions, nearest, rays, clicks, events, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PointStamped, PoseStamped
from gs_semantic.msg import ObjectEvent, ObjectList
from nav_msgs.msg import OccupancyGrid
from rig import BOX_PIXEL, CAMERA, LAMP_PIXEL, WALL_PIXEL, Rig

from gs_semantic.client import AsyncSemanticMap, SemanticMap
from gs_semantic.errors import (
    EmptyMapError,
    GsSemanticError,
    InvalidRequestError,
    NothingThereError,
    UnknownObjectError,
)
from gs_semantic.gaussians.ply import load_ply
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.region_messages import to_vector
from gs_semantic.objects.packing import unpack_objects
from gs_semantic.objects.regions import BoxShape, FrustumShape, PrismShape, Region, SphereShape
from gs_semantic.objects.registry import ObjectState
from gs_semantic.space.occupancy import Inflation


def centre(pixel: tuple[int, int], depth: float = 1.8) -> np.ndarray:
    """Point in the map frame (the camera stands in its origin)."""
    return np.array([(pixel[0] - CAMERA.cx) / CAMERA.fx, (pixel[1] - CAMERA.cy) / CAMERA.fy, 1.0]) * depth


@pytest.fixture
def planner(rig: Rig) -> Iterator[SemanticMap]:
    rig.listen("object_events", ObjectEvent, qos.EVENTS)
    rig.listen("selected_object", ObjectList, qos.LATCHED_INPUT)
    rig.map_scene()
    rig.settled()
    with rig.planner() as planner:
        yield planner


def labels(objects) -> list[str]:
    return [obj.label for obj in objects]


def test_regions_of_every_shape(planner: SemanticMap) -> None:
    x, y, z = centre(BOX_PIXEL)
    corners = np.array([[x - 0.35, y - 0.35], [x + 0.35, y - 0.35], [x + 0.35, y + 0.35], [x - 0.35, y + 0.35]])
    prism = Region(PrismShape(corners, z - 0.1, 0.15))
    assert labels(planner.query_region(prism, min_inside=0.5).objects) == ["box"]
    left_half = Region(FrustumShape(0.5, 0.5, 0.2, 3.0), turned_about_y(-0.3))
    assert labels(planner.query_region(left_half, min_inside=0.5).objects) == ["box"]
    assert labels(planner.list_objects(regions=[prism])) == ["box"]
    there = np.eye(4)
    there[:3, 3] = centre(LAMP_PIXEL)
    assert labels(planner.list_objects(regions=[prism, Region(SphereShape(0.2), there)])) == ["box", "lamp"]
    assert labels(planner.list_objects(regions=[Region(BoxShape(np.ones(3)))])) == []


def turned_about_y(angle: float) -> np.ndarray:
    pose = np.eye(4)
    pose[[0, 0, 2, 2], [0, 2, 0, 2]] = [np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)]
    return pose


def test_states_are_a_filter(planner: SemanticMap, rig: Rig) -> None:
    assert len(planner.list_objects(states=[ObjectState.CONFIRMED])) == 2
    assert len(planner.list_objects(states=[ObjectState.STALE, ObjectState.REMOVED])) == 0
    with pytest.raises(InvalidRequestError, match="states holds 9"):
        planner.list_objects(states=[9])


def test_nearest(planner: SemanticMap) -> None:
    answer = planner.query_nearest(centre(LAMP_PIXEL))
    assert labels(answer.objects) == ["lamp", "box"]
    assert answer.distances[0] < 0.03 < answer.distances[1] < 1.0
    assert labels(planner.query_nearest(centre(LAMP_PIXEL), max_distance=0.2).objects) == ["lamp"]
    assert labels(planner.query_nearest(centre(LAMP_PIXEL), max_results=1, classes=["box"]).objects) == ["box"]


def test_ray(planner: SemanticMap) -> None:
    answer = planner.query_ray((0, 0, 0), centre(BOX_PIXEL))
    assert answer.object.label == "box"
    np.testing.assert_allclose(answer.point, centre(BOX_PIXEL), atol=0.03)
    assert answer.distance == pytest.approx(np.linalg.norm(centre(BOX_PIXEL)), abs=0.03)
    with pytest.raises(NothingThereError, match="no object where the ray"):
        planner.query_ray((0, 0, 0), centre(WALL_PIXEL))
    with pytest.raises(NothingThereError, match="meets nothing"):
        planner.query_ray((0, 0, 0), centre(BOX_PIXEL), max_distance=1.0)
    with pytest.raises(NothingThereError, match="meets nothing"):
        planner.query_ray((0, 0, 0), (0, 0, -1))


def test_find(planner: SemanticMap) -> None:
    assert planner.find("box").label == "box"
    assert planner.find(" Lamp ", near=(0, 0, 0)).label == "lamp"
    pose = PoseStamped(header=conversions.make_header(0, "camera"))
    pose.pose.position.x = 5.0
    assert planner.find("lamp", near=pose).label == "lamp"
    assert planner.find(planner.find("box").id).label == "box"
    with pytest.raises(UnknownObjectError, match="no object is called 'mug'; there are: box, lamp"):
        planner.find("mug")
    with pytest.raises(UnknownObjectError):
        planner.find("box", near=(0, 0, 50), max_distance=1.0)


def test_text(planner: SemanticMap) -> None:
    answer = planner.query_text("the cardboard box", heat=True)
    assert labels(answer.objects) == ["box"] and answer.scores[0] >= 0.8 and answer.matcher == "names"
    assert answer.heat[BOX_PIXEL[::-1]] > 100
    assert answer.heat[LAMP_PIXEL[::-1]] == answer.heat[WALL_PIXEL[::-1]] == 0
    assert labels(planner.query_text("a light").objects) == ["lamp"]
    with pytest.raises(NothingThereError, match="'guitar' is not found"):
        planner.query_text("guitar")
    with pytest.raises(NothingThereError):
        planner.query_text("light", negatives=["lamp"])
    with pytest.raises(InvalidRequestError, match="min_score"):
        planner.query_text("box", min_score=float("nan"))


def test_get_with_cloud_and_scores(planner: SemanticMap) -> None:
    answer = planner.get_object(planner.find("box").id, cloud=True)
    assert answer.object.alternatives[0] == (3, pytest.approx(1.0))
    assert answer.cloud.width * answer.cloud.height == answer.object.num_gaussians
    assert answer.object.first_seen_ns < answer.object.last_seen_ns
    assert len(answer.embedding) == 0 and len(answer.gaussians) == 0


def test_events_tell_what_was_created(planner: SemanticMap, rig: Rig) -> None:
    rig.until(lambda: len(rig.received["object_events"]) >= 2, "events")
    told = {(event.kind, event.label) for event in rig.received["object_events"]}
    assert told == {(ObjectEvent.CREATED, "box"), (ObjectEvent.CREATED, "lamp")}
    planner.reset()
    rig.until(lambda: len(rig.received["object_events"]) >= 4, "more events")
    assert {event.kind for event in rig.received["object_events"][2:]} == {ObjectEvent.REMOVED}


def test_a_clicked_point_selects(planner: SemanticMap, rig: Rig) -> None:
    clicks = rig.node.create_publisher(PointStamped, "/clicked_point", qos.CLICKS)
    rig.until(lambda: clicks.get_subscription_count() > 0, "the mapper's subscription")
    message = PointStamped(header=conversions.make_header(0, "map"), point=to_vector(PointStamped().point.__class__, centre(LAMP_PIXEL)))
    clicks.publish(message)
    rig.until(lambda: rig.received["selected_object"], "selection")
    [selected] = unpack_objects(rig.received["selected_object"][-1].data)
    assert selected.label == "lamp" and rig.mapper.selected == selected.id
    message.point.z = 0.3  # in the air
    clicks.publish(message)
    rig.until(lambda: len(rig.received["selected_object"]) > 1, "no selection")
    assert rig.received["selected_object"][-1].count == 0


def test_a_clicked_point_in_an_unknown_frame_is_told(planner: SemanticMap, rig: Rig) -> None:
    clicks = rig.node.create_publisher(PointStamped, "/clicked_point", qos.CLICKS)
    rig.until(lambda: clicks.get_subscription_count() > 0, "the mapper's subscription")
    clicks.publish(PointStamped(header=conversions.make_header(0, "nowhere")))
    rig.told("/clicked_point", "nowhere")


def test_unknown_ids_are_refused(planner: SemanticMap) -> None:
    with pytest.raises(UnknownObjectError, match="object 4711 is not in the map"):
        planner.get_object(4711)


def test_empty_text_is_refused(planner: SemanticMap) -> None:
    with pytest.raises(InvalidRequestError, match="text is empty"):
        planner.find("  ")
    with pytest.raises(InvalidRequestError, match="text is empty"):
        planner.query_text("  ")


def test_nan_is_refused(planner: SemanticMap) -> None:
    nan = float("nan")
    with pytest.raises(InvalidRequestError, match="point is .*not finite"):
        planner.query_nearest((nan, 0, 0))
    with pytest.raises(InvalidRequestError, match="origin is .*not finite"):
        planner.query_ray((0, nan, 0), (0, 0, 1))
    with pytest.raises(InvalidRequestError, match="direction"):
        planner.query_ray((0, 0, 0), (0, 0, nan))
    with pytest.raises(InvalidRequestError, match="max_distance"):
        planner.query_nearest((0, 0, 0), max_distance=nan)
    with pytest.raises(InvalidRequestError, match="region"):
        planner.query_sphere((nan, 0, 0), 1.0)
    with pytest.raises(InvalidRequestError, match="min_confidence"):
        planner.list_objects(min_confidence=nan)


def test_degenerate_regions_are_refused_by_the_mapper(planner: SemanticMap) -> None:
    from gs_semantic.msg import Region as RegionMsg
    from gs_semantic.srv import QueryRegion

    for shape, words in ((0, "three positive"), (1, "positive"), (2, "0 corners"), (3, "horizontal_fov"), (7, "shape is 7")):
        with pytest.raises(InvalidRequestError, match=words):
            planner._call("query_region", QueryRegion, QueryRegion.Request(region=RegionMsg(shape=shape)))
    with pytest.raises(InvalidRequestError, match="direction"):
        planner.query_ray((0, 0, 0), (0, 0, 0))


def test_frames_unknown_to_tf_are_refused(planner: SemanticMap) -> None:
    for ask in (
        lambda: planner.query_nearest((0, 0, 0), frame_id="nowhere"),
        lambda: planner.query_ray((0, 0, 0), (0, 0, 1), frame_id="nowhere"),
        lambda: planner.query_region(Region(SphereShape(1.0)), frame_id="nowhere"),
    ):
        with pytest.raises(InvalidRequestError, match="frame_id 'nowhere'.*unknown"):
            ask()


def test_too_large_requests_are_bounded(planner: SemanticMap) -> None:
    answer = planner.query_sphere((0, 0, 2), 50.0, gaussians=True, max_gaussians=100, max_results=1)
    assert len(answer.gaussians) == 100 and len(answer.objects) == 1 and answer.objects.total == 2


def test_an_empty_map_is_told(rig: Rig) -> None:
    with rig.planner() as planner:
        assert len(planner.query_nearest((0, 0, 0)).objects) == 0
        with pytest.raises(EmptyMapError):
            planner.query_ray((0, 0, 0), (0, 0, 1))


def test_asyncio_and_a_client_in_the_users_own_context(planner: SemanticMap, rig: Rig) -> None:
    own = rclpy.create_node("own", context=rig.context)

    async def ask() -> tuple:
        async with AsyncSemanticMap(own, mapper="/rig/mapper", timeout_s=120) as semantic_map:
            return await asyncio.gather(
                semantic_map.find("lamp"), semantic_map.list_objects(), semantic_map.query_nearest((0, 0, 2))
            )

    lamp, objects, nearest = asyncio.run(ask())
    assert lamp.label == "lamp" and len(objects) == 2 and len(nearest.objects) == 2
    assert rig.context.ok(), "closing the client leaves the user's context alone"
    own.destroy_node()


def test_distances(planner: SemanticMap) -> None:
    box = planner.find("box")
    before = np.array([centre(BOX_PIXEL) - [0, 0, 0.5], [0, 0, -5.0]])
    found = planner.query_distance(before, gradients=True)
    assert found.distances[0] == pytest.approx(0.5, abs=0.03) and found.unknown.tolist() == [False, True]
    np.testing.assert_allclose(found.gradients[0], [0, 0, -1], atol=0.15)
    assert planner.query_distance(before, 0.2).distances[0] == pytest.approx(0.3, abs=0.03)
    assert planner.query_distance(before, without=[box.id]).distances[0] > 0.55
    assert planner.query_distance(before, only=[planner.find("lamp").id]).distances[0] > 0.6
    with pytest.raises(UnknownObjectError):
        planner.query_distance(before, without=[4711])
    with pytest.raises(InvalidRequestError, match="NaN"):
        planner.query_distance(np.full((1, 3), np.nan))
    with pytest.raises(InvalidRequestError, match="radii"):
        planner.query_distance(before, np.zeros(3))


def test_paths(planner: SemanticMap) -> None:
    towards = centre(BOX_PIXEL)
    assert planner.check_path([towards * 0.5, towards * 0.7], 0.1).result == "free"
    blocked = planner.check_path([towards * 0.5, towards * 1.05], 0.1)
    assert blocked.result == "blocked" and blocked.object_id == planner.find("box").id
    assert planner.check_path([[5.0, 0, 0], [6.0, 0, 0]], 0.1).result == "unseen"
    with pytest.raises(InvalidRequestError, match="radius"):
        planner.check_path([towards], 0.0)


def test_what_was_known_is_known_after_loading(planner: SemanticMap, tmp_path) -> None:
    before = np.array([centre(BOX_PIXEL) - [0, 0, 0.5], [0, 0, -5.0]])
    assert planner.query_distance(before).unknown.tolist() == [False, True]
    planner.save(tmp_path / "map")
    planner.reset()
    planner.load(tmp_path / "map")
    found = planner.query_distance(before)
    assert found.unknown.tolist() == [False, True] and found.distances[0] == pytest.approx(0.5, abs=0.03)


def test_grids(planner: SemanticMap, rig: Rig) -> None:
    """The camera looks along z of the map, so that the band of "heights" is a slab of depth here."""
    heights, point = (1.0, 1.9), centre(BOX_PIXEL)
    grid = planner.get_grid(0.05, heights)
    assert set(np.unique(grid.cells)) <= {-1, 0, 100} and (grid.cells == 100).any() and grid.revision
    row, column = ((point[:2] - grid.origin) / grid.resolution).astype(int)[::-1]
    assert (grid.cells[row - 1 : row + 2, column - 1 : column + 2] == 100).any()
    box = planner.find("box")
    without = planner.get_grid(0.05, heights, without=[box.id])
    assert (without.cells == 100).sum() < (grid.cells == 100).sum()
    inflation = Inflation(0.1, 0.2, 5.0, {box.class_id: 0.5})
    part = (point[:2] - 0.3, point[:2] + 0.3)
    geometry = rig.mapper.map_services.geometry
    rig.until(lambda: planner.get_grid(0.05, heights).revision and geometry._built.complete, "all views looked through")
    costs = planner.get_grid(0.05, heights, part, inflation)
    assert costs.cells.shape in ((12, 12), (13, 13), (12, 13), (13, 12)) and (costs.cells == 99).any()
    assert (costs.cells >= planner.get_grid(0.05, heights, part).cells).all()


def test_a_failure_in_the_background_is_told(planner: SemanticMap, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what is brought up to date in the background: its errors go to who asks, and to /diagnostics."""
    heard: list[DiagnosticStatus] = []
    rig.node.create_subscription(DiagnosticArray, "/diagnostics", lambda message: heard.extend(message.status), qos.DIAGNOSTICS)

    def broken(*_: object, **__: object) -> bool:
        raise RuntimeError("no more memory")

    def told() -> list[DiagnosticStatus]:
        return [part for part in list(heard) if part.name.endswith(": geometry")]

    with monkeypatch.context() as patch:
        patch.setattr("gs_semantic.nodes.geometry.SeenSpace.update", broken)
        with pytest.raises(GsSemanticError, match=r"not brought up to date.*no more memory.*\[geometry_old\]"):
            planner.query_distance([[0, 0, 0]])
        rig.until(lambda: any(part.level == DiagnosticStatus.ERROR for part in told()), "the error in /diagnostics")
        assert "no more memory" in next(part for part in told() if part.level == DiagnosticStatus.ERROR).message
    assert len(planner.query_distance([[0, 0, 0]]).distances) == 1  # it is tried again
    count = len(told())
    rig.until(lambda: len(told()) > count and told()[-1].level == DiagnosticStatus.OK, "the end of it")


def test_grids_of_a_map_that_is_gone_are_withdrawn(planner: SemanticMap, rig: Rig) -> None:
    rig.listen("occupancy", OccupancyGrid, qos.LATCHED_INPUT)
    rig.until(lambda: rig.received["occupancy"], "a grid")
    before = rig.received["occupancy"][-1]
    assert set(before.data) != {-1}
    planner.reset()
    rig.until(lambda: set(rig.received["occupancy"][-1].data) == {-1}, "the end of the old grid")
    after = rig.received["occupancy"][-1]
    assert len(after.data) == after.info.width * after.info.height > 0


def test_grids_that_mean_nothing_are_refused(planner: SemanticMap) -> None:
    for ask, said in (
        (lambda: planner.get_grid(5.0), "resolution"),
        (lambda: planner.get_grid(heights=(2.0, 1.0)), "heights"),
        (lambda: planner.get_grid(corners=((1.0, 1.0), (0.5, 0.5))), "corners"),
        (lambda: planner.get_grid(corners=((np.nan, 1.0), (2.0, 2.0))), "corners"),
        (lambda: planner.get_grid(0.01, corners=((0.0, 0.0), (1e4, 1e4))), "coarser"),
        (lambda: planner.get_grid(inflation=Inflation(by_class={1: 11.0}), without=[4711]), "4711"),
    ):
        with pytest.raises((InvalidRequestError, UnknownObjectError), match=said):
            ask()


def test_grids_as_topics(rig: Rig) -> None:
    for name in ("occupancy", "costmap"):
        rig.listen(name, OccupancyGrid, qos.LATCHED_INPUT)
    rig.map_scene()
    rig.until(lambda: rig.received["costmap"], "costmap")
    occupancy, costmap = rig.received["occupancy"][-1], rig.received["costmap"][-1]
    assert costmap.header.frame_id == "map" and len(costmap.data) == costmap.info.width * costmap.info.height
    assert occupancy.info.resolution == pytest.approx(0.05) and -1 in occupancy.data
    assert set(occupancy.data) <= {-1, 0, 100}


def test_the_map_without_an_object(planner: SemanticMap, tmp_path) -> None:
    box, lamp = planner.find("box"), planner.find("lamp")
    pose = np.eye(4)
    shown, left = (planner.render_view(pose, CAMERA, instance=True, depth=True, without=ids) for ids in ((), [box.id]))
    assert box.id in shown.object_ids.values() and box.id not in left.object_ids.values()
    assert lamp.id in left.object_ids.values()
    u, v = BOX_PIXEL
    assert shown.depth[v, u] == pytest.approx(1.8, abs=0.05) and left.depth[v, u] != pytest.approx(1.8, abs=0.05)
    with pytest.raises(UnknownObjectError):
        planner.render_view(pose, CAMERA, without=[4711])
    everything = planner.query_sphere((0, 0, 2), 50.0, gaussians=True).gaussians
    rest = load_ply(planner.extract(box.id, tmp_path / "rest.ply", "background"))
    assert len(rest) == len(everything) - box.num_gaussians
    bare = load_ply(planner.extract(0, tmp_path / "bare.ply", "background"))
    assert 0 < len(bare) < len(rest)
    with pytest.raises(InvalidRequestError, match="ply"):
        planner.extract(box.id, tmp_path / "rest.obj", "background")


def test_a_question_of_distance_waits_for_nobody_else(planner: SemanticMap, rig: Rig) -> None:
    """While a map is built anew in the background, answers come from what there is."""
    planner.query_distance([[0, 0, 1.0]])
    geometry = rig.mapper.map_services.geometry
    hold = threading.Event()
    geometry._builder.submit(hold.wait)
    try:
        rig.map_scene()
        rig.settled()
        revision = rig.mapper.view.revision
        found = planner.query_distance([[0, 0, 1.0]])
        assert found.revision <= revision and not found.unknown[0]
    finally:
        hold.set()


def test_the_first_question_of_distance_gives_up_in_time(planner: SemanticMap, rig: Rig, monkeypatch) -> None:
    monkeypatch.setattr("gs_semantic.nodes.geometry.PATIENCE_S", 0.1)
    hold = threading.Event()
    rig.mapper.map_services.geometry._builder.submit(hold.wait)
    try:
        with pytest.raises(GsSemanticError, match="ask again"):
            planner.query_distance([[0, 0, 1.0]])
    finally:
        hold.set()
    monkeypatch.setattr("gs_semantic.nodes.geometry.PATIENCE_S", 60.0)
    assert not planner.query_distance([[0, 0, 1.0]]).unknown[0]
