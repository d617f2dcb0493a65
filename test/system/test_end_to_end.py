"""From recorded frames over real topics to labelled images, object answers and a saved map."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gs_semantic.benchmarks.live import LiveSystem
from gs_semantic.benchmarks.mapping import RESULT_KEYS, MapBench
from gs_semantic.benchmarks.scoring import Evaluation, score_views
from gs_semantic.cli import main
from gs_semantic.data.sequence import RgbdSequence
from gs_semantic.errors import GsSemanticError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.mapping.offline import MapOffline
from gs_semantic.share import share_path

FRAMES = 12


@pytest.fixture(scope="module")
def short_house(tmp_path_factory):
    """The first frames of the sample."""
    source, folder = share_path("sample", "house"), tmp_path_factory.mktemp("short") / "house"
    folder.mkdir()
    for name in ("rgb", "depth", "instance", "semantic", "intrinsics.json", "labels.json"):
        (folder / name).symlink_to(source / name)
    lines = (source / "traj.txt").read_text().splitlines()[:FRAMES]
    (folder / "traj.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def quality(short_house, tmp_path_factory):
    bench = MapBench(short_house, tmp_path_factory.mktemp("bench"), skip_every=4, masks="shuffled", settle_s=0.5)
    return bench, bench.quality(rate_hz=2.0)


def test_frames_are_answered_and_mapped(quality):
    results, recording = quality[1].results, quality[1].recording
    assert results["quality_frames"] == len(recording.published) == 9
    assert set(recording.answered) <= set(recording.published)  # outputs carry the stamps of inputs
    assert max(recording.answered) == max(recording.published)  # a busy machine may skip frames, never the last one
    assert len(recording.answered) == results["quality_frames_answered"]
    assert all(when > recording.published[stamp] for stamp, when in recording.answered.items())
    assert results["instance_miou"] > 0.5
    assert results["psnr_db"] > 15
    assert results["gaussians"] > 1000 and results["objects"] > 5
    assert results["peak_rss_mb"] > 50


def test_the_saved_map_scores_the_same_offline(quality):
    bench, results = quality[0], quality[1].results
    shown = MapOffline.open(bench.quality_map)
    views = Evaluation.of(RgbdSequence(bench.sequence), 4)
    again = score_views(shown, views, Damage("shuffled"), shown.confirmed_slots)
    assert again["instance_miou"] == results["instance_miou"] and again["psnr_db"] == results["psnr_db"]


def test_rate_and_service_phases_measure(quality, monkeypatch):
    """Short runs on small maps: every key is there and holds a measured number."""
    from gs_semantic.benchmarks import mapping

    bench = quality[0]
    monkeypatch.setattr(mapping, "RATE_GAUSSIANS", 0)
    monkeypatch.setattr(mapping, "SERVICE_GAUSSIANS", 20_000)
    monkeypatch.setattr(mapping, "SERVICE_OBJECTS", 40)
    monkeypatch.setattr(mapping, "OBJECT_GAUSSIANS", 500)
    results = bench.rate(3.0) | bench.services(3.0)
    assert 0 < results["answer_hz"] <= 31 and 0 < results["answered_pct"] <= 100
    assert 0 < results["latency_p50_ms"] <= results["latency_p95_ms"]
    assert results["service_objects"] >= 40 and results["service_object_gaussians"] >= 400
    assert results["service_list_objects_p95_ms"] > 0 and results["service_get_object_p95_ms"] > 0
    assert results["mapper_core_ms_per_frame"] > 0 and results["stage_answer_core_ms"] > 0


def test_soak_samples_the_mappers_memory(short_house, tmp_path):
    from gs_semantic.benchmarks.soak import run_soak

    ticks = []
    results = run_soak(short_house, tmp_path, 0.05, 5.0, "shuffled", 0, {}, lambda: ticks.append(1))
    assert len(ticks) == 3
    assert 50 < results["rss_mb_start"] <= results["rss_mb_max"] <= results["peak_rss_mb"]
    assert results["gaussians"] > 0


def test_offline_map_render_and_evaluate(short_house, tmp_path, capsys):
    """The same sequence through the command line, without ROS."""
    folder, scores = tmp_path / "map", tmp_path / "scores.json"
    assert main(["map", str(short_house), str(folder), "--masks", "shuffled", "--skip-every", "4"]) == 0
    assert main(["evaluate", str(folder), str(short_house), "--skip-every", "4", "--json", str(scores)]) == 0
    report = json.loads(scores.read_text())
    assert report["schema"] == 1 and report["command"].startswith("gs-semantic evaluate")
    assert report["results"]["instance_miou"] > 0.5
    words = ["--trajectory", str(short_house), "--every", "6", "--size", "160x120"]
    assert main(["render", str(folder), str(tmp_path / "views"), *words]) == 0
    assert len(list((tmp_path / "views").rglob("*.png"))) == 2 * 5 + 1


def test_demo_leaves_its_results(short_house, tmp_path, capsys):
    output = tmp_path / "demo_output"
    words = ["--sequence", str(short_house), "--eval", str(share_path("sample", "house_eval")), "--output", str(output)]
    # slow enough for objects to be confirmed on a machine under load
    assert main(["demo", *words, "--masks", "shuffled", "--rate-hz", "2"]) == 0
    text = capsys.readouterr().out
    for question in ("list_objects", "query_pixel", "get_object", "query_region", "render_view", "load_map"):
        assert question in text
    results = json.loads((output / "metrics.json").read_text())["results"]
    assert list(results)[: len(RESULT_KEYS)] == list(RESULT_KEYS)
    assert results["answered_pct"] > 0
    from PIL import Image

    for name in ("montage.png", "top_view.png"):
        pixels = np.asarray(Image.open(output / name))
        assert pixels.std() > 10, f"{name} is empty"


def test_a_node_that_fails_is_named_with_its_last_words(tmp_path):
    arguments = {"sequence": share_path("sample", "house")}
    failure = pytest.raises(GsSemanticError, match="(?s)mapper has failed.*max_gaussians")
    with LiveSystem(tmp_path, arguments, {"max_gaussians": -5}) as live, failure:
        live.record("steady", duration=1)
