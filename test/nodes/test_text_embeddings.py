"""~/query_text and ~/get_object with a model that knows words: a tiny CLIP of random weights, and one that knows colours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rig import BOX_PIXEL, Rig

from gs_semantic.errors import NothingThereError
from gs_semantic.objects.text import match_embeddings

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
        outcomes = set()
        for text in ("zebra", "quilt", "kiwi", "anvil", "yacht", "jug", "xylophone", "violin"):
            expected = match_embeddings(text, table, language, ["fork"])
            there = {object_id: score for object_id, score in zip(ids, expected, strict=True) if score >= 0.5}
            outcomes.add(bool(there))
            if not there:
                with pytest.raises(NothingThereError, match="is not found: .*nor does one look so to clip:"):
                    client.query_text(text, negatives=["fork"])
                continue
            found = client.query_text(text, negatives=["fork"])
            assert found.matcher == language.name
            assert {obj.id: pytest.approx(score, abs=1e-4) for obj, score in zip(found.objects, found.scores, strict=True)} == there
        assert outcomes == {True, False}


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
