"""Damage of masks: each step alone on known masks, all together on the sample, reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gs_semantic.data.sequence import RgbdSequence
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.damage import NOISE, Damage, LabelNoise, eroded, neighbours
from gs_semantic.gaussians import MaskInfo

SAMPLE = Path(__file__).resolve().parents[2] / "sample"


def columns(*widths: int, height: int = 40) -> np.ndarray:
    """Upright stripes 1, 2, ... of these widths, side by side."""
    return np.repeat(np.arange(1, len(widths) + 1, dtype=np.int32), widths)[None].repeat(height, axis=0)


def infos(count: int) -> dict[int, MaskInfo]:
    return {key: MaskInfo(class_id=100 + key, score=key / 10) for key in range(1, count + 1)}


def only(**changes) -> Damage:
    """Damage with every step off but the given ones."""
    return Damage("damaged", **({"drop": 0.0, "merge": 0.0, "split": 0.0, "erode": 0} | changes))


def test_none_changes_nothing():
    image, masks = columns(5, 7), infos(2)
    result, result_masks = Damage("none").apply(image, masks, 3)
    assert np.array_equal(result, image) and result.dtype == np.int32 and result_masks == masks


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1000), st.integers(1, 300))
def test_shuffled_only_renames(seed, frame_index, count):
    image = np.arange(count + 1, dtype=np.int32).reshape(1, -1).repeat(2, axis=0)
    result, masks = Damage("shuffled", seed).apply(image, infos(count), frame_index)
    new = result[0, 1:]
    assert (result[:, 0] == 0).all() and (result[0] == result[1]).all()
    assert len(set(new.tolist())) == count and new.min() >= 1 and new.max() <= (255 if count <= 255 else 65535)
    assert {int(key): masks[int(key)].class_id - 100 for key in new} == {
        int(key): i for i, key in enumerate(new, start=1)
    }


def test_ids_differ_between_frames_and_seeds_and_repeat_for_the_same():
    image = columns(*[4] * 10)

    def ids(seed: int, frame_index: int) -> list[int]:
        return Damage("shuffled", seed).apply(image, {}, frame_index)[0][0, ::4].tolist()

    assert ids(0, 0) == ids(0, 0)
    assert ids(0, 0) != ids(0, 1) and ids(0, 0) != ids(1, 0)


def test_drop_takes_the_stated_share():
    image = np.arange(1, 2001, dtype=np.int32).reshape(40, 50)
    result, masks = only(drop=0.1).apply(image, infos(2000), 0)
    assert len(masks) == (result > 0).sum()
    assert 1 - len(masks) / 2000 == pytest.approx(0.1, abs=0.02)
    assert not only(drop=1.0).apply(image, infos(2000), 0)[0].any()


def test_merge_joins_touching_masks_and_keeps_the_larger_ones_class():
    image = np.zeros((40, 60), np.int32)
    image[:, :10], image[:, 10:30] = 1, 2  # touch; 2 is larger
    image[:, 40:] = 3  # alone
    for frame_index in range(20):
        result, masks = only(merge=1.0).apply(image, infos(3), frame_index)
        joined, alone = result[0, 0], result[0, 50]
        assert (result[:, :30] == joined).all() and (result[:, 40:] == alone).all() and alone != joined
        assert masks == {int(joined): infos(3)[2], int(alone): infos(3)[3]}


def test_merge_takes_the_stated_share():
    gaps = np.kron(np.arange(1, 801, dtype=np.int32).reshape(20, 40), np.ones((2, 2), np.int32))
    merged = 800 - len(only(merge=0.05).apply(gaps, infos(800), 0)[1])
    assert merged / 800 == pytest.approx(0.05, abs=0.02)


def test_split_cuts_across_the_longer_axis_at_the_median():
    image = np.zeros((60, 100), np.int32)
    image[20:30, 10:91] = 7  # wide: the cut is upright, in the middle
    result, masks = only(split=1.0).apply(image, {7: MaskInfo(3)}, 0)
    left, right = result[25, 10], result[25, 90]
    assert left != right and set(np.unique(result).tolist()) == {0, left, right}
    assert masks == {int(left): MaskInfo(3), int(right): MaskInfo(3)}
    for column in range(10, 91):
        assert len(np.unique(result[20:30, column])) == 1
    areas = [(result == key).sum() for key in (left, right)]
    assert abs(areas[0] - areas[1]) == 10  # the middle column goes to one side


def test_split_of_a_slanted_mask():
    v, u = np.mgrid[0:100, 0:100]
    image = (np.abs(u - v) < 8).astype(np.int32)
    result, _ = only(split=1.0).apply(image, {}, 0)
    first, second = result[5, 5], result[95, 95]
    assert first != second
    assert (result[(u + v < 95) & (image > 0)] == first).all()
    assert (result[(u + v > 103) & (image > 0)] == second).all()


def test_split_leaves_a_single_pixel_alone():
    image = np.zeros((5, 5), np.int32)
    image[2, 2] = 1
    assert (only(split=1.0).apply(image, {}, 0)[0] > 0).sum() == 1


def test_erosion_between_masks_and_at_the_image_border():
    result, _ = only(erode=3).apply(columns(20, 20), {}, 0)
    assert (result[:, :17] == result[0, 0]).all() and (result[:, 23:] == result[0, 39]).all()
    assert not result[:, 17:23].any()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_erosion_equals_erosion_of_every_mask_alone(seed, pixels):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 5, (4, 5)), np.ones((9, 9), int)).astype(np.uint16)
    square = np.ones((2 * pixels + 1,) * 2, bool)
    expected = np.zeros_like(labels)
    for label in range(1, 5):
        expected[ndimage.binary_erosion(labels == label, square, border_value=1)] = label
    assert np.array_equal(eroded(labels, pixels), expected)


def test_neighbours_touch_by_sides_only():
    labels = np.array([[1, 1, 0], [2, 3, 0], [0, 4, 5]], np.uint16)
    pairs = {(int(a), int(b)) for a, b in np.argwhere(neighbours(labels, 5)) if a < b}
    assert pairs == {(1, 2), (1, 3), (2, 3), (3, 4), (4, 5)}


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_damaged_properties(seed, frame_index):
    rng = np.random.default_rng(seed)
    image = np.kron(rng.integers(0, 30, (6, 8)), np.ones((12, 12), int)).astype(np.int32)
    before = image.copy()
    masks = {int(key): MaskInfo(class_id=int(key) + 1) for key in np.unique(image) if key}
    damage = Damage("damaged", seed)
    result, result_masks = damage.apply(image, masks, frame_index)
    again, again_masks = damage.apply(image, masks, frame_index)
    assert np.array_equal(result, again) and result_masks == again_masks
    assert np.array_equal(image, before)
    assert result.shape == image.shape and result.dtype == np.int32
    assert not result[image == 0].any()
    assert {int(key) for key in np.unique(result) if key} == set(result_masks)
    assert {mask.class_id for mask in result_masks.values()} <= {mask.class_id for mask in masks.values()}


def test_damage_of_the_sample_drops_about_a_tenth_and_little_more():
    sequence = RgbdSequence(SAMPLE / "house_eval")
    kept = total = 0
    for index, frame in enumerate(sequence):
        result, _ = Damage("damaged", 1, erode=0).apply(frame.instances, frame.masks, index)
        kept += len(np.unique(frame.instances[result > 0]))
        total += len(frame.masks)
    assert 0.8 < kept / total < 0.97


def test_empty_images_and_missing_classes():
    result, masks = Damage("damaged").apply(np.zeros((4, 4), np.int32), {}, 0)
    assert not result.any() and masks == {}
    result, masks = Damage("shuffled").apply(columns(4), {}, 0)
    assert result.all() and masks == {}


def test_unknown_mode_is_refused():
    with pytest.raises(InvalidRequestError, match="'ruined' is not one of none, shuffled, damaged"):
        Damage("ruined")


# --- label noise ------------------------------------------------------------------------------------------------------


def test_classes_flip_ids_switch_and_borders_move_at_the_stated_rates():
    image, masks = columns(*[20] * 30, height=60), infos(30)
    for mode, noise in NOISE.items():
        flipped = switched = moved = 0
        for frame in range(40):
            result, seen = Damage(mode, classes=tuple(range(101, 141))).apply(image, masks, frame)
            assert result.dtype == np.int32 and set(np.unique(result)) <= set(range(1, 31))
            for key in range(1, 31):
                inside = result[:, 20 * key - 10]  # the middle of a stripe: no border comes so far
                mask = int(np.bincount(inside).argmax())
                switched += mask != key
                flipped += seen[mask].class_id != masks[key].class_id
            unswitched, _ = LabelNoise(0, 0, noise.jitter_px).apply(image, masks, np.random.default_rng(frame))
            places = np.argmax(unswitched == 16, axis=1) - 300  # where stripe 16 begins, in every row
            moved = max(moved, int(np.abs(places).max()))
            assert abs(places.mean()) < noise.jitter_px
        assert flipped / 1200 == pytest.approx(noise.flips, abs=0.04)
        assert switched / 1200 == pytest.approx(2 * noise.switches, rel=0.3)  # an exchange concerns two masks
        assert noise.jitter_px / 2 <= moved <= noise.jitter_px + 1


def test_label_noise_is_reproducible_and_harmless_without_masks():
    image, masks = columns(9, 8, 7), infos(3)
    first, second = (Damage("noise_high", 4).apply(image, masks, 7) for _ in range(2))
    assert np.array_equal(first[0], second[0]) and first[1] == second[1]
    assert not np.array_equal(first[0], Damage("noise_high", 4).apply(image, masks, 8)[0])
    empty, nothing = Damage("noise_high").apply(np.zeros((5, 6), np.int32), {}, 0)
    assert not empty.any() and nothing == {}
    far = np.where(image == 2, 2**31 - 1, image)
    assert set(np.unique(LabelNoise(0, 1, 0).apply(far, {}, np.random.default_rng(0))[0])) == {1, 3, 2**31 - 1}
    unknown = Damage("noise_high", 4).apply(image, {}, 7)[1]
    assert unknown == {}  # a mask without a class gets none
