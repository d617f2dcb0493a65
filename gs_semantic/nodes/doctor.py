"""The doctor's look at a live graph: do the topics that the mapper needs come, fit together, and have poses?

``listen`` subscribes for some seconds to whatever is published under the mapper's input names, in the weakest quality of
service that works, and ``findings`` judges what it has seen. No mapper has to run; with one beside it, its parameters
and its status are taken into account. Words come from the catalogue (faults.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import rclpy
import yaml
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera
from gs_semantic.msg import LabelMap, Status
from gs_semantic.msg import MaskInfo as MaskInfoMsg
from gs_semantic.nodes import conversions, faults, images, qos
from gs_semantic.nodes.arguments import MAPPER, NodeStart
from gs_semantic.nodes.camera_input import COLOUR, DEPTH, DEPTH_INFO, INFO, INSTANCE, MASKS, SAME_INTRINSICS_PX
from gs_semantic.nodes.faults import Finding, Severity, fine
from gs_semantic.nodes.subscriptions import incompatible, node_name, strangers, type_name
from gs_semantic.nodes.transforms import TransformBuffer

DISCOVERY_S = 1.5  # a graph is not known at once
SLICE_S = 0.05
KEPT = 200  # stamps and arrivals per topic
STOPPED_S = 2.0  # silence of a topic that has worked
CLOCKS_APART_S = 10.0  # stamps so far from this machine's clock are of another clock
GOOD_SHARE = 0.9
MOVED = "moved"  # what the pose messages speak of

ARGUMENTS = {
    COLOUR: "color_image",
    INFO: "camera_info",
    DEPTH: "depth_image",
    INSTANCE: "instance_image",
    MASKS: "instance_info",
    DEPTH_INFO: "depth_info",
    "label_map": "label_map",
    "odom": "odom",
    "pose": "pose",
}
CAMERA_ROLES = (COLOUR, INFO, DEPTH, DEPTH_INFO, INSTANCE, MASKS)
DEFAULTS: dict[str, Any] = {
    "pose_source": "tf",
    "global_frame": "",
    "pose_child_frame": "",
    "use_depth": "always",
    "input_qos": "best_effort",
    "sync_slop_s": 0.0,
    "sync_wait_s": 0.5,
    "use_sim_time": False,
    "cameras": [],
    "depth_registered": False,
}


@dataclass
class Stream:
    """One input of the mapper, and what was seen of it."""

    role: str
    topic: str
    kinds: tuple[type[Any], ...]
    required: bool
    requested: QoSProfile
    publishers: list[Any] = field(default_factory=list)  # rclpy TopicEndpointInfo
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    stamps: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT))
    last: Any = None

    @property
    def types(self) -> list[str]:
        return [type_name(kind) for kind in self.kinds]

    @property
    def argument(self) -> str:
        return ARGUMENTS.get(self.role, self.role)

    @property
    def frame_id(self) -> str:
        return self.last.header.frame_id.lstrip("/") if self.last is not None else ""

    @property
    def hz(self) -> float:
        span = self.arrivals[-1] - self.arrivals[0] if len(self.arrivals) > 1 else 0.0
        return (len(self.arrivals) - 1) / span if span > 0 else 0.0


@dataclass
class Setting:
    """What the mapper is, or would be, told: names of topics, and parameters."""

    namespace: str
    remappings: dict[str, str]
    parameters: dict[str, Any]
    camera: str = ""  # namespace of one camera's topics, where there are several

    @classmethod
    def of(cls, start: NodeStart) -> Setting:
        """From the planned start of a mapper."""
        values = dict(DEFAULTS)
        for layer in start.parameters:
            values |= _parameters_in(layer) if isinstance(layer, Path) else layer
        return cls("/" + start.namespace, dict(start.remappings), {name: values[name] for name in DEFAULTS})

    @property
    def mapper(self) -> str:
        return f"{self.namespace.rstrip('/')}/{MAPPER}"

    def topic(self, role: str) -> str:
        role = f"{self.camera}/{role}" if self.camera and role in CAMERA_ROLES else role
        name = self.remappings.get(role, role)
        return name if name.startswith("/") else f"{self.namespace.rstrip('/')}/{name}"

    @property
    def map_frame(self) -> str:
        return str(self.parameters["global_frame"]) or "map"

    def streams(self) -> dict[str, Stream]:
        """The topics that a mapper with these parameters listens to, by role."""
        p = self.parameters
        sensor = qos.sensor_input(p["input_qos"])
        kinds = (Image, CompressedImage)
        wanted: list[tuple[str, tuple[type[Any], ...], bool, QoSProfile]] = [
            (COLOUR, kinds, True, sensor),
            (INFO, (CameraInfo,), True, sensor),
            (INSTANCE, kinds, False, sensor),
            (MASKS, (MaskInfoMsg,), False, sensor),
            ("label_map", (LabelMap,), False, qos.LATCHED_INPUT),
            ("/tf", (TFMessage,), p["pose_source"] == "tf", qos.POSE),
            ("/tf_static", (TFMessage,), False, qos.STATIC_TF),
        ]
        if p["use_depth"] != "never":
            wanted.insert(2, (DEPTH, kinds, p["use_depth"] == "always", sensor))
            wanted.insert(3, (DEPTH_INFO, (CameraInfo,), False, sensor))
        if p["pose_source"] in ("odom", "pose"):
            wanted.append((p["pose_source"], (Odometry if p["pose_source"] == "odom" else PoseStamped,), True, qos.POSE))
        return {role: Stream(role, self.topic(role), *rest) for role, *rest in wanted}


def _parameters_in(file: Path) -> dict[str, Any]:
    """Parameters for the mapper in a ROS parameter file, whatever the node's name in it."""
    out: dict[str, Any] = {}
    for node, block in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).items():
        if node.endswith("*") or node.rstrip("/").endswith(MAPPER):
            out |= block.get("ros__parameters", {})
    return out


# --- listening --------------------------------------------------------------------------------------------------------


class Doctor:
    """Listens to a graph; ``findings`` judges. The node is the caller's, and so is the time."""

    def __init__(self, node: Node, setting: Setting) -> None:
        self.node, self.setting = node, setting
        self.executor = SingleThreadedExecutor(context=node.context)
        self.executor.add_node(node)
        self.streams = setting.streams()
        self.transforms = TransformBuffer(history_s=30.0)
        self.poses = TransformBuffer(history_s=30.0)  # of odom or pose
        self.transform_errors: list[str] = []
        self.due: deque[tuple[float, int]] = deque()  # when an image must have its pose (monotonic s), and its stamp
        self.pose_errors: deque[str] = deque(maxlen=KEPT)  # one per image whose time to wait is over, empty when none
        self.clock: deque[int] = deque(maxlen=KEPT)
        self.status: Status | None = None
        self.found_mapper = False
        self._subscribed: set[tuple[str, str]] = set()
        self._made: list[Any] = []
        self.listened_s = 0.0

    def close(self) -> None:
        """Leave the node to its owner."""
        for subscription in self._made:
            self.node.destroy_subscription(subscription)
        self.executor.remove_node(self.node)
        self.executor.shutdown()

    def listen(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Watch the graph for so long; less when all that is needed has come, or ``until`` says so."""
        start = time.monotonic()
        self._spin(min(DISCOVERY_S, seconds))
        self.found_mapper = self.setting.mapper in {
            f"{namespace.rstrip('/')}/{name}" for name, namespace in self.node.get_node_names_and_namespaces()
        }
        if self.found_mapper:
            self.setting.parameters |= self._parameters_of_mapper()
            self.streams = self.setting.streams()
            status = f"{self.setting.mapper}/status"
            self._made.append(self.node.create_subscription(Status, status, self._on_status, qos.STATUS))
        while not until() and time.monotonic() - start < seconds and not self._enough(time.monotonic() - start):
            self._look()
            self._spin(SLICE_S)
            self._check_poses()
        self._look()
        self.listened_s = time.monotonic() - start

    def _spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def _enough(self, elapsed: float) -> bool:
        """All that is required flows, and every judgement can be made."""
        if elapsed < DISCOVERY_S + 1.5:
            return False
        required = [stream for stream in self.streams.values() if stream.required]
        return all(len(stream.arrivals) >= 5 for stream in required) and (self.status is not None or not self.found_mapper)

    def _look(self) -> None:
        """Note publishers, and subscribe to what has appeared."""
        for stream in self.streams.values():
            stream.publishers = self.node.get_publishers_info_by_topic(stream.topic)
            if not stream.publishers and stream.role in (COLOUR, DEPTH, INSTANCE):
                self._find_compressed(stream)
            self._subscribe(stream.topic, stream.publishers, stream.kinds, stream.requested, self._receiver(stream))
        clock = self.node.get_publishers_info_by_topic("/clock")
        self._subscribe("/clock", clock, (Clock,), qos.sensor_input(), self._on_clock)

    def _find_compressed(self, stream: Stream) -> None:
        """Nobody sends raw images: image_transport's compressed ones will do."""
        for topic in (images.compressed_topic(stream.topic, stream.role == DEPTH), images.compressed_topic(stream.topic)):
            if publishers := self.node.get_publishers_info_by_topic(topic):
                stream.topic, stream.publishers = topic, publishers
                return

    def _subscribe(
        self, topic: str, publishers: list[Any], kinds: tuple[type[Any], ...], requested: QoSProfile, take: Any
    ) -> None:
        known = {type_name(kind): kind for kind in kinds}
        for name in {info.topic_type for info in publishers} & known.keys():
            if (topic, name) in self._subscribed:
                continue
            self._subscribed.add((topic, name))
            profile = _weakest(requested, [info.qos_profile for info in publishers])
            self._made.append(self.node.create_subscription(known[name], topic, take, profile))

    def _receiver(self, stream: Stream) -> Any:
        def take(msg: Any) -> None:
            now = time.monotonic()
            stream.arrivals.append(now)
            stream.last = msg
            if hasattr(msg, "header"):
                stream.stamps.append(conversions.to_ns(msg.header.stamp))
            if isinstance(msg, TFMessage):
                self._take_transforms(stream, msg)
            elif stream.role == COLOUR:
                self.due.append((now + float(self.setting.parameters["sync_wait_s"]), stream.stamps[-1]))
            elif stream.role in ("odom", "pose"):
                self._take_pose(stream, msg)

        return take

    def _take_transforms(self, stream: Stream, msg: TFMessage) -> None:
        for entry in msg.transforms:
            parent, child = entry.header.frame_id, entry.child_frame_id
            stamp = conversions.to_ns(entry.header.stamp)
            stream.stamps.append(stamp)
            try:
                what = f"{stream.topic}: transform of '{child}' in '{parent}'"
                matrix = conversions.read_transform(entry.transform, what)
                self.transforms.insert(parent, child, stamp, matrix, stream.role == "/tf_static")
            except InvalidInputError as error:
                if str(error) not in self.transform_errors:
                    self.transform_errors.append(str(error))

    def _take_pose(self, stream: Stream, msg: Any) -> None:
        odometry = isinstance(msg, Odometry)
        try:
            pose = conversions.read_pose(msg.pose.pose if odometry else msg.pose, stream.topic)
            self.poses.insert(stream.frame_id, MOVED, stream.stamps[-1], pose)
        except InvalidInputError as error:
            if str(error) not in self.transform_errors:
                self.transform_errors.append(str(error))

    def _check_poses(self) -> None:
        """Look up the poses of images whose time to wait is over: later is too late for the mapper, too."""
        while self.due and self.due[0][0] <= time.monotonic():
            _, stamp = self.due.popleft()
            try:
                self._look_up(stamp)
                self.pose_errors.append("")
            except InvalidInputError as error:
                self.pose_errors.append(str(error))

    def _look_up(self, stamp: int) -> None:
        """TransformError when the camera's pose in the map is not known at a stamp."""
        parameters, camera = self.setting.parameters, self.streams[COLOUR].frame_id
        pose = self.streams.get(str(parameters["pose_source"]))
        if pose is None:
            self.transforms.lookup(self.setting.map_frame, camera, stamp)
        elif pose.last is not None:
            self.poses.lookup(pose.frame_id, MOVED, stamp)
            child = str(getattr(pose.last, "child_frame_id", parameters["pose_child_frame"]))
            if child:
                self.transforms.lookup(child, camera, stamp)
            if parameters["global_frame"]:
                self.transforms.lookup(parameters["global_frame"], pose.frame_id, stamp)

    def _on_clock(self, msg: Clock) -> None:
        self.clock.append(conversions.to_ns(msg.clock))

    def _on_status(self, msg: Status) -> None:
        self.status = msg

    def _parameters_of_mapper(self) -> dict[str, Any]:
        """Parameters of the running mapper; those it does not tell in time stay as given."""
        client = self.node.create_client(GetParameters, f"{self.setting.mapper}/get_parameters")
        end = time.monotonic() + 2.0
        while not client.service_is_ready() and time.monotonic() < end:
            self._spin(SLICE_S)
        # one by one: a parameter without a value, like an empty list, would leave the whole answer empty
        asked = {name: client.call_async(GetParameters.Request(names=[name])) for name in DEFAULTS}
        while not all(future.done() for future in asked.values()) and time.monotonic() < end:
            self._spin(SLICE_S)
        answers = {name: future.result() for name, future in asked.items() if future.done()}
        self.node.destroy_client(client)
        return {name: _value(answer.values[0]) for name, answer in answers.items() if answer and _known(answer.values)}

    # --- judging --------------------------------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        """What is as it should be and what is not, in the order in which to mend it."""
        out = [self._mapper()]
        for stream in self.streams.values():
            out += self._topic(stream)
        out += self._cameras()
        out += self._judge_stamps()
        out += self._judge_clock()
        out += self._judge_poses()
        out += self._listeners()
        return out + self._told_by_mapper([finding for finding in out if finding.severity > Severity.OK])

    def _mapper(self) -> Finding:
        if not self.found_mapper:
            return fine(self.setting.mapper, "does not run; its inputs are examined as it would see them")
        state = f", state '{self.status.state_text}'" if self.status else ""
        return fine(self.setting.mapper, f"runs{state}; its parameters are used here")

    def _topic(self, stream: Stream) -> list[Finding]:
        """Publishers, types, quality of service, messages."""
        expected = " or ".join(stream.types)
        if not stream.publishers:
            if not stream.required or (stream.role == "/tf" and self.streams["/tf_static"].publishers):
                return [fine(stream.topic, "nobody publishes it; it may be silent")]
            same = sorted(
                name
                for name, kinds in self.node.get_topic_names_and_types()
                if set(kinds) & set(stream.types)
                and self.node.count_publishers(name)
                and not name.startswith(f"{self.setting.mapper}/")
            )
            if stream.role == INFO and self.streams[COLOUR].publishers:
                return [faults.CAMERA_INFO_MISSING.found(stream.topic, topic=stream.topic)]
            if stream.role.startswith("/"):
                # `name:=topic` is an argument of ours, TF's topic is nobody's choice
                frames = {"source": self.streams[COLOUR].frame_id or "the camera", "target": self.setting.map_frame}
                reason = f"nobody publishes {stream.topic}"
                return [faults.TF_MISSING.found(stream.topic, reason=reason, **frames)]
            details = {"topic": stream.topic, "type": expected, "argument": stream.argument}
            return [faults.NO_PUBLISHER.found(stream.topic, candidates=", ".join(same) or "none", **details)]
        out = []
        fitting = []
        for info in stream.publishers:
            if info.topic_type not in stream.types:
                details = {"node": node_name(info), "found": info.topic_type, "expected": expected}
                out.append(faults.WRONG_TYPE.found(stream.topic, topic=stream.topic, argument=stream.argument, **details))
                continue
            fitting.append(info)
            out += incompatible(stream.topic, stream.requested, info)
        if not fitting:
            return out
        if len(fitting) > 1 and not stream.role.startswith("/"):
            nodes = ", ".join(sorted(node_name(info) for info in fitting))
            out.append(faults.TWO_PUBLISHERS.found(stream.topic, topic=stream.topic, count=len(fitting), nodes=nodes))
        silence = time.monotonic() - stream.arrivals[-1] if stream.arrivals else 0.0
        publishers = ", ".join(sorted({node_name(info) for info in fitting}))
        latched = stream.requested.durability == DurabilityPolicy.TRANSIENT_LOCAL
        if not stream.arrivals:
            if stream.role == INFO and self.streams[COLOUR].arrivals:
                out.append(faults.CAMERA_INFO_MISSING.found(stream.topic, topic=stream.topic))
            elif stream.required and not latched:
                seconds = self.listened_s
                out.append(faults.NO_MESSAGE.found(stream.topic, topic=stream.topic, seconds=seconds, publishers=publishers))
        elif silence > max(STOPPED_S, 3 / stream.hz if stream.hz else 0.0) and not latched and stream.required:
            out.append(faults.NO_LONGER.found(stream.topic, topic=stream.topic, seconds=silence))
        if not out:
            rate = f", {stream.hz:.1f} Hz" if stream.hz and not latched else "" if stream.arrivals else ", silent"
            out.append(fine(stream.topic, f"{fitting[0].topic_type} from {publishers}{rate}"))
        return out

    def _cameras(self) -> list[Finding]:
        """Contents of the images and of camera_info, and whether they fit together."""
        out: list[Finding] = []
        sizes: dict[str, tuple[int, int]] = {}
        for role, read in ((COLOUR, images.read_colour), (DEPTH, images.read_depth), (INSTANCE, images.read_instances)):
            stream = self.streams.get(role)
            if stream is None or stream.last is None:
                continue
            try:
                pixels = read(stream.last, stream.topic)
                sizes[role] = pixels.shape[1], pixels.shape[0]
            except InvalidInputError as error:
                out.append(faults.of_text(stream.topic, str(error), faults.ENCODING))
            if not stream.frame_id and role != INSTANCE:
                out.append(faults.FRAME_ID_EMPTY.found(stream.topic, topic=stream.topic))
        info = self.streams[INFO]
        camera = None
        if info.last is not None:
            try:
                camera = conversions.read_camera(info.last, info.topic)
            except InvalidInputError as error:
                out.append(faults.of_text(info.topic, str(error), faults.CAMERA_INFO_INVALID))
        return out + self._fit(camera, sizes)

    def _fit(self, camera: Camera | None, sizes: Mapping[str, tuple[int, int]]) -> list[Finding]:
        """Sizes of one frame, and registration of depth to colour."""
        out = []
        colour, info = self.streams[COLOUR], self.streams[INFO]
        if camera is not None and COLOUR in sizes and (camera.width, camera.height) != sizes[COLOUR]:
            details = {"found": f"{camera.width}x{camera.height}", "expected": "{}x{}".format(*sizes[COLOUR])}
            out.append(faults.CAMERA_INFO_SIZE.found(info.topic, topic=info.topic, image_topic=colour.topic, **details))
        if INSTANCE in sizes and COLOUR in sizes and sizes[INSTANCE] != sizes[COLOUR]:
            topic = self.streams[INSTANCE].topic
            details = {"found": "{}x{}".format(*sizes[INSTANCE]), "expected": "{}x{}".format(*sizes[COLOUR])}
            out.append(faults.MASK_SIZE.found(topic, topic=topic, colour_topic=colour.topic, **details))
        if DEPTH in sizes and COLOUR in sizes:
            topic = self.streams[DEPTH].topic
            what = self._difference(camera, sizes[DEPTH], sizes[COLOUR])
            missing = self._to_register() if what else ""
            if missing:
                told = f"{what}, and {missing}"
                out.append(faults.DEPTH_UNREGISTERED.found(topic, topic=topic, what=told, colour_topic=colour.topic))
            elif what:
                out.append(fine(topic, f"{what}; the mapper registers it to {colour.topic}"))
            else:
                out.append(fine(topic, f"registered to {colour.topic}: same size, frame and intrinsics as far as known"))
        return out

    def _to_register(self) -> str:
        """What the mapper lacks to register depth itself; empty when nothing."""
        info, depth, colour = self.streams[DEPTH_INFO], self.streams[DEPTH], self.streams[COLOUR]
        if info.last is None:
            return f"{info.topic}: no message has come"
        try:
            self.transforms.lookup(colour.frame_id, depth.frame_id, depth.stamps[-1])
        except InvalidInputError as error:
            return f"there is {faults.of_text('', str(error), faults.OTHER).message}"
        return ""

    def _difference(self, camera: Camera | None, depth: tuple[int, int], colour: tuple[int, int]) -> str:
        """Why depth does not show the pixels that colour shows; empty when it does as far as can be told."""
        if depth != colour:
            return "size {}x{} differs from {}x{}".format(*depth, *colour)
        if self.setting.parameters["depth_registered"]:
            return ""
        frames = self.streams[DEPTH].frame_id, self.streams[COLOUR].frame_id
        if all(frames) and frames[0] != frames[1]:
            return f"frame '{frames[0]}' differs from '{frames[1]}'"
        info = self.streams[DEPTH_INFO]
        if camera is None or info.last is None:
            return ""
        try:
            other = conversions.read_camera(info.last, info.topic)
        except InvalidInputError:
            return ""  # told with its topic
        pairs = {name: (getattr(other, name), getattr(camera, name)) for name in ("fx", "fy", "cx", "cy")}
        apart = [f"{k} {a:.1f} / {b:.1f}" for k, (a, b) in pairs.items() if abs(a - b) > SAME_INTRINSICS_PX]
        return f"its intrinsics differ ({', '.join(apart)} px)" if apart else ""

    def _judge_stamps(self) -> list[Finding]:
        """Stamps of colour against those of depth, and against themselves."""
        out: list[Finding] = []
        colour = self.streams[COLOUR]
        for role in (COLOUR, DEPTH):
            stream = self.streams.get(role)
            if stream is None or not stream.stamps:
                continue
            if not any(stream.stamps):
                out.append(faults.STAMP_ZERO.found(stream.topic, topic=stream.topic))
                continue
            back = [(a, b) for a, b in zip(stream.stamps, list(stream.stamps)[1:], strict=False) if b <= a]
            if back:
                before, stamp = back[-1]
                details = {"stamp": stamp / 1e9, "before": before / 1e9}
                out.append(faults.STAMP_NOT_NEWER.found(stream.topic, topic=stream.topic, **details))
        depth = self.streams.get(DEPTH)
        if depth is None or len(depth.stamps) < 3 or len(colour.stamps) < 3:
            return out
        slop = int(float(self.setting.parameters["sync_slop_s"]) * 1e9)
        first, last = max(colour.stamps[0], depth.stamps[0]), min(colour.stamps[-1], depth.stamps[-1])
        both = [stamp for stamp in colour.stamps if first - slop <= stamp <= last + slop]
        apart = [min((other - stamp for other in depth.stamps), key=abs) for stamp in both or [colour.stamps[-1]]]
        share = sum(abs(value) <= slop for value in apart) / len(apart) if both else 0.0
        if share < GOOD_SHARE:
            nearest = sorted(apart, key=abs)[len(apart) // 2]
            limit = f"within {slop / 1e6:g} ms" if slop else "equal"
            both_topics = {"topic": depth.topic, "colour_topic": colour.topic}
            out.append(faults.STAMPS_APART.found(depth.topic, limit=limit, milliseconds=nearest / 1e6, **both_topics))
        else:
            out.append(fine(depth.topic, f"{share:.0%} of its stamps are in step with {colour.topic}"))
        return out

    def _judge_clock(self) -> list[Finding]:
        """Whose time it is, and whether it runs."""
        simulated = bool(self.setting.parameters["use_sim_time"])
        publishers = self.node.get_publishers_info_by_topic("/clock")
        if simulated:
            if not publishers:
                return [faults.CLOCK_SILENT.found("/clock", what="has no publisher")]
            if len(set(self.clock)) < 2:
                return [faults.CLOCK_SILENT.found("/clock", what="stands still" if self.clock else "is silent")]
            return [fine("/clock", "runs, and is used (use_sim_time)")]
        stamps = self.streams[COLOUR].stamps
        if not stamps or not stamps[-1]:
            return []
        ahead = (stamps[-1] - time.time_ns()) / 1e9
        if abs(ahead) > CLOCKS_APART_S and publishers:
            nodes = ", ".join(sorted(node_name(info) for info in publishers))
            return [faults.CLOCK_UNUSED.found("/clock", nodes=nodes, seconds=abs(ahead))]
        if ahead > CLOCKS_APART_S:
            topic = self.streams[COLOUR].topic
            return [faults.STAMP_FUTURE.found(topic, topic=topic, seconds=ahead)]
        what = "stamps follow this machine's clock" if ahead > -CLOCKS_APART_S else f"stamps are {-ahead:.0f} s old: a recording"
        return [fine("clock", what)]

    def _judge_poses(self) -> list[Finding]:
        """Is the pose of the camera known at the stamps of its images?"""
        out = [faults.of_text("/tf", text, faults.POSE_INVALID) for text in self.transform_errors]
        colour, source = self.streams[COLOUR], str(self.setting.parameters["pose_source"])
        pose = self.streams.get(source)
        if pose is not None:
            if pose.last is None:
                return [*out, faults.POSE_MISSING.found(pose.topic, topic=pose.topic)] if pose.publishers else out
            if not pose.frame_id:
                return [*out, faults.FRAME_ID_EMPTY.found(pose.topic, topic=pose.topic)]
            late = (colour.stamps[-1] - pose.stamps[-1]) / 1e9 if colour.stamps else 0.0
            if late > STOPPED_S:
                return [*out, faults.POSE_LOST.found(pose.topic, topic=pose.topic, seconds=late)]
        elif not self.streams["/tf"].publishers and not self.streams["/tf_static"].publishers:
            return out  # told with the topic
        if not colour.frame_id or not self.pose_errors:
            return out
        subject = pose.topic if pose is not None else "/tf"
        known = list(self.pose_errors)
        while "" in known and faults.named_in(known[0]) is faults.TF_OLD:
            del known[0]  # images that came before the first transform that this node heard
        errors = [error for error in known if error]
        if len(errors) > (1 - GOOD_SHARE) * len(known):
            return [*out, faults.of_text(subject, errors[-1], faults.TF_MISSING)]
        return [*out, fine(subject, f"the pose of '{colour.frame_id}' is known at the stamps of {colour.topic}")]

    def _listeners(self) -> list[Finding]:
        """Subscribers of the mapper's outputs with another type."""
        return strangers(self.node, MAPPER, self.setting.namespace) if self.found_mapper else []

    def _told_by_mapper(self, known: list[Finding]) -> list[Finding]:
        """What the mapper's status says beside what is known."""
        if self.status is None:
            return []
        names, subjects = {finding.name for finding in known}, tuple(f"{finding.subject}:" for finding in known)
        told = []
        for text in self.status.warnings:
            finding = faults.of_text(f"{self.setting.mapper}/status", text, faults.OTHER)
            if finding.name not in names and not (finding.name == faults.OTHER.name and text.startswith(subjects)):
                told.append(finding)
        return told


VALUES = {
    ParameterType.PARAMETER_BOOL: "bool_value",
    ParameterType.PARAMETER_DOUBLE: "double_value",
    ParameterType.PARAMETER_STRING: "string_value",
    ParameterType.PARAMETER_STRING_ARRAY: "string_array_value",
}


def _weakest(requested: QoSProfile, offered: list[QoSProfile]) -> QoSProfile:
    """What every publisher satisfies, so that one fault does not hide the next; latched messages need reliable ones."""
    latched = requested.durability == DurabilityPolicy.TRANSIENT_LOCAL and all(
        profile.durability == DurabilityPolicy.TRANSIENT_LOCAL and profile.reliability == ReliabilityPolicy.RELIABLE
        for profile in offered
    )
    return QoSProfile(
        depth=requested.depth,
        reliability=ReliabilityPolicy.RELIABLE if latched else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _known(values: Any) -> bool:
    return len(values) == 1 and values[0].type in VALUES


def _value(value: Any) -> Any:
    """What a ParameterValue holds."""
    held = getattr(value, VALUES[value.type])
    return list(held) if value.type == ParameterType.PARAMETER_STRING_ARRAY else held


def examine(start: NodeStart, seconds: float) -> list[Finding]:
    """Look at the live graph for so many seconds per camera, as the planned mapper would see it."""
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = Node("doctor", context=context, enable_rosout=False, start_parameter_services=False)
        return examine_cameras(node, Setting.of(start), seconds)
    finally:
        rclpy.try_shutdown(context=context)


def examine_cameras(
    node: Node, setting: Setting, seconds: float, until: Callable[[], bool] = lambda: False
) -> list[Finding]:
    """The same with a node that there is; ``until`` ends it early."""
    out: list[Finding] = []
    waiting = list(setting.parameters["cameras"]) or [""]
    while waiting:
        doctor = Doctor(node, replace(setting, camera=waiting.pop(0), parameters=dict(setting.parameters)))
        doctor.listen(seconds, until)
        cameras = list(doctor.setting.parameters["cameras"])
        if cameras and not doctor.setting.camera:  # only now known, from the mapper: look at each
            waiting = cameras
        else:
            out += [finding for finding in doctor.findings() if finding not in out]
        doctor.close()
    return out
