"""The trainer node: goals with feedback, cancelling, preemption, mistakes, the plain service."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from gs_semantic.action import Train
from runs_client import ABORTED, CANCELED, PATIENCE_S, SUCCEEDED, RunsClient

from gs_semantic.data.folder_writer import write_folder
from gs_semantic.errors import ErrorCode
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.nodes.runs import RunServer
from gs_semantic.nodes.trainer_node import TrainerNode

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("segmentation", "mapping")]
from training_room import RoomSequence

OPTIONS = ["initial_gaussians=400", "identity_pixels=256", "report_every=5", "evaluate_every=10"]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "room"
    write_folder(RoomSequence(), folder)
    return folder


class Client(RunsClient):
    """Of a trainer node."""

    def __init__(self, **parameters):
        super().__init__(TrainerNode, Train, **parameters)

    def send(self, room, output, iterations=20, **fields):
        options = [*OPTIONS, f"iterations={iterations}", *fields.pop("options", [])]
        goal = {
            "method": "grouping",
            "sequence": str(room),
            "output": str(output),
            "preset": "quick",
            "options": options,
        }
        return super().send(**{**goal, **fields})


@pytest.fixture
def client(request):
    made = Client(**getattr(request, "param", {}))
    yield made
    made.close()


def test_a_goal_is_trained_with_feedback_and_leaves_a_map(client, room, tmp_path):
    status, result = client.result(client.send(room, tmp_path / "out"))
    assert (status, result.error_code, result.error_msg, result.cancelled) == (SUCCEEDED, 0, "", False)
    metrics = dict(zip(result.metric_names, result.metric_values, strict=True))
    assert result.iterations == 20 and metrics["psnr_db"] > 5 and 0 <= metrics["miou"] <= 1
    assert len(load_map(result.map_path)[0]) == result.gaussians > 0
    client.until(lambda: any(f.iteration == 20 for f in client.feedback))
    first = client.feedback[0]
    assert first.iteration == 5 and first.iterations == 20 and math.isnan(first.miou)
    assert {"colour", "identity"} <= set(first.loss_names) and first.memory_mb > 0


def test_the_action_trains_a_method_of_two_stages(client, room, tmp_path):
    status, result = client.result(client.send(room, tmp_path / "out", method="coseg"))
    assert (status, result.error_code, result.iterations) == (SUCCEEDED, 0, 20)
    assert len(load_map(result.map_path)[0]) == result.gaussians > 0
    client.until(lambda: any(f.iteration == 20 for f in client.feedback))
    by_iteration = {f.iteration: set(f.loss_names) for f in client.feedback}
    assert by_iteration[10] == {"colour"} and by_iteration[20] == {"pixels", "neighbours"}


def test_cancelling_keeps_the_best_checkpoint(client, room, tmp_path):
    handle = client.send(room, tmp_path / "out", iterations=100_000)
    client.until(lambda: any(f.best_iteration for f in client.feedback))
    client.wait(handle.cancel_goal_async())
    status, result = client.result(handle)
    assert status == CANCELED and result.cancelled and 10 <= result.iterations < 100_000
    assert (tmp_path / "out" / "best.pt").is_file() and Path(result.map_path).is_dir()


def test_a_new_goal_takes_the_place_of_the_running_one(client, room, tmp_path):
    first = client.send(room, tmp_path / "first", iterations=100_000)
    client.until(lambda: client.feedback)
    second = client.send(room, tmp_path / "second")
    assert client.result(second)[0] == SUCCEEDED
    status, result = client.result(first)
    assert status == ABORTED and result.cancelled


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"method": "magic"}, ErrorCode.INVALID_REQUEST, "method 'magic': expected one of"),
        ({"sequence": ""}, ErrorCode.INVALID_REQUEST, "sequence: is empty"),
        ({"sequence": "not/there"}, ErrorCode.INVALID_INPUT, "not/there"),
        ({"options": ["iteratons=3"]}, ErrorCode.INVALID_REQUEST, "did you mean 'iterations'?"),
        ({"resume": True}, ErrorCode.INVALID_INPUT, "no such checkpoint"),
    ],
)
def test_mistakes_are_told_with_code_and_text(client, room, tmp_path, fields, code, text):
    status, result = client.result(client.send(room, tmp_path / "out", **fields))
    assert status == ABORTED and result.error_code == code and text in result.error_msg


def test_a_run_that_begins_while_the_last_one_is_told_ends_no_node():
    class Beginning:
        """A run server whose feedback is gone at the second look."""

        def __init__(self):
            self.told = [Train.Feedback(iteration=7, loss_names=["colour"], loss_values=[0.5])]

        @property
        def feedback(self):
            return self.told.pop() if self.told else None

    server = Beginning()
    values = RunServer.values.fget(server)
    assert values["iteration"] == 7 and values["loss_colour"] == 0.5
    assert RunServer.values.fget(server) == {}


def test_cancelled_before_the_first_evaluation_says_that_there_is_no_map(client, room, tmp_path, capfd):
    handle = client.send(room, tmp_path / "out", iterations=100_000, options=["evaluate_every=100000"])
    client.until(lambda: client.feedback)
    client.wait(handle.cancel_goal_async())
    status, result = client.result(handle)
    assert status == CANCELED and result.map_path == ""
    client.until(lambda: "was cancelled" in client.served.runs.state)
    assert "no map, for nothing was evaluated yet" in capfd.readouterr().err


def test_the_plain_service_trains_with_the_parameters(client, room, tmp_path):
    refused = client.call("start_training")
    assert not refused.success and "parameter sequence" in refused.message
    assert not client.call("cancel_training").success
    options = ", ".join([*OPTIONS, "iterations=100000"])
    client.set(sequence=room, output=tmp_path / "out", method="grouping", preset="quick", options=options)
    assert client.call("start_training").success
    client.until(lambda: (tmp_path / "out" / "best.pt").is_file())
    assert client.call("cancel_training").success
    client.until(lambda: "was cancelled" in client.served.runs.state)


def test_a_sequence_in_the_parameters_is_trained_at_once_and_ends_the_node(room, tmp_path, capfd):
    made = Client(
        method="plain", sequence=str(room), output=str(tmp_path / "out"), preset="quick",
        options="initial_gaussians=400, iterations=10, evaluate_every=10",
    )  # fmt: skip
    made.runner.join(PATIENCE_S)
    assert not made.runner.is_alive() and (tmp_path / "out" / "map").is_dir()
    made.close()
    told = capfd.readouterr().err  # the first line comes before the work, which may take hours
    assert f"trains plain on {room} into {tmp_path / 'out'}" in told
    assert (
        "of 10: loss" in told and "has ended; iteration 10, psnr_db " in told and f"map in {tmp_path / 'out'}" in told
    )
