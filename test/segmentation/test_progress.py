"""Who shows the metrics of a run: TensorBoard, where it is installed, and the log of lines."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from gs_semantic.errors import TrainingError
from gs_semantic.segmentation.progress import LossLog, MetricsFile, Progress, TensorBoardWriter

FIRST = Progress(50, 100, {"colour": 0.25, "identity": 0.5}, 1000, 20.0, 2.5, 300.0)
SECOND = Progress(100, 100, {"colour": 0.125, "identity": 0.25}, 1100, 25.0, 0.0, 310.0, 24.5, 0.75, 100)


def test_every_metric_is_a_scalar_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter.make(tmp_path)
    assert writer is not None
    for progress in (FIRST, SECOND):
        writer(progress)
    events = EventAccumulator(str(tmp_path)).Reload()

    def written(name: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(name)]

    assert written("loss_colour") == [(50, 0.25), (100, 0.125)]
    assert written("loss_identity") == [(50, 0.5), (100, 0.25)]
    assert written("gaussians") == [(50, 1000), (100, 1100)] and written("it_per_s") == [(50, 20), (100, 25)]
    assert written("psnr_db") == [(100, 24.5)] and written("miou") == [(100, 0.75)]  # there was none before
    assert "iteration" not in events.Tags()["scalars"]


def test_without_tensorboard_there_is_no_writer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert TensorBoardWriter.make(tmp_path) is None


def test_a_line_per_report(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for progress in (FIRST, SECOND):
        metrics(progress)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [50, 100] and lines[1]["miou"] == 0.75 and lines[0]["miou"] is None


def test_terms_that_stayed_on_a_device_are_averaged_and_checked_at_the_report():
    log = LossLog()
    log.add(1, "view a", {"colour": torch.tensor(1.0), "identity": 2.0})
    log.add(2, "view b", {"colour": torch.tensor(3.0)})
    assert log.means() == {"colour": 2.0, "identity": 2.0}
    assert log.means() == {}
    log.add(3, "view a", {"colour": torch.tensor(0.5)})
    log.add(4, "view b", {"colour": torch.tensor(float("nan"))})
    with pytest.raises(TrainingError, match="'colour' is nan at iteration 4, on view b"):
        log.check()
