"""Level of detail: what a view gets of a large map looks like the whole map, and stays as it is where nothing has changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gs_semantic.data.opaque_room import OBJECTS, opaque_room, room_camera
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.gaussians import Camera
from gs_semantic.gaussians.camera import looking_along
from gs_semantic.mapping.view import MapView, pack_registry
from gs_semantic.objects.registry import ObjectRegistry, ObjectState
from gs_semantic.objects.splats import SPLAT, make_splats, map_of_splats
from gs_semantic.rendering import RasterSettings, create_rasterizer
from gs_semantic.viewer.detail import LEAST_PX, LEAST_SHARE, Detail, as_splats, full, leaves
from gs_semantic.viewer.pace import FEWEST, FIRST, FLUENT_S, SLOW_S, Pace

COUNT = 60_000
CAMERA = room_camera(160, 120)


@pytest.fixture(scope="module")
def room() -> np.ndarray:
    """Splats of a room of many equal discs: no choice among them covers what all of them cover."""
    shown, objects = opaque_room(COUNT), ObjectRegistry()
    for _ in range(OBJECTS):
        objects.open().state = ObjectState.CONFIRMED
    return make_splats(MapView.of(shown, objects, 0, pack_registry(objects)), np.arange(COUNT))


@pytest.fixture(scope="module")
def tree(room: np.ndarray) -> Detail:
    return Detail(room)


def drawn(splats: np.ndarray, camera: Camera = CAMERA) -> np.ndarray:
    with torch.no_grad():
        image = create_rasterizer("auto", RasterSettings(eps2d=0.3)).render(map_of_splats(splats)[0], camera).rgb
    return image.clamp(0, 1).numpy()


@pytest.mark.parametrize(("limit", "least_db"), [(3_000, 22.0), (12_000, 28.0), (30_000, 34.0)])
def test_a_part_looks_like_the_whole(room: np.ndarray, tree: Detail, limit: int, least_db: float) -> None:
    whole = np.round(drawn(room) * 255).astype(np.uint8)
    nodes = tree.cut(limit, CAMERA).nodes
    assert 0.9 * limit < len(nodes) <= limit
    quality = psnr(drawn(as_splats(nodes)), whole)
    # what a choice of single splats can do at best: those that lie in the view, widened to cover it, are not asked; these are
    chosen = room[np.random.default_rng(0).permutation(COUNT)[:limit]]
    assert quality > least_db and quality > psnr(drawn(chosen), whole) + 8


def test_what_is_behind_is_merged_first(tree: Detail) -> None:
    pose = CAMERA.T_world_camera.copy()
    pose[:3, 3] = [3.0, 2.5, 1.6]  # the middle of the room
    nodes = tree.cut(10_000, CAMERA.at(pose)).nodes
    behind = (nodes["position"] - pose[:3, 3]) @ pose[:3, 2] < 0
    side = np.sqrt(np.trace(full(nodes["covariance"]), axis1=1, axis2=2))
    assert 0 < behind.mean() < 0.2 and np.median(side[behind]) > 2 * np.median(side[~behind])
    whole = tree.cut(10_000).nodes  # of no view: evenly
    assert len(whole) > 9_000 and len(np.unique(whole["object_id"])) == OBJECTS + 1


def test_a_small_map_is_sent_as_it_is(room: np.ndarray) -> None:
    few = room[:500]
    nodes = Detail(few).cut(1_000, CAMERA).nodes
    assert sorted(map(tuple, nodes["position"].tolist())) == sorted(map(tuple, few["position"].tolist()))
    assert len(Detail(few[:0]).cut(10).nodes) == 0
    broken = few.copy()
    broken["position"][3, 1] = np.nan
    assert len(Detail(broken).cut(1_000).nodes) == 499


def test_objects_are_not_mixed_and_hidden_ones_take_no_place(tree: Detail) -> None:
    nodes = tree.cut(2_000, CAMERA).nodes
    assert set(nodes["object_id"]) == set(range(OBJECTS + 1))
    hidden = {0, 5}
    kept = tree.cut(2_000, CAMERA, hidden).nodes
    assert not set(kept["object_id"]) & hidden
    seen = (nodes["object_id"] > 0).sum()
    assert len(kept) > 1.5 * seen  # the room of the hidden ones went to the others


def test_colours_and_confidence_are_means(room: np.ndarray) -> None:
    confidence = np.arange(COUNT).astype(np.uint8)
    nodes = Detail(room, confidence).cut(600).nodes
    assert np.abs(nodes["rgb"].mean(0) - room["rgb"].mean(0)).max() < 25
    assert 100 < nodes["confidence"].mean() < 155


def test_what_has_not_changed_stays_as_it_was(room: np.ndarray, tree: Detail) -> None:
    """A live map: one corner is new, the rest of the cut must not differ by a bit, or all would be sent again."""
    before = tree.cut(10_000, CAMERA)
    corner = (room["position"] > [5.0, 4.0, -1.0]).all(axis=1)
    newer = room.copy()
    newer["rgb"][corner] = 255 - newer["rgb"][corner]
    newer = np.concatenate([newer, newer[corner][::3]])
    after = Detail(newer).cut(10_000, CAMERA, threshold=before.threshold)
    assert after.threshold == before.threshold
    known = {node.tobytes() for node in before.nodes}
    fresh = np.array([node.tobytes() not in known for node in after.nodes])
    assert 0 < fresh.sum() < 3 * corner.mean() * len(after.nodes)
    assert (after.nodes["position"][fresh] > [4.5, 3.5, -1.0]).all()
    # when it does not suit any more, another one is taken
    fewer = tree.cut(int(LEAST_SHARE * 10_000 / 2), CAMERA, threshold=before.threshold)
    assert fewer.threshold > before.threshold and len(fewer.nodes) <= 3_500


def test_covariances_are_those_of_the_gaussians() -> None:
    random = np.random.default_rng(1)
    splats = np.zeros(50, SPLAT)
    quats = random.normal(size=(50, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    splats["rotation"], splats["scale"] = np.round(quats * 32767), random.uniform(0.01, 0.2, (50, 3))
    splats["position"] = random.uniform(1.0, 3.0, (50, 3))
    rotation = Rotation.from_quat(np.roll(quats, -1, axis=1)).as_matrix()
    expected = np.einsum("nij,nj,nkj->nik", rotation, splats["scale"].astype(float) ** 2, rotation)
    nodes = leaves(splats)
    np.testing.assert_allclose(full(nodes["covariance"]), expected, atol=1e-5)
    np.testing.assert_allclose(full(leaves(as_splats(nodes))["covariance"]), expected, atol=1e-4)
    camera = Camera(160, 120, 140.0, 140.0, 79.5, 59.5, looking_along(np.zeros(3), np.ones(3) / np.sqrt(3)))
    tiny = splats.copy()
    tiny["scale"] = 1e-5
    side = np.sqrt(np.linalg.eigvalsh(full(leaves(tiny)["covariance"], tiny["position"], camera)))
    pixel = np.linalg.norm(splats["position"], axis=1) / camera.fx
    np.testing.assert_allclose(side, np.repeat(LEAST_PX * pixel[:, None], 3, 1), rtol=0.01)


def test_a_page_gets_as_much_as_its_browser_draws() -> None:
    fast = Pace(250_000)
    while not fast.settled:
        fast.note(FLUENT_S / 2)
    assert fast.allowed == 250_000 and fast.told == ""
    slow = Pace(250_000)
    slow.note(2 * SLOW_S)
    assert slow.allowed == FIRST // 2 and not slow.settled
    slow.note(FLUENT_S / 2)  # it was not fluent with more
    assert slow.allowed == FIRST // 2 and slow.settled and "so it gets no more" in slow.told
    stuck = Pace(250_000)
    while not stuck.settled:
        stuck.note(10 * SLOW_S)
    assert stuck.allowed == FEWEST
    assert Pace(100).allowed == 100
