"""Label files that cannot be read: the file is named, and the next one is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gs_semantic.data.sequence import RgbdSequence
from gs_semantic.errors import InvalidInputError
from gs_semantic.share import share_path

FRAMES = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The first frames of the sample."""
    source, folder = share_path("sample", "house"), tmp_path / "house"
    for kind, suffix in (("rgb", "jpg"), ("depth", "png"), ("instance", "png"), ("semantic", "png")):
        (folder / kind).mkdir(parents=True)
        for index in range(FRAMES):
            shutil.copy(source / kind / f"{index:06d}.{suffix}", folder / kind)
    for name in ("intrinsics.json", "labels.json"):
        shutil.copy(source / name, folder)
    lines = (source / "traj.txt").read_text().splitlines()[:FRAMES]
    (folder / "traj.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_an_unreadable_label_image(folder: Path) -> None:
    (folder / "instance" / "000001.png").write_bytes(b"not a picture")
    sequence = RgbdSequence(folder)
    with pytest.raises(InvalidInputError, match="instance/000001.png"):
        sequence[1]
    after = sequence[2]
    assert after.instances is not None and after.instances.any()
    assert {info.class_id for info in after.masks.values()} <= sequence.labels.names.keys()


def test_an_unreadable_list_of_labels(folder: Path) -> None:
    good = (folder / "labels.json").read_text()
    (folder / "labels.json").write_text(good[: len(good) // 2])
    with pytest.raises(InvalidInputError, match="labels.json"):
        RgbdSequence(folder)
    (folder / "labels.json").write_text(good)
    assert RgbdSequence(folder)[0].masks


def test_labels_that_may_not_be_read(folder: Path) -> None:
    (folder / "labels.json").write_bytes(b"\xff\xfe\x00labels")
    with pytest.raises(InvalidInputError, match="labels.json"):
        RgbdSequence(folder)
