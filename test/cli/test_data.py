"""``gs-semantic data``: what it says of a sequence, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gs_semantic.cli import main
from gs_semantic.data.formats import open_sequence
from gs_semantic.share import share_path

HOUSE = share_path("sample", "house")


def test_info_tells_what_a_sequence_is(tmp_path, capsys):
    assert main(["data", "info", str(HOUSE), "--json", str(tmp_path / "info.json")]) == 0
    results = json.loads((tmp_path / "info.json").read_text())["results"]
    assert results["format"] == "rgbd" and results["frames"] == 60 and results["size"] == "640x480"
    assert results["depth"] is True and results["depth_share"] > 0.99 and results["mask_ids"] > 40
    assert "sofa" in results["classes"]
    low, high = (np.array([float(v) for v in results[key].split()]) for key in ("box_low_m", "box_high_m"))
    assert (high - low > [5, 5, 2]).all() and (high - low < [20, 20, 4]).all()
    assert "60" in capsys.readouterr().out


def test_to_bag_and_back_to_a_folder(tmp_path, capsys):
    bag, folder = tmp_path / "bag", tmp_path / "folder"
    words = ["--every", "20", "--max-width", "160"]
    assert main(["data", "to-bag", str(HOUSE), str(bag), "--format", "sqlite3", *words]) == 0
    assert "3 frames" in capsys.readouterr().out
    assert main(["data", "info", str(bag), "--json", str(tmp_path / "info.json")]) == 0
    topics = json.loads((tmp_path / "info.json").read_text())["results"]["topics"]
    assert "color /gs_semantic/color/image, " in topics and "depth /gs_semantic/depth/image" in topics
    assert topics.endswith("pose_source tf")
    assert main(["data", "convert", str(bag), str(folder)]) == 0
    recorded, back = open_sequence(HOUSE, max_width=160), open_sequence(folder)
    assert back.format == "rgbd" and len(back) == 3
    for index, frame in zip((0, 20, 40), back, strict=True):
        truth = recorded[index]
        assert frame.rgb.shape == (120, 160, 3) and np.abs(frame.rgb.astype(int) - truth.rgb).mean() < 2
        assert np.allclose(frame.camera.K, truth.camera.K)
        assert np.allclose(frame.camera.T_world_camera, truth.camera.T_world_camera, atol=2e-4)
        assert np.allclose(frame.depth, truth.depth, atol=2e-3)
        assert np.array_equal(frame.instances, truth.instances) and frame.masks == truth.masks


def test_info_tells_how_far_a_damaged_bag_was_read(tmp_path, capsys):
    bag = tmp_path / "bag"
    assert main(["data", "to-bag", str(HOUSE), str(bag), "--every", "5", "--max-width", "320"]) == 0
    (file,) = bag.glob("*.mcap")
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size * 2 // 3)
    capsys.readouterr()
    assert main(["data", "info", str(bag)]) == 0
    text = capsys.readouterr().out
    assert f"damaged: {file}: the file is cut short" in text and "up to time" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("info", "not/there"), "not/there: no such folder or file"),
        (("info", "{tmp}"), "is no recording in a known format. Expected one of: rgbd: rgb/"),
        (("to-bag", str(HOUSE), "{tmp}"), "is there and is not a bag's folder; choose another name"),
        (("convert", str(HOUSE), "{tmp}"), "is there already; choose another name"),
        (("convert", str(HOUSE), "{tmp}/new", "--every", "0"), "--every: expected a number from 1 on"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, capsys, words, text):
    (tmp_path / "notes.txt").write_text("keep")
    assert main(["data", *(word.format(tmp=tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err.strip()
    assert text in error.splitlines()[-1] and "Traceback" not in error
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]
