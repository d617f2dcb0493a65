"""A mapper that trains its own map answers, maps and keeps its objects' ids meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from gs_semantic.action import Train
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rig import Rig
from std_srvs.srv import Trigger

from gs_semantic.errors import ErrorCode
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.nodes import qos

SUCCEEDED, CANCELED, ABORTED = 4, 5, 6
OPTIONS = ["identity_pixels=256", "report_every=5", "densify_until=0", "adam=visible"]
Make = Callable[..., Rig]


class Trainee:
    """A rig whose map has keyframes to train on, and a caller of the mapper's ~/train."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.feedback = rig, []
        self.action = ActionClient(rig.node, Train, "mapper/train")
        rig.until(lambda: self.action.server_is_ready(), "action server")
        for _ in range(2):
            rig.map_scene()
        rig.settled()

    def wait(self, future: Any) -> Any:
        self.rig.until(future.done, "reply")
        return future.result()

    def send(self, iterations: int, **fields: Any) -> Any:
        options = [*OPTIONS, f"iterations={iterations}", *fields.pop("options", [])]
        goal = Train.Goal(**{"method": "grouping", "options": options, **fields})
        handle = self.wait(self.action.send_goal_async(goal, lambda message: self.feedback.append(message.feedback)))
        assert handle.accepted
        return handle

    def result(self, handle: Any) -> tuple[int, Train.Result]:
        reply = self.wait(handle.get_result_async())
        return reply.status, reply.result

    def call(self, name: str) -> Trigger.Response:
        client = self.rig.node.create_client(Trigger, f"mapper/{name}")
        self.rig.until(client.service_is_ready, name)
        return self.wait(client.call_async(Trigger.Request()))

    def objects(self) -> list[int]:
        return sorted(obj.id for obj in self.rig.mapper.mapper.objects.present())


@pytest.fixture
def trainee(make_rig: Make):
    made = Trainee(make_rig())
    yield made
    made.action.destroy()


def test_answers_go_on_and_revisions_rise_while_the_live_map_is_trained(trainee: Trainee, tmp_path):
    rig, before = trainee.rig, trainee.objects()
    handle = trainee.send(100_000, options=["evaluate_every=20"], output=str(tmp_path / "out"))
    rig.until(lambda: trainee.feedback, "feedback")
    first = trainee.feedback[-1].iteration
    revisions = []
    for _ in range(10):
        rig.check(rig.answer(rig.send()))
        rig.settled()
        revisions.append(rig.status_after().map_revision)
    rig.until(lambda: trainee.feedback[-1].iteration > first + 5, "progress")
    assert revisions == sorted(revisions) and revisions[-1] > revisions[0]
    assert trainee.objects() == before
    rig.until(lambda: trainee.feedback[-1].best_iteration, "evaluation")
    trainee.wait(handle.cancel_goal_async())
    status, result = trainee.result(handle)
    assert status == CANCELED and result.cancelled and load_map(result.map_path)


def test_what_was_trained_is_merged_and_planners_see_the_same_objects(trainee: Trainee):
    rig, before = trainee.rig, trainee.objects()
    revision = rig.mapper.mapper.gaussians.revision
    means = rig.mapper.mapper.gaussians.means.clone()
    status, result = trainee.result(trainee.send(40))
    assert (status, result.error_msg, result.iterations, result.map_path) == (SUCCEEDED, "", 40, "")
    metrics = dict(zip(result.metric_names, result.metric_values, strict=True))
    assert metrics["psnr_db"] > 5 and 0 <= metrics["miou"] <= 1
    rig.settled()
    assert rig.mapper.mapper.gaussians.revision > revision
    assert len(rig.mapper.mapper.gaussians) == len(means)
    assert not rig.mapper.mapper.gaussians.means.equal(means)
    assert trainee.objects() == before and [obj.id for obj in rig.planner().list_objects()] == before
    rig.still_works()


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"sequence": "house"}, ErrorCode.INVALID_REQUEST, "send recordings to the trainer"),
        ({"method": "magic"}, ErrorCode.INVALID_REQUEST, "method 'magic': expected one of"),
        ({"options": ["iteratons=3"]}, ErrorCode.INVALID_REQUEST, "did you mean 'iterations'?"),
    ],
)
def test_wrong_goals_are_told(trainee: Trainee, fields, code, text):
    status, result = trainee.result(trainee.send(5, **fields))
    assert status == ABORTED and result.error_code == code and text in result.error_msg


def test_the_plain_service_trains_the_live_map_with_the_parameters(trainee: Trainee):
    rig, reports = trainee.rig, []
    rig.node.create_subscription(DiagnosticArray, "/diagnostics", reports.append, qos.DIAGNOSTICS)
    assert not trainee.call("cancel_training").success
    rig.mapper.set_parameters(
        [
            Parameter("train.method", value="grouping"),
            Parameter("train.options", value=", ".join([*OPTIONS, "iterations=100000"])),
        ]
    )
    answer = trainee.call("start_training")
    assert answer.success and "trains grouping on the live map" in answer.message
    rig.until(lambda: rig.mapper.training.feedback is not None, "progress")

    def shown() -> bool:
        parts = [status for report in reports for status in report.status if status.name.endswith(": training")]
        return any("trains grouping" in part.message and part.values for part in parts)

    rig.until(shown, "diagnostics of the training")
    assert trainee.call("cancel_training").success
    rig.until(lambda: "was cancelled" in rig.mapper.training.state, "end")


def test_an_empty_map_cannot_be_trained(make_rig: Make):
    rig = make_rig()
    client = rig.node.create_client(Trigger, "mapper/start_training")
    rig.until(client.service_is_ready, "service")
    future = client.call_async(Trigger.Request())
    rig.until(future.done, "reply")
    rig.told("0 Gaussians and 0 keyframes", "map first")


def test_a_node_that_ends_ends_its_training(make_rig: Make):
    trainee = Trainee(make_rig())
    trainee.send(100_000)
    trainee.rig.until(lambda: trainee.feedback, "feedback")
    trainee.action.destroy()
    trainee.rig.close()
    assert not any(thread.name == "training" for thread in threading.enumerate())
