"""The command line: help, errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from gs_semantic.cli import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED, VERBS, build_parser, main
from gs_semantic.share import share_path


def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gs_semantic.cli", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(
    "words", [(), *((verb,) for verb in VERBS), ("run", "segment"), ("bench", "map"), ("bench", "soak")], ids=" ".join
)
def test_help_has_examples_that_parse(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    lines = text.partition("examples:")[2].replace("\\\n", " ").splitlines()
    examples = [part.strip() for line in lines for part in line.partition("#")[0].split("&&") if "gs-semantic" in part]
    assert examples
    for example in examples:
        try:
            build_parser().parse_args(example.split()[1:])
        except SystemExit as ended:  # some print a list and end; a mistake ends with 2
            assert ended.code == 0, example


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from gs_semantic.cli import build_parser; build_parser().format_help();"
        "print([name for name in ('torch', 'numpy', 'rclpy', 'cv2', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("map", "not/there", "out"), "not/there: no such folder"),
        (("evaluate", "not/there", "{sample}"), "not/there"),
        (("render", "some_map", "out"), "give --trajectory FOLDER, or --pose with --intrinsics"),
        (("render", "some_map", "out", "--pose", "0", "0", "0", "0", "0", "0", "1"), "--pose needs --intrinsics"),
        (("render", "some_map", "out", "--trajectory", "{sample}", "--size", "big"), "--size big: expected"),
        (("map", "{sample}", "out", "--param", "voxel=1"), "--param voxel=1: expected NAME=VALUE"),
        (("map", "{sample}", "out", "--param", "max_gaussians=many"), "--param max_gaussians=many: expected int"),
        (("map", "{sample}", "out", "--param", "keyframe_rotation_deg=900"), "keyframe_rotation_deg = 900.0 is"),
        (("run", "segment", "sequence:=not/there"), "sequence: there is no folder not/there"),
        (("run", "replay"), "sequence: give the folder"),
        (("bench", "map", "--sequence", "{sample}", "--phase", "rate"), "--phase rate needs --map FOLDER"),
        (("bench", "map", "--sequence", "{sample}", "--skip-every", "1"), "--skip-every 1: must be 2 or more"),
        (("demo", "--sequence", "not/there"), "not/there: no such folder"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(words, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample = str(share_path("sample", "house"))
    assert main([word.replace("{sample}", sample) for word in words]) == EXIT_ERROR
    error = capsys.readouterr().err.strip()
    assert text in error
    assert error.startswith("gs-semantic: ") and len(error.splitlines()) == 1


def test_unwritable_output_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--output", str(tmp_path / "file" / "out")]) == EXIT_ERROR
    assert "cannot write" in capsys.readouterr().err


def test_words_of_run_are_those_of_launch():
    parse = build_parser().parse_args
    colon = parse(["run", "segment", "masks:=damaged", "rate_hz:=10"])
    dashes = parse(["run", "segment", "--masks", "damaged", "--rate-hz", "10"])
    assert (colon.masks, colon.rate_hz) == (dashes.masks, dashes.rate_hz) == ("damaged", "10")


@pytest.mark.parametrize("word", ["mask:=damaged", "damaged"])
def test_wrong_words_of_run_are_refused(word, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "segment", word])
    assert ended.value.code == EXIT_ERROR
    assert "mask" in capsys.readouterr().err or word == "damaged"


def test_interrupt_is_clean(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(VERBS["map"][0], "run", interrupted)
    assert main(["map", "a", "b"]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err.strip() == "gs-semantic: interrupted"


@pytest.mark.parametrize("words", [("--help",), ("train", "--list-options", "grouping")], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gs_semantic.cli", *words]
    ended = subprocess.run(command, check=False, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=240)
    os.close(writer)
    assert ended.stderr == ""
    assert ended.returncode in (0, EXIT_PIPE_CLOSED)  # 0: argparse itself takes no notice


def test_render_bench_offers_every_mode():
    from gs_semantic.benchmarks.render import MODES
    from gs_semantic.cli.bench import RENDER_MODES

    assert set(RENDER_MODES) == set(MODES)


def test_render_bench_writes_its_results(tmp_path, capsys):
    file = tmp_path / "result.json"
    words = ["--gaussians", "2000", "--size", "160x120", "--frames", "3", "--json", str(file)]
    assert main(["bench", "render", *words]) == 0
    report = json.loads(file.read_text())
    assert report["results"]["fps"] > 0 and report["results"]["id_agreement_pct"] > 90
    assert report["seeds"] == {} and "bench render" in report["command"]
    assert "fps" in capsys.readouterr().out


def test_module_runs():
    done = run_cli("--version")
    assert done.returncode == 0 and done.stdout.startswith("gs-semantic ")
