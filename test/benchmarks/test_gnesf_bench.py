import json

import pytest

from gs_semantic.cli import EXIT_ERROR, main


def test_report_holds_both_times(tmp_path, capsys):
    pytest.importorskip("transformers")
    file = tmp_path / "speed.json"
    words = ["bench", "gnesf", "--gaussians", "2000", "--whole", "3000", "--views", "2", "--image", "64x48"]
    assert main([*words, "--frames", "2", "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    assert 0 < results["updated"] < 2000 and results["vote_ms"] > 0 and results["prepare_ms"] > 0
    assert results["revote_s"] > 0 and 0 < results["revote_labelled"] < results["revote_gaussians"] == 3000
    assert main([*words, "--checkpoint", "rt_gs2"]) == EXIT_ERROR
    assert "rt_gs2" in capsys.readouterr().err
