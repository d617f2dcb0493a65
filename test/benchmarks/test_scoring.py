"""Scores at evaluation views, with a stand-in that shows known images."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.benchmarks.scoring import Evaluation, MapScore, View, score_views, withheld
from gs_semantic.data.sequence import RgbdSequence
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.mapping.events import LabelImages
from gs_semantic.share import share_path


class Mirror:
    """Shows exactly what the sequence holds, or a changed copy."""

    def __init__(self, sequence: RgbdSequence, change=lambda ids: ids) -> None:
        self.views = {tuple(sequence.camera(i).T_world_camera.ravel()): i for i in range(len(sequence))}
        self.sequence, self.change = sequence, change

    def _index(self, camera) -> int:
        return self.views[tuple(camera.T_world_camera.ravel())]

    def render_labels(self, camera, stamp_ns):
        frame, semantic = self.sequence[self._index(camera)], self.sequence.semantic(self._index(camera))
        ids = self.change(frame.instances)
        confidence = np.full(ids.shape, 255, np.uint8)
        return LabelImages(stamp_ns, camera, ids, semantic.astype(np.uint16), confidence, frame.depth)

    def render_colour(self, camera):
        return np.clip(self.sequence[self._index(camera)].rgb.astype(int) + 1, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def house() -> RgbdSequence:
    return RgbdSequence(share_path("sample", "house_eval"))


def test_a_perfect_map_scores_one(house):
    score = score_views(Mirror(house), Evaluation.of(house), Damage("damaged", 0))
    assert score["instance_miou"] == score["instance_miou_large"] == score["semantic_miou"] == 1.0
    assert score["duplicate_ids_pct"] == 0.0
    assert score["psnr_db"] == pytest.approx(20 * np.log10(255), abs=0.1)  # every value is wrong by one
    assert 0.2 < score["raw_mask_miou"] < 0.7
    assert score["raw_semantic_miou"] < 1.0


def test_two_ids_on_one_instance_are_a_duplicate(house):
    truth = house[0].instances
    wall = int(np.bincount(truth.ravel()).argmax())

    def split(ids):
        right = np.arange(ids.shape[1])[None] >= ids.shape[1] // 2
        return np.where((ids == wall) & right, 9999, ids).astype(np.int32)

    score = MapScore()
    view = View(0, house[0], house.semantic(0))
    mirror = Mirror(house, split)
    score.update(view, mirror.render_labels(house.camera(0), 0), mirror.render_colour(house.camera(0)))
    count = len(np.unique(truth[truth > 0]))
    assert score.results()["duplicate_ids_pct"] == pytest.approx(100 / count)
    assert score.results(confirmed_slots=[wall])["duplicate_ids_pct"] == 0.0
    assert score.results()["instance_miou"] < 1.0


def test_withheld_frames_are_those_scored(house):
    evaluation = Evaluation.of(house, 4)
    assert evaluation.indices == (3, 7)
    assert [i for i in range(8) if withheld(i, 4)] == [3, 7]
    assert not any(withheld(i, 0) for i in range(8))
    assert [view.index for view in evaluation] == [3, 7]


def test_too_short_a_sequence_is_refused(house):
    with pytest.raises(InvalidRequestError, match="8 frames, too few to withhold every 20th"):
        Evaluation.of(house, 20)


def test_views_without_labels_give_colour_only(house):
    from dataclasses import replace

    mirror = Mirror(house)
    view = View(0, replace(house[0], instances=None, masks={}), None)
    score = MapScore()
    score.update(view, mirror.render_labels(house.camera(0), 0), mirror.render_colour(house.camera(0)))
    assert set(score.results()) == {"psnr_db"}
