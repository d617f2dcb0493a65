"""A mapper node and a made-up camera in one process, on a ROS domain of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from gs_semantic.msg import LabelMap, Status
from gs_semantic.msg import MaskInfo as MaskInfoMsg
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from gs_semantic.client import SemanticMap
from gs_semantic.gaussians import Camera, MaskInfo
from gs_semantic.labels import LabelSet, palette
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.mapper_node import MapperNode
from gs_semantic.nodes.transforms import TransformError

WIDTH, HEIGHT = 160, 120
CAMERA = Camera(WIDTH, HEIGHT, 130.0, 130.0, 79.5, 59.5)
LABELS = LabelSet({0: "void", 3: "box", 7: "lamp"})
BOX_PIXEL, LAMP_PIXEL, WALL_PIXEL = (40, 60), (120, 60), (80, 15)  # (u, v)
NAMESPACE = "rig"
PERIOD_NS = 100_000_000
START_NS = 1_000_000_000_000
UPRIGHT = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]])  # a metre above the floor, looks along x
PATIENCE_S = 120.0  # only a test that fails waits so long


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rgb, depth (m), mask ids: a wall 2 m ahead, a box (id 11) and a lamp (id 22) a little before it."""
    rgb = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    instances = np.zeros((HEIGHT, WIDTH), np.uint8)
    for mask_id, (u, v), colour in ((11, BOX_PIXEL, (200, 30, 30)), (22, LAMP_PIXEL, (30, 30, 200))):
        window = (slice(v - 20, v + 20), slice(u - 20, u + 20))
        rgb[window], depth[window], instances[window] = colour, 1.8, mask_id
    return rgb, depth, instances


MASKS = {11: MaskInfo(3, 0.9), 22: MaskInfo(7, 0.8)}


def topic_of(camera: str, name: str) -> str:
    """An input of one of several cameras."""
    return f"{camera}/{name}" if camera and name[0] != "/" else name


def matched(publisher: Publisher[Any], node: Node) -> bool:
    """Do a publisher and the subscription of another node in this process know of each other?"""
    ends = [subscription for subscription in node.subscriptions if subscription.topic_name == publisher.topic_name]
    if not hasattr(Subscription, "get_publisher_count"):  # Humble: the other end cannot be asked
        return publisher.get_subscription_count() > 0
    return publisher.get_subscription_count() > 0 and any(subscription.get_publisher_count() > 0 for subscription in ends)


class StopEvent:
    """What ``MapperNode.run`` needs of a StopSignal."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __bool__(self) -> bool:
        return self.event.is_set()


class Rig:
    """Sends frames of ``scene`` and keeps what the mapper publishes by topic."""

    def __init__(self, listen: tuple[str, ...] = ("semantic/image",), connect: bool = True, **parameters: Any) -> None:
        values = {
            "confirm_observations": 1,
            "keyframe_translation_m": 0.0,
            "steps_per_keyframe": 0,
            "steps_when_idle": False,
            "seed_max_block_px": 2,
            "status_hz": 20.0,
            "view_period_s": 0.0,
            **parameters,
        }
        self.context = Context()
        rclpy.init(context=self.context)
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        try:
            self.mapper = MapperNode(context=self.context, namespace=NAMESPACE, parameter_overrides=overrides)
        except Exception:
            rclpy.try_shutdown(context=self.context)
            raise
        self.pose = np.eye(4)  # of the camera in the map
        self.stop = StopEvent()
        self._runner = threading.Thread(target=self.mapper.run, args=(self.stop,), daemon=True)
        self._runner.start()
        self.node = rclpy.create_node("camera", context=self.context, namespace=NAMESPACE)
        self.received: dict[str, list[Any]] = {}
        self.changed = threading.Condition()
        out = {
            "color/image": Image,
            "depth/image": Image,
            "instance/image": Image,
            "instance/info": MaskInfoMsg,
            "color/camera_info": CameraInfo,
        }
        self.cameras = values.get("cameras") or [""]
        self.publishers = {
            topic_of(camera, name): self.node.create_publisher(kind, topic_of(camera, name), qos.SENSOR_OUTPUT)
            for camera in self.cameras
            for name, kind in out.items()
        }
        self.publishers["label_map"] = self.node.create_publisher(LabelMap, "label_map", qos.LATCHED)
        self.publishers["/tf"] = self.node.create_publisher(TFMessage, "/tf", qos.POSE)
        self.listen("status", Status, qos.STATUS)
        for name in listen:
            self.listen(name, Image, qos.IMAGE_OUTPUT)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._spinner = threading.Thread(target=self._spin, daemon=True)
        self._spinner.start()
        self.number = 0
        header = conversions.make_header(0, "camera")
        self.publishers["label_map"].publish(conversions.write_label_map(LABELS, palette(8), header))
        if connect and values.get("autostart", True):
            self.connected()
        self.until(lambda: len(self.received["status"]) > 0, "first status")

    def connected(self) -> None:
        """Wait until everybody has found everybody, so that no message is lost for that reason."""
        inputs = {"color/image", "depth/image", "instance/image", "instance/info", "color/camera_info", "/tf"}
        inputs -= {"depth/image"} if self.mapper.parameters.use_depth == "never" else set()
        self.matched(*(topic_of(camera, name) for camera in self.cameras for name in inputs))
        for subscription in self.node.subscriptions:
            for publisher in self._sources(subscription.topic_name):
                self.until(lambda end=publisher: end.get_subscription_count() > 0, "listener")

    def matched(self, *names: str) -> None:
        """Wait until the mapper takes what is published: both ends of a best-effort topic have to know of each other."""
        for name in names:
            publisher = self.publishers[name]
            self.until(lambda publisher=publisher: matched(publisher, self.mapper), f"subscriber of {name}")

    def _sources(self, topic: str) -> list[Publisher[Any]]:
        return [publisher for publisher in self.mapper.publishers if publisher.topic_name == topic]

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def listen(self, name: str, kind: type[Any], profile: Any) -> None:
        kept = self.received.setdefault(name, [])

        def keep(msg: Any) -> None:
            with self.changed:
                kept.append(msg)
                self.changed.notify_all()

        before = [(end, end.get_subscription_count()) for end in self._sources(f"/{NAMESPACE}/mapper/{name}")]
        self.node.create_subscription(kind, f"mapper/{name}", keep, profile)
        for end, count in before:  # without a listener the mapper does not even compute
            self.until(lambda end=end, count=count: end.get_subscription_count() > count, f"listener of {name}")

    def until(self, condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
        """Wait for something that other threads bring about."""
        with self.changed:
            deadline = time.monotonic() + patience_s
            while not condition():
                if time.monotonic() > deadline:
                    last = self.received["status"][-1] if self.received["status"] else "none"
                    raise TimeoutError(f"{what} did not come; last status: {last}")
                self.changed.wait(0.02)

    def planner(self) -> SemanticMap:
        return SemanticMap(f"/{NAMESPACE}/mapper", timeout_s=PATIENCE_S)

    # --- sending ----------------------------------------------------------------------------------------------------

    def next_stamp(self) -> int:
        self.number += 1
        return START_NS + self.number * PERIOD_NS

    def messages(self, stamp_ns: int, masks: bool = True) -> dict[str, Any]:
        """The messages of one frame by topic, to be changed before they are sent."""
        rgb, depth, instances = scene()

        def header() -> Header:  # one for each message, so that a test can change it
            return conversions.make_header(stamp_ns, "camera")

        out: dict[str, Any] = {
            "/tf": self.transform(stamp_ns),
            "color/camera_info": conversions.write_camera(CAMERA, header()),
            "depth/image": conversions.write_image(depth, "32FC1", header()),
            "color/image": conversions.write_image(rgb, "rgb8", header()),
        }
        if masks:
            out["instance/info"] = conversions.write_masks(MASKS, header())
            out["instance/image"] = conversions.write_image(instances, "mono8", header())
        return out

    def transform(self, stamp_ns: int, matrix: np.ndarray | None = None) -> TFMessage:
        transform = TransformStamped(header=conversions.make_header(stamp_ns, "map"), child_frame_id="camera")
        transform.transform = conversions.write_transform(self.pose if matrix is None else matrix)
        return TFMessage(transforms=[transform])

    def place(self, frame: str, position: tuple[float, float, float]) -> None:
        """Put a fixed frame into the map; returns when the mapper knows."""
        matrix = np.eye(4)
        matrix[:3, 3] = position
        message = self.transform(START_NS, matrix)
        message.transforms[0].child_frame_id = frame
        if "/tf_static" not in self.publishers:
            self.publishers["/tf_static"] = self.node.create_publisher(TFMessage, "/tf_static", qos.STATIC_TF)
        self.publishers["/tf_static"].publish(message)

        def known() -> bool:
            try:
                return np.allclose(self.mapper.inputs.poses.newest("map", frame), matrix)
            except TransformError:
                return False

        self.until(known, f"frame {frame}")

    def publish(self, messages: dict[str, Any]) -> None:
        """Colour goes last."""
        for name in sorted(messages, key=lambda name: name.endswith("color/image")):
            self.publishers[name].publish(messages[name])

    def send(self, **changes: bool) -> int:
        """One good frame; returns its stamp."""
        stamp = self.next_stamp()
        self.publish(self.messages(stamp, **changes))
        return stamp

    # --- receiving --------------------------------------------------------------------------------------------------

    def answer(self, stamp_ns: int, name: str = "semantic/image") -> np.ndarray:
        """Pixels of the image that answers a frame."""
        found: list[Image] = []

        def come() -> bool:
            found[:] = [m for m in self.received[name] if conversions.to_ns(m.header.stamp) == stamp_ns]
            return bool(found)

        self.until(come, f"{name} with stamp {stamp_ns}")
        return conversions.read_image(found[-1], name, tuple(conversions.LAYOUTS))

    def answered(self, stamp_ns: int, name: str = "semantic/image") -> bool:
        return any(conversions.to_ns(m.header.stamp) == stamp_ns for m in self.received[name])

    def settled(self) -> None:
        """Wait until the frames that were answered are in the map, and what is in the map is shown."""
        self.until(lambda: self.mapper.settled, "end of mapping")

    def status_after(self) -> Status:
        """A status that was written after this call."""
        seen = len(self.received["status"])
        self.until(lambda: len(self.received["status"]) > seen, "status")
        return self.received["status"][-1]

    def status_when(self, condition: Callable[[Status], bool], what: str) -> Status:
        """The first status from now on that fulfils a condition: counts grow a little after the answers they count."""
        self.until(lambda: condition(self.received["status"][-1]), what)
        return self.received["status"][-1]

    def map_scene(self) -> int:
        """Send frames until the map knows both objects; returns the stamp of an answer that shows them."""
        for _ in range(3):
            self.answer(self.send())
            self.settled()
        stamp = self.send()
        self.check(self.answer(stamp))
        return stamp

    @staticmethod
    def check(semantic: np.ndarray) -> None:
        """The semantic image shows the scene."""
        assert semantic[BOX_PIXEL[::-1]] == 3
        assert semantic[LAMP_PIXEL[::-1]] == 7
        assert semantic[WALL_PIXEL[::-1]] == 0

    def still_works(self) -> None:
        """The next valid input gives a correct result."""
        self.map_scene()

    def told(self, *words: str) -> str:
        """Wait until ~/status tells an error with all these words; returns it."""
        found: list[str] = []

        def come() -> bool:
            texts = [t for s in self.received["status"] for t in (s.last_error, *s.warnings)]
            found[:] = [text for text in texts if all(word in text for word in words)]
            return bool(found)

        self.until(come, f"a status with {words}")
        return found[0]

    def close(self) -> None:
        if self.stop:
            return
        self.stop.event.set()
        self._runner.join(PATIENCE_S)
        self._executor.shutdown()
        self.node.destroy_node()
        self.mapper.destroy_node()
        rclpy.try_shutdown(context=self.context)
        self._spinner.join(PATIENCE_S)
