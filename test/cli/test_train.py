"""`gs-semantic train` and `evaluate suite` from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gs_semantic.cli import EXIT_ERROR, main
from gs_semantic.data.folder_writer import write_folder
from gs_semantic.gaussians.map_folder import load_map

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("segmentation", "mapping")]
from training_room import RoomSequence

SMALL = ["--set", "initial_gaussians=500", "--set", "identity_pixels=256", "--set", "evaluate_every=10"]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "room"
    write_folder(RoomSequence(), folder)
    return folder


def test_a_sequence_becomes_a_map_that_other_verbs_read(room, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["train", "grouping", str(room), str(out), "--preset", "quick", "--set", "iterations=150", *SMALL]
    assert main([*words, "--json", str(tmp_path / "result.json")]) == 0
    results = json.loads((tmp_path / "result.json").read_text())["results"]
    assert results["iterations"] == 150 and results["miou"] > 0.4 and 0 < results["mboundary_iou"] < 1
    assert {path.name for path in out.iterdir()} >= {"map", "best.pt", "checkpoint.pt", "config.yaml", "metrics.jsonl"}
    assert len(load_map(out / "map")[0]) == results["gaussians"]
    assert main(["evaluate", str(out / "map"), str(room), "--skip-every", "8", "--json", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["results"]["instance_miou"] > 0.4


def test_a_run_is_resumed_with_its_own_options(room, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["train", "plain", str(room), str(out)]
    assert main([*words, "--preset", "quick", "--set", "iterations=10", *SMALL[:2], *SMALL[4:]]) == 0
    (out / "checkpoint.pt").stat()
    assert main([*words, "--resume", "--json", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["results"]["iterations"] == 10
    assert main(["train", "grouping", str(room), str(out), "--resume"]) == EXIT_ERROR
    assert "was trained with method 'plain', not 'grouping'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("magic", "{room}", "out"), "method 'magic': expected one of"),
        (("grouping", "{room}", "out", "--set", "iteratons=3"), "did you mean 'iterations'?"),
        (("grouping", "not/there", "out"), "not/there: no such folder"),
        (("grouping", "{room}", "not_there", "--resume"), "no such checkpoint"),
        (("grouping", "{room}", "out", "--options-file", "none.yaml"), "none.yaml: cannot be read"),
    ],
)
def test_mistakes_are_one_line(words, text, room, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *(word.format(room=room) for word in words)]) == EXIT_ERROR
    assert text in capsys.readouterr().err


def test_several_recordings_are_trained_in_processes_of_their_own(room, tmp_path, capsys):
    other = tmp_path / "other"
    write_folder(RoomSequence(6), other)
    words = ["train", "plain", str(room), str(other), str(tmp_path / "not_there"), str(tmp_path / "out")]
    words += ["--preset", "quick", "--set", "iterations=10", *SMALL[:2], "--at-once", "2"]
    assert main([*words, "--json", str(tmp_path / "all.json")]) == EXIT_ERROR
    error = capsys.readouterr().err
    assert f"{tmp_path / 'out' / 'not_there'}: ended with exit code {EXIT_ERROR}" in error
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert results["room_iterations"] == results["other_iterations"] == 10
    assert (tmp_path / "out" / "other" / "map").is_dir()
    assert "no such folder" in (tmp_path / "out" / "not_there" / "train.log").read_text()


def test_options_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--list-options", "gradiseg"])
    assert ended.value.code == 0
    assert "igd_quantile=0.99" in capsys.readouterr().out


def test_a_suite_resumes_cell_by_cell_and_reports_whole_rows_alone(room, tmp_path, capsys):
    folder, report = tmp_path / "cells", tmp_path / "suite.json"
    words = ["evaluate", "suite", "gradiseg", "--train-on", str(room), "--eval", str(room), "--folder", str(folder)]
    words += ["--seeds", "0", "1", "--only", "plain", "gradiseg", "grouping_equal_count", "--set", "iterations=20"]
    words += ["--set", "initial_gaussians=400", "--json", str(report)]
    assert main([*words, "--cells", "5"]) == 0  # all of the first seed, two of the second
    results = json.loads(report.read_text())["results"]
    assert "plain_psnr_db" in results and "plain_psnr_db_std" in results and results["preset"] == "quick"
    assert "gradiseg_miou" in results and "grouping_equal_count_miou" not in results  # that row is not whole
    assert results["cells_missing"] == "grouping_equal_count-perfect-1"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert main(words) == 0
    results = json.loads(report.read_text())["results"]
    assert results["cells_missing"] == "" and results["grouping_equal_count_gaussians"] <= results["gradiseg_gaussians"]
    assert all((folder / name).stat().st_mtime_ns == stamp for name, stamp in before.items())
    assert (folder / "scores.png").stat().st_size > 1000 and (folder / "perfect_views.png").stat().st_size > 1000
    assert main([*words[:-4], "--set", "iterations=21", "--cells", "0", "--json", str(report)]) == 0
    assert "plain-perfect-0" in json.loads(report.read_text())["results"]["cells_missing"]  # other options, other cells


def test_a_suite_on_scenes_of_objects_scores_them_and_their_mean(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    from gs_semantic.segmentation import suite

    monkeypatch.setattr(suite, "VIEWS", (8, 2))
    monkeypatch.setattr(suite, "VIEW_SIZE", (64, 48))
    monkeypatch.setattr(suite, "CLUSTER_SIZES", (5, 20))
    report, folder = tmp_path / "suite.json", tmp_path / "cells"
    words = ["evaluate", "suite", "unified_lift", "--folder", str(folder), "--seeds", "0", "--objects", "4", "6"]
    words += ["--set", "iterations=30", "--set", "initial_gaussians=400", "--json", str(report)]
    variants = ["unified_lift", "grouping_tracked", "hdbscan", "hdbscan_balanced", "published_codebook", "no_filter"]
    words += ["--only", *variants]
    assert main([*words, "--cells", "6"]) == 0
    results = json.loads(report.read_text())["results"]
    assert 0 <= results["objects4_unified_lift_pq_scene"] <= 1 and "unified_lift_pq_scene" not in results
    assert results["cells_missing"].split(", ")[0] == "unified_lift-6_objects-untracked-0"
    assert main(words) == 0
    results = json.loads(report.read_text())["results"]
    assert results["cells_missing"] == ""
    mean = (results["objects4_unified_lift_pq_scene"] + results["objects6_unified_lift_pq_scene"]) / 2
    assert results["unified_lift_pq_scene"] == pytest.approx(mean)
    assert 0 <= results["objects4_unified_lift_at_0.1_pq_scene"] <= 1
    changes = {
        n: results[f"{n}_pq_scene"] - results["published_codebook_pq_scene"] for n in ("unified_lift", "no_filter")
    }
    assert results["ablations"] == pytest.approx(changes)
    assert set(results["minutes"]) == set(variants)
    assert all(results[f"{n}_best_pq_scene"] >= results[f"{n}_pq_scene"] for n in ("hdbscan", "hdbscan_balanced"))
    assert results["hdbscan_min_cluster_size"] in (5, 20) and results["objects4_hdbscan_5_seconds"] > 0
    assert (folder / "untracked_views.png").stat().st_size > 1000


def test_the_protocols_suite_scores_a_recording_by_both(room, tmp_path):
    folder, report = tmp_path / "cells", tmp_path / "suite.json"
    words = ["evaluate", "suite", "protocols", "--train-on", str(room), "--eval", str(room), "--folder", str(folder)]
    words += ["--seeds", "0", "--only", "unified_lift", "--set", "iterations=20", "--set", "initial_gaussians=400"]
    assert main([*words, "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    names = ("replica_miou", "replica_f_score", "lerf_miou", "lerf_mbiou")
    assert all(0 <= results[f"unified_lift_{name}"] <= 1 for name in names) and results["unified_lift_replica_miou"] > 0


def test_the_coseg_suite_has_its_results_by_noise_and_its_map_built_once(room, tmp_path, capsys):
    pytest.importorskip("sklearn")
    folder, report = tmp_path / "cells", tmp_path / "suite.json"
    words = ["evaluate", "suite", "coseg", "--train-on", str(room), "--eval", str(room), "--folder", str(folder)]
    words += ["--seeds", "1", "--set", "iterations=6", "--set", "initial_gaussians=400"]
    words += ["--json", str(report)]
    assert main([*words, "--cells", "9"]) == 0  # the strongest noise, and one cell of the next
    results = json.loads(report.read_text())["results"]
    names = ["coseg", "coseg_ce", "grouping", "votes", "no_2d", "no_spatial", "single_scale", "no_3d_term"]
    assert all(0 <= results[f"{name}_miou"] <= 1 for name in names)
    assert 0 <= results["coseg_miou_mid"] <= 1 and "coseg_ce_miou_mid" not in results
    assert results["cells_missing"].split(", ")[0] == "grouping-noise_mid-1"
    assert results["minutes"] > 0 and 250_000 < results["parameters"] < 320_000
    parts = [
        value
        for key, value in results.items()
        if key.startswith("coseg_parameters_") and not key.endswith(("_mid", "frozen_encoder"))
    ]
    assert sum(parts) == results["parameters"] < results["coseg_parameters_frozen_encoder"]
    assert results["coseg_rgb_and_ids_fps"] > 0 and results["coseg_components_per_class"] >= 1
    assert results["coseg_feature_davies_bouldin"] > 0
    assert len(list(folder.glob("built-*/map"))) == 1
    words[words.index("--seeds") + 1 : words.index("--set")] = ["1", "2"]
    assert main([*words, "--cells", "0"]) == 0
    assert "coseg_miou" not in json.loads(report.read_text())["results"]
    assert main([*words, "--cells", "0", "--fewer-seeds"]) == 0
    fewer = json.loads(report.read_text())["results"]
    assert fewer["coseg_miou"] == results["coseg_miou"] and fewer["coseg_seeds"] == fewer["coseg_seeds_mid"] == 1


def test_a_spatial_encoder_is_trained_from_the_command_line_and_used(room, tmp_path, capsys):
    encoder, out = tmp_path / "encoder.safetensors", tmp_path / "out"
    words = ["train", "spatial_encoder", str(room), str(encoder), "--set", "iterations=4", "--set", "points=512"]
    assert main([*words, "--json", str(tmp_path / "encoder.json")]) == 0
    results = json.loads((tmp_path / "encoder.json").read_text())["results"]
    assert results["frames"] > 5 and results["classes"] >= 3 and 0 <= results["accuracy"] <= 1
    options = [f"encoder={encoder}", "iterations=6", "segment_for=4", "initial_gaussians=400"]
    words = ["train", "coseg", str(room), str(out), "--preset", "quick"]
    assert main([*words, *(word for pair in options for word in ("--set", pair))]) == 0
    labelled = tmp_path / "labelled"
    words = ["edit", "identify", str(out / "map"), str(labelled), "--field", str(out / "checkpoint.pt")]
    assert main([*words, "--sequence", str(room), "--json", str(tmp_path / "i.json")]) == 0
    results = json.loads((tmp_path / "i.json").read_text())["results"]
    assert results["asked"] == results["gaussians"] == len(load_map(labelled)[0])
    assert 0.5 * results["asked"] < results["labelled"] <= results["asked"]  # what no view shows keeps what it has
    assert main(["train", "spatial_encoder", str(room), str(encoder), "--set", "iteratons=4"]) == EXIT_ERROR
    assert "did you mean 'iterations'?" in capsys.readouterr().err


def test_scenes_of_objects_are_for_the_suites_made_of_them(capsys):
    assert main(["evaluate", "suite", "gradiseg", "--objects", "5"]) == EXIT_ERROR
    assert "suite 'gradiseg' is run on a recording" in capsys.readouterr().err


def test_an_unknown_suite_is_named(capsys):
    assert main(["evaluate", "suite", "magic"]) == EXIT_ERROR
    assert "suite 'magic': expected one of gradiseg" in capsys.readouterr().err
