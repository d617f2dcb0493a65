import json

import pytest
import torch

from gs_semantic.benchmarks.rt_gs2 import run_rt_gs2
from gs_semantic.cli import main
from gs_semantic.errors import InvalidRequestError


def test_report_holds_every_stage(tmp_path):
    pytest.importorskip("transformers")
    file = tmp_path / "rt_gs2.json"
    words = ["bench", "rt_gs2", "--gaussians", "3000", "--image", "64x48", "--frames", "2"]
    assert main([*words, "--max-points", "2000", "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    stages = results["render_ms"] + results["network_ms"] + results["classes_ms"]
    assert results["fps"] > 0 and results["features_s"] > 0 and results["frames"] == 2
    assert stages == pytest.approx(results["frame_ms"], rel=0.5)  # medians of each by itself
    assert results["features_peak_mb"] >= results["room_mb"] > 100
    assert results["gaussians"] == 3000 and results["transformer_parameters"] > 1e6


def test_a_missing_gpu_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InvalidRequestError, match="no GPU"):
        run_rt_gs2(device="cuda")
