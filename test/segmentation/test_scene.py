"""What training sees of a recording: views, ids, first Gaussians, and ids tracked by the mapper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from training_room import RoomSequence, small_config, small_method, small_scene

from gs_semantic.data.sequence import SparsePoints
from gs_semantic.evaluation.boundary import near_borders
from gs_semantic.gaussians.map_folder import save_map
from gs_semantic.objects.registry import ObjectRegistry
from gs_semantic.segmentation.scene import first_gaussians, make_scene


def test_held_out_views_are_every_kth_those_set_apart_or_another_recording():
    config = small_config("grouping", hold_out_every=4)
    scene = small_scene(config)
    assert [view.name for view in scene.held_out] == ["room frame 3", "room frame 7"] and len(scene.train) == 8
    apart = RoomSequence()
    apart.test_indices = (0, 5)
    assert [view.name for view in small_scene(config, apart).held_out] == ["room frame 0", "room frame 5"]
    scene = make_scene(RoomSequence(), config, RoomSequence(3))
    assert len(scene.train) == 10 and len(scene.held_out) == 3


def test_classes_are_positions_of_the_ids():
    scene = small_scene(small_config("grouping"), RoomSequence(ids={1: 500, 2: 9}))
    assert scene.ids.tolist() == [0, 3, 4, 9, 500]
    view = scene.train[0]
    assert (scene.ids[scene.classes(0).numpy()].reshape(view.ids.shape) == view.ids).all()


def test_first_gaussians_lie_on_the_surfaces_at_most_as_many_as_wanted():
    config = small_config("plain", initial_gaussians=300)
    scene = small_scene(config)
    gaussians = first_gaussians(scene, config)
    assert 200 < len(gaussians) <= 300
    low, high = torch.tensor([-2.01, -2.01, -0.01]), torch.tensor([2.01, 2.01, 2.41])
    assert ((gaussians.means > low) & (gaussians.means < high)).all()
    assert torch.allclose(torch.sigmoid(gaussians.opacity_logits), torch.tensor(0.1))
    assert (first_gaussians(small_scene(config), config).means == gaussians.means).all()


def test_points_of_a_reconstruction_serve_where_there_is_no_depth():
    class WithPoints(RoomSequence):
        def sparse_points(self):
            xyz = small_scene(small_config("plain")).points.xyz[:50]
            return SparsePoints(xyz, np.full((len(xyz), 3), 200, np.uint8))

    scene = small_scene(small_config("plain"), WithPoints(without=("depth",)))
    assert len(scene.points.xyz) == 50
    assert len(small_scene(small_config("plain"), WithPoints()).points.xyz) > 50  # depth is better
    assert len(small_scene(small_config("plain", initial="points"), WithPoints()).points.xyz) == 50


def test_a_map_folder_is_a_start_whose_gaussians_keep_their_keys(tmp_path):
    config = small_config("plain")
    gaussians = first_gaussians(small_scene(config), config)
    gaussians.keep(torch.arange(len(gaussians)) % 2 == 1)
    save_map(tmp_path / "map", gaussians, ObjectRegistry())
    config = small_config("plain", initial="map", initial_map=str(tmp_path / "map"))
    again = first_gaussians(small_scene(config, RoomSequence(without=("depth",))), config)
    assert (again["uid"] == gaussians["uid"]).all() and (again.means == gaussians.means).all()
    assert again.next_uid == gaussians.next_uid


@pytest.mark.parametrize("masks", ["shuffled", "damaged"])
def test_tracked_ids_are_the_same_in_all_views(masks):
    scene = small_scene(small_config("grouping", ids="tracked", masks=masks, hold_out_every=10), RoomSequence(10))
    assert not scene.ids_are_true
    votes: dict[int, list[int]] = {}
    for view in scene.train:
        for key in (2, 4):  # large enough to be mapped at this size
            own = view.ids[(view.truth == key) & (view.ids > 0)]
            if len(own) > 20:
                votes.setdefault(key, []).append(int(np.bincount(own).argmax()))
    assert all(len(found) >= 3 for found in votes.values())
    steady = [np.bincount(found).max() / len(found) for found in votes.values()]
    assert min(steady) >= (0.99 if masks == "shuffled" else 0.6)
    assert set(scene.infos) >= set(scene.ids.tolist()) - {0}


def test_pixels_near_borders_are_those_with_another_id_close_by():
    ids = np.zeros((9, 12), np.int32)
    ids[:, 5:] = 7
    ids[2, 10] = 100_000
    expected = np.zeros(ids.shape, bool)
    expected[:, 4:6] = True
    expected[1:4, 9:12] = True
    assert (near_borders(ids) == expected).all()
    scene = small_scene(small_config("grouping"))
    assert scene.borders(0).tolist() == np.flatnonzero(near_borders(scene.train[0].ids, 2)).tolist()


@pytest.mark.parametrize("unlabelled", ["class", "ignore"])
def test_a_share_of_the_pixels_is_drawn_near_borders(unlabelled):
    method = small_method("grouping", identity_near_borders=0.75, identity_pixels=400, unlabelled=unlabelled)
    classes, near = method.scene.classes(0), set(method.scene.borders(0).tolist())
    pixels = method._pixels(0, classes)
    assert len(pixels) == 400 and set(pixels[100:].tolist()) <= near and not set(pixels[:100].tolist()) <= near
    assert unlabelled == "class" or (classes[pixels] > 0).all()
    assert math.isfinite(method.step(1, 0)["identity"])
