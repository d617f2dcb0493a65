"""``gs-semantic edit`` on a small map folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_map import write_map

from gs_semantic.cli import EXIT_ERROR, main
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.gaussians.ply import load_ply


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_map(tmp_path_factory.mktemp("room") / "map")


def rows_of(gaussians, slot: int) -> np.ndarray:
    return np.flatnonzero(gaussians["object"].numpy() == slot)


def edit(*words: object) -> None:
    assert main(["edit", *(str(word) for word in words)]) == 0


def test_remove_by_name_and_id(room, tmp_path, capsys):
    before, _ = load_map(room)
    edit("remove", room, tmp_path / "out", "--object", "left box", 7, "--json", tmp_path / "result.json")
    after, objects = load_map(tmp_path / "out")
    gone = len(rows_of(before, 1)) + len(rows_of(before, 7))
    assert gone > 10 and len(after) == len(before) - gone and not len(rows_of(after, 1))
    assert {1, 7}.isdisjoint(obj.id for obj in objects) and len(objects) == 28
    results = json.loads((tmp_path / "result.json").read_text())["results"]
    assert results == {"gaussians_before": len(before), "gaussians": len(after), "objects_before": 30, "objects": 28}
    assert "after remove" in capsys.readouterr().out.replace("\n", " ")


def test_extract_into_a_ply_for_viewers(room, tmp_path):
    before, _ = load_map(room)
    edit("extract", room, tmp_path / "thing.ply", "--object", 5)
    assert np.array_equal(load_ply(tmp_path / "thing.ply").means, before.means[rows_of(before, 5)])


def test_the_hull_takes_more(room, tmp_path):
    edit("extract", room, tmp_path / "label", "--object", 5)
    edit("extract", room, tmp_path / "hull", "--object", 5, "--rule", "grouping", "--probability", 0.5)
    (plain, _), (hull, objects) = load_map(tmp_path / "label"), load_map(tmp_path / "hull")
    assert set(plain["uid"].tolist()) < set(hull["uid"].tolist())  # a box that stands in another one
    assert set(hull["object"].tolist()) == {5} and objects.by_id(5).num_gaussians == len(hull)


def test_move(room, tmp_path):
    before, objects = load_map(room)
    edit("move", room, tmp_path / "out", "--object", 3, "--by", 0.5, -0.25, 0, "--turn", 0, 0, 90)
    after, moved = load_map(tmp_path / "out")
    rows, centre = rows_of(before, 3), objects.by_id(3).centroid
    local = before.means.numpy()[rows] - centre
    expected = np.stack([-local[:, 1], local[:, 0], local[:, 2]], axis=1) + centre + [0.5, -0.25, 0]
    assert np.allclose(after.means.numpy()[rows], expected, atol=1e-4)
    assert np.allclose(moved.by_id(3).centroid, centre + [0.5, -0.25, 0], atol=1e-6)


def test_swap_in_place(room, tmp_path):
    edit("move", room, tmp_path / "map", "--object", 3)  # a copy
    _, before = load_map(tmp_path / "map")
    edit("swap", tmp_path / "map", tmp_path / "map", "--object", 2, 4)
    _, after = load_map(tmp_path / "map")
    for one, other in ((2, 4), (4, 2)):
        assert np.allclose(after.by_id(one).box.centre[:2], before.by_id(other).box.centre[:2], atol=0.05)


def test_list(room, capsys):
    edit("list", room)
    text = capsys.readouterr().out
    assert "left box, confirmed" in text and "ball, confirmed" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("remove", "{room}", "{out}", "--object", "99"), "object 99 is not in the map"),
        (("remove", "{room}", "{out}", "--object", "sofa"), "no object is called 'sofa'; there are: ball, box, left box"),
        (("extract", "{room}", "{out}", "--object", "ball"), "10 objects are called 'ball'; give one of the ids 3, 6"),
        (("swap", "{room}", "{out}", "--object", "1", "2", "3"), "swap: expected two objects, got 3"),
        (("remove", "{room}", "{out}", "--object", "1", "--rule", "grouping", "--probability", "2"), "probability 2.0"),
        (("remove", "{out}", "{out}", "--object", "1"), "is not a map folder"),
        (("extract", "{room}", "{full}", "--object", "1"), "is a folder with other things in it"),
    ],
)  # fmt: skip
def test_errors_leave_nothing_behind(room, tmp_path, capsys, words, text):
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("")
    places = {"room": room, "out": tmp_path / "out", "full": full}
    assert main(["edit", *(word.format(**places) for word in words)]) == EXIT_ERROR
    assert text in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"] and len(list(full.iterdir())) == 1
