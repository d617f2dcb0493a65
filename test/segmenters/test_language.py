"""Images and words in one space: a tiny CLIP and a tiny SigLIP of random weights, saved to folders as users have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_semantic.errors import InvalidRequestError, MissingExtraError
from gs_semantic.segmenters.images import normalised
from gs_semantic.segmenters.language import CLIP_MEAN, CLIP_STD, LanguageFeatures
from gs_semantic.segmenters.weights import Weights


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "channels"), [("clip", 12), ("siglip", 16)])
def test_patches_and_words_are_unit_vectors_of_one_space(tiny, rgb, name, channels):
    features = LanguageFeatures(Weights(str(tiny(name))), longest_px=64)
    found, words = features.map(rgb), features.encode(["mug", "chair with a red cushion"])
    assert found.shape == (6, 8, channels) and words.shape == (2, channels)
    for vectors in found, words:
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    assert np.abs(words[0] - words[1]).max() > 1e-3 and np.ptp(found, axis=(0, 1)).max() > 1e-3
    assert features.name == f"{name}:{tiny(name).name}" and features.scale > 0
    assert features.encode(["mug " * 300]).shape == (1, channels)  # longer than the model reads


def test_clip_patches_do_not_mix(tiny, rgb):
    """With one layer, the value of a patch depends on its own pixels alone; the class token's would on all."""
    features = LanguageFeatures(Weights(str(tiny("clip"))), longest_px=64)
    changed = rgb.copy()
    changed[16:24, 40:48] = 255 - changed[16:24, 40:48]  # patch (2, 5)
    differs = np.abs(features.map(changed) - features.map(rgb)).max(axis=2) > 1e-5
    assert differs[2, 5] and differs.sum() == 1


def test_a_siglip_patch_is_what_the_model_says_of_an_image_of_one_patch(tiny, rgb):
    features = LanguageFeatures(Weights(str(tiny("siglip"))), longest_px=8)
    patch = rgb[:8, :8]
    pixels = normalised(patch, (8, 8), {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "cpu")
    with torch.inference_mode():
        expected = features.model.vision_model(pixels, interpolate_pos_encoding=True).pooler_output[0]
    np.testing.assert_allclose(features.map(patch)[0, 0], expected / expected.norm(), atol=1e-5)


def test_words_are_those_of_the_model(tiny):
    import transformers

    folder = str(tiny("clip"))
    features = LanguageFeatures(Weights(folder))
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(["a photo of a mug."], return_tensors="pt")
    with torch.inference_mode():
        expected = features.model.get_text_features(**tokens)
    expected = getattr(expected, "pooler_output", expected)[0]
    np.testing.assert_allclose(features.encode(["mug"])[0], expected / expected.norm(), atol=1e-5)


def test_colours_are_normalised_as_the_model_was_trained(tiny):
    features = LanguageFeatures(Weights(str(tiny("clip"))))
    assert features._preprocessing["image_mean"] == CLIP_MEAN and features._preprocessing["image_std"] == CLIP_STD


def test_weights_of_another_model_or_none(tiny, tmp_path):
    with pytest.raises(InvalidRequestError, match="holds a model of type 'vit', expected one of clip, siglip"):
        LanguageFeatures(Weights(str(tiny("vit"))))
    with pytest.raises(MissingExtraError, match="no config.json"):
        LanguageFeatures(Weights(str(tmp_path)))
