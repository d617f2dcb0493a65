"""The start arguments of each use: one table, read by the launch files and by ``gs-semantic run``.

An argument becomes a parameter, a topic remapping or a choice of configuration files of the nodes; ``plan_segment``,
``plan_replay``, ``plan_train`` and ``plan_generalize`` turn argument values into the nodes to start. Nothing here imports ROS.

Parameters are layered, later ones win: config/base.yaml, config/sensor/<sensor>.yaml, config/mode/<mode>.yaml, the
arguments that were given, params_file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.segmenters.registry import KINDS
from gs_semantic.share import share_path

NAMESPACE = "gs_semantic"  # default namespace, which config/segment.rviz is written for
MAPPER, REPLAY, SEGMENTER, TRAINER, GENERALIZER = "mapper", "replay", "segmenter", "trainer", "generalizer"
VIEWER = "viewer"
SHIPPED = ("gnesf", "rt_gs2")  # methods that come with a checkpoint
SENSORS = ("rgbd", "structured_light", "tof", "mono")
MODES = ("realtime", "quality")
PER_CAMERA = ("color", "depth", "instance")  # first words of the topics that each camera has
TOPIC = "topic"  # the masks come from somebody else
# how long the mapper waits for a frame's masks: as long as they usually take, and some
MASK_WAIT_S = {"geometric": 0.2}
MODEL_MASK_WAIT_S = 2.0


@dataclass(frozen=True)
class Argument:
    """One start argument; ``default`` and ``choices`` are text, as launch files need them. Empty means "not given".

    kind: what the text must be. parameters: (node, parameter) pairs that it sets. topic: the nodes' relative topic
    that it renames.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()
    kind: type = str
    parameters: tuple[tuple[str, str], ...] = ()
    topic: str = ""

    def value(self, text: str) -> Any:
        """The typed value of a text; InvalidRequestError naming the argument when it does not fit."""
        if self.choices and text not in self.choices:
            raise InvalidRequestError(f"{self.name}: '{text}' is not one of {', '.join(self.choices)}")
        if self.kind is bool:
            if text.lower() in ("true", "1", "yes", "on"):
                return True
            if text.lower() in ("false", "0", "no", "off"):
                return False
            raise InvalidRequestError(f"{self.name}: '{text}' is not true or false")
        if self.kind is list:
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return self.kind(text)
        except ValueError:
            noun = {int: "a whole number", float: "a number"}[self.kind]
            raise InvalidRequestError(f"{self.name}: '{text}' is not {noun}") from None


def _flag(name: str, description: str, *parameters: tuple[str, str]) -> Argument:
    return Argument(name, "false", description, ("true", "false"), bool, parameters)


def _topic(name: str, topic: str, description: str) -> Argument:
    return Argument(name, topic, description, topic=topic)


COMMON = (
    Argument("namespace", NAMESPACE, "Namespace of the nodes; the mapper is /<namespace>/mapper."),
    _topic("color_image", "color/image", "Colour image topic (sensor_msgs/Image)."),
    _topic("camera_info", "color/camera_info", "Intrinsics of the colour image (sensor_msgs/CameraInfo)."),
    _topic("depth_image", "depth/image", "Depth image topic, registered to colour: 32FC1 in m or 16UC1 in mm."),
    _topic(
        "depth_info", "depth/camera_info", "Intrinsics of the depth image; needed if it is not registered to colour."
    ),
    _topic("instance_image", "instance/image", "2D instance masks (mono8 or 16UC1, 0 = unlabelled); may be silent."),
    _topic("instance_info", "instance/info", "Class and score of each mask (gs_semantic/MaskInfo); may be silent."),
    _topic("label_map", "label_map", "Names of the classes (gs_semantic/LabelMap, latched)."),
    _topic("label_info", "vision/label_info", "The same as vision_msgs/LabelInfo, where vision_msgs is installed."),
    _topic("odom", "odom", "Odometry topic, used with pose_source odom."),
    _topic("pose", "pose", "PoseStamped topic, used with pose_source pose."),
    Argument(
        "cameras",
        "",
        "Cameras that feed one map, e.g. front,rear: each has the topics above below its name; empty: one camera.",
        kind=list,
        parameters=((MAPPER, "cameras"),),
    ),
    Argument(
        "pose_source",
        "tf",
        "Where camera poses come from: TF at the image stamp, Odometry or PoseStamped.",
        ("tf", "odom", "pose"),
        parameters=((MAPPER, "pose_source"), (REPLAY, "pose_source")),
    ),
    Argument(
        "global_frame",
        "",
        "Frame of the map; empty: 'map' with TF, else the frame of the pose messages.",
        parameters=((MAPPER, "global_frame"), (REPLAY, "global_frame")),
    ),
    Argument("params_file", "", "Your own parameter YAML; it wins over every other layer."),
    Argument("log_level", "info", "Log level of the nodes.", ("debug", "info", "warn", "error", "fatal")),
)

RECORDING = (
    Argument(
        "rate_hz",
        "5.0",
        "Frames per second of the replay.",
        kind=float,
        parameters=((REPLAY, "rate_hz"),),
    ),
    Argument(
        "bag",
        "",
        "ROS 2 bag (mcap, sqlite3) to play instead of a sequence, on its own topics; inputs that are not named are found "
        "in it.",
        parameters=((REPLAY, "bag"),),
    ),
    Argument(
        "bag_speed",
        "1.0",
        "Speed of the bag relative to its recording.",
        kind=float,
        parameters=((REPLAY, "bag_speed"),),
    ),
    _flag("loop", "Play the recording again and again, with rising stamps.", (REPLAY, "loop")),
    Argument(
        "masks",
        "shuffled",
        "Masks sent: none, perfect (as recorded), shuffled (ids redrawn per frame) or damaged (also dropped, merged, "
        "split and eroded).",
        ("none", "perfect", "shuffled", "damaged"),
        parameters=((REPLAY, "masks"),),
    ),
    Argument("seed", "0", "Seed of mask damage and noise.", kind=int, parameters=((REPLAY, "seed"),)),
    Argument(
        "send_depth",
        "true",
        "Send the recorded depth; false: colour and poses only.",
        ("true", "false"),
        bool,
        ((REPLAY, "send_depth"),),
    ),
    _flag("depth_noise", "Add noise of 1.5 mm x z^2 and 5 % holes to the depth.", (REPLAY, "depth_noise")),
    _flag("pose_noise", "Add noise of 1 cm and 0.5 degrees to the poses.", (REPLAY, "pose_noise")),
    Argument("start_frame", "0", "First frame.", kind=int, parameters=((REPLAY, "start_frame"),)),
    Argument("stop_frame", "-1", "Frame to stop before; -1: the end.", kind=int, parameters=((REPLAY, "stop_frame"),)),
    Argument(
        "skip_every", "0", "Withhold every k-th frame; 0: play all.", kind=int, parameters=((REPLAY, "skip_every"),)
    ),
)

REPLAY_ARGUMENTS = (
    Argument(
        "sequence", "", "Recorded sequence to play, of any format (docs/data.md).", parameters=((REPLAY, "sequence"),)
    ),
    *RECORDING,
    *COMMON,
)

SEGMENT_ARGUMENTS = (
    Argument(
        "sequence",
        "",
        "Also start the replay of this recorded sequence; empty: a robot's topics are listened to.",
        parameters=((REPLAY, "sequence"),),
    ),
    Argument("sensor", "rgbd", "Depth sensor (mono: none): chooses config/sensor/<sensor>.yaml.", SENSORS),
    Argument("mode", "realtime", "Budgets: chooses config/mode/<mode>.yaml.", MODES),
    Argument(
        "device",
        "auto",
        "Where the map is rendered; auto takes the fastest there is.",
        ("auto", "cpu", "cuda"),
        parameters=((MAPPER, "device"), (SEGMENTER, "device")),
    ),
    Argument(
        "segmenter",
        TOPIC,
        "Where 2D masks come from: the topic instance_image, or a segmenter node (then a replay sends no masks).",
        (TOPIC, *KINDS),
        parameters=((SEGMENTER, "segmenter"),),
    ),
    Argument(
        "model",
        "",
        "Weights of the segmenter: a folder, or their name in the cache; empty: the usual ones.",
        parameters=((SEGMENTER, "model"),),
    ),
    Argument(
        "words",
        "",
        "Things that the segmenter 'grounded' looks for, separated by commas.",
        parameters=((SEGMENTER, "words"),),
    ),
    _flag(
        "download",
        "Get weights of the segmenter that are not there from the Hugging Face Hub.",
        (SEGMENTER, "download"),
    ),
    Argument("load_map", "", "Map folder to start from.", parameters=((MAPPER, "load_map"),)),
    Argument(
        "semantics",
        "",
        "Checkpoint of a method that generalises, or a method's name for the one that is shipped (gnesf, rt_gs2): it labels "
        "frames without masks.",
        parameters=((MAPPER, "semantics"),),
    ),
    Argument(
        "language",
        "",
        "Folder of CLIP or SigLIP weights: objects are found by words that are no names, too.",
        parameters=((MAPPER, "language"),),
    ),
    Argument(
        "autostart",
        "true",
        "Configure and activate the mapper at once; false: a lifecycle manager does.",
        ("true", "false"),
        bool,
        ((MAPPER, "autostart"),),
    ),
    Argument("save_on_exit", "", "Map folder to write when the mapper ends.", parameters=((MAPPER, "save_on_exit"),)),
    _flag(
        "use_sim_time",
        "Take the time from /clock.",
        (MAPPER, "use_sim_time"),
        (REPLAY, "use_sim_time"),
        (SEGMENTER, "use_sim_time"),
    ),
    Argument(
        "doctor",
        "true",
        "Look at the robot's topics at the start and say what is wrong with them (not with a recording).",
        ("true", "false"),
        bool,
    ),
    _flag("rviz", "Open RViz with config/segment.rviz."),
    _flag("viewer", "Show the map in the browser; the log tells the address."),
    Argument(
        "viewer_host",
        "",
        "Address that the viewer listens on; empty: loopback only, otherwise browsers need the token that is logged.",
        parameters=((VIEWER, "host"),),
    ),
    Argument("viewer_port", "", "Port of the viewer; empty: 8080.", kind=int, parameters=((VIEWER, "port"),)),
    *RECORDING,
    *COMMON,
)


TRAIN_ARGUMENTS = (
    Argument(
        "method",
        "gradiseg",
        "Lifting method: plain, grouping, gradiseg, unified_lift, ... (docs/training.md).",
        parameters=((TRAINER, "method"),),
    ),
    Argument(
        "sequence",
        "",
        "Recorded sequence to train on, of any format; empty: goals of the action are waited for.",
        parameters=((TRAINER, "sequence"),),
    ),
    Argument("output", "trained", "Folder for map, checkpoints and metrics.", parameters=((TRAINER, "output"),)),
    Argument(
        "evaluation",
        "",
        "Labelled sequence to score at; empty: views of the sequence are held out.",
        parameters=((TRAINER, "evaluation"),),
    ),
    Argument(
        "preset",
        "standard",
        "Options to start from.",
        ("quick", "standard", "paper"),
        parameters=((TRAINER, "preset"),),
    ),
    Argument(
        "options", "", "Options of the method, NAME=VALUE separated by commas.", parameters=((TRAINER, "options"),)
    ),
    _flag("resume", "Go on from the last checkpoint in output.", (TRAINER, "resume")),
    _flag("stay", "Wait for further goals when the sequence is trained.", (TRAINER, "stay")),
    *(argument for argument in COMMON if argument.name in ("namespace", "params_file", "log_level")),
)


GENERALIZE_ARGUMENTS = (
    Argument(
        "task",
        "apply",
        "Label a scene by a checkpoint, or learn from rooms.",
        ("apply", "train"),
        parameters=((GENERALIZER, "task"),),
    ),
    Argument(
        "method",
        "gnesf",
        "Method to train, or whose shipped checkpoint is applied where none is named (docs/generalization.md).",
        parameters=((GENERALIZER, "method"),),
    ),
    Argument(
        "checkpoint",
        "",
        "What was learned, or a method's name, to apply (empty: shipped with the method); when training: weights to start from.",
        parameters=((GENERALIZER, "checkpoint"),),
    ),
    Argument(
        "sequence",
        "",
        "Posed images of the scene to label, of any format; empty: goals of the action are waited for.",
        parameters=((GENERALIZER, "sequence"),),
    ),
    Argument(
        "map", "", "Map folder of the scene; empty: the sequence is mapped first.", parameters=((GENERALIZER, "map"),)
    ),
    Argument(
        "mapper",
        "",
        "Mapper node whose live map is labelled, in the place of a sequence, e.g. mapper.",
        parameters=((GENERALIZER, "mapper"),),
    ),
    Argument(
        "rooms",
        "",
        "Folders of rooms, or scenes, to learn from, separated by commas; empty: goals of the action are waited for.",
        parameters=((GENERALIZER, "rooms"),),
    ),
    Argument(
        "validation",
        "",
        "Scenes to choose the checkpoint at, separated by commas; empty: validation rooms of the first folder.",
        parameters=((GENERALIZER, "validation"),),
    ),
    Argument(
        "output",
        "generalized",
        "Map folder to write, or folder for checkpoints and metrics.",
        parameters=((GENERALIZER, "output"),),
    ),
    Argument("stage", "", "Part of the training; empty: the first.", parameters=((GENERALIZER, "stage"),)),
    Argument(
        "preset",
        "standard",
        "Options of a training to start from.",
        ("quick", "standard", "paper"),
        parameters=((GENERALIZER, "preset"),),
    ),
    Argument("options", "", "Further options, NAME=VALUE separated by commas.", parameters=((GENERALIZER, "options"),)),
    _flag("resume", "Go on from the last checkpoint in output.", (GENERALIZER, "resume")),
    _flag("stay", "Wait for further goals when the first run has ended.", (GENERALIZER, "stay")),
    *(argument for argument in COMMON if argument.name in ("namespace", "params_file", "log_level")),
)


@dataclass(frozen=True)
class NodeStart:
    """One process to start. ``parameters`` are YAML files and dictionaries, later ones win."""

    package: str
    executable: str
    name: str
    namespace: str
    parameters: tuple[Path | dict[str, Any], ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    log_level: str = "info"
    arguments: tuple[str, ...] = ()
    essential: bool = True  # its end is the end of the whole start

    def ros_arguments(self) -> list[str]:
        """The same as a command line for a ROS process (``--ros-args ...``)."""
        words = ["--ros-args", "-r", f"__node:={self.name}", "-r", f"__ns:=/{self.namespace}"]
        for old, new in self.remappings:
            words += ["-r", f"{old}:={new}"]
        for layer in self.parameters:
            if isinstance(layer, Path):
                words += ["--params-file", str(layer)]
            else:
                for name, value in layer.items():
                    words += ["-p", f"{name}:={_yaml_scalar(value)}"]
        return [*words, "--log-level", self.log_level]


@dataclass(frozen=True)
class Use:
    """A thing to start: its arguments and how their values become processes."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    plan: Callable[[Mapping[str, str]], list[NodeStart]] = field(repr=False)


def plan_segment(given: Mapping[str, str]) -> list[NodeStart]:
    """Mapper, and where asked for replay, RViz and viewer."""
    values = _with_bag(_checked(SEGMENT_ARGUMENTS, given))
    files = [
        share_path("config", "base.yaml"),
        share_path("config", "sensor", f"{values['sensor']}.yaml"),
        share_path("config", "mode", f"{values['mode']}.yaml"),
    ]
    segmenter = KINDS.get(values["segmenter"])
    wait = {"mask_wait_s": MASK_WAIT_S.get(segmenter.name, MODEL_MASK_WAIT_S)} if segmenter else {}
    starts = [_node(MAPPER, SEGMENT_ARGUMENTS, values, files, more=wait)]
    if segmenter:
        starts += _segmenters(values, files[:1])
    if values["sequence"] or values["bag"]:
        silent: dict[str, Any] = {"masks": "none"} if segmenter else {}
        if values["sensor"] == "mono" and not (segmenter and segmenter.needs_depth):  # nobody would listen to it
            silent["send_depth"] = False
        if values["bag"]:
            silent |= _bag_parameters(values, masks=not segmenter)
        # the map outlives its recording: services go on answering when the replay has ended
        replay = _node(REPLAY, SEGMENT_ARGUMENTS, values, files[:1], essential=False, more=silent)
        if segmenter and segmenter.has_classes:  # the names that count are those of the segmenter's classes
            others = tuple(pair for pair in replay.remappings if pair[0] != "label_map")
            replay = replace(replay, remappings=(*others, ("label_map", "recording/label_map")))
        starts.append(replay)
    elif values["doctor"] == "true":
        starts.append(_preflight(SEGMENT_ARGUMENTS, values))
    if values["rviz"] == "true":
        starts.append(_rviz(values))
    if values["viewer"] == "true":
        starts.append(_node(VIEWER, SEGMENT_ARGUMENTS, values, files[:1], essential=False))
    return starts


def plan_replay(given: Mapping[str, str]) -> list[NodeStart]:
    """The replay alone."""
    values = _checked(REPLAY_ARGUMENTS, given)
    if not (values["sequence"] or values["bag"]):
        raise InvalidRequestError("sequence: give the folder of a recorded sequence, or bag: a ROS 2 bag")
    more = _bag_parameters(values) if values["bag"] else None
    return [_node(REPLAY, REPLAY_ARGUMENTS, values, [share_path("config", "base.yaml")], more=more)]


def plan_train(given: Mapping[str, str]) -> list[NodeStart]:
    """The trainer alone."""
    values = _checked(TRAIN_ARGUMENTS, given)
    return [_node(TRAINER, TRAIN_ARGUMENTS, values, [share_path("config", "base.yaml")])]


def plan_generalize(given: Mapping[str, str]) -> list[NodeStart]:
    """The generalizer alone."""
    values = _checked(GENERALIZE_ARGUMENTS, given)
    return [_node(GENERALIZER, GENERALIZE_ARGUMENTS, values, [share_path("config", "base.yaml")])]


USES = {
    "segment": Use("segment", "Map a live camera, or a recording, into objects.", SEGMENT_ARGUMENTS, plan_segment),
    "replay": Use("replay", "Play a recorded sequence as a camera.", REPLAY_ARGUMENTS, plan_replay),
    "train": Use("train", "Train a map with objects from a recorded sequence.", TRAIN_ARGUMENTS, plan_train),
    "generalize": Use(
        "generalize",
        "Learn from many rooms to label scenes never seen, or label one.",
        GENERALIZE_ARGUMENTS,
        plan_generalize,
    ),
}


def _checked(arguments: tuple[Argument, ...], given: Mapping[str, str]) -> dict[str, str]:
    """All values as text, checked; those not given have their defaults."""
    known = {argument.name: argument for argument in arguments}
    for name in given:
        if name not in known:
            raise InvalidRequestError(f"{name}: no such argument; there are {', '.join(known)}")
    values = {name: str(given.get(name, argument.default)) for name, argument in known.items()}
    for name, text in values.items():
        if text:
            known[name].value(text)
    if values.get("load_map") and not Path(values["load_map"]).is_dir():
        raise InvalidInputError(f"load_map: there is no folder {values['load_map']}")
    for name in ("checkpoint", "semantics"):  # a method's name stands for the checkpoint that is shipped with it
        if values.get(name) in SHIPPED and not Path(values[name]).exists():
            values[name] = str(share_path("weights", f"{values[name]}.pt"))
    for name in ("sequence", "bag", "evaluation", "checkpoint", "map", "semantics"):
        if values.get(name) and not Path(values[name]).exists():
            raise InvalidInputError(f"{name}: there is no folder {values[name]}, nor a file of that name")
    if values.get("sequence") and values.get("bag"):
        raise InvalidRequestError("sequence, bag: only one of them can be played; leave one out")
    if values["params_file"] and not Path(values["params_file"]).is_file():
        raise InvalidInputError(f"params_file: there is no file {values['params_file']}")
    for name in ("rooms", "validation"):
        folders = _names(values.get(name, ""))
        for folder in folders:
            if not Path(folder).expanduser().is_dir():
                raise InvalidInputError(f"{name}: there is no folder {folder}")
        if folders:
            values[name] = ",".join(str(Path(folder).expanduser().absolute()) for folder in folders)
    paths = (
        "sequence",
        "bag",
        "load_map",
        "save_on_exit",
        "params_file",
        "output",
        "evaluation",
        "checkpoint",
        "map",
        "semantics",
    )
    for name in paths:
        if values.get(name):  # the nodes may run in another folder
            values[name] = str(Path(values[name]).expanduser().absolute())
    if values.get("language") and (weights := Path(values["language"]).expanduser()).is_dir():  # or a name in the cache
        values["language"] = str(weights.absolute())
    return values


# argument -> field of gs_semantic.data.bag.BagTopics
BAG_TOPICS = {
    "color_image": "color",
    "camera_info": "camera_info",
    "depth_image": "depth",
    "depth_info": "depth_info",
    "instance_image": "instance",
    "instance_info": "instance_info",
    "label_map": "label_map",
    "odom": "odom",
    "pose": "pose",
}
SEGMENTER_TOPICS = ("instance_image", "instance_info", "label_map")  # what a segmenter node publishes


def _with_bag(values: dict[str, str]) -> dict[str, str]:
    """With a bag: the arguments that were left at their defaults become the bag's topics and frames."""
    if not values["bag"]:
        return values
    from gs_semantic.data.bag import find_poses, find_topics
    from gs_semantic.data.bag_files import Bag

    defaults = {argument.name: argument.default for argument in SEGMENT_ARGUMENTS}
    with Bag(values["bag"]) as bag:
        found = find_topics(bag)
        pose_source, global_frame = find_poses(bag, found)
    own_masks = KINDS.get(values["segmenter"]) is not None
    topics = {
        name: getattr(found, key) for name, key in BAG_TOPICS.items() if not (own_masks and name in SEGMENTER_TOPICS)
    }
    for name, text in {**topics, "pose_source": pose_source, "global_frame": global_frame}.items():
        if text and values[name] == defaults[name]:
            values[name] = text
    return values


def _bag_parameters(values: Mapping[str, str], masks: bool = True) -> dict[str, Any]:
    """Parameters of the replay that only a bag needs. ``masks`` false: those of the bag are left out."""
    parameters: dict[str, Any] = {}
    if values.get("use_sim_time", "").lower() in ("true", "1", "yes", "on"):  # then the replay makes the time
        parameters = {"use_sim_time": False, "bag_stamps": "recorded"}
    if not masks:
        from gs_semantic.data.bag import find_topics
        from gs_semantic.data.bag_files import Bag

        with Bag(values["bag"]) as bag:
            found = find_topics(bag)
            left = {getattr(found, BAG_TOPICS[name]) for name in SEGMENTER_TOPICS}
            parameters["bag_topics"] = ",".join(name for name in bag.topics if name not in left)
    return parameters


def _node(
    node: str,
    arguments: tuple[Argument, ...],
    values: Mapping[str, str],
    files: list[Path],
    essential: bool = True,
    more: Mapping[str, Any] | None = None,
) -> NodeStart:
    parameters: dict[str, Any] = {
        parameter: argument.value(values[argument.name])
        for argument in arguments
        for owner, parameter in argument.parameters
        if owner == node and values[argument.name]
    } | dict(more or {})
    remappings = tuple(
        pair
        for argument in arguments
        if argument.topic and values[argument.name] not in ("", argument.topic)
        for pair in _renamed(argument.topic, values[argument.name], values.get("cameras", ""))
    )
    layers: list[Path | dict[str, Any]] = [*files, parameters]
    if values["params_file"]:
        layers.append(Path(values["params_file"]))
    return NodeStart(
        "gs_semantic",
        node,
        node,
        values["namespace"].strip("/"),
        tuple(layers),
        remappings,
        values["log_level"],
        essential=essential,
    )


def _renamed(old: str, new: str, cameras: str) -> list[tuple[str, str]]:
    """Remappings of a topic; of one that each camera has, below every camera's name."""
    names = _names(cameras)
    if not names or old.partition("/")[0] not in PER_CAMERA:
        return [(old, new)]
    return [(f"{name}/{old}", new if new.startswith("/") else f"{name}/{new}") for name in names]


def _names(cameras: str) -> list[str]:
    return [name.strip() for name in cameras.split(",") if name.strip()]


def _segmenters(values: Mapping[str, str], files: list[Path]) -> list[NodeStart]:
    """One segmenter, or one for each camera."""
    node = _node(SEGMENTER, SEGMENT_ARGUMENTS, {**values, "cameras": ""}, files)
    cameras = _names(values.get("cameras", ""))
    if not cameras:
        return [node]
    shared = tuple(pair for pair in node.remappings if pair[0].partition("/")[0] not in PER_CAMERA)
    own = {a.topic: values[a.name] for a in SEGMENT_ARGUMENTS if a.topic.partition("/")[0] in PER_CAMERA}
    return [
        replace(
            node,
            name=f"{SEGMENTER}_{camera}",
            remappings=(*shared, *((old, _renamed(old, new or old, camera)[0][1]) for old, new in own.items())),
        )
        for camera in cameras
    ]


def _preflight(arguments: tuple[Argument, ...], values: Mapping[str, str]) -> NodeStart:
    """The doctor, with the same arguments."""
    words = (f"{a.name}={values[a.name]}" for a in arguments if values[a.name] != a.default)
    namespace = values["namespace"].strip("/")
    return NodeStart(
        "gs_semantic",
        "preflight",
        "doctor",
        namespace,
        log_level=values["log_level"],
        arguments=(*words,),
        essential=False,
    )


def _rviz(values: Mapping[str, str]) -> NodeStart:
    """RViz; the topics of its file are remapped when the namespace or the colour topic is another one."""
    config = share_path("config", "segment.rviz")
    namespace = "/" + values["namespace"].strip("/")
    renamed = {}
    for topic in rviz_topics(yaml.safe_load(config.read_text(encoding="utf-8"))):
        relative = topic.removeprefix(f"/{NAMESPACE}/")
        if relative == topic:
            continue  # a topic outside the namespace
        for argument in COMMON:
            if argument.topic == relative:
                relative = values[argument.name] or relative
        target = relative if relative.startswith("/") else f"{namespace.rstrip('/')}/{relative}"
        if target != topic:
            renamed[topic] = target
    return NodeStart(
        "rviz2",
        "rviz2",
        "rviz",
        values["namespace"].strip("/"),
        ({"use_sim_time": values["use_sim_time"] == "true"},),
        tuple(renamed.items()),
        "warn",  # RViz reports every queue and shader at info
        ("-d", str(config)),
        essential=False,
    )


def rviz_topics(config: Any) -> list[str]:
    """Topics that the displays of an RViz configuration subscribe to."""
    found = []
    for display in config["Visualization Manager"]["Displays"]:
        for key, entry in display.items():
            if key.endswith("Topic") and isinstance(entry, dict) and entry.get("Value"):
                found.append(entry["Value"])
    return found


def _yaml_scalar(value: Any) -> str:
    """Text that ROS reads back as the same type: strings are quoted, floats keep their point."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_scalar, value))}]"
    return repr(value)
