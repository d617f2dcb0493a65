"""A suite: which of its variants take an option, and what it scores by protocols."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gs_semantic.errors import InvalidRequestError
from gs_semantic.segmentation.scene import View
from gs_semantic.segmentation.scoring import protocol_scores
from gs_semantic.segmentation.suite import Cell, Suite


def suite(**overrides) -> Suite:
    return Suite("gradiseg", Path("room"), Path("room"), Path("cells"), seeds=(0,), overrides=overrides)


def test_an_option_is_taken_by_the_variants_whose_method_has_it():
    configs = {
        name: suite(igd_every=7, iterations=9).config(Cell(name, "perfect", 0)) for name in ("plain", "gradiseg")
    }
    assert all(config is not None and config.iterations == 9 for config in configs.values())
    assert configs["gradiseg"].igd_every == 7 and not hasattr(configs["plain"], "igd_every")


def test_an_option_that_no_variant_has_is_refused_by_all():
    for name in ("plain", "gradiseg"):
        with pytest.raises(InvalidRequestError, match="option 'igd_evry':"):
            suite(igd_evry=7).config(Cell(name, "perfect", 0))


def test_protocols_want_ids_that_stay_and_ask_for_each_true_object():
    ids = np.repeat([0, 1, 2, 9], 16)[None].repeat(8, axis=0)
    views = [View(str(k), k, np.zeros((8, 64, 3), np.uint8), ids) for k in range(2)]

    def scores(shown):
        def predict(camera):
            return SimpleNamespace(ids=shown[camera], confidence=None)

        return protocol_scores(
            SimpleNamespace(predict=predict, scene=SimpleNamespace(ignored_ids=frozenset({9}))), views
        )

    assert all(value == 1 for value in scores([5 * ids, 5 * ids]).values())
    swapped = np.where(ids == 1, 7, 5 * ids)  # object 1 has another id in the second view
    found = scores([5 * ids, swapped])
    assert found["lerf_miou"] == found["lerf_mbiou"] == pytest.approx(0.75)  # (1 + 0) / 2 of one of two prompts
    assert found["replica_miou"] == pytest.approx(0.875) and found["replica_precision"] < 1
    views = [View("dark", 0, np.zeros((8, 64, 3), np.uint8), None)]
    assert scores([ids]) == {}
