import numpy as np
import pytest
import torch
from tiny_room import room

from gs_semantic.errors import EmptyMapError, InvalidInputError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.rendering.base import SplatTensors
from gs_semantic.segmentation.generalization.rt_gs2.gaussian_inputs import LOG_SCALE, OPACITY, RGB, XYZ, gaussian_inputs
from gs_semantic.segmentation.generalization.rt_gs2.point_transformer import PointTransformer, PointTransformerConfig
from gs_semantic.segmentation.generalization.rt_gs2.scene_features import LiveFeatures, scene_features


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PointTransformer(PointTransformerConfig.small()).eval()


def test_ten_numbers_in_their_order():
    gaussians, _ = room(500)
    inputs = gaussian_inputs(gaussians)
    torch.testing.assert_close(inputs.features[:, XYZ], gaussians.means - gaussians.means.mean(dim=0))
    assert inputs.features[:, RGB].min() == 0 and inputs.features[:, RGB].max() == 1
    torch.testing.assert_close(inputs.features[:, OPACITY], torch.sigmoid(torch.full((500, 1), 2.0)))
    torch.testing.assert_close(inputs.features[:, LOG_SCALE], gaussians.log_scales)


def test_any_degree_of_spherical_harmonics_gives_the_same(model):
    one, other = room(600, sh_degree=0)[0], room(600, sh_degree=3)[0]
    other.sh[:, 1:] = torch.randn_like(other.sh[:, 1:])
    torch.testing.assert_close(scene_features(model, one), scene_features(model, other))


def test_maps_without_colour_or_gaussians_are_refused(model):
    gaussians, _ = room(50)
    bare = SplatTensors(
        gaussians.means, gaussians.quats, gaussians.log_scales, gaussians.opacity_logits, gaussians.sh[:, :0]
    )
    with pytest.raises(InvalidInputError, match="no colour"):
        gaussian_inputs(bare)
    with pytest.raises(EmptyMapError, match="map the scene first"):
        scene_features(model, GaussianMap())
    gaussians.means[7, 1] = float("nan")
    with pytest.raises(InvalidInputError, match="1 of 50 .* row 7"):
        scene_features(model, gaussians)


def test_ten_gaussians_of_one_colour(model):
    gaussians, _ = room(10)
    gaussians.sh[:] = 0.3
    assert torch.isfinite(scene_features(model, gaussians)).all()


def test_many_gaussians_go_through_in_bounded_pieces(model, monkeypatch):
    gaussians, _ = room(6000)
    sizes, answers = [], {}
    forward = PointTransformer.forward

    def watched(self, xyz, features, pyramid=None):
        sizes.append(len(xyz))
        return forward(self, xyz, features, pyramid)

    monkeypatch.setattr(PointTransformer, "forward", watched)
    answers["whole"] = scene_features(model, gaussians)
    answers["pieces"] = scene_features(model, gaussians, max_points=2000)
    assert sizes[0] == 6000 and len(sizes) > 4 and max(sizes[1:]) <= 2000
    assert torch.isfinite(answers["pieces"]).all()
    alike = torch.nn.functional.cosine_similarity(answers["whole"], answers["pieces"], dim=1)
    assert alike.median() > 0.6  # other points in a patch, the same surroundings


def test_live_features_renew_only_what_changed(model):
    gaussians, _ = room(3000)
    live = LiveFeatures(model)
    first = live.update(gaussians).clone()
    assert live.renewed == 3000
    torch.testing.assert_close(first, scene_features(model, gaussians))
    again = live.update(gaussians)
    assert live.renewed == 0 and torch.equal(again, first)

    corner = torch.nonzero((gaussians.means[:, :2] > 1.6).all(dim=1))[:, 0]
    gaussians.sh[corner] += 0.7
    gaussians.touch(corner)
    second = live.update(gaussians)
    assert 0 < live.renewed < 1200
    far = (gaussians.means[:, :2] < -0.1).all(dim=1)
    assert torch.equal(second[far], first[far])
    assert (second[corner] - first[corner]).abs().mean() > 0.01


def test_live_features_of_a_grown_and_pruned_map(model):
    gaussians, _ = room(3000)
    live = LiveFeatures(model)
    live.update(gaussians)
    rows = {name: gaussians[name][:40].clone() for name in ("quats", "log_scales", "opacity_logits", "sh")}
    gaussians.add(means=torch.from_numpy(np.random.default_rng(0).uniform(1.5, 1.9, (40, 3))).float(), **rows)
    found = live.update(gaussians)
    assert found.shape == (3040, 32) and 40 <= live.renewed < 1500
    assert found[3000:].abs().sum(dim=1).min() > 0
    gaussians.keep(torch.arange(3040) % 7 != 0)
    assert live.update(gaussians).shape == (len(gaussians), 32)
    assert torch.isfinite(live.update(gaussians)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_features_of_the_cpu(model):
    gaussians, _ = room(3000)
    there = PointTransformer(PointTransformerConfig.small()).cuda()
    there.load_state_dict(model.state_dict())
    for pieces in (3000, 1000):
        here, found = (scene_features(m, gaussians, pieces) for m in (model, there))
        assert torch.nn.functional.cosine_similarity(here, found, dim=1).quantile(0.01) > 0.99
