"""Reports: one JSON form, written whole or not at all."""

from __future__ import annotations

import io
import json
import subprocess

import numpy as np
import pytest
import torch
from rich.console import Console

from gs_semantic import __version__, report
from gs_semantic.errors import StorageError
from gs_semantic.files import atomic_write
from gs_semantic.report import Report, print_table


def test_content(tmp_path):
    result = Report("gs-semantic evaluate", {"masks": 3}, {"psnr_db": np.float32(27.5), "iou": {1: np.nan, 2: 1.0}})
    result.results["sizes"] = np.arange(3)
    result.write(tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert list(data) == ["schema", "command", "commit", "machine", "seeds", "results"]
    assert data["schema"] == 1 and data["command"] == "gs-semantic evaluate" and data["seeds"] == {"masks": 3}
    assert data["results"] == {"psnr_db": 27.5, "iou": {"1": None, "2": 1.0}, "sizes": [0, 1, 2]}
    assert f"torch {torch.__version__}" in data["machine"] and "cores" in data["machine"]
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_an_old_report_stays_when_the_new_one_cannot_be_written(tmp_path):
    Report("first").write(tmp_path / "r.json")
    with pytest.raises(TypeError, match="cannot hold .*object"):
        Report("second", results={"thing": object()}).write(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["command"] == "first"
    with pytest.raises(StorageError, match="r.json: the folder cannot be made"):
        Report("third").write(tmp_path / "r.json" / "deeper.json")
    Report("fourth").write(tmp_path / "new" / "folder" / "r.json")
    assert (tmp_path / "new" / "folder" / "r.json").is_file()


def test_atomic_write_leaves_nothing_behind_after_an_error(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_commit_of_a_checkout_and_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "__file__", str(tmp_path / "report.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert report.commit() == f"version {__version__}"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert report.commit() == head[:12]
    (tmp_path / "file").write_text("2")
    assert report.commit() == f"{head[:12]}-dirty"


def test_table():
    out = io.StringIO()
    columns = {"map": {"instance_miou": 0.91234, "gaussians": 123456}, "raw masks": {"instance_miou": 0.41}}
    print_table("Score", columns, Console(file=out, width=80))
    text = out.getvalue()
    assert "Score" in text and "0.9123" in text and "0.41" in text and "123,456" in text
    assert text.index("map") < text.index("raw masks")
    out = io.StringIO()
    Report("c", results={"psnr_db": 27.123}).print(console=Console(file=out, width=80))
    assert "27.12" in out.getvalue()
