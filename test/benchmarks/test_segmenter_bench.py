from __future__ import annotations

import json
import math

import pytest

from gs_semantic.benchmarks.segmenter import run_segmenter
from gs_semantic.cli import main
from gs_semantic.data.sequence import RgbdSequence
from gs_semantic.errors import InvalidInputError
from gs_semantic.segmenters.registry import create
from gs_semantic.share import share_path

FRAMES = 6


@pytest.fixture
def short_house(tmp_path):
    source, folder = share_path("sample", "house"), tmp_path / "house"
    folder.mkdir()
    for name in ("rgb", "depth", "instance", "semantic", "intrinsics.json", "labels.json"):
        (folder / name).symlink_to(source / name)
    lines = (source / "traj.txt").read_text().splitlines()[:FRAMES]
    (folder / "traj.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_report_holds_rate_cost_masks_and_map(short_house, tmp_path, capsys):
    file = tmp_path / "result.json"
    words = ["bench", "segmenter", "--sequence", str(short_house), "--skip-every", "3", "--json", str(file)]
    assert main(words) == 0
    results = json.loads(file.read_text())["results"]
    assert results["frames"] == FRAMES and results["hz"] > 0 and results["core_ms"] > 0
    assert 1 < results["masks_per_frame"] < 200
    for name in ("best_iou", "best_iou_large", "mapped_instance_miou"):
        assert 0.1 < results[name] <= 1
    assert results["mapped_objects"] > 1 and math.isfinite(results["mapped_psnr_db"])
    assert main([*words, "--no-map"]) == 0
    alone = json.loads(file.read_text())["results"]
    assert not any(name.startswith("mapped") for name in alone)
    assert alone["best_iou"] == results["best_iou"]  # the same masks


def test_sequence_without_depth_is_named(short_house):
    (short_house / "depth").unlink()
    with pytest.raises(InvalidInputError, match="house: has no depth, which the segmenter needs"):
        run_segmenter(create("geometric"), RgbdSequence(short_house), mapped=False)
