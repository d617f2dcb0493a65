"""The generalizer node: scenes are labelled and networks trained as goals, with feedback; cancelling; mistakes."""

from __future__ import annotations

import threading
import time

import pytest
import rclpy
from gs_semantic.action import Generalize
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor
from rclpy.parameter import Parameter
from rig import StopEvent
from std_srvs.srv import Trigger

from gs_semantic.data.room_writer import RoomFormat, list_rooms, write_rooms
from gs_semantic.data.rooms import CLASSES, room_labels
from gs_semantic.errors import ErrorCode
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.nodes.generalizer_node import GeneralizerNode, prepare
from gs_semantic.segmentation.generalization.checkpoints import load_learner, save_learner
from gs_semantic.segmentation.generalization.methods.gnesf import Gnesf, GnesfConfig
from gs_semantic.share import share_path

PATIENCE_S = 120.0
SUCCEEDED, CANCELED, ABORTED = 4, 5, 6  # of action_msgs/GoalStatus
TRAIN = ["iterations=3", "batch=2", "report_every=1", "evaluate_every=3", "accelerator=cpu"]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "rooms"
    write_rooms(folder, [("train", 0), ("validation", 5000)], RoomFormat(48, 36, views=6, novel=1))
    save_learner(folder / "gnesf.pt", Gnesf(GnesfConfig(), room_labels()))
    return folder


class Client:
    """A generalizer node and a caller of it in one process."""

    def __init__(self, **parameters) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.served = GeneralizerNode(context=self.context, namespace="rig", parameter_overrides=overrides)
        self.stop = StopEvent()
        self.runner = threading.Thread(target=self.served.run, args=(self.stop,), daemon=True)
        self.runner.start()
        self.node = rclpy.create_node("caller", context=self.context, namespace="rig")
        self.action = ActionClient(self.node, Generalize, "generalizer/generalize")
        self.executor = MultiThreadedExecutor(2, context=self.context)
        self.executor.add_node(self.node)
        self.spinner = threading.Thread(target=self.executor.spin, daemon=True)
        self.spinner.start()
        assert self.action.wait_for_server(PATIENCE_S)
        self.feedback: list[Generalize.Feedback] = []

    def send(self, **fields):
        goal = Generalize.Goal(**fields)
        handle = self.wait(self.action.send_goal_async(goal, lambda message: self.feedback.append(message.feedback)))
        assert handle.accepted
        return handle

    def result(self, handle):
        reply = self.wait(handle.get_result_async())
        return reply.status, reply.result

    def call(self, name: str) -> Trigger.Response:
        client = self.node.create_client(Trigger, f"generalizer/{name}")
        assert client.wait_for_service(PATIENCE_S)
        return self.wait(client.call_async(Trigger.Request()))

    def wait(self, future):
        self.until(future.done)
        return future.result()

    def until(self, holds) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    def close(self) -> None:
        self.stop.event.set()
        self.runner.join(PATIENCE_S)
        self.executor.shutdown()
        self.spinner.join(PATIENCE_S)
        self.action.destroy()
        self.node.destroy_node()
        self.served.destroy_node()
        rclpy.try_shutdown(context=self.context)
        assert not self.runner.is_alive()


@pytest.fixture
def client(request):
    made = Client(**getattr(request, "param", {}))
    yield made
    made.close()


def test_a_scene_is_labelled_and_a_network_trained(client, rooms, tmp_path):
    scene = list_rooms(rooms, "validation")[0]
    sent = client.send(
        checkpoint=str(rooms / "gnesf.pt"), sequence=str(scene), output=str(tmp_path / "map"), options=["views=4"]
    )
    status, result = client.result(sent)
    assert (status, result.error_code, result.error_msg, result.cancelled) == (SUCCEEDED, 0, "", False)
    assert result.iterations == 4 and 0 < result.labelled_share <= 1 and "miou" in result.metric_names
    assert len(load_map(result.output_path)[0]) == result.gaussians > 0
    client.until(lambda: any(f.iteration == f.iterations == 4 for f in client.feedback))

    client.feedback.clear()
    sent = client.send(
        task="train", method="segformer", rooms=[str(rooms)], output=str(tmp_path / "run"), options=TRAIN
    )
    status, result = client.result(sent)
    assert (status, result.error_msg, result.iterations) == (SUCCEEDED, "", 3)
    assert load_learner(result.output_path).name == "segformer"
    client.until(lambda: any(f.iteration == 3 for f in client.feedback))
    assert "cross_entropy" in client.feedback[0].loss_names


def test_cancelling_keeps_a_checkpoint_to_go_on_from(client, rooms, tmp_path):
    options = [*TRAIN, "iterations=5000", "evaluate_every=5000"]
    goal = {"task": "train", "method": "segformer", "rooms": [str(rooms)], "output": str(tmp_path / "run")}
    sent = client.send(**goal, options=options)
    client.until(lambda: client.feedback)
    client.wait(sent.cancel_goal_async())
    status, result = client.result(sent)
    assert status == CANCELED and result.cancelled and 0 < result.iterations < 5000
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    assert client.call("cancel_generalizing").message == "nothing is under way"

    client.feedback.clear()
    sent = client.send(**goal, resume=True)
    client.until(lambda: client.feedback)
    assert client.feedback[0].iteration == result.iterations + 1
    client.wait(sent.cancel_goal_async())
    assert client.result(sent)[1].iterations > result.iterations


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"task": "guess"}, "task: 'guess' is not one of apply, train"),
        ({"task": "apply", "output": "out"}, "sequence: is empty; task 'apply' needs it"),
        ({"task": "apply", "sequence": "b", "output": "out"}, "checkpoint: is empty; task 'apply' needs one"),
        ({"task": "train", "output": "out", "method": "segformer"}, "rooms: is empty"),
        ({"task": "train", "output": "out", "method": "guess", "rooms": ["rooms"]}, "method 'guess': expected one of"),
        ({"checkpoint": "a", "sequence": "b", "output": "c", "options": ["views=many"]}, "option 'views=many'"),
        ({"checkpoint": "none.pt", "sequence": "b", "output": "c"}, "none.pt: no such checkpoint"),
    ],
)
def test_mistakes_are_told(client, fields, text):
    status, result = client.result(client.send(**fields))
    assert status == ABORTED and text in result.error_msg
    assert result.error_code in (ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_INPUT)


def test_a_methods_name_stands_for_its_shipped_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for fields in ({"checkpoint": "gnesf", "method": "rt_gs2"}, {"method": "gnesf"}):
        run = prepare(Generalize.Goal(task="apply", sequence="views", output="map", **fields))
        assert run.text == f"labels {tmp_path / 'views'} by {share_path('weights', 'gnesf.pt').absolute()}"
    (tmp_path / "gnesf").touch()  # a file of that name wins
    run = prepare(Generalize.Goal(task="apply", sequence="views", output="map", checkpoint="gnesf"))
    assert run.text.endswith(f"by {tmp_path / 'gnesf'}")


@pytest.mark.parametrize("client", [{"task": "apply"}], indirect=True)
def test_the_service_does_what_the_parameters_say(client, rooms, tmp_path):
    answer = client.call("start_generalizing")
    assert not answer.success and "sequence: is empty" in answer.message
    scene = list_rooms(rooms, "validation")[0]
    values = {"checkpoint": rooms / "gnesf.pt", "sequence": scene, "output": tmp_path / "map", "options": "views=2"}
    client.served.set_parameters([Parameter(name, value=str(value)) for name, value in values.items()])
    answer = client.call("start_generalizing")
    assert answer.success and "labels" in answer.message
    client.until(lambda: client.served.state.endswith("has ended"))
    assert load_map(tmp_path / "map")[1].slots > 1


def test_the_live_mapper_labels_frames_without_masks(make_rig, rooms):
    """A checkpoint in the place of a segmenter: classes come from it, and so do their names."""
    rig = make_rig(semantics=str(rooms / "gnesf.pt"))
    for _ in range(3):
        rig.answer(rig.send(masks=False))
        rig.settled()
    shown = rig.answer(rig.send(masks=False))
    assert (shown > 0).mean() > 0.5 and shown.max() < len(CLASSES)
    mapper = rig.mapper.mapper
    assert {obj.name for obj in mapper.objects} <= set(CLASSES[1:]) and len(mapper.objects)
    # the camera's label map says that 3 is a box; what was learned wins
    assert mapper.objects.labels.name(3) == CLASSES[3] and mapper.objects.labels.name(7) == CLASSES[7]
