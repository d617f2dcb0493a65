import math

import pytest
import torch
from tiny_room import cameras, room

from gs_semantic.errors import InvalidInputError
from gs_semantic.segmentation.generalization.rt_gs2.contrastive import (
    ContrastiveConfig,
    ContrastiveScene,
    augmented,
    contrastive_loss,
    draw_pair,
    in_frustum,
    one_per_voxel,
    point_info_nce,
    view_pairs,
)
from gs_semantic.segmentation.generalization.rt_gs2.gaussian_inputs import LOG_SCALE, OPACITY, RGB, gaussian_inputs
from gs_semantic.segmentation.generalization.rt_gs2.point_transformer import PointTransformer, PointTransformerConfig


def test_equal_features_are_at_chance():
    same = torch.ones(4096, 32)
    assert point_info_nce(same, same).item() == pytest.approx(math.log(4096), abs=1e-4)
    assert math.log(4096) == pytest.approx(8.318, abs=1e-3)


def test_loss_of_two_orthogonal_pairs():
    basis = torch.eye(2)
    wanted = math.log(1 + math.exp(-2))  # temperature 0.5
    assert point_info_nce(basis, basis, 0.5).item() == pytest.approx(wanted, rel=1e-5)
    assert point_info_nce(basis, basis.flip(0), 0.5).item() == pytest.approx(2 + wanted, rel=1e-5)
    assert point_info_nce(5 * basis, basis, 0.5).item() == pytest.approx(math.log(1 + math.exp(-10)), rel=1e-2)
    assert point_info_nce(5 * basis, basis, 0.5, normalise=True).item() == pytest.approx(wanted, rel=1e-5)


def test_frustum_reaches_beyond_the_image_by_its_margin():
    camera = cameras(1, width=64, height=64)[0]
    pose = torch.from_numpy(camera.T_world_camera).float()
    edge = 0.5 * 64 / camera.fx  # at depth 1, of the image's half
    local = torch.tensor([[0, 0, 1.0], [1.29 * edge, 0, 1], [1.31 * edge, 0, 1], [0, -1.29 * edge, 1], [0, 0, -1]])
    means = local @ pose[:3, :3].T + pose[:3, 3]
    assert in_frustum(means, camera).tolist() == [True, True, False, True, False]
    assert in_frustum(means, camera, margin=1.0).tolist() == [True, False, False, False, False]


def test_pairs_share_neither_too_little_nor_too_much():
    gaussians, _ = room()
    views = cameras(16)
    found = view_pairs(gaussians.means, views)
    assert found
    for first, second in found:
        assert second - first >= 2
        a, b = in_frustum(gaussians.means, views[first]), in_frustum(gaussians.means, views[second])
        assert 0.3 < float((a & b).sum() / (a | b).sum()) < 0.8
    same = [views[0]] * 16
    with pytest.raises(InvalidInputError, match="share"):
        ContrastiveScene.of(gaussians, same)


def test_one_gaussian_of_every_cube():
    xyz = torch.tensor([[0, 0, 0], [0.01, 0, 0], [0.5, 0, 0], [0.51, 0.01, 0], [0.52, 0, 0.01]])
    seen = torch.zeros(5)
    for seed in range(40):
        mask = one_per_voxel(xyz, 0.07, torch.Generator().manual_seed(seed))
        assert int(mask[:2].sum()) == 1 and int(mask[2:].sum()) == 1
        seen += mask
    assert (seen > 0).all()


def test_common_rows_are_the_same_gaussian():
    gaussians, _ = room()
    config = ContrastiveConfig(scale=(1.0, 1.0), noise=0.0)
    scene = ContrastiveScene.of(gaussians, cameras(16), config)
    pair = draw_pair(scene, scene.pairs[0], torch.Generator().manual_seed(0), config)
    assert pair is not None and len(pair.common) > 100
    first, second = (view.rows(pair.common[:, side]) for side, view in enumerate(pair.views))
    assert torch.equal(first.features[:, RGB], second.features[:, RGB])
    # turned by different angles, so distances alone agree
    torch.testing.assert_close(
        torch.cdist(first.xyz, first.xyz), torch.cdist(second.xyz, second.xyz), rtol=1e-3, atol=2e-3
    )
    assert not torch.allclose(first.xyz, second.xyz, atol=0.1)


def test_augmentation_is_rigid_but_for_one_size():
    inputs = gaussian_inputs(room(400)[0])
    config = ContrastiveConfig(noise=0.0)
    changed = augmented(inputs, torch.Generator().manual_seed(3), config)
    before, after = torch.cdist(inputs.xyz, inputs.xyz), torch.cdist(changed.xyz, changed.xyz)
    factor = float(after.sum() / before.sum())
    assert 0.6 <= factor <= 1.2
    torch.testing.assert_close(after, before * factor, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(changed.xyz.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
    size = changed.features[:, LOG_SCALE] - inputs.features[:, LOG_SCALE]
    torch.testing.assert_close(size, torch.full_like(size, math.log(factor)), rtol=1e-3, atol=1e-3)
    assert torch.equal(changed.features[:, RGB], inputs.features[:, RGB])


def test_noise_stays_within_bounds():
    inputs = gaussian_inputs(room(400)[0])
    changed = augmented(inputs, torch.Generator().manual_seed(3), ContrastiveConfig())
    for part in (RGB, OPACITY):
        noise = changed.features[:, part] - inputs.features[:, part]
        assert 0.01 < noise.std() < 0.03
        assert changed.features[:, part].min() >= 0 and changed.features[:, part].max() <= 1


def test_training_tells_gaussians_apart():
    torch.manual_seed(0)
    gaussians, _ = room(600)
    config = ContrastiveConfig(pairs=128, normalise=True)
    scene = ContrastiveScene.of(gaussians, cameras(16), config)
    model = PointTransformer(
        PointTransformerConfig(
            encoder_depths=(1, 1), encoder_channels=(32, 32), encoder_heads=(2, 2),
            decoder_depths=(1,), decoder_channels=(32,), decoder_heads=(2,), patch=128, drop_path=0.0,
        )
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(10):
        pair = draw_pair(scene, scene.pairs[step % len(scene.pairs)], generator, config)
        assert pair is not None and len(pair.common) == 128
        loss = contrastive_loss(model, pair, config)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.3
