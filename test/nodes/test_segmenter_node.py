"""The segmenter node over real topics: what it sends, when it works, and what it says of input it cannot use."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from gs_semantic.msg import LabelMap
from gs_semantic.msg import MaskInfo as MaskInfoMsg
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rig import PATIENCE_S, START_NS, StopEvent, matched, scene
from sensor_msgs.msg import CompressedImage, Image

from gs_semantic.errors import InvalidInputError, MissingExtraError
from gs_semantic.gaussians import MaskInfo
from gs_semantic.labels import LabelSet
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.segmenter_node import SegmenterNode
from gs_semantic.segmenters import registry
from gs_semantic.segmenters.base import Segmentation

NAMESPACE = "rig"
ROOT = Path(__file__).resolve().parents[2]


class SegmenterRig:
    """A segmenter node, a camera, and a listener to the masks."""

    def __init__(self, listen: bool = True, **parameters: Any) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        values = {"status_hz": 20.0, "max_hz": 1000.0, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.segmenter = SegmenterNode(context=self.context, namespace=NAMESPACE, parameter_overrides=overrides)
        self.stop, self.error = StopEvent(), None
        self._runner = threading.Thread(target=self._run, daemon=True)
        self._runner.start()
        self.node = rclpy.create_node("camera", context=self.context, namespace=NAMESPACE)
        self.changed = threading.Condition()
        self.received: dict[str, list[Any]] = {}
        self._listen("/diagnostics", DiagnosticArray, qos.STATUS)
        if listen:
            self.listen()
        self.publishers = {
            name: self.node.create_publisher(Image, name, qos.SENSOR_OUTPUT) for name in ("color/image", "depth/image")
        }
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._spinner = threading.Thread(target=self._spin, daemon=True)
        self._spinner.start()
        self.number = 0

    def listen(self) -> None:
        self._listen("instance/info", MaskInfoMsg, qos.sensor_input())
        self._listen("instance/image", Image, qos.sensor_input())

    def ready(self) -> SegmenterRig:
        self.until(lambda: self.values().get("ready") == "True", "segmenter")
        self.matched("color/image", *(["depth/image"] if self.segmenter.kind.needs_depth else []))
        self.heard()
        return self

    def matched(self, *names: str) -> None:
        """Wait until the segmenter takes these images."""
        for name in names:
            publisher = self.publishers[name]
            self.until(lambda publisher=publisher: matched(publisher, self.segmenter), f"subscriber of {name}")

    def heard(self) -> None:
        """Wait until what the segmenter sends is taken."""
        ends = [end for end in self.segmenter.publishers if end.topic_name.split(f"/{NAMESPACE}/")[-1] in self.received]
        for end in ends:
            self.until(lambda end=end: matched(end, self.node), f"listener of {end.topic_name}")

    def _run(self) -> None:
        try:
            self.segmenter.run(self.stop)
        except Exception as error:  # noqa: BLE001 - a test asks what ended the node
            self.error = error

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _listen(self, name: str, kind: type[Any], profile: Any) -> None:
        kept = self.received.setdefault(name, [])

        def keep(msg: Any) -> None:
            with self.changed:
                kept.append(msg)
                self.changed.notify_all()

        self.node.create_subscription(kind, name, keep, profile)

    def until(self, condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
        with self.changed:
            deadline = time.monotonic() + patience_s
            while not condition():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{what} did not come; {self.message()}; {self.values()}")
                self.changed.wait(0.02)

    def values(self) -> dict[str, str]:
        """Of the newest diagnostics."""
        messages = self.received["/diagnostics"]
        return {entry.key: entry.value for entry in messages[-1].status[0].values} if messages else {}

    def message(self) -> str:
        messages = self.received["/diagnostics"]
        return str(messages[-1].status[0].message) if messages else ""

    def images(self) -> dict[str, Image]:
        self.number += 1
        rgb, depth, _ = scene()
        header = conversions.make_header(START_NS + self.number * 100_000_000, "camera")
        other = conversions.make_header(START_NS + self.number * 100_000_000, "camera")
        return {
            "depth/image": conversions.write_image(depth, "32FC1", header),
            "color/image": conversions.write_image(rgb, "rgb8", other),
        }

    def send(self, **images: Image) -> None:
        for name in ("depth/image", "color/image"):
            if name in images:
                self.publishers[name].publish(images[name])

    def masks(self) -> Image:
        """Send a good frame and wait for its masks: whatever was before, they are right."""
        count = len(self.received["instance/image"])
        images = self.images()
        self.send(**images)
        self.until(lambda: len(self.received["instance/image"]) > count, "masks")
        found = self.received["instance/image"][-1]
        assert found.header == images["color/image"].header
        pixels = conversions.read_instances(found, "masks")
        assert len(set(pixels[[60, 60, 15], [40, 120, 80]].tolist()) - {0}) == 3  # box, lamp and wall
        return found

    def refuses(self, images: dict[str, Image], *parts: str) -> None:
        """These images are not segmented, diagnostics say why, and the next frame is as good as ever."""
        count = len(self.received["instance/image"])
        self.send(**images)
        self.until(lambda: all(part in self.message() for part in parts), f"a message with {parts}")
        assert len(self.received["instance/image"]) == count
        self.masks()

    def close(self) -> None:
        self.stop.event.set()
        self._runner.join(PATIENCE_S)
        self._executor.shutdown()
        self.segmenter.destroy_node()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)
        self._spinner.join(PATIENCE_S)


@pytest.fixture
def make(ros_domain_id: int) -> Iterator[Callable[..., SegmenterRig]]:
    made: list[SegmenterRig] = []

    def start(**parameters: Any) -> SegmenterRig:
        made.append(SegmenterRig(**parameters))
        return made[-1]

    yield start
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make: Callable[..., SegmenterRig]) -> SegmenterRig:
    return make().ready()


def test_masks_have_the_stamp_and_frame_of_the_colour_image(rig):
    found = rig.masks()
    assert (found.encoding, found.width, found.height) == ("mono8", 160, 120)
    rig.until(lambda: rig.received["instance/info"], "info")
    info = rig.received["instance/info"][-1]
    assert info.header == found.header
    pixels = conversions.read_instances(found, "masks")
    assert set(info.ids) == set(np.unique(pixels).tolist()) - {0}
    assert set(info.class_ids) == {0}  # unknown, not invented


def test_nothing_is_computed_while_nobody_listens(make):
    rig = make(listen=False)
    rig.until(lambda: rig.values().get("ready") == "True", "segmenter")
    rig.matched("depth/image", "color/image")
    rig.send(**rig.images())
    rig.until(lambda: rig.segmenter.skipped == 1, "frame skipped")
    assert rig.segmenter.segmented == 0
    rig.until(lambda: "waits for a subscriber" in rig.message(), "that it says so")
    rig.listen()
    rig.ready().masks()


def test_rate_is_capped(make):
    rig = make(max_hz=0.01).ready()
    rig.masks()
    for _ in range(3):
        rig.send(**rig.images())
    rig.until(lambda: rig.segmenter.skipped == 3, "frames skipped")
    rig.until(lambda: rig.segmenter.segmented == 1, "one segmented frame")


class Classes:
    """A segmenter with a class."""

    needs_depth = False
    labels = LabelSet({0: "void", 4: "mug"})

    def segment(self, frame):
        return Segmentation(np.full(frame.rgb.shape[:2], 300, np.int32), {300: MaskInfo(4, 0.5)})


def test_class_names_are_sent_and_many_masks_fit(make, monkeypatch):
    monkeypatch.setattr(registry.Kind, "make", lambda kind, options: Classes())
    rig = make(segmenter="mask2former")
    rig._listen("label_map", LabelMap, qos.LATCHED_INPUT)
    rig.ready()
    rig.until(lambda: rig.received["label_map"], "label map")
    assert conversions.read_label_map(rig.received["label_map"][-1], "label_map").names == {0: "void", 4: "mug"}
    rig.send(**{"color/image": rig.images()["color/image"]})  # no depth is needed
    rig.until(lambda: rig.received["instance/image"] and rig.received["instance/info"], "masks")
    assert rig.received["instance/image"][-1].encoding == "16UC1"
    info = rig.received["instance/info"][-1]
    assert (list(info.ids), list(info.class_ids), list(info.scores)) == ([300], [4], [0.5])


def test_missing_weights_end_the_node_with_their_name(make):
    rig = make(segmenter="sam2", model="nobody/has-this-model")
    rig.until(lambda: rig.error is not None, "end")
    assert isinstance(rig.error, MissingExtraError) and "nobody/has-this-model" in str(rig.error)


def test_settings_of_the_segmenter_are_parameters(make):
    rig = make(**{"geometric.width_px": 160})
    assert rig.segmenter._options.config.width_px == 160
    assert rig.segmenter.describe_parameter("geometric.width_px").description.startswith("images are worked on")
    with pytest.raises(InvalidInputError, match=r"parameter geometric.width_px: 7 is outside \[64, 2048\]"):
        make(**{"geometric.width_px": 7})


def test_compressed_images_are_found_by_themselves(make):
    rig = make(listen=False)
    rig.node.destroy_publisher(rig.publishers.pop("color/image"))
    topic = "color/image/compressed"
    rig.publishers[topic] = rig.node.create_publisher(CompressedImage, topic, qos.SENSOR_OUTPUT)
    rig.listen()
    rig.until(lambda: rig.values().get("ready") == "True", "segmenter")
    rig.matched(topic, "depth/image")
    rig.heard()
    images, (rgb, _, _) = rig.images(), scene()
    data = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()
    rig.publishers["depth/image"].publish(images["depth/image"])
    rig.publishers[topic].publish(CompressedImage(header=images["color/image"].header, format="png", data=data))
    rig.until(lambda: rig.received["instance/image"], "masks")
    assert rig.received["instance/image"][-1].header == images["color/image"].header


def test_topics_are_those_of_the_page(make):
    def page(heading):
        text = (ROOT / "docs" / "interfaces.md").read_text(encoding="utf-8").split(f"\n## segmenter: {heading}\n", 1)[1]
        rows = re.findall(r"^\| `(\S+)` \| (\S+) \| ([^|]+) \|", text.split("\n## ", 1)[0], re.MULTILINE)
        return {(name, kind, quality) for name, kind, quality in rows}

    def own(entries):
        names = ((entry.topic_name.removeprefix("/rig/"), entry) for entry in entries)
        return {
            (name, f"{e.msg_type.__module__.split('.')[0]}/msg/{e.msg_type.__name__}", qos.describe(e.qos_profile))
            for name, e in names
            if name not in ("/rosout", "/parameter_events", "/clock")
        }

    nodes = [make(segmenter=name, model="no/such").segmenter for name in ("geometric", "mask2former")]
    assert set().union(*(own(node.publishers) for node in nodes)) == page("topics it publishes")
    assert set().union(*(own(node.subscriptions) for node in nodes)) == page("topics it listens to")


# --- input that cannot be used ----------------------------------------------------------------------------------------


def test_unknown_encoding(rig):
    images = rig.images()
    images["color/image"].encoding = "yuv999"
    rig.refuses(images, "/rig/color/image", "yuv999")


def test_depth_of_another_size(rig):
    images = rig.images()
    wrong = conversions.write_image(np.ones((60, 80), np.float32), "32FC1", images["depth/image"].header)
    rig.refuses(images | {"depth/image": wrong}, "/rig/depth/image", "80x60", "160x120", "not registered", "aligned depth")


def test_depth_in_another_frame(rig):
    images = rig.images()
    images["depth/image"].header.frame_id = "depth_camera"
    rig.refuses(images, "/rig/depth/image", "depth_camera", "'camera'", "aligned depth")


def test_zero_size(rig):
    images = rig.images()
    images["color/image"].width = images["color/image"].height = 0
    rig.refuses(images, "/rig/color/image", "0x0")


def test_step_that_does_not_fit(rig):
    images = rig.images()
    images["color/image"].step = 5
    rig.refuses(images, "/rig/color/image", "step")


def test_depth_that_does_not_come(rig):
    images = rig.images()
    rig.refuses({"color/image": images["color/image"]}, "/rig/depth/image", "stamp")


def test_stamp_zero(rig):
    images = rig.images()
    images["color/image"].header.stamp.sec = images["color/image"].header.stamp.nanosec = 0
    rig.refuses(images, "/rig/color/image", "stamp")


def test_clock_that_jumps_back(rig):
    rig.masks()
    rig.number = -1000
    rig.masks()
    rig.until(lambda: "jumped back by" in rig.message() and "/image" in rig.message(), "report of the jump")


def test_a_frame_that_breaks_the_segmenter(rig, monkeypatch):
    original = rig.segmenter._segmenter.segment

    def broken(frame):
        monkeypatch.setattr(rig.segmenter._segmenter, "segment", original)
        raise ZeroDivisionError("as if by a fault")

    monkeypatch.setattr(rig.segmenter._segmenter, "segment", broken)
    rig.refuses(rig.images(), "as if by a fault")
