import json

import numpy as np
import pytest
import torch

from gs_semantic.data.room_writer import RoomFormat, write_rooms
from gs_semantic.data.rooms import room_labels
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.segmentation import ClassScore
from gs_semantic.segmentation.generalization.checkpoints import save_learner
from gs_semantic.segmentation.generalization.methods.segformer import SegformerConfig, SegformerLearner
from gs_semantic.segmentation.generalization.rt_gs2 import suite as suites
from gs_semantic.segmentation.generalization.rt_gs2.suite import PARTS, RtGs2Suite, Run, class_scores

QUICK = {"iterations": 2, "evaluate_every": 2, "warmup": 1, "pairs": 32, "batch": 1, "evaluate_views": 1}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    form = RoomFormat(64, 48, views=9, novel=2)
    write_rooms(folder / "rooms", [("train", 0), ("validation", 5000), ("test", 9000)], form)
    return RtGs2Suite(folder / "rooms", folder / "runs", overrides=QUICK, recordings=())


def test_runs_wait_for_what_they_start_from_and_are_not_repeated(suite, monkeypatch):
    monkeypatch.setattr(suites, "PAIRS_A_ROOM", 2)
    suite.prepare()
    assert suite.job(Run("rt_gs2", 0)) is None and not suite.train(Run("rt_gs2", 0))
    results = suite.results()
    assert results["not_run"] == list(PARTS) and "rt_gs2_miou" not in results
    assert all(suite.train(Run(part, 0)) for part in ("features", "image", "rt_gs2"))
    assert [run.part for run in suite.waiting()] == [p for p in PARTS if p not in ("features", "image", "rt_gs2")]

    more = RtGs2Suite(suite.rooms, suite.folder, photographs=(suite.folder / "more",))
    assert more.job(Run("image", 0)).rooms == (suite.rooms, suite.folder / "more")
    assert more.job(Run("rt_gs2", 0)).rooms == (suite.rooms,)

    results = suite.results()
    assert results["rt_gs2_iterations"] == 2 and results["test_rooms"] == 1
    for key in (
        "image_photographs_miou",
        "image_rendered_miou",
        "rt_gs2_miou",
        "rt_gs2_frequent_miou",
        "fused_miou",
        "rt_gs2_consistency",
        "fused_consistency",
    ):
        assert 0 <= results[key] <= 1, key
    assert results["novel_psnr_db"] > 5
    assert "features_gain_miou" not in results and "image_only" in results["not_run"]

    kept = json.loads((suite.folder / "scores-rt_gs2-0.json").read_text())["scores"]
    assert results["fused_miou"] == kept["fused_miou"]
    monkeypatch.setattr(suites.RtGs2Suite, "_scored", lambda *_: pytest.fail("scored again"))
    assert suite.results() == results

    several = RtGs2Suite(suite.rooms, suite.folder, seeds=(0, 1), recordings=())
    assert "rt_gs2" in several.results()["not_run"]
    several.fewer_seeds = True
    some = several.results()
    assert some["rt_gs2_seeds"] == 1 and some["rt_gs2_miou"] == results["rt_gs2_miou"] and "depth" in some["not_run"]


def test_pictures_show_a_test_room(suite):
    rows = list(suite.pictures())
    assert len(rows) == 2
    colour, features, truth, predicted = rows[0]
    assert colour.shape == features.shape == (48, 64, 3) and features.std() > 5
    assert truth.shape == predicted.shape == (48, 64) and predicted.min() >= 1
    curves = suite.curves()
    assert set(curves) == {"features-0", "image-0", "rt_gs2-0"} and set(curves["rt_gs2-0"]) == {"cross_entropy", "ceco"}
    assert [point[0] for point in curves["rt_gs2-0"]["ceco"]] == [2]


def test_a_2d_segmenter_is_scored_at_the_same_views(suite, tmp_path):
    torch.manual_seed(0)
    save_learner(tmp_path / "seg.pt", SegformerLearner(SegformerConfig(), room_labels()))
    scored = RtGs2Suite(suite.rooms, suite.folder, segmenter=tmp_path / "seg.pt").segmented()
    assert set(scored) == {"segmenter2d_miou", "segmenter2d_rendered_miou"} and all(
        0 <= v < 0.3 for v in scored.values()
    )
    assert suite.segmented() == {}
    wrong = RtGs2Suite(suite.rooms, suite.folder, segmenter=suite.folder / "rt_gs2-0" / "best.pt")
    with pytest.raises(InvalidRequestError, match="'rt_gs2' is no 2D segmenter"):
        wrong.segmented()


def test_unknown_parts_are_refused(suite):
    with pytest.raises(InvalidRequestError, match="'rtgs2': expected one of features, image, rt_gs2"):
        RtGs2Suite(suite.rooms, suite.folder, only=["rtgs2"])


def test_frequent_classes_are_those_with_most_pixels():
    truth = np.repeat(np.arange(1, 11), [50, 40, 30, 20, 10, 9, 8, 7, 2, 1]).reshape(1, -1)
    predicted = truth.copy()
    predicted[truth > 8] = 1  # the two rare ones are missed
    score = ClassScore()
    score.update(predicted, truth)
    found = class_scores(score)
    assert found["frequent_miou"] == pytest.approx((50 / 53 + 7) / 8)
    assert found["miou"] == pytest.approx((50 / 53 + 7) / 10)
