"""Dense 2D features: a tiny ViT and a tiny DINOv2 of random weights, and the descriptor without weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_semantic.errors import InvalidRequestError, MissingExtraError
from gs_semantic.segmenters.features import SCALES, DescriptorFeatures, VitFeatures, dense_features
from gs_semantic.segmenters.weights import Weights


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_four_blocks_of_a_transformer_with_its_class_token(tiny, rgb, name):
    features = dense_features("dino", str(tiny(name)))
    assert features.blocks == [1, 2, 3, 4]
    features.longest_px = 64
    maps = features.maps(rgb)
    assert [image.shape for image in maps] == [(6, 8, 32)] * SCALES  # patches of 8 pixels; 16 channels twice
    assert all(image.dtype == np.float32 and np.isfinite(image).all() for image in maps)
    assert not np.allclose(maps[0], maps[3])
    globals_ = maps[2][..., 16:]
    assert np.allclose(globals_, globals_[0, 0]) and not np.allclose(maps[2][..., :16], maps[2][0, 0, :16])


def test_the_tokens_are_those_of_the_model(tiny, rgb):
    features = VitFeatures(Weights(str(tiny("vit"))), longest_px=64)
    from gs_semantic.segmenters.images import normalised

    pixels = normalised(rgb, (48, 64), {}, "cpu")
    with torch.inference_mode():
        states = features.model(pixel_values=pixels, output_hidden_states=True, interpolate_pos_encoding=True)
    tokens = states.hidden_states[3][0]
    shown = features.maps(rgb)[2]
    assert np.allclose(shown[1, 2, :16], tokens[1 + 8 + 2], atol=1e-5) and np.allclose(
        shown[1, 2, 16:], tokens[0], atol=1e-5
    )


def test_weights_of_another_model_or_none_are_named(tiny, tmp_path):
    with pytest.raises(InvalidRequestError, match="holds a model of type 'mask2former', expected one of vit, dinov2"):
        dense_features("dino", str(tiny("mask2former")))
    with pytest.raises(MissingExtraError, match="no config.json"):
        dense_features("dino", str(tmp_path))
    with pytest.raises(MissingExtraError, match="neither a folder nor in the cache"):
        dense_features("dino", "nobody/has-this-model")
    with pytest.raises(InvalidRequestError, match="features: 'magic' is not one of descriptor, dino"):
        dense_features("magic")


def test_the_descriptor_tells_textures_apart_and_not_where_they_are():
    height, width = 96, 128
    v, u = np.mgrid[0:height, 0:width]
    stripes = np.where(u < 64, 128 + 60 * np.sin(u / 2), 128 + 60 * np.sin(v / 2))  # upright on the left, level right
    maps = DescriptorFeatures().maps(np.repeat(stripes[..., None], 3, axis=2).astype(np.uint8))
    assert len(maps) == SCALES and [image.shape[:2] for image in maps] == [(48, 64), (24, 32), (12, 16), (6, 8)]
    fine = maps[1]
    left, right = fine[6:18, 5:11].reshape(-1, 132), fine[6:18, 21:27].reshape(-1, 132)
    own, other = left.mean(axis=0), right.mean(axis=0)
    for vectors, near, far in ((left, own, other), (right, other, own)):
        assert (np.linalg.norm(vectors - near, axis=1) < np.linalg.norm(vectors - far, axis=1)).all()
    again = DescriptorFeatures().maps(np.repeat(stripes[..., None], 3, axis=2).astype(np.uint8))
    assert all(np.array_equal(a, b) for a, b in zip(maps, again, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_tiny_images_have_features_too(size):
    maps = DescriptorFeatures().maps(np.full((*size, 3), 90, np.uint8))
    assert all(image.shape[2] == 132 and np.isfinite(image).all() for image in maps)
