"""The types in docs/interfaces.md are those of msg/, srv/ and action/, with what their comments say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import update_interfaces


def test_the_page_is_up_to_date() -> None:
    text = update_interfaces.PAGE.read_text(encoding="utf-8")
    assert update_interfaces.page(text) == text, "run tools/update_interfaces.py"


def test_every_type_and_field_is_there() -> None:
    """Against rosidl's own parser."""
    adapter = pytest.importorskip("rosidl_adapter.parser")
    text = update_interfaces.types()
    for kind, parse in (
        ("msg", lambda pkg, path: [adapter.parse_message_file(pkg, path)]),
        ("srv", lambda pkg, path: [(spec := adapter.parse_service_file(pkg, path)).request, spec.response]),
        ("action", lambda pkg, path: [(spec := adapter.parse_action_file(pkg, path)).goal, spec.result, spec.feedback]),
    ):
        for path in sorted((ROOT / kind).iterdir()):
            shown = text.split(f"### gs_semantic/{kind}/{path.stem}\n", 1)[1].split("\n### ", 1)[0]
            names = [item.name for part in parse("gs_semantic", str(path)) for item in (*part.constants, *part.fields)]
            assert shown.count("\n| `") == len(names), path.name
            for name in names:
                assert f"\n| `{name}`" in shown, f"{path.name}: {name}"


def test_comments_become_meanings(tmp_path: Path) -> None:
    path = tmp_path / "Thing.srv"
    path.write_text("# What it is.\n# More.\n\nuint8 A=1   # one | other\nfloat32[<=3] size # m\nint8 level 4\n---\nbool done\n")
    assert update_interfaces.section(path) == (
        "### gs_semantic/srv/Thing\n\nWhat it is. More.\n\nRequest:\n\n| field | type | meaning |\n|---|---|---|\n"
        "| `A` = 1 | uint8 | one \\| other |\n| `size` | float32[<=3] | m |\n| `level` (default 4) | int8 |  |\n\n"
        "Reply:\n\n| field | type | meaning |\n|---|---|---|\n| `done` | bool |  |\n"
    )
    path.write_text("# Nothing to ask.\n---\nbool done\n")
    assert "Request: nothing.\n" in update_interfaces.section(path)
    for wrong, message in (
        ("bool x\n---\n", "line 1 is no comment"),
        ("# Text.\nbool x\n", "has 1 parts, a srv file has 2"),
        ("# Text.\nbool x\n# astray\nbool y\n---\n", "expected `type name`"),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            update_interfaces.section(path)
