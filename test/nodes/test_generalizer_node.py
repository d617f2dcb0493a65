"""The generalizer node: scenes are labelled and networks trained as goals, with feedback; cancelling; mistakes; live maps."""

from __future__ import annotations

import pytest
from gs_semantic.action import Generalize
from rig import BOX_PIXEL, WALL_PIXEL
from runs_client import ABORTED, CANCELED, SUCCEEDED, RunsClient

from gs_semantic.data.room_writer import RoomFormat, list_rooms, write_rooms
from gs_semantic.data.rooms import CLASSES, room_labels
from gs_semantic.errors import ErrorCode, InvalidRequestError
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.nodes.generalizer_node import GeneralizerNode, prepare
from gs_semantic.segmentation.generalization.checkpoints import load_learner, save_learner
from gs_semantic.segmentation.generalization.methods.gnesf import Gnesf, GnesfConfig
from gs_semantic.share import share_path

TRAIN = ["iterations=3", "batch=2", "report_every=1", "evaluate_every=3", "accelerator=cpu"]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "rooms"
    write_rooms(folder, [("train", 0), ("validation", 5000)], RoomFormat(48, 36, views=6, novel=1))
    save_learner(folder / "gnesf.pt", Gnesf(GnesfConfig(), room_labels()))
    return folder


@pytest.fixture
def client():
    made = RunsClient(GeneralizerNode, Generalize)
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


def test_the_service_does_what_the_parameters_say(client, rooms, tmp_path):
    answer = client.call("start_generalizing")
    assert not answer.success and "sequence: is empty" in answer.message
    scene = list_rooms(rooms, "validation")[0]
    client.set(checkpoint=rooms / "gnesf.pt", sequence=scene, output=tmp_path / "map", options="views=2")
    answer = client.call("start_generalizing")
    assert answer.success and "labels" in answer.message
    client.until(lambda: client.served.runs.state.endswith("has ended"))
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


def test_a_live_map_is_labelled_and_its_objects_stay(make_rig, client, rooms):
    """Through the generalizer, which asks the mapper; what comes without masks later is labelled as well."""
    rig = make_rig()
    mapper = rig.mapper.mapper
    client.set(mapper="/rig/mapper")
    status, result = client.result(client.send(checkpoint=str(rooms / "gnesf.pt")))
    assert (status, result.error_code) == (ABORTED, ErrorCode.EMPTY_MAP)
    for _ in range(2):
        rig.map_scene()
    rig.settled()
    before = {obj.id: (mapper.gaussians["object"] == obj.slot).sum() for obj in mapper.objects}
    assert before and (mapper.gaussians["object"] == 0).any()
    with pytest.raises(InvalidRequestError, match="^sequence, output: this node labels the map that it holds"):
        rig.mapper.generalizing.prepare(Generalize.Goal(method="gnesf", sequence="house", output="out"))
    run = rig.mapper.generalizing.prepare(Generalize.Goal(checkpoint=str(rooms / "gnesf.pt")))
    assert run.work(lambda feedback: None, lambda: True).result.cancelled and mapper.semantics is None
    status, result = client.result(client.send(checkpoint=str(rooms / "gnesf.pt")))
    assert (status, result.error_msg, result.cancelled) == (SUCCEEDED, "", False)
    assert result.labelled_share > 0.5 and client.feedback[-1].iteration == client.feedback[-1].iterations > 0
    rig.settled()
    for key, count in before.items():  # masks made them
        obj = mapper.objects.by_id(key)
        assert (mapper.gaussians["object"] == obj.slot).sum() == count and mapper.objects.labels.name(3) == "box"
    made = [obj for obj in mapper.objects if obj.id not in before]
    assert made and {obj.name for obj in made} <= set(CLASSES[1:])
    assert all(mapper.objects.labels.name(obj.class_id) == obj.name for obj in made)
    assert mapper.semantics.labels.id_of(made[0].name) == made[0].class_id
    shown = rig.answer(rig.send())
    assert shown[BOX_PIXEL[::-1]] == 3 and shown[WALL_PIXEL[::-1]] > 0
