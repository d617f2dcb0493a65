"""Real model classes with tiny random weights, loaded from a folder as a user's would be."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from gs_semantic.errors import InvalidRequestError, MissingExtraError
from gs_semantic.segmenters.grounded import GroundedConfig, tokens_of
from gs_semantic.segmenters.images import fitted_size, normalised
from gs_semantic.segmenters.panoptic import PanopticConfig
from gs_semantic.segmenters.registry import KINDS, create
from gs_semantic.segmenters.sam2 import Sam2Config, Sam2Prompted
from gs_semantic.segmenters.weights import Weights

# random weights are sure of nothing, so that everything has to be let through
LENIENT = {
    "sam2": Sam2Config(points_per_side=3, points_at_once=4, quality=-100.0, stability=0.0, least_px=1),
    "mask2former": PanopticConfig(score=0.0, kept=0.0, least_px=1),
    "oneformer": PanopticConfig(score=0.0, kept=0.0, least_px=1),
    "grounded": GroundedConfig(score=0.0, least_px=1),
}
WORDS = ["red chair", "table"]


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small are slower with several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(name, tiny, **changes):
    options = {"model": str(tiny(name)), "device": "cpu", "config": LENIENT[name]}
    if name == "grounded":
        options |= {"mask_model": str(tiny("sam2")), "words": WORDS}
    return create(name, **(options | changes))


@pytest.mark.parametrize("name", LENIENT)
def test_masks_of_a_frame(name, tiny, picture):
    segmenter = make(name, tiny)
    found = segmenter.segment(picture)
    assert found.instances.shape == (48, 64) and found.instances.dtype == np.int32
    ids = set(np.unique(found.instances).tolist()) - {0}
    assert ids and ids == set(found.masks) == set(range(1, len(ids) + 1))
    assert all(0 <= info.score <= 1 for info in found.masks.values())
    if KINDS[name].has_classes:
        assert {info.class_id for info in found.masks.values()} <= set(segmenter.labels.names) - {0}
    else:
        assert segmenter.labels is None and {info.class_id for info in found.masks.values()} == {0}
    again = segmenter.segment(picture)
    assert np.array_equal(again.instances, found.instances) and again.masks == found.masks


def test_class_names_come_from_the_checkpoint(tiny):
    assert make("mask2former", tiny).labels.names == {0: "void", 1: "chair", 2: "table", 3: "wall"}


def test_class_names_are_the_words(tiny):
    assert make("grounded", tiny).labels.names == {0: "void", 1: "red chair", 2: "table"}


def test_strict_settings_leave_no_mask(tiny, picture):
    for name, config in (("mask2former", PanopticConfig(score=1.0)), ("sam2", Sam2Config(quality=1.0, points_per_side=2)),
                         ("grounded", GroundedConfig(score=1.0))):  # fmt: skip
        found = make(name, tiny, config=config).segment(picture)
        assert not found.instances.any() and found.masks == {}


def test_preparation_follows_the_checkpoint(tiny, picture):
    preprocessing = Weights(str(tiny("mask2former"))).preprocessing()
    assert fitted_size(48, 64, preprocessing, 800, 1333) == (64, 96)  # shortest_edge 64, multiples of 32
    pixels = normalised(picture.rgb, (48, 64), preprocessing, "cpu")
    assert np.allclose(pixels[0].numpy(), (picture.rgb.transpose(2, 0, 1) / 255 - 0.5) / 0.25, atol=1e-5)


def test_points_and_boxes_reach_the_model(tiny, picture):
    """Low-level: what the prompts say is what the model of the library answers when asked directly."""
    sam = Sam2Prompted(Weights(str(tiny("sam2"))), "cpu")
    with torch.inference_mode():
        embeddings = sam.embed(picture.rgb)
        points = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
        masks, quality = sam.of_points(embeddings, points)
        prompt = torch.tensor([[[[16.0, 32.0]], [[48.0, 32.0]]]])  # the model's side is 64
        expected = sam.model(image_embeddings=embeddings, input_points=prompt, multimask_output=True)
        boxes, _ = sam.of_boxes(embeddings, torch.tensor([[0.1, 0.2, 0.5, 0.6]]))
    assert masks.shape == (6, 16, 16) and quality.shape == (6,)
    assert torch.equal(masks, expected.pred_masks.flatten(0, 2))
    assert boxes.shape == (1, 16, 16)


def test_words_are_told_apart_by_their_tokens(tiny):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny("grounded"))
    text, spans = tokens_of(tokenizer, WORDS, 32)
    ids = text["input_ids"][0].tolist()
    names = [tokenizer.convert_ids_to_tokens([ids[place] for place in span]) for span in spans]
    assert names == [["red", "chair"], ["table"]]


# --- what can be wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LENIENT)
def test_missing_weights_are_named_with_how_to_get_them(name, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingExtraError) as caught:
        make(name, tiny, model="nobody/has-this-model")
    text = str(caught.value)
    for part in ("nobody/has-this-model", "hf download nobody/has-this-model", "parameter model", "parameter download"):
        assert part in text
    assert make(name, tiny) is not None


def test_usual_weights_are_named_when_they_are_not_there(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingExtraError, match="facebook/sam2.1-hiera-tiny"):
        Weights(KINDS["sam2"].weights).load("Sam2Model", "cpu")


def test_empty_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(MissingExtraError, match="expected a folder with config.json and model.safetensors"):
        create("sam2", model=str(tmp_path), device="cpu")


def test_folder_without_weights(tiny, tmp_path):
    shutil.copy(tiny("sam2") / "config.json", tmp_path)
    with pytest.raises(MissingExtraError, match="model.safetensors"):
        create("sam2", model=str(tmp_path), device="cpu")


def test_other_model_in_the_folder(tiny):
    with pytest.raises(InvalidRequestError, match="holds a model of type 'mask2former', expected 'sam2'"):
        create("sam2", model=str(tiny("mask2former")), device="cpu")


def test_incomplete_weights_are_refused_instead_of_drawn_at_random(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny("mask2former"), tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if "class_predictor" in name)
    tensors.pop(gone)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidRequestError, match="class_predictor"):
        create("mask2former", model=str(tmp_path), device="cpu")


def test_damaged_weights_are_named(tiny, tmp_path):
    shutil.copytree(tiny("sam2"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(InvalidRequestError, match="the weights cannot be read"):
        create("sam2", model=str(tmp_path), device="cpu")


def test_config_that_is_not_json(tiny, tmp_path):
    shutil.copytree(tiny("sam2"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises((InvalidRequestError, MissingExtraError), match=str(tmp_path)):
        create("sam2", model=str(tmp_path), device="cpu")


def test_unreadable_preprocessing_is_named(tiny, tmp_path):
    shutil.copytree(tiny("mask2former"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({})[:1])
    with pytest.raises(InvalidRequestError, match="preprocessor_config.json"):
        create("mask2former", model=str(tmp_path), device="cpu")


def test_missing_library_names_the_extra(monkeypatch, tiny):
    import sys

    folder = str(tiny("sam2"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"gs_semantic\[models\]"):
        create("sam2", model=folder)


def test_word_list_is_needed(tiny):
    with pytest.raises(InvalidRequestError, match="words: give the names"):
        make("grounded", tiny, words=[" "])


def test_a_word_without_tokens_is_refused(tiny):
    with pytest.raises(InvalidRequestError, match="words"):
        make("grounded", tiny, words=["chair", "."])
