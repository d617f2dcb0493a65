"""LPIPS with weights drawn at random: the architecture against torchmetrics, and what is said of files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_semantic.errors import InvalidRequestError, MissingExtraError
from gs_semantic.evaluation import perceptual
from gs_semantic.evaluation.perceptual import BACKBONES, Lpips


def images(shape=(48, 64, 3)):
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1), int)).astype(np.uint8)[: shape[0], : shape[1]]
    return truth, np.clip(truth + rng.normal(0, 20, truth.shape), 0, 255).astype(np.uint8)


@pytest.fixture()
def cache(tmp_path, monkeypatch):
    """A user's cache with random weights of the small backbone; both of its files."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    backbone, heads = BACKBONES["alex"], tmp_path / "alex.pth"
    torch.manual_seed(0)
    layers = {f"features.{key}": value for key, value in backbone.layers().state_dict().items()}
    (tmp_path / "checkpoints").mkdir()
    torch.save({**layers, "classifier.1.weight": torch.zeros(1)}, tmp_path / "checkpoints" / backbone.file)
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, (_, c) in enumerate(backbone.taps)}, heads)
    monkeypatch.setattr(perceptual, "_head_file", lambda name: heads)
    return tmp_path / "checkpoints" / backbone.file, heads


def test_distance_from_weights_in_the_cache(cache):
    lpips = Lpips.load("alex")
    truth, noisy = images()
    assert lpips(truth, truth) == 0.0
    assert lpips(noisy, truth) == pytest.approx(lpips(truth, noisy)) and lpips(noisy, truth) > 0
    assert lpips(noisy / 255.0, truth) == pytest.approx(lpips(noisy, truth), rel=1e-4)
    for wrong in (truth[:20], truth[..., 0]):
        with pytest.raises(ValueError, match="two colour images of one size, 32 pixels"):
            lpips(wrong, wrong)


@pytest.mark.parametrize("name", BACKBONES)
def test_against_torchmetrics(name, monkeypatch):
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    torch.manual_seed(1)
    backbone = BACKBONES[name]
    layers = backbone.layers()
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: layers)
    monkeypatch.setattr(torch.hub, "_hub_dir", "nowhere")
    expected = theirs._LPIPS(net=name, pnet_rand=True)
    heads = [head.model[1].weight.detach().reshape(-1) for head in expected.lins]
    truth, noisy = images()
    pair = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in (noisy, truth))
    assert Lpips(backbone, layers, heads)(noisy, truth) == pytest.approx(
        float(expected(*pair, normalize=True)), rel=1e-4
    )


def test_missing_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(perceptual, "_head_file", lambda name: tmp_path / "alex.pth")
    with pytest.raises(MissingExtraError, match="alexnet-owt-7be5be79.pth: no such file; torchvision"):
        Lpips.load("alex")
    with pytest.raises(InvalidRequestError, match="backbone 'squeeze' is not one of vgg, alex"):
        Lpips.load("squeeze")


def test_the_package_with_the_small_weights_is_named(monkeypatch):
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lpips_vgg needs the Python module 'torchmetrics'.*\[train\]"):
        Lpips.load("vgg")


def test_files_with_other_content_are_named(cache):
    weights, heads = cache
    torch.save({}, heads)
    with pytest.raises(InvalidRequestError, match="alex.pth: no weights 'lin0.model.1.weight' of 64 channels"):
        Lpips.load("alex")
    torch.save({"features.0.weight": torch.zeros(1)}, weights)
    with pytest.raises(InvalidRequestError, match="alexnet.*: the weights do not fit the network: Missing key"):
        Lpips.load("alex")
    weights.write_bytes(b"nothing of that kind")
    with pytest.raises(InvalidRequestError, match="alexnet.*: cannot be read as weights"):
        Lpips.load("alex")
