"""docs/results.md is made from its reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_results_page_is_what_its_reports_say():
    command = [sys.executable, str(ROOT / "docs" / "results" / "make.py"), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_reports_name_no_absolute_paths():
    for report in (ROOT / "docs" / "results").glob("*.json"):
        assert " /" not in json.loads(report.read_text(encoding="utf-8"))["command"], report.name
