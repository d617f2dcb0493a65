"""``gs-semantic evaluate``: tables of the protocols, for a map and for folders of images."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from small_map import VIEWS, write_map, write_views
from test_grouping import ids_of, prompt_of, write_lerf

from gs_semantic.cli import EXIT_ERROR, main
from gs_semantic.cli.evaluate import PROTOCOLS as OFFERED
from gs_semantic.evaluation.protocols import PROTOCOLS

SHARES = ("semantic_miou", "semantic_mean_accuracy", "semantic_accuracy", "mask_miou", "boundary_miou", "pq_scene")
REPLICA = ("replica_miou", "replica_f_score", "replica_precision", "replica_recall")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A map, and a sequence that shows what it shows."""
    folder = tmp_path_factory.mktemp("room")
    return write_map(folder / "map"), write_views(folder / "map", folder / "views")


def evaluate(*words: object, file: Path) -> dict:
    assert main(["evaluate", *(str(word) for word in words), "--json", str(file)]) == 0
    return json.loads(file.read_text())["results"]


def test_the_command_line_offers_every_protocol():
    assert set(OFFERED) == set(PROTOCOLS)


def test_a_map_at_views_of_itself_is_perfect(room, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))  # without weights
    results = evaluate(*room, "--protocol", "all", file=tmp_path / "scores.json")
    assert {results[name] for name in (*SHARES, *REPLICA)} == {1.0}
    assert results["depth_abs_rel"] < 1e-3 and results["depth_completeness"] == results["depth_delta_1"] == 1.0
    assert results["psnr_db"] > 30 and 0.9 < results["ssim"] <= 1.0  # recorded as JPEG
    assert results["lpips_vgg"] is None and results["views_without_prediction"] == 0
    text = capsys.readouterr()
    assert "boundary_miou" in text.out and "depth_rmse_m" in text.out
    assert "left out: lpips_vgg: " in text.err and "vgg16-397923af.pth" in text.err.replace(
        "torchmetrics", "vgg16-397923af.pth"
    )
    assert "left out: lerf: " in text.err


def test_one_protocol_gives_its_numbers_only(room, tmp_path):
    results = evaluate(*room, "--protocol", "boundary", file=tmp_path / "scores.json")
    assert set(results) == {"views_without_prediction", "mask_miou", "boundary_miou", "wrong_ids", "of_these_at_borders"}


def test_without_a_protocol_a_map_gets_the_numbers_of_the_bench(room, tmp_path):
    results = evaluate(*room, file=tmp_path / "scores.json")
    assert results["instance_miou"] == results["semantic_miou"] == 1.0
    assert {"duplicate_ids_pct", "raw_mask_miou", "psnr_db", "gaussians"} <= set(results)


def test_rendered_images_score_as_their_map_does(room, tmp_path):
    map_folder, views = room
    assert main(["render", str(map_folder), str(tmp_path / "images"), "--trajectory", str(views)]) == 0
    results = evaluate(tmp_path / "images", views, file=tmp_path / "scores.json")
    assert {results[name] for name in (*SHARES, *REPLICA)} == {1.0}
    of_map = evaluate(map_folder, views, "--protocol", "all", file=tmp_path / "scores.json")
    assert results == pytest.approx(of_map, abs=1e-3, nan_ok=True)  # depth is rounded to millimetres


def test_id_images_alone_with_other_ids_and_a_view_missing(room, tmp_path):
    folder = tmp_path / "ids"
    folder.mkdir()
    with Image.open(room[1] / "instance/000000.png") as image:
        ids = np.array(image)
    Image.fromarray(np.where(ids > 0, 500 - ids, 0).astype(np.uint16)).save(folder / "000000.png")
    results = evaluate(folder, room[1], file=tmp_path / "scores.json")
    assert results["views_without_prediction"] == VIEWS - 1
    assert 0 < results["mask_miou"] < 1 and 0 < results["pq_scene"] < 1 and 0 < results["replica_miou"] < 1
    assert "semantic_miou" not in results and "psnr_db" not in results


def test_class_scores_by_view_differ(room, tmp_path):
    folder = tmp_path / "semantic"
    folder.mkdir(parents=True)
    shutil.copytree(room[1] / "semantic", tmp_path / "predicted/semantic")
    Image.fromarray(np.zeros((72, 96), np.uint8)).save(tmp_path / "predicted/semantic/000001.png")
    words = (tmp_path / "predicted", room[1], "--protocol", "segmentation")
    together = evaluate(*words, file=tmp_path / "scores.json")
    alone = evaluate(*words, "--average", "per_view", file=tmp_path / "scores.json")
    assert alone["semantic_miou"] == 0.5 != together["semantic_miou"]


def test_lerf_mask_by_ids_and_by_masks(tmp_path):
    sequence = write_lerf(tmp_path / "figurines")
    mug = np.zeros((120, 160), np.uint8)
    mug[10:40, 20:60] = 255  # what id 5 covers in view 2
    Image.fromarray(mug).save(sequence / "test_mask/1/mug.png")
    (tmp_path / "ids").mkdir()
    Image.fromarray(ids_of(2)).save(tmp_path / "ids/000002.png")
    results = evaluate(tmp_path / "ids", sequence, file=tmp_path / "scores.json")
    assert results["lerf_miou"] == results["lerf_boundary_miou"] == 1.0
    assert results["lerf_iou red toy chair"] == 1.0 and results["views_without_prediction"] == 1

    (tmp_path / "masks/test_mask/1").mkdir(parents=True)
    Image.fromarray(prompt_of(2)[::2, ::2]).save(tmp_path / "masks/test_mask/1/red toy chair.png")
    results = evaluate(tmp_path / "masks", sequence, file=tmp_path / "scores.json")
    assert results["lerf_iou red toy chair"] == 1.0 and results["lerf_iou mug"] == 0.0  # there is no file for it
    assert results["lerf_miou"] == 0.5


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("{map}", "{views}", "--protocol", "lerf"), "protocol 'lerf' cannot be applied: {views} has no masks of prompts"),
        (("{ids}", "{views}", "--protocol", "depth"), "protocol 'depth' cannot be applied: there are no predicted depth"),
        (("{empty}", "{views}"), "{empty}: has an image of none of the 2 views of {views}; expected 000000.png"),
        (("{small}", "{views}"), "{small}/000000.png: image is 48x36, {views} says 96x72"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_named(room, tmp_path, capsys, words, text):
    places = {"map": room[0], "views": room[1]} | {name: tmp_path / name for name in ("ids", "empty", "small")}
    for name, size in (("ids", (72, 96)), ("empty", None), ("small", (36, 48))):
        places[name].mkdir()
        if size:
            Image.fromarray(np.zeros(size, np.uint8)).save(places[name] / "000000.png")
    assert main(["evaluate", *(word.format(**places) for word in words)]) == EXIT_ERROR
    assert text.format(**places) in capsys.readouterr().err
