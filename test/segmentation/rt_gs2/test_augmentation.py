import numpy as np
import pytest
import torch

from gs_semantic.segmentation.generalization.rt_gs2.augmentation import (
    AugmentationConfig,
    Samples,
    augment,
    plan_changes,
)

OFF = {name: 0.0 for name in ("colour", "flip", "cut_out", "zoom", "perspective")}


def sample() -> Samples:
    v, u = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    rgb = torch.stack([u / 64, v / 48, torch.full_like(u, 0.5)])
    features = torch.stack([u, v, *[u + k for k in range(4)]])
    return Samples(rgb[None], features[None], (u // 16).long()[None], (u / 64 + 1)[None])


def run(seed: int = 0, **chances: float) -> Samples:
    return changed_by(sample(), seed, AugmentationConfig(**(OFF | chances)))


def changed_by(samples: Samples, seed: int, config: AugmentationConfig) -> Samples:
    return augment(samples, plan_changes(len(samples.rgb), (48, 64), np.random.default_rng(seed), config))


def test_nothing_happens_without_chances():
    for one, other in zip(vars(run()).values(), vars(sample()).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_flip_turns_all_images():
    for one, other in zip(vars(run(flip=1.0)).values(), vars(sample()).values(), strict=True):
        np.testing.assert_array_equal(one, other.flip(-1))


def test_zoom_keeps_images_together_and_brings_surfaces_nearer():
    changed = run(zoom=1.0)
    # the first feature is the column it came from
    column, labels, depth = changed.features[0, 0].numpy(), changed.labels[0].numpy(), changed.depth[0].numpy()
    np.testing.assert_allclose(changed.rgb[0, 0] * 64, column, atol=0.5)
    inner = (np.abs(column % 16 - 8) < 7) & (labels >= 0)
    inner[:, [0, -1]] = inner[[0, -1]] = False  # half of the outermost pixels may come from outside
    np.testing.assert_array_equal(labels[inner], (column // 16)[inner])
    factor = 1 / np.median(np.diff(column[20, 5:-5]))
    assert 1.0 < factor <= 1.5
    known = inner & (depth > 0)
    np.testing.assert_allclose(depth[known], ((column / 64 + 1) / factor)[known], rtol=0.03)


def test_zoom_is_another_one_for_every_image():
    assert len({float(run(seed, zoom=1.0).features[0, 0, 24, 32]) for seed in range(6)}) == 6


def test_perspective_happens_and_marks_what_has_no_label():
    changed = run(perspective=1.0)
    assert not np.array_equal(changed.labels, sample().labels)
    outside = [run(seed, perspective=1.0).labels == -1 for seed in range(4)]
    assert any(mask.any() for mask in outside)


def test_holes_lie_in_different_places():
    changed = run(3, cut_out=1.0)
    hole, gone = (changed.rgb == 0).all(dim=1), (changed.features == 0).all(dim=1)
    assert hole.sum() == 4 * 6 and gone.sum() == 4 * 6 and not torch.equal(hole, gone)
    np.testing.assert_array_equal(changed.labels, sample().labels)


def test_colours_stay_colours():
    changed = run(colour=1.0)
    assert changed.rgb.min() >= 0 and changed.rgb.max() <= 1
    assert (changed.rgb - sample().rgb).abs().mean() > 0.01
    np.testing.assert_array_equal(changed.features, sample().features)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same(seed):
    config = AugmentationConfig(1.0, 1.0, 1.0, 1.0, 1.0)
    one, other = (changed_by(sample(), seed, config) for _ in range(2))
    np.testing.assert_array_equal(one.rgb, other.rgb)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_every_image_of_a_batch_is_changed_by_itself():
    one = sample()
    batch = Samples(*(image.repeat(8, *[1] * (image.dim() - 1)) for image in vars(one).values()))
    changed = changed_by(batch, 0, AugmentationConfig(**(OFF | {"flip": 0.5})))
    flipped = [bool((labels == one.labels[0].flip(-1)).all()) for labels in changed.labels]
    assert 0 < sum(flipped) < 8
    for row, turned in enumerate(flipped):
        expected = one.rgb[0].flip(-1) if turned else one.rgb[0]
        assert torch.equal(changed.rgb[row], expected)
