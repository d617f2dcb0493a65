"""Options of a suite: which of its variants take them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gs_semantic.errors import InvalidRequestError
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
