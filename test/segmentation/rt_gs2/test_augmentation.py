import numpy as np
import pytest

from gs_semantic.segmentation.generalization.rt_gs2.augmentation import AugmentationConfig, Sample, augment

OFF = {name: 0.0 for name in ("colour", "flip", "cut_out", "zoom", "perspective")}


def sample() -> Sample:
    v, u = np.mgrid[0:48, 0:64].astype(np.float32)
    rgb = np.stack([u / 64, v / 48, np.full_like(u, 0.5)], axis=-1)
    features = np.stack([u, v, *[u + k for k in range(4)]], axis=-1)
    return Sample(rgb, features, (u // 16).astype(np.int64), u / 64 + 1)


def run(seed: int = 0, **chances: float) -> Sample:
    return augment(sample(), np.random.default_rng(seed), AugmentationConfig(**(OFF | chances)))


def test_nothing_happens_without_chances():
    for one, other in zip(vars(run()).values(), vars(sample()).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_flip_turns_all_images():
    for one, other in zip(vars(run(flip=1.0)).values(), vars(sample()).values(), strict=True):
        np.testing.assert_array_equal(one, other[:, ::-1])


def test_zoom_keeps_images_together_and_brings_surfaces_nearer():
    changed = run(zoom=1.0)
    # the first feature is the column it came from
    column = changed.features[..., 0]
    np.testing.assert_allclose(changed.rgb[..., 0] * 64, column, atol=0.5)
    inner = (np.abs(column % 16 - 8) < 7) & (changed.labels >= 0)
    np.testing.assert_array_equal(changed.labels[inner], (column // 16)[inner])
    factor = 1 / np.median(np.diff(column[20, 5:-5]))
    assert 1.0 < factor <= 1.5
    known = changed.depth > 0
    np.testing.assert_allclose(changed.depth[known], ((column / 64 + 1) / factor)[known], rtol=0.03)


def test_zoom_is_another_one_for_every_image():
    assert len({float(run(seed, zoom=1.0).features[24, 32, 0]) for seed in range(6)}) == 6


def test_perspective_happens_and_marks_what_has_no_label():
    changed = run(perspective=1.0)
    assert not np.array_equal(changed.labels, sample().labels)
    outside = [run(seed, perspective=1.0).labels == -1 for seed in range(4)]
    assert any(mask.any() for mask in outside)


def test_holes_lie_in_different_places():
    changed = run(3, cut_out=1.0)
    hole = (changed.rgb == 0).all(axis=-1)
    gone = (changed.features == 0).all(axis=-1)
    assert hole.sum() == 4 * 6 and gone.sum() == 4 * 6 and not np.array_equal(hole, gone)
    np.testing.assert_array_equal(changed.labels, sample().labels)


def test_colours_stay_colours():
    changed = run(colour=1.0)
    assert changed.rgb.min() >= 0 and changed.rgb.max() <= 1
    assert np.abs(changed.rgb - sample().rgb).mean() > 0.01
    np.testing.assert_array_equal(changed.features, sample().features)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same(seed):
    config = AugmentationConfig(1.0, 1.0, 1.0, 1.0, 1.0)
    one, other = (augment(sample(), np.random.default_rng(seed), config) for _ in range(2))
    np.testing.assert_array_equal(one.rgb, other.rgb)
    np.testing.assert_array_equal(one.labels, other.labels)
