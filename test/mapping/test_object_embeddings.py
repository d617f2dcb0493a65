"""Embeddings of objects: features lifted from keyframes, kept with the objects, and looked for with words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colour_space import WORDS, ColourSpace
from scene import BOXES, camera, frame, shuffled

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.events import LabelImages
from gs_semantic.mapping.language import embed, features_of_slots
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.objects.registry import ObjectRegistry
from gs_semantic.objects.text import THRESHOLD, match_embeddings

COLOUR_OF_BOX = {2: "tomato", 3: "grass", 4: "sky"}


def seen(instance: list[list[int]], confidence: list[list[int]]) -> LabelImages:
    image = np.array(instance, np.int32)
    return LabelImages(0, camera(), image, image.astype(np.uint16), np.array(confidence, np.uint8), np.ones(image.shape))


def test_sums_are_weighted_by_what_shows_at_each_pixel() -> None:
    features = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)  # a patch on the left, one on the right
    view = seen([[7, 7, 7, 0], [0, 9, 9, 9]], [[255, 255, 51, 0], [0, 102, 255, 255]])
    slots, sums, weights = features_of_slots(view, features)
    assert slots.tolist() == [7, 9]
    np.testing.assert_allclose(sums, [[2.0, 0.2], [0.4, 2.0]], atol=1e-6)
    np.testing.assert_allclose(weights, [2.2, 2.4], atol=1e-6)


def test_views_add_up_and_another_model_begins_anew() -> None:
    objects = ObjectRegistry()
    one, other = objects.open(), objects.open()
    view = seen([[one.slot, one.slot]], [[255, 255]])
    for x, y in ((1.0, 0.0), (0.0, 1.0), (0.0, 1.0)):
        embed(objects, view, np.array([[[x, y]]], np.float32), "first")
    # sums of 2, 2 and 2 pixels: (1, 0), then towards (0, 1)
    assert one.embedding_weight == 6.0 and one.embedding[1] > one.embedding[0] > 0.2
    assert np.linalg.norm(one.embedding) == pytest.approx(1)
    assert other.embedding is None
    embed(objects, view, np.array([[[0.0, 0.0, 1.0]]], np.float32), "second")
    assert objects.embedding_model == "second" and one.embedding.tolist() == [0, 0, 1] and one.embedding_weight == 2.0


def test_a_merged_object_takes_its_parts_embedding_along() -> None:
    objects = ObjectRegistry()
    keep, lose = objects.open(), objects.open()
    lose.take_embedding(np.array([0.0, 1.0]), 3.0)
    keep.take_embedding(np.array([1.0, 0.0]), 3.0)
    objects.absorb(keep, lose)
    np.testing.assert_allclose(keep.embedding, np.sqrt([0.5, 0.5]), atol=1e-6)
    assert keep.embedding_weight == 6.0


@pytest.fixture(scope="module")
def mapper() -> Mapper:
    """A room with a red, a green and a blue box, mapped with a model that knows words for colours."""
    mapper = Mapper(MapperConfig(steps_per_keyframe=0, steps_when_idle=False, embed_every=2), language=ColourSpace())
    for number in range(4):
        mapper.step(shuffled(frame(camera(0.14 * number), 10**8 * (number + 1)), seed=number), answer=False)
        mapper.finish()
    return mapper


def test_mapping_gives_objects_what_they_look_like(mapper: Mapper) -> None:
    truth, shown = frame(camera(0.2)), mapper.render_labels(camera(0.2))
    embedded = [obj for obj in mapper.objects.present() if obj.embedding is not None]
    assert len(embedded) == len(BOXES) + 1 and mapper.objects.embedding_model == "colours"
    table = np.stack([obj.embedding for obj in embedded])
    for box, word in COLOUR_OF_BOX.items():
        slots, counts = np.unique(shown.instance[truth.instances == box], return_counts=True)
        slot = slots[counts.argmax()]
        scores = match_embeddings(word, table, ColourSpace())
        assert [obj.slot for obj, score in zip(embedded, scores, strict=True) if score >= THRESHOLD] == [slot], word


def test_what_is_not_there_is_not_found(mapper: Mapper) -> None:
    table = np.stack([obj.embedding for obj in mapper.objects.present()])
    assert "lemon" in WORDS
    for word in ("lemon", "unheard of"):
        assert (match_embeddings(word, table, ColourSpace()) < THRESHOLD).all()
    assert match_embeddings("tomato", table, ColourSpace()).max() > 0.8
    assert match_embeddings("tomato", table, ColourSpace(), ["sky", "tomato"]).max() == 0  # a negative that fits as well
    with pytest.raises(InvalidRequestError, match="text is empty"):
        match_embeddings("  ", table, ColourSpace())


def test_embeddings_are_saved_with_the_map(mapper: Mapper, tmp_path: Path) -> None:
    save_map(tmp_path / "map", mapper.gaussians, mapper.objects)
    _, objects = load_map(tmp_path / "map")
    assert objects.embedding_model == "colours"
    for obj in mapper.objects.present():
        np.testing.assert_array_equal(objects.by_id(obj.id).embedding, obj.embedding)
