"""What training says of input that it cannot use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_room import RoomSequence, small_config, small_method, small_scene

from gs_semantic.data.sequence import SparsePoints
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Frame
from gs_semantic.segmentation.scoring import score_views
from gs_semantic.segmentation.trainer import Trainer


class ChangedRoom(RoomSequence):
    """The room with frames changed by a function (frame, index) -> frame."""

    def __init__(self, change, frames: int = 10) -> None:
        super().__init__(frames)
        self.change = change

    def _read(self, index: int) -> Frame:
        return self.change(super()._read(index), index)


def test_ids_beyond_the_range_of_a_label_image_are_trained_like_others():
    method = small_method("grouping", RoomSequence(ids={2: 256, 3: 65_536, 4: 2**31 - 1}))
    assert method.scene.ids.tolist() == [0, 1, 256, 65_536, 2**31 - 1]
    assert np.isfinite(Trainer(method).run().metrics["miou"])


def test_negative_ids_are_named():
    with pytest.raises(InvalidInputError, match="room frame 0: the id image has negative ids"):
        small_scene(small_config("grouping"), RoomSequence(ids={2: -5}))


def test_a_recording_without_labels_is_refused_by_methods_that_lift_them():
    scene = small_scene(small_config("grouping"), RoomSequence(without=("instances",)))
    from gs_semantic.segmentation.registry import method_class

    with pytest.raises(InvalidInputError, match="none of the views to train on has labels; grouping lifts id images"):
        method_class("grouping")(small_config("grouping"), scene)
    result = Trainer(method_class("plain")(small_config("plain"), scene)).run()
    assert "miou" not in result.metrics and result.metrics["psnr_db"] > 0


def test_views_without_labels_train_colour_only():
    def unlabelled(frame: Frame, index: int) -> Frame:
        return replace(frame, instances=None, masks={}) if index % 2 else frame

    method = small_method("grouping", ChangedRoom(unlabelled))
    labelled = [view.ids is not None for view in method.scene.train]
    assert any(labelled) and not all(labelled)
    assert set(method.step(1, labelled.index(False))) == {"colour"}
    assert "identity" in method.step(2, labelled.index(True))


def test_an_image_without_a_single_label_counts_as_unlabelled():
    def blank(frame: Frame, index: int) -> Frame:
        return replace(frame, instances=np.zeros_like(frame.instances), masks={}) if index == 3 else frame

    method = small_method("grouping", ChangedRoom(blank))
    assert method.scene.train[3].ids is None


@pytest.mark.parametrize("frames", [1, 2])
def test_one_view_is_not_enough(frames):
    with pytest.raises(InvalidInputError, match="at least 2 are needed"):
        small_scene(small_config("plain", hold_out_every=2), RoomSequence(frames))


def test_views_that_see_nothing_of_the_scene_are_named():
    class Elsewhere(RoomSequence):
        has_sparse = True

        def sparse_points(self):
            return SparsePoints(np.random.default_rng(0).normal(500, 1, (50, 3)), np.zeros((50, 3), np.uint8))

    with pytest.raises(InvalidInputError, match="poses and points do not belong together"):
        small_scene(small_config("plain", initial="points"), Elsewhere())


def test_a_view_without_overlap_is_left_out_and_said():
    def turned(frame: Frame, index: int) -> Frame:
        if index != 4:
            return frame
        pose = frame.camera.T_world_camera.copy()
        pose[:3, 3] += 1000
        depth = np.zeros_like(frame.depth)
        return replace(frame, camera=frame.camera.at(pose), depth=depth)

    scene = small_scene(small_config("plain"), ChangedRoom(turned))
    assert len(scene.train) == 8
    assert scene.warnings == ["1 views see none of the first points and are left out, first room frame 4"]


def test_held_out_views_without_overlap_are_said():
    def turned(frame: Frame, index: int) -> Frame:
        pose = frame.camera.T_world_camera.copy()
        pose[:3, 3] += 1000 * (index == 7)
        return replace(frame, camera=frame.camera.at(pose))

    scene = small_scene(small_config("plain"), ChangedRoom(turned))
    assert scene.warnings == ["1 held-out views do not overlap with the training views, first room frame 7"]


def test_classes_absent_in_training_score_zero_and_those_absent_in_the_truth_do_not_count():
    method = small_method("grouping", iterations=200, evaluate_every=200)
    Trainer(method).run()
    held_out = method.scene.held_out
    whole = score_views(method, held_out)["miou"]
    ids = held_out[0].ids
    renamed = [replace(held_out[0], ids=np.where(ids == 4, 99, ids))]  # 99 was never trained, 4 is not in the truth
    present = sorted(set(np.unique(ids).tolist()) - {0})
    score = score_views(method, renamed)["miou"]
    assert score < whole
    alone = [replace(held_out[0], ids=np.where(ids == 4, 0, ids))]
    assert score == pytest.approx(score_views(method, alone)["miou"] * (len(present) - 1) / len(present), rel=0.03)


def test_neither_depth_nor_points_says_what_to_do():
    with pytest.raises(InvalidInputError, match="has neither depth nor reconstruction points .* initial=map"):
        small_scene(small_config("plain"), RoomSequence(without=("depth",)))
    with pytest.raises(InvalidInputError, match="has no reconstruction points to place"):
        small_scene(small_config("plain", initial="points"), RoomSequence())


def test_masks_to_track_must_be_there():
    with pytest.raises(InvalidInputError, match="has no masks to track"):
        small_scene(small_config("grouping", ids="tracked"), RoomSequence(without=("instances",)))
