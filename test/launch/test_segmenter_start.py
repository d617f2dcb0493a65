"""Which nodes `segmenter:=...` starts, and what they are told."""

from __future__ import annotations

import pytest

from gs_semantic.errors import InvalidRequestError
from gs_semantic.nodes.arguments import USES, plan_segment
from gs_semantic.nodes.launcher import command_of
from gs_semantic.segmenters.registry import KINDS
from gs_semantic.share import share_path

SEQUENCE = str(share_path("sample", "house"))


def started(**given):
    return {node.name: node for node in plan_segment({"doctor": "false", **given})}


def words(node):
    return " ".join(node.ros_arguments())


def test_every_segmenter_is_a_choice_and_the_topic_is_the_default():
    [argument] = [argument for argument in USES["segment"].arguments if argument.name == "segmenter"]
    assert argument.choices == ("topic", *KINDS) and argument.default == "topic"
    assert "segmenter" not in started(sequence=SEQUENCE)


def test_geometric_segmenter_of_a_recording():
    nodes = started(sequence=SEQUENCE, segmenter="geometric", color_image="/camera/image")
    assert list(nodes) == ["mapper", "segmenter", "replay"]
    assert "-p segmenter:='geometric'" in words(nodes["segmenter"])
    assert "-r color/image:=/camera/image" in words(nodes["segmenter"])
    assert "-p masks:='none'" in words(nodes["replay"])  # two sources of masks would contradict each other
    assert "-p mask_wait_s:=0.2" in words(nodes["mapper"])
    assert "mask_wait_s" not in words(started(sequence=SEQUENCE)["mapper"])
    assert "-p masks:='shuffled'" in words(started(sequence=SEQUENCE)["replay"])


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.weights])
def test_models_get_time_weights_and_words(name):
    nodes = started(sequence=SEQUENCE, segmenter=name, model="some/where", words="mug, chair", download="true")
    told = words(nodes["segmenter"])
    for part in ("-p model:='some/where'", "-p words:='mug, chair'", "-p download:=true", f"-p segmenter:='{name}'"):
        assert part in told
    assert "-p mask_wait_s:=2.0" in words(nodes["mapper"])
    # class names are those of the segmenter, not those of the recording
    assert ("-r label_map:=recording/label_map" in words(nodes["replay"])) == KINDS[name].has_classes


def test_the_end_of_the_segmenter_is_the_end_of_all():
    assert started(segmenter="geometric")["segmenter"].essential


def test_its_process_is_a_module_of_ours():
    assert "gs_semantic.nodes.segmenter" in command_of(started(segmenter="geometric")["segmenter"])


def test_every_camera_has_its_own_segmenter():
    nodes = started(segmenter="geometric", cameras="front, rear", color_image="/rear_only/image", label_map="names")
    assert list(nodes) == ["mapper", "segmenter_front", "segmenter_rear"]
    rear = words(nodes["segmenter_rear"])
    for part in ("__node:=segmenter_rear", "-r depth/image:=rear/depth/image", "-r instance/image:=rear/instance/image",
                 "-r instance/info:=rear/instance/info", "-r color/image:=/rear_only/image", "-r label_map:=names"):  # fmt: skip
        assert part in rear


def test_unknown_segmenter_is_named_with_the_choices():
    with pytest.raises(InvalidRequestError, match="segmenter: 'magic' is not one of topic, geometric, sam2"):
        plan_segment({"segmenter": "magic"})
    assert "segmenter" in started(segmenter="geometric")
