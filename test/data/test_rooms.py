"""Rooms made in code: closed, furnished, different from split to split, and the same again from the same seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gs_semantic.cli import EXIT_ERROR, main
from gs_semantic.data.formats import open_sequence
from gs_semantic.data.furniture import BUILDERS
from gs_semantic.data.procedural import ProceduralSequence
from gs_semantic.data.room_writer import list_rooms
from gs_semantic.data.rooms import CLASSES, KINDS, SPLITS, TEST_SEEDS, VALIDATION_SEEDS, Room
from gs_semantic.errors import InvalidInputError, InvalidRequestError


def test_pieces_fit_into_their_boxes_and_stand_on_the_floor():
    for number, (kind, build) in enumerate(BUILDERS.items()):
        for design in range(40):
            piece = build(np.random.default_rng((number, design)))
            assert piece.kind == KINDS.get(kind, kind) and piece.kind in CLASSES
            corners = np.array(
                [np.array(part.centre) + sign * np.array(part.half) for part in piece.parts for sign in (-1, 1)]
            )
            assert corners[:, 2].min() > -0.04  # sills hang a little below their window
            assert corners[:, 2].max() < piece.size[2] + 0.25
            assert (np.abs(corners[:, :2]).max(axis=0) < np.array(piece.size[:2]) / 2 + 0.2).all()
            assert all(min(part.half) > 0 for part in piece.parts)


def test_rooms_are_closed_and_labelled():
    seen = set[int]()
    for seed in range(3):
        room = Room.make(seed)
        sequence = ProceduralSequence(room, room.cameras(6, (48, 36)))
        for index in range(len(sequence)):
            frame, semantic = sequence[index], sequence.semantic(index)
            assert np.isfinite(frame.depth).all() and frame.depth.min() > 0.05
            assert (frame.instances > 0).all() and (semantic > 0).all()
            points = frame.camera.unproject(frame.depth)
            assert (points > -0.01).all() and (points < room.size + 0.01).all()
            for key in np.unique(frame.instances).tolist():
                assert (semantic[frame.instances == key] == frame.masks[key].class_id).all()
                if key > 3:  # of a piece: within its box
                    low, high = room.pieces[key - 4].footprint()
                    own = points[frame.instances == key][:, :2]
                    assert (own > low - 0.2).all() and (own < high + 0.2).all()
            seen |= set(np.unique(semantic).tolist())
    assert len(seen) >= 12


def test_nothing_of_one_split_occurs_in_another():
    """Textures and furniture are numbered; a split's numbers have a remainder of their own."""
    textures, designs, sizes = {}, {}, {}
    for split in SPLITS:
        rooms = [Room.make(seed, split) for seed in range(4)]
        textures[split] = {t.colours.tobytes() for room in rooms for p in room.pieces for t in p.textures}
        designs[split] = {p.piece for room in rooms for p in room.pieces}
        sizes[split] = {tuple(room.size) for room in rooms}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for drawn in (textures, designs, sizes):
            assert drawn[first] and not drawn[first] & drawn[second]
    assert len(set(TEST_SEEDS)) == 20 and not set(TEST_SEEDS) & set(VALIDATION_SEEDS)


def test_cameras_are_outside_of_furniture():
    for seed in range(4):
        room = Room.make(seed, "validation")
        for camera in room.cameras(20, (16, 12)):
            eye = camera.T_world_camera[:3, 3]
            assert (eye > 0.3).all() and (eye < room.size - 0.25).all()
            depth, _, _ = room.cast(camera)
            assert depth.min() > 0.1


def test_make_rooms_goes_on_where_it_stopped(tmp_path, capsys):
    words = [
        "data",
        "make-rooms",
        "--count",
        "2",
        "--validation",
        "1",
        "--views",
        "2",
        "--novel",
        "1",
        "--size",
        "32x24",
    ]
    assert main([*words, str(tmp_path / "a")]) == 0
    script = Path(__file__).parents[2] / "scripts" / "gs-semantic"  # which the processes read, too
    command = [sys.executable, str(script), *words, str(tmp_path / "b"), "--jobs", "2", "--maps"]
    subprocess.run(command, check=True, timeout=250, capture_output=True)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 1 + 3 * ((2 + 1) * 4 + 2 * 3)
    assert all((room / "map").is_dir() for room in list_rooms(tmp_path / "b", "train"))
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)

    kept, lost = (room / "views" / "traj.txt" for room in list_rooms(tmp_path / "a", "train"))
    before = kept.stat().st_mtime_ns
    for path in sorted(lost.parent.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    lost.parent.rmdir()
    assert len(list_rooms(tmp_path / "a", "train")) == 1
    assert main([*words, str(tmp_path / "a")]) == 0
    assert kept.stat().st_mtime_ns == before and lost.is_file()
    sequence = open_sequence(lost.parent)
    assert sequence.has_depth and sequence.has_semantic and sequence.labels.name(2) == "floor"

    assert main([*words, "--first", "7", "--count", "1", "--validation", "0", str(tmp_path / "c")]) == 0
    assert [room.name for room in list_rooms(tmp_path / "c", "train")] == ["room_000007"]

    words[words.index("32x24")] = "40x24"
    assert main([*words, str(tmp_path / "a")]) == EXIT_ERROR
    assert "holds rooms made with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--count", "-1"), "expected numbers from 0 on"),
        (("--count", "0", "--validation", "0"), "one room or more"),
        (("--views", "1"), "expected 2 views or more"),
        (("--jobs", "0"), "0 processes"),
        (("--size", "4x4"), "8 pixels or more"),
    ],
)
def test_impossible_rooms_are_refused(tmp_path, capsys, words, text):
    assert main(["data", "make-rooms", str(tmp_path / "out"), *words]) == EXIT_ERROR
    assert text in capsys.readouterr().err
    with pytest.raises(InvalidRequestError, match="split 'attic'"):
        Room.make(0, "attic")
    with pytest.raises(InvalidRequestError, match="expected 0 or more"):
        Room.make(-1)
    with pytest.raises(InvalidInputError, match="has no rooms"):
        list_rooms(tmp_path, "test")
