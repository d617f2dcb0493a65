"""~/query_text and ~/get_object with a model that knows words: a tiny CLIP of random weights, and one that knows colours."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rig import BOX_PIXEL, Rig

from gs_semantic.errors import NothingThereError
from gs_semantic.objects.text import THRESHOLD, match_embeddings

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    sys.path.insert(0, str(TESTS / "segmenters"))
    import tiny_models

    return tiny_models.clip(tmp_path_factory.mktemp("clip"))


def test_the_answers_are_those_of_the_model(make_rig: Callable[..., Rig], weights: Path) -> None:
    rig = make_rig(language=str(weights), embed_every=1)
    rig.map_scene()
    rig.settled()
    view, language = rig.mapper.view, rig.mapper.language
    ids = sorted(view.embeddings)
    assert len(ids) == 2 and view.embedding_model == language.name
    with rig.planner() as client:
        for object_id in ids:
            answer = client.get_object(object_id, embedding=True)
            np.testing.assert_array_equal(answer.embedding, view.embeddings[object_id])
            assert answer.embedding_model == language.name
        assert client.query_text("lamp").matcher == "names"
        table = np.stack([view.embeddings[object_id] for object_id in ids])
        words = ["".join(letters) for letters in itertools.product("aeiou", "bdkmz", "aio")]
        expected = {word: match_embeddings(word, table, language, ["fork"]) for word in words}
        fitting = [word for word in words if (expected[word] >= THRESHOLD).any()]
        others = [word for word in words if word not in fitting]
        assert fitting and others
        for word in fitting[:4]:
            found = client.query_text(word, negatives=["fork"])
            there = {i: score for i, score in zip(ids, expected[word], strict=True) if score >= THRESHOLD}
            assert found.matcher == language.name and list(found.scores) == sorted(found.scores, reverse=True)
            told = zip(found.objects, found.scores, strict=True)
            assert {obj.id: score for obj, score in told} == pytest.approx(there, abs=1e-4)
        for word in others[:4]:
            with pytest.raises(NothingThereError, match="is not found: .*nor does one look so to clip:"):
                client.query_text(word, negatives=["fork"])


def test_heat_shows_where_something_looks_so(make_rig: Callable[..., Rig]) -> None:
    sys.path.insert(0, str(TESTS / "mapping"))
    from colour_space import ColourSpace

    rig = make_rig(embed_every=1)
    rig.mapper.language = rig.mapper.mapper.language = ColourSpace()
    rig.map_scene()
    rig.settled()
    with rig.planner() as client:
        found = client.query_text("tomato", heat=True)  # the box is red
        assert [obj.class_name for obj in found.objects] == ["box"] and found.matcher == "colours"
        u, v = BOX_PIXEL
        assert found.heat[v, u] > 100 and found.heat[v - 40, u] == 0
        with pytest.raises(NothingThereError):
            client.query_text("lemon")
        with pytest.raises(NothingThereError):
            client.query_text("tomato", negatives=["tomato"])
