"""Pictures for people."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gs_semantic.cli import pictures
from gs_semantic.errors import StorageError
from gs_semantic.objects.registry import Box, ObjectRegistry


def test_contact_sheet_places_every_image():
    rows = [[np.full((30, 40, 3), 40 * r + 80 * c, np.uint8) for c in range(2)] for r in range(3)]
    sheet = pictures.contact_sheet(rows, ["a", "b"], ["0 s", "1 s", "2 s"], width=40)
    step, margin = 30 + pictures.GAP_PX, 64
    for r in range(3):
        for c in range(2):
            patch = sheet[pictures.CAPTION_PX + r * step :, margin + c * (40 + pictures.GAP_PX) :][:30, :40]
            assert (patch == 40 * r + 80 * c).all()
    assert (sheet[: pictures.CAPTION_PX] > 200).any()  # the titles


def test_contact_sheet_needs_a_row():
    with pytest.raises(ValueError, match="at least one row"):
        pictures.contact_sheet([], ["a"])


def test_depth_colours_leave_holes_black():
    colours = pictures.depth_colours(np.array([[0.0, np.nan, 1.0, 5.0]], np.float32))
    assert (colours[0, :2] == 0).all() and colours[0, 2:].any(axis=1).all()
    assert (colours[0, 2] != colours[0, 3]).any()


def test_files_keep_their_values(tmp_path):
    depth = np.array([[0.0, 1.2344, 70.0]], np.float32)
    pictures.write_image(tmp_path / "a" / "depth.png", pictures.millimetres(depth))
    assert np.asarray(Image.open(tmp_path / "a" / "depth.png")).tolist() == [[0, 1234, 65535]]
    assert pictures.smallest_type(np.array([[255]])).dtype == np.uint8
    assert pictures.smallest_type(np.array([[256]])).dtype == np.uint16


def test_a_refused_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/out: cannot write"), pictures.writing(tmp_path / "file" / "out"):
        pass


def test_ground_is_found_from_the_cameras():
    """A level camera that looks along +x in a z-up world: its image's down is -z."""
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    pose[:3, 3] = (0, 0, 1.5)
    ground = pictures.Ground.of(np.stack([pose, pose]))
    assert ground.eye_m == pytest.approx(1.5)
    assert ground.axes[2] == pytest.approx([0, 0, -1])
    assert np.linalg.det(ground.axes) == pytest.approx(1.0)  # not mirrored


def test_box_corners():
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    corners = pictures.box_corners(Box(np.array([1.0, 2, 3]), np.array([2.0, 4, 6]), turned))
    assert corners.min(0) == pytest.approx([-1, 1, 0]) and corners.max(0) == pytest.approx([3, 3, 6])


def test_palette_knows_every_slot_and_class():
    objects = ObjectRegistry()
    objects.open()
    palette = pictures.Palette.of(objects)
    assert palette.instance(np.array([0, 1, 500])).shape == (3, 3)
    assert (palette.instance(np.array([0])) == 0).all() and palette.instance(np.array([1])).any()
