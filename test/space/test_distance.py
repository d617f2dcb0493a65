"""Distances to a mapped room against its exact geometry, and what is known of unseen space."""

from __future__ import annotations

import numpy as np
import pytest
from mapped_room import STEP, box_distance, cameras_of
from scene import BOXES, ROOM, camera, frame

from gs_semantic.errors import InvalidRequestError
from gs_semantic.space.distance import DistanceField
from gs_semantic.space.seen import SeenSpace


def room_distance(points: np.ndarray, without: int = 0) -> np.ndarray:
    """Signed distance to the scene: inside the room's walls, outside the boxes."""
    distances = [-box_distance(points, *ROOM)]
    distances += [box_distance(points, low, high) for low, high, instance, _ in BOXES if instance != without]
    return np.min(distances, axis=0)


def seen_points(count: int = 4000) -> np.ndarray:
    """Points in view of the first camera, in free space within 1 m before what it sees."""
    rng, view = np.random.default_rng(0), frame(camera(2 * STEP))
    v, u = rng.integers(10, 110, count), rng.integers(10, 150, count)
    depth = np.maximum(view.depth[v, u] - rng.uniform(0.02, 1.0, count), 0.3)
    local = np.column_stack([(u - view.camera.cx) / view.camera.fx, (v - view.camera.cy) / view.camera.fy, np.ones(count)])
    return local * depth[:, None] @ view.camera.T_world_camera[:3, :3].T + view.camera.T_world_camera[:3, 3]


def test_distances_in_view_are_those_of_the_scene(mapped) -> None:
    points = seen_points()
    found = mapped[1].query(points)
    truth = room_distance(points)
    near = (truth > 0) & (truth < 0.5)
    assert np.median(np.abs(found.distance - truth)[near]) <= 0.015
    assert (found.distance[near] > -0.02).mean() > 0.99, "free space is not said to be inside"
    assert found.unknown[near].mean() < 0.05


def test_gradients_point_away_from_what_is_nearest(mapped) -> None:
    points = seen_points(500)
    found = mapped[1].query(points)
    np.testing.assert_allclose(np.linalg.norm(found.gradient, axis=1), 1, atol=1e-3)
    ahead = mapped[1].query(points + 0.01 * found.gradient)
    assert np.median(ahead.distance - found.distance) == pytest.approx(0.01, abs=0.003)


def test_behind_a_surface_is_inside_and_farther_behind_unknown(mapped) -> None:
    low, high, *_ = BOXES[0]
    face = np.array([low[0], (low[1] + high[1]) / 2, 0.5])  # the side that the cameras see
    before, behind, far_behind = (mapped[1].query(face + [x, 0, 0]) for x in (-0.05, 0.05, 0.3))
    assert before.distance[0] == pytest.approx(0.05, abs=0.02) and not before.unknown[0]
    assert behind.distance[0] == pytest.approx(-0.05, abs=0.03)
    assert far_behind.unknown[0]
    assert mapped[1].query(np.array([[9.0, 9.0, 9.0]])).unknown[0]


def test_an_object_can_be_left_out_or_asked_for_alone(mapped) -> None:
    mapper, field = mapped
    low, high, *_ = BOXES[0]
    above = np.array([[(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, high[2] + 0.05]])
    [slot] = field.query(above).slot
    assert mapper.objects.by_slot(int(slot)).class_id == 2
    assert field.query(above).distance[0] == pytest.approx(0.05, abs=0.02)
    assert field.query(above, without=[slot]).distance[0] > 0.2
    assert field.query(above + [0, 0, 1.0], only=[slot]).distance[0] == pytest.approx(1.05, abs=0.03)
    assert np.isinf(field.query(above, only=[60000]).distance[0])


def test_spheres(mapped) -> None:
    points = seen_points(50)
    np.testing.assert_allclose(mapped[1].query(points, 0.1).distance, mapped[1].query(points).distance - 0.1, atol=1e-6)


def test_paths(mapped) -> None:
    low, high, *_ = BOXES[0]
    y = (low[1] + high[1]) / 2
    before, beyond = np.array([low[0] - 0.6, y, 0.5]), np.array([high[0] + 0.2, y, 0.5])
    free = mapped[1].check_path(np.array([before, before + [0.2, 0, 0]]), 0.1)
    assert free.result == "free" and free.clearance == pytest.approx(0.3, abs=0.04)
    blocked = mapped[1].check_path(np.array([before, beyond]), 0.1)
    assert blocked.result == "blocked" and blocked.travelled == pytest.approx(0.5, abs=0.08)
    assert blocked.slot > 0
    twice = mapped[1].check_path(np.array([before, before, beyond]), 0.1)  # plans often repeat where they begin
    assert (twice.result, twice.travelled) == (blocked.result, blocked.travelled)
    unseen = mapped[1].check_path(np.array([[8.0, 8.0, 8.0], [9.0, 8.0, 8.0]]), 0.1)
    assert unseen.result == "unseen" and unseen.travelled == 0


@pytest.mark.parametrize("ask", [
    lambda field: field.query(np.array([[np.nan, 0, 0]])),
    lambda field: field.query(np.zeros((1, 3)), -1.0),
    lambda field: field.query(np.zeros((2_000_000, 3), np.float32)),
    lambda field: field.check_path(np.zeros((0, 3)), 0.1),
    lambda field: field.check_path(np.zeros((2, 3)), 0.0),
])  # fmt: skip
def test_requests_that_mean_nothing_are_refused(mapped, ask) -> None:
    with pytest.raises(InvalidRequestError):
        ask(mapped[1])


def test_a_path_may_not_be_endless(mapped) -> None:
    with pytest.raises(InvalidRequestError, match="path: 1000000 m long"):
        mapped[1].check_path(np.array([[0, 0, 1.0], [1e6, 0, 1.0]]), 0.1)


def test_space_is_known_in_the_order_of_time_that_there_is(mapped) -> None:
    mapper, _ = mapped
    seen, rounds = SeenSpace(), 0
    shares = []
    points = seen_points(500)
    while not seen.update(mapper.gaussians, cameras_of(mapper), mapper.rasterizer, budget_s=0.0):
        rounds += 1
        assert rounds < 1000
        shares.append(seen.known(points).mean())
    assert shares[0] > 0, "each call does something, however little time it has"
    assert (np.diff(shares) >= 0).all() and seen.known(points).mean() > 0.95


def test_what_was_taken_away_is_seen_again_through(mapped) -> None:
    mapper, _ = mapped
    seen = SeenSpace()
    seen.update(mapper.gaussians, cameras_of(mapper), mapper.rasterizer)
    low, high, *_ = BOXES[0]
    face = np.array([[low[0] + 0.03, (low[1] + high[1]) / 2, 0.35]])
    assert seen.known(face) and seen.at(face)[0] < 0
    box = mapper.objects.by_slot(int(DistanceField(mapper.gaussians).query(face).slot[0]))
    without = mapper.gaussians.snapshot()
    without.keep(without["object"] != box.slot)
    assert seen.update(without, cameras_of(mapper), mapper.rasterizer, [(low - 0.05, high + 0.05)])
    assert not (seen.known(face) and seen.at(face)[0] < 0)


def test_a_corrected_pose_starts_anew(mapped) -> None:
    mapper, _ = mapped
    seen, cameras = SeenSpace(), cameras_of(mapper)
    seen.update(mapper.gaussians, cameras, mapper.rasterizer)
    shift = np.eye(4)
    shift[0, 3] = 100.0
    elsewhere = {key: view.at(shift @ view.T_world_camera) for key, view in cameras.items()}
    seen.update(mapper.gaussians, elsewhere, mapper.rasterizer)
    assert not seen.known(seen_points(100)).any(), "from there, the map is not in view"
