import copy

import pytest
import torch

from gs_semantic.errors import InvalidInputError, MissingExtraError
from gs_semantic.segmentation.generalization.rt_gs2.fusion import CrossModalAttention, Fusion, LocalAttentionSelection
from gs_semantic.segmentation.generalization.rt_gs2.inference import Inference
from gs_semantic.segmentation.generalization.rt_gs2.network import FusionNetwork, NetworkConfig, averaged
from gs_semantic.segmenters.weights import Weights


@pytest.fixture(scope="module", params=["both", "image", "features"])
def small(request):
    torch.manual_seed(0)
    return FusionNetwork(NetworkConfig.small(7, request.param)).eval()


def test_answer_has_the_size_of_the_view(small):
    for height, width in ((64, 96), (50, 70)):
        with torch.no_grad():
            out = small(torch.rand(2, 3, height, width), torch.rand(2, 32, height, width))
        assert out.logits.shape == (2, 7, height, width)
        assert out.embedding.shape[:2] == (2, small.config.embedding) and torch.isfinite(out.logits).all()


def test_features_may_be_averaged_before(small):
    rgb, features = torch.rand(1, 3, 50, 70), torch.rand(1, 32, 50, 70)
    before = averaged(features, 4)
    assert before.shape[2:] == (13, 18)
    torch.testing.assert_close(before[..., 12, 17], features[..., 48:, 68:].mean(dim=(2, 3)))
    with torch.no_grad():
        torch.testing.assert_close(small(rgb, before).logits, small(rgb, features).logits)


def test_only_what_it_looks_at_changes_the_answer(small):
    torch.manual_seed(1)
    rgb, features = torch.rand(1, 3, 64, 64), torch.rand(1, 32, 64, 64)
    with torch.no_grad():
        base = small(rgb, features).logits
        other_rgb = small(1 - rgb, features).logits
        other_features = small(rgb, 1 - features).logits
    inputs = small.config.inputs
    assert torch.equal(base, other_rgb) == (inputs == "features")
    assert torch.equal(base, other_features) == (inputs == "image")


def test_paper_sizes():
    config = NetworkConfig(20)
    network = FusionNetwork(config)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert count["image"] == pytest.approx(27.8e6, rel=0.01)  # ConvNeXt-T without its classifier
    assert count["stages"] == pytest.approx(3.4e6, rel=0.05)  # MiT-B0, with 32 channels in the first embedding
    strides = [stage.embed.proj.stride[0] for stage in network.stages]
    kernels = [stage.embed.proj.kernel_size[0] for stage in network.stages]
    assert (strides, kernels) == ([4, 2, 2, 2], [7, 3, 3, 3])
    assert network.stages[0].embed.proj.in_channels == 32 and len(network.fusions) == 3


def test_selection_gates_places_and_channels():
    torch.manual_seed(0)
    part = LocalAttentionSelection(32, 8).eval()
    x = torch.randn(2, 32, 3, 5)
    mean = x.mean(dim=(2, 3))
    weight = part.place[2](torch.relu(part.place[0](mean)))
    channel = torch.sigmoid(part.channel[2](torch.relu(part.channel[0](mean))))
    expected = torch.empty_like(x)
    for v in range(3):
        for u in range(5):
            gate = torch.sigmoid((x[:, :, v, u] * weight).sum(dim=1) / 32**2)
            expected[:, :, v, u] = x[:, :, v, u] * gate[:, None] * channel
    torch.testing.assert_close(part(x), part.out(expected))


def test_attention_mixes_both_maps_and_all_places():
    torch.manual_seed(0)
    part = CrossModalAttention(8, 16).eval()
    features, image, joined = torch.randn(1, 8, 2, 3), torch.randn(1, 16, 2, 3), torch.randn(1, 8, 2, 3)
    found = part(features, image, joined)
    a = part.from_features(part.norm_features(features).flatten(2).transpose(1, 2))[0]
    b = part.from_image(part.norm_image(image).flatten(2).transpose(1, 2))[0]
    both = torch.cat([a, b], dim=1)  # (6, 16), then the channels of the halves in turn
    shuffled = torch.stack([both[:, :8], both[:, 8:]], dim=2).reshape(6, 16)
    key1, query1, key2, query2 = shuffled.split(4, dim=1)
    value1, value2 = part.value(joined.flatten(2).transpose(1, 2))[0].split(2, dim=1)
    answers = [
        (query @ key.T / 2).softmax(dim=1) @ value
        for query, key, value in ((query1, key1, value1), (query2, key2, value2))
    ]
    out = part.out(torch.cat(answers, dim=1)).T.reshape(1, 8, 2, 3)
    torch.testing.assert_close(found, joined + part.norm_out(out), rtol=1e-4, atol=1e-5)


def test_fusion_keeps_the_width_of_the_features():
    assert Fusion(16, 32).eval()(torch.rand(1, 16, 4, 5), torch.rand(1, 32, 4, 5)).shape == (1, 16, 4, 5)


def test_gradients_reach_both_encoders():
    torch.manual_seed(0)
    network = FusionNetwork(NetworkConfig.small(3)).train()
    network(torch.rand(2, 3, 64, 64), torch.rand(2, 32, 64, 64)).logits.square().mean().backward()
    for part in (network.image, network.stages, network.fusions, network.decoder):
        share = [float(p.grad.abs().sum()) > 0 for p in part.parameters() if p.grad is not None]
        assert share and sum(share) / len(share) > 0.9


def test_too_small_images_and_missing_features_are_refused():
    network = FusionNetwork(NetworkConfig.small(3)).eval()
    with pytest.raises(InvalidInputError, match="20x64 is too small"):
        network(torch.rand(1, 3, 64, 20), torch.rand(1, 32, 64, 20))
    with pytest.raises(InvalidInputError, match="features"):
        network(torch.rand(1, 3, 64, 64), None)


def test_pretrained_weights_are_taken_over(tmp_path):
    from transformers import ConvNextConfig, ConvNextModel

    form = NetworkConfig.small(3)
    model = ConvNextModel(ConvNextConfig(hidden_sizes=list(form.image_widths), depths=list(form.image_depths)))
    model.save_pretrained(tmp_path)
    network = FusionNetwork(form, Weights(str(tmp_path)))
    mine = network.image.stages[2].layers[1].pwconv1.weight
    assert torch.equal(mine, model.encoder.stages[2].layers[1].pwconv1.weight)
    with pytest.raises(MissingExtraError, match="config.json"):
        FusionNetwork(form, Weights(str(tmp_path.parent)))


def test_made_ready_for_inference_it_answers_the_same(small):
    torch.manual_seed(2)
    learned = copy.deepcopy(small).train()
    for _ in range(2):  # norms get means of their own
        learned(torch.rand(2, 3, 64, 64), torch.randn(2, 32, 64, 64))
    learned.eval()
    rgb, features = torch.rand(1, 3, 50, 70), torch.randn(1, 32, 50, 70)
    with torch.no_grad():
        expected = learned(rgb, features).logits[0]
    torch.testing.assert_close(Inference(learned)(rgb, features), expected, atol=1e-5, rtol=1e-4)
