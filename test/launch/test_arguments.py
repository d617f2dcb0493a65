"""One table of start arguments: the launch files and the command line must say the same."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import yaml

from gs_semantic.cli import build_parser
from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.mapping.offline import COLOUR_ONLY
from gs_semantic.nodes import arguments
from gs_semantic.nodes.arguments import (
    MODES,
    NAMESPACE,
    SENSORS,
    USES,
    NodeStart,
    plan_generalize,
    plan_replay,
    plan_segment,
    plan_train,
)
from gs_semantic.nodes.launcher import command_of
from gs_semantic.share import share_path

ROOT = Path(__file__).resolve().parents[2]


class Recorded:
    """Stands for a class of ROS's launch: keeps what it was made with."""

    def __init__(self, *positional, **named):
        self.positional, self.named = positional, named


class LaunchConfiguration(Recorded):
    def perform(self, context):
        return context[self.positional[0]]


@pytest.fixture
def fake_launch(monkeypatch):
    """The few names of `launch` and `launch_ros` that our launch files use, for where ROS's launch is not installed."""
    classes = {
        name: type(name, (Recorded,), {})
        for name in (
            "LaunchDescription", "DeclareLaunchArgument", "EmitEvent", "OpaqueFunction", "SetEnvironmentVariable",
            "Shutdown", "Node",
        )
    }  # fmt: skip
    modules = {
        "launch": ("LaunchDescription",),
        "launch.actions": ("DeclareLaunchArgument", "EmitEvent", "OpaqueFunction", "SetEnvironmentVariable"),
        "launch.events": ("Shutdown",),
        "launch.substitutions": (),
        "launch_ros": (),
        "launch_ros.actions": ("Node",),
    }
    for module, names in modules.items():
        fake = types.ModuleType(module)
        for name in names:
            setattr(fake, name, classes[name])
        monkeypatch.setitem(sys.modules, module, fake)
    sys.modules["launch.substitutions"].LaunchConfiguration = LaunchConfiguration
    monkeypatch.delitem(sys.modules, "gs_semantic.nodes.launch_description", raising=False)
    yield classes
    sys.modules.pop("gs_semantic.nodes.launch_description", None)


def load_description(name: str):
    spec = importlib.util.spec_from_file_location(f"{name}_launch", ROOT / "launch" / f"{name}.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def subparser(name: str):
    """The argparse parser of `gs-semantic run <name>`."""
    run = next(a for a in build_parser()._actions if a.dest == "verb").choices["run"]
    return next(a for a in run._actions if a.dest == "use").choices[name]


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_launch_file_declares_the_table(use, fake_launch):
    entries = load_description(use.name).positional[0]
    declared = {
        entry.positional[0]: entry.named for entry in entries if isinstance(entry, fake_launch["DeclareLaunchArgument"])
    }
    assert list(declared) == [argument.name for argument in use.arguments]
    for argument in use.arguments:
        named = declared[argument.name]
        assert named["default_value"] == argument.default
        assert named["description"] == argument.description
        assert tuple(named.get("choices", ())) == argument.choices


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_command_line_offers_the_table(use):
    parser = subparser(use.name)
    options = {action.dest: action for action in parser._actions if action.option_strings and action.dest != "help"}
    assert list(options) == [argument.name for argument in use.arguments]
    for argument in use.arguments:
        option = options[argument.name]
        assert tuple(option.choices or ()) == argument.choices
        assert argument.description.replace("%", "%%") in option.help
        if argument.default:
            assert f"[{argument.default}]" in option.help


def test_launch_file_starts_the_planned_nodes(fake_launch):
    sequence = str(share_path("sample", "house"))
    given = {argument.name: argument.default for argument in USES["segment"].arguments}
    given |= {"sequence": sequence, "masks": "damaged", "color_image": "/camera/color/image_raw", "namespace": "robot"}
    entries = load_description("segment").positional[0]
    opaque = next(entry for entry in entries if isinstance(entry, fake_launch["OpaqueFunction"]))
    nodes = opaque.named["function"](given)
    planned = plan_segment(given)
    assert [node.named["executable"] for node in nodes] == ["mapper", "replay"]
    for node, plan in zip(nodes, planned, strict=True):
        named = node.named
        assert (named["package"], named["name"], named["namespace"]) == ("gs_semantic", plan.executable, "robot")
        assert ("color/image", "/camera/color/image_raw") in named["remappings"]
        assert [p for p in named["parameters"] if isinstance(p, dict)] == [
            p for p in plan.parameters if isinstance(p, dict)
        ]
        # ROS's launch cannot take a pathlib.Path for a file of parameters in every distribution
        assert all(isinstance(p, str | dict) for p in named["parameters"])
    assert nodes[0].named["on_exit"] and nodes[1].named["on_exit"] is None


@pytest.mark.parametrize("release", [2, 3])
def test_launch_files_set_the_dds_profile(fake_launch, monkeypatch, tmp_path, release):
    (tmp_path / "share" / ("fastdds" if release == 3 else "fastrtps")).mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setattr("sys.prefix", str(tmp_path / "empty"))
    for name in USES:
        entries = load_description(name).positional[0]
        variables = dict(e.positional for e in entries if isinstance(e, fake_launch["SetEnvironmentVariable"]))
        profile = variables["FASTDDS_DEFAULT_PROFILES_FILE"]
        assert Path(profile).is_file()
        # what Humble and Jazzy look for, and Kilted warns of
        assert variables.get("FASTRTPS_DEFAULT_PROFILES_FILE") == (profile if release == 2 else None)


def test_real_launch_accepts_the_launch_files():
    launch = pytest.importorskip("launch.actions", reason="ROS's launch is not installed (it is not on PyPI)")
    for use in USES.values():
        entities = load_description(use.name).entities
        declared = [entity for entity in entities if isinstance(entity, launch.DeclareLaunchArgument)]
        assert [entity.name for entity in declared] == [argument.name for argument in use.arguments]


# --- planning ---------------------------------------------------------------------------------------------------------


def words_of(node: NodeStart) -> str:
    return " ".join(node.ros_arguments())


def test_layers_of_parameters_come_in_order(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("/**:\n  ros__parameters:\n    depth_max_m: 3.0\n")
    mapper = plan_segment({"sensor": "tof", "mode": "quality", "params_file": str(own)})[0]
    layers = [layer.name if isinstance(layer, Path) else "arguments" for layer in mapper.parameters]
    assert layers == ["base.yaml", "tof.yaml", "quality.yaml", "arguments", "own.yaml"]
    words = mapper.ros_arguments()
    assert words.index(str(own)) > words.index("-p")


def test_every_configuration_file_is_offered_and_has_parameters():
    for kind, names in (("sensor", SENSORS), ("mode", MODES)):
        assert sorted(p.stem for p in share_path("config", kind).glob("*.yaml")) == sorted(names)
    for file in share_path("config").rglob("*.yaml"):
        for node, content in yaml.safe_load(file.read_text()).items():
            assert re.fullmatch(r"/\*\*/(mapper|replay)", node), file
            assert content["ros__parameters"], file


def test_values_reach_the_nodes_typed():
    sequence = share_path("sample", "house")
    mapper, replay = plan_segment({"sequence": str(sequence), "rate_hz": "10", "loop": "true", "seed": "7"})
    assert "-p rate_hz:=10.0" in words_of(replay) and "-p loop:=true" in words_of(replay)
    assert "-p seed:=7" in words_of(replay) and f"-p sequence:='{sequence}'" in words_of(replay)
    assert "rate_hz" not in words_of(mapper)
    assert mapper.essential and not replay.essential


def test_several_cameras_are_a_list_and_their_topics_lie_below_their_names():
    given = {"cameras": "front, rear", "color_image": "color/image_raw", "odom": "/odom", "doctor": "false"}
    [mapper] = plan_segment(given)
    assert "-p cameras:=['front', 'rear']" in words_of(mapper)
    assert "-r front/color/image:=front/color/image_raw" in words_of(mapper)
    assert "-r rear/color/image:=rear/color/image_raw" in words_of(mapper)
    assert "-r odom:=/odom" in words_of(mapper)
    [mapper] = plan_segment({"color_image": "color/image_raw", "doctor": "false"})
    assert "-r color/image:=color/image_raw" in words_of(mapper) and "cameras" not in words_of(mapper)


def test_the_doctor_looks_at_a_robot_but_not_at_a_recording():
    mapper, doctor = plan_segment({"color_image": "/camera/image", "pose_source": "odom"})
    assert (doctor.executable, doctor.name, doctor.essential) == ("preflight", "doctor", False)
    assert set(doctor.arguments) == {"color_image=/camera/image", "pose_source=odom"}
    assert [node.name for node in plan_segment({"doctor": "false"})] == [mapper.name]
    sequence = str(share_path("sample", "house"))
    assert "doctor" not in [node.name for node in plan_segment({"sequence": sequence})]


def test_quotes_in_text_survive():
    node = NodeStart("gs_semantic", "mapper", "mapper", "", ({"save_on_exit": "it's here"},))
    word = next(word for word in node.ros_arguments() if word.startswith("save_on_exit:="))
    assert yaml.safe_load(word.partition(":=")[2]) == "it's here"
    assert "__ns:=/" in node.ros_arguments()


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"rate_hz": "fast"}, InvalidRequestError, "rate_hz: 'fast' is not a number"),
        ({"seed": "1.5"}, InvalidRequestError, "seed: '1.5' is not a whole number"),
        ({"masks": "broken"}, InvalidRequestError, "masks: 'broken' is not one of"),
        ({"loop": "maybe"}, InvalidRequestError, "loop: 'maybe' is not one of"),
        ({"colour": "x"}, InvalidRequestError, "colour: no such argument"),
        ({"sequence": "not/there"}, InvalidInputError, "sequence: there is no folder not/there"),
        ({"bag": "not/there"}, InvalidInputError, "bag: there is no folder not/there, nor a file of that name"),
        ({"bag": ".", "sequence": "."}, InvalidRequestError, "sequence, bag: only one of them can be played"),
        ({"load_map": "not/there"}, InvalidInputError, "load_map: there is no folder not/there"),
        ({"params_file": "not/there.yaml"}, InvalidInputError, "params_file: there is no file not/there.yaml"),
    ],
)
def test_wrong_values_are_named(given, error, text):
    with pytest.raises(error, match=re.escape(text)):
        plan_segment(given)


def test_replay_needs_a_sequence():
    with pytest.raises(InvalidRequestError, match="sequence: give the folder"):
        plan_replay({})


@pytest.fixture
def robot_bag(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "test" / "data"))
    from bags import write_bag

    write_bag(tmp_path / "bag", poses="odom")
    return str(tmp_path / "bag")


def test_inputs_that_are_not_named_are_found_in_the_bag(robot_bag):
    mapper, replay = plan_segment({"bag": robot_bag, "camera_info": "/mine/camera_info", "bag_speed": "2"})
    topics = dict(mapper.remappings)
    assert topics["color/image"] == "/camera/color/image_raw" and topics["odom"] == "/odom"
    assert topics["depth/image"] == "/camera/aligned_depth_to_color/image_raw"
    assert topics["color/camera_info"] == "/mine/camera_info"  # what was given counts
    assert "instance/image" not in topics
    assert "pose_source:='odom'" in words_of(mapper)
    assert f"bag:='{robot_bag}'" in words_of(replay) and "bag_speed:=2.0" in words_of(replay)


def test_a_bag_makes_the_time_where_time_is_simulated(robot_bag):
    mapper, replay = plan_segment({"bag": robot_bag, "use_sim_time": "true"})
    assert "use_sim_time:=true" in words_of(mapper) and "use_sim_time:=false" in words_of(replay)
    assert "bag_stamps:='recorded'" in words_of(replay)
    (alone,) = plan_replay({"bag": robot_bag})
    assert f"bag:='{robot_bag}'" in words_of(alone) and "bag_stamps" not in words_of(alone)


def test_a_segmenter_takes_the_place_of_the_masks_of_a_bag(tmp_path):
    from gs_semantic.data.bag_writer import write_sequence
    from gs_semantic.data.formats import open_sequence
    from gs_semantic.evaluation.damage import Damage

    write_sequence(open_sequence(share_path("sample", "house")), tmp_path / "bag", damage=Damage(), indices=[0])
    mapper, segmenter, replay = plan_segment({"bag": str(tmp_path / "bag"), "segmenter": "geometric"})
    assert "instance/image" not in dict(mapper.remappings) and segmenter.name == "segmenter"
    played = re.search(r"bag_topics:='([^']*)'", words_of(replay)).group(1).split(",")
    assert "/gs_semantic/color/image" in played and not any("instance" in name for name in played)


def test_relative_folders_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(share_path("sample"))
    (replay,) = plan_replay({"sequence": "house"})
    assert f"'{share_path('sample', 'house')}'" in words_of(replay)


def test_rviz_follows_the_namespace_and_the_colour_topic():
    plain = plan_segment({"rviz": "true"})[-1]
    assert plain.remappings == ()
    moved = plan_segment({"rviz": "true", "namespace": "robot", "color_image": "/camera/image"})[-1]
    assert dict(moved.remappings)["/gs_semantic/mapper/map/points"] == "/robot/mapper/map/points"
    assert dict(moved.remappings)["/gs_semantic/color/image"] == "/camera/image"


def test_rviz_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    from gs_semantic.errors import GsSemanticError

    with pytest.raises(GsSemanticError, match="rviz2: not found on PATH"):
        command_of(plan_segment({"rviz": "true"})[-1])


def test_default_namespace_is_that_of_the_rviz_file():
    config = yaml.safe_load(share_path("config", "segment.rviz").read_text())
    assert all(topic.startswith(f"/{NAMESPACE}/") for topic in arguments.rviz_topics(config))


def test_the_sensor_mono_gives_the_mapper_what_offline_mapping_without_depth_uses() -> None:
    mapper = plan_segment({"sensor": "mono"})[0]
    layer = next(layer for layer in mapper.parameters if isinstance(layer, Path) and layer.name == "mono.yaml")
    parameters = yaml.safe_load(layer.read_text())["/**/mapper"]["ros__parameters"]
    assert parameters.pop("use_depth") == "never"
    live_only = {"keyframe_translation_m": 0.3, "keyframe_rotation_deg": 7.0, "steps_per_keyframe": 24, "steps_when_busy": 8}
    assert {name: parameters.pop(name) for name in live_only} == live_only
    assert parameters == {name: float(value) for name, value in (pair.split("=") for pair in COLOUR_ONLY)}


def test_send_depth_reaches_the_replay(tmp_path: Path) -> None:
    mapper, replay = plan_segment({"sequence": str(tmp_path), "sensor": "mono", "send_depth": "false"})
    assert "send_depth:=false" in words_of(replay)
    assert "send_depth" not in words_of(mapper)


def test_a_camera_without_depth_is_played_without_depth(tmp_path: Path) -> None:
    assert "send_depth:=false" in words_of(plan_segment({"sequence": str(tmp_path), "sensor": "mono"})[1])
    assert "send_depth:=true" in words_of(plan_segment({"sequence": str(tmp_path)})[1])
    geometric = plan_segment({"sequence": str(tmp_path), "sensor": "mono", "segmenter": "geometric"})
    assert "send_depth:=true" in words_of(geometric[-1])  # its masks are cut along depth


def test_training_is_one_node_that_is_told_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sequence = str(share_path("sample", "house"))
    (node,) = plan_train({"method": "grouping", "sequence": sequence, "preset": "quick", "options": "seed=3"})
    assert (node.executable, node.name, node.essential) == ("trainer", "trainer", True)
    told = " ".join(node.ros_arguments())
    for part in (
        "method:='grouping'",
        "preset:='quick'",
        "options:='seed=3'",
        f"sequence:='{Path(sequence).absolute()}'",
    ):
        assert part in told
    assert f"output:='{tmp_path / 'trained'}'" in told and "resume:=false" in told
    with pytest.raises(InvalidInputError, match="sequence: there is no folder"):
        plan_train({"sequence": "not/there"})
    with pytest.raises(InvalidRequestError, match="preset: 'fast' is not one of"):
        plan_train({"preset": "fast"})


def test_generalizing_is_one_node_that_is_told_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rooms", "more", "held"):
        (tmp_path / name).mkdir()
    (node,) = plan_generalize({"task": "train", "rooms": "rooms, more", "validation": "held", "method": "segformer"})
    assert (node.executable, node.name, node.essential) == ("generalizer", "generalizer", True)
    told = " ".join(node.ros_arguments())
    for part in (
        "task:='train'",
        f"rooms:='{tmp_path / 'rooms'},{tmp_path / 'more'}'",
        f"validation:='{tmp_path / 'held'}'",
    ):
        assert part in told
    assert f"output:='{tmp_path / 'generalized'}'" in told
    with pytest.raises(InvalidInputError, match="rooms: there is no folder attic"):
        plan_generalize({"rooms": "attic"})
    with pytest.raises(InvalidInputError, match="checkpoint: there is no folder none.pt, nor a file"):
        plan_generalize({"checkpoint": "none.pt"})
    for plan, name in ((plan_generalize, "checkpoint"), (plan_segment, "semantics")):  # shipped with the method
        assert f"{name}:='{share_path('weights', 'gnesf.pt')}'" in " ".join(plan({name: "gnesf"})[0].ros_arguments())
    with pytest.raises(InvalidRequestError, match="task: 'guess' is not one of apply, train"):
        plan_generalize({"task": "guess"})
