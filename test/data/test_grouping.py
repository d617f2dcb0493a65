"""Gaussian Grouping's data layout and the LERF-Mask data set: small ones written and read back, and faulty ones."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from blobs import FRAMES, HEIGHT, WIDTH
from colmap_files import save, write_colmap

from gs_semantic.benchmarks.scoring import Evaluation, mapped
from gs_semantic.data.formats import open_sequence
from gs_semantic.errors import InvalidInputError


def ids_of(index: int) -> np.ndarray:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[10:40, 20:60], ids[50:90, 30:130] = 3 + index, 200
    return ids


def prompt_of(index: int) -> np.ndarray:
    return np.where(ids_of(index) == 200, 255, 0).astype(np.uint8)


def write_grouping(folder: Path) -> Path:
    """Photographs with object masks, as Gaussian Grouping trains on."""
    write_colmap(folder, True)
    for i in range(FRAMES):
        save(folder / "object_mask" / f"shot_{i}.png", ids_of(i))
    return folder


def write_lerf(folder: Path) -> Path:
    """The LERF-Mask layout: the first frame is for training, two test views, of which the second is annotated."""
    write_grouping(folder)
    (folder / "images_train").mkdir()
    shutil.copy(folder / "images/shot_0.jpg", folder / "images_train/shot_0.jpg")
    for i in (1, 2):
        save(folder / "object_mask" / f"shot_{i}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    save(folder / "test_mask/1/red toy chair.png", np.repeat(prompt_of(2)[..., None], 3, axis=2))
    save(folder / "test_mask/1/mug.png", np.full((HEIGHT, WIDTH), 128, np.uint8))  # not above half of white
    return folder


def test_object_masks(tmp_path):
    blobs = write_colmap(tmp_path, True)
    sequence = open_sequence(write_grouping(tmp_path))
    assert sequence.format == "gaussian_grouping" and sequence.has_instances and not sequence.has_depth
    assert sequence.test_indices == () and sequence.prompts == {} and sequence.prompt_masks(0) == {}
    for i in range(FRAMES):
        frame = sequence[i]
        blobs.check(frame, i)
        assert frame.instances.dtype == np.int32 and np.array_equal(frame.instances, ids_of(i))
        assert set(frame.masks) == {3 + i, 200}
    assert len(sequence.sparse_points()) == 4


def test_masks_of_another_size_are_brought_to_the_photographs(tmp_path):
    write_grouping(tmp_path)
    half = ids_of(0)[::2, ::2]
    save(tmp_path / "object_mask/shot_0.png", half)
    expected = np.repeat(np.repeat(half, 2, axis=0), 2, axis=1)
    assert np.array_equal(open_sequence(tmp_path)[0].instances, expected)
    assert np.array_equal(open_sequence(tmp_path, max_width=WIDTH // 2)[0].instances, half)


def test_ids_of_sixteen_bits(tmp_path):
    write_grouping(tmp_path)
    save(tmp_path / "object_mask/shot_0.png", ids_of(0).astype(np.uint16) * 300)
    assert open_sequence(tmp_path)[0].instances.max() == 60_000


def test_lerf_mask(tmp_path):
    sequence = open_sequence(write_lerf(tmp_path))
    assert sequence.test_indices == (1, 2) and mapped(sequence, 0) == [0]
    assert Evaluation.of(sequence).indices == (1, 2)
    assert list(sequence.prompts) == [2] and sequence.prompt_masks(1) == {}
    masks = sequence.prompt_masks(2)
    assert list(masks) == ["mug", "red toy chair"] and not masks["mug"].any()
    assert np.array_equal(masks["red toy chair"], prompt_of(2) > 0)
    assert sequence[1].instances is None and sequence[0].instances is not None  # empty masks of test views are none
    (tmp_path / "object_mask/shot_1.png").unlink()
    assert sequence[1].instances is None


def test_views_of_prompts_may_have_names(tmp_path):
    write_lerf(tmp_path)
    (tmp_path / "test_mask/1").rename(tmp_path / "test_mask/shot_1")
    shutil.rmtree(tmp_path / "images_train")
    sequence = open_sequence(tmp_path)
    assert list(sequence.prompts) == [1] and sequence.test_indices == (1,)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no mask of a training image": (
        lambda f: (f / "object_mask/shot_0.png").unlink(),
        r"object_mask/shot_0.png: no such file; expected object ids",
    ),
    "damaged mask": (
        lambda f: (f / "object_mask/shot_0.png").write_bytes(b"no image"),
        r"object_mask/shot_0.png: cannot be read as object ids",
    ),
    "coloured mask": (
        lambda f: save(f / "object_mask/shot_0.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
        r"object_mask/shot_0.png: expected object ids .*, found mode RGB",
    ),
    "mask of another shape": (
        lambda f: save(f / "object_mask/shot_0.png", np.zeros((WIDTH, HEIGHT), np.uint8)),
        r"object_mask/shot_0.png: mask is 120x160, its photograph 160x120",
    ),
    "unknown training image": (
        lambda f: (f / "images_train/shot_0.jpg").rename(f / "images_train/photo.jpg"),
        r"images_train/photo.jpg: the COLMAP model in .* has no image of that name",
    ),
    "no training images": (lambda f: (f / "images_train/shot_0.jpg").unlink(), "images_train: no images; expected"),
    "no split": (lambda f: shutil.rmtree(f / "images_train"), r"images_train: no such folder; test_mask/1 counts"),
    "unknown view": (
        lambda f: (f / "test_mask/1").rename(f / "test_mask/7"),
        r"test_mask/7: there are 2 test views",
    ),
    "view without number": (
        lambda f: (f / "test_mask/1").rename(f / "test_mask/first"),
        r"test_mask/first: is neither a number of a test view nor the name of an image",
    ),
    "no prompts": (lambda f: [p.unlink() for p in (f / "test_mask/1").iterdir()], r"test_mask/1: no masks; expected"),
    "no views": (lambda f: shutil.rmtree(f / "test_mask/1"), r"test_mask: no views; expected <view>/<prompt>.png"),
    "damaged prompt": (
        lambda f: (f / "test_mask/1/mug.png").write_bytes(b"no image"),
        r"test_mask/1/mug.png: cannot be read as a mask",
    ),
    "prompt of 16 bits": (
        lambda f: Image.fromarray(np.zeros((4, 4), np.uint16)).save(f / "test_mask/1/mug.png"),
        r"test_mask/1/mug.png: expected a mask .*, found mode I;16",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named(tmp_path, case):
    damage, text = FAULTS[case]
    write_lerf(tmp_path)
    damage(tmp_path)
    with pytest.raises(InvalidInputError, match=text):
        sequence = open_sequence(tmp_path)
        list(sequence)
        sequence.prompt_masks(2)
