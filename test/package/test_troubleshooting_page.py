"""docs/troubleshooting.md is what tools/update_troubleshooting.py makes of the catalogue."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    path = ROOT / "tools" / "update_troubleshooting.py"
    spec = importlib.util.spec_from_file_location("update_troubleshooting", path)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), f"run {path.relative_to(ROOT)}"
