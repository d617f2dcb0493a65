"""docs/parameters.md is what its tool writes, and every parameter is complete."""

from __future__ import annotations

import sys
import typing
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from update_parameters import PAGE, TABLES, page


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run tools/update_parameters.py"


@pytest.mark.parametrize(("heading", "kind"), [(heading, kind) for heading, kind, _ in TABLES])
def test_every_parameter_is_described_and_bounded(heading: str, kind: type) -> None:
    hints = typing.get_type_hints(kind)
    for spec in fields(kind):
        assert spec.metadata["text"], f"{heading}: {spec.name} has no description"
        if hints[spec.name] in (int, float):
            low, high = spec.metadata["low"], spec.metadata["high"]
            assert low is not None and high is not None and low < high, f"{heading}: {spec.name} has no range"
