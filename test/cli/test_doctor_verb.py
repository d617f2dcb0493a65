"""`gs-semantic doctor`: a live graph, its report and its exit code."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.context import Context

from gs_semantic.benchmarks import faulty_camera
from gs_semantic.benchmarks.faulty_camera import FaultyCamera
from gs_semantic.cli import main
from gs_semantic.nodes import installation
from gs_semantic.nodes.environment import FASTDDS_PROFILES
from gs_semantic.nodes.faults import Severity
from gs_semantic.share import share_path


@pytest.fixture
def camera(ros_domain_id: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyCamera]:
    """A camera that sends ten frames a second."""
    context = Context()
    rclpy.init(context=context)
    camera = FaultyCamera(share_path("sample", "house"), 2, "/robot", context=context)
    monkeypatch.setattr(faulty_camera, "say", lambda *args, **details: None)
    stop = threading.Event()

    def play() -> None:
        while not stop.wait(0.1):
            camera.tick()

    player = threading.Thread(target=play, daemon=True)
    player.start()
    yield camera
    stop.set()
    player.join(60)
    rclpy.try_shutdown(context=context)


def examine(path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "namespace:=robot", "--seconds", "60", "--json", str(path), *words])
    return code, json.loads(path.read_text())["results"]


def test_a_live_graph(camera: FaultyCamera, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examine(tmp_path / "well.json")
    assert (code, found["errors"]) == (0, 0), found
    assert "0 errors" in capsys.readouterr().out
    camera.command("frame_id")
    code, found = examine(tmp_path / "ill.json")
    assert (code, found["errors"]) == (1, 1), found
    (fault,) = (entry for entry in found["graph"] if entry["severity"] == "error")
    assert fault["name"] == "frame_id_empty"
    assert fault["subject"] == "/robot/color/image"
    assert fault["mend"] in capsys.readouterr().out.replace("\n", " ")


def test_installation_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--installation", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == "gs-semantic doctor --installation --json"
    entries = {entry["subject"]: entry for entry in found["results"]["installation"]}
    assert entries["native library"]["severity"] == "ok"
    assert entries["rclpy"]["severity"] == "ok"
    assert "graph" not in found["results"]


def test_a_missing_native_library_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gs_semantic.rendering import native

    monkeypatch.setenv("GS_SEMANTIC_NATIVE_LIB", str(tmp_path / "nothing.so"))
    native.library.cache_clear()
    try:
        assert main(["doctor"]) == 1  # the graph is not looked at: nothing would work
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
    out = capsys.readouterr().out
    assert "nothing.so" in out
    assert "make build" in out
    assert native.available()


@pytest.mark.parametrize(
    ("content", "severity", "text"),
    [
        ("<dds><segment_size>67108864</segment_size></dds>", Severity.OK, "segment of 67 MB"),
        ("<dds><segment_size>524288</segment_size></dds>", Severity.WARNING, "0.5 MB"),
        ("<dds></dds>", Severity.WARNING, "no size at all"),
        ("<dds>", Severity.WARNING, "cannot be read"),
    ],
)
def test_the_shared_memory_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, severity: Severity, text: str
) -> None:
    profile = tmp_path / "profile.xml"
    profile.write_text(content)
    monkeypatch.setenv(FASTDDS_PROFILES, str(profile))
    found = next(finding for finding in installation.examine() if str(profile) in finding.message)
    assert found.severity == severity
    assert text in found.message


def test_no_profile_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FASTDDS_PROFILES, raising=False)
    found = [finding for finding in installation.examine() if finding.name == "shm_profile"]
    assert "is not set" in found[0].message
    assert "config/fastdds.xml" in found[0].mend
