"""The replay: what it waits for, and bags on their own topics over real DDS."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.parameter import Parameter
from rig import StopEvent, spinning
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.bag_player import ROUND_GAP_NS, Timeline
from gs_semantic.nodes.replay_node import ReplayNode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))

from bags import PERIOD_NS, START_NS, T_BODY_CAMERA, stamp_of, write_bag
from blobs import FRAMES

HOUSE = str(Path(__file__).resolve().parents[2] / "sample" / "house")
COLOUR, INFO = "/camera/color/image_raw", "/camera/color/camera_info"
DEPTH = "/camera/aligned_depth_to_color/image_raw"


class Stage:
    """A replay in a thread, and a node that listens."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("audience", context=self.context, namespace="stage")
        self.received: dict[str, list[Any]] = {}
        self._spinning = spinning(self.node)
        self.stop = StopEvent()
        self.replay: ReplayNode | None = None
        self._runner: threading.Thread | None = None

    def listen(self, name: str, kind: type[Any], profile: Any = qos.SENSOR_OUTPUT) -> list[Any]:
        kept = self.received.setdefault(name, [])
        self.node.create_subscription(kind, name, kept.append, profile)
        return kept

    def listen_to_the_camera(self) -> None:
        for name, kind in ((COLOUR, Image), (INFO, CameraInfo), (DEPTH, Image)):
            self.listen(name, kind)
        self.listen("/tf", TFMessage, qos.POSE)

    def play(self, **parameters: Any) -> ReplayNode:
        values = {"start_delay_s": 0.5, "linger_s": 0.2, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.replay = ReplayNode(context=self.context, namespace="stage", parameter_overrides=overrides)
        self._runner = threading.Thread(target=self.replay.run, args=(self.stop,), daemon=True)
        self._runner.start()
        return self.replay

    def until(self, condition: Callable[[], Any], what: str, patience_s: float = 120.0) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come; received {self.counts()}"
            time.sleep(0.02)

    def counts(self) -> dict[str, int]:
        return {name: len(messages) for name, messages in self.received.items()}

    def end(self) -> None:
        """Wait for the replay's own end."""
        assert self._runner is not None
        self._runner.join(120)
        assert not self._runner.is_alive()

    def close(self) -> None:
        self.stop.event.set()
        if self._runner is not None:
            self._runner.join(120)
        self._spinning.close()
        if self.replay is not None:
            self.replay.destroy_node()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def stage(ros_domain_id: int) -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def stamps(messages: list[Any]) -> list[int]:
    return [conversions.to_ns(message.header.stamp) for message in messages]


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("send_depth", [True, False])
def test_nobody_has_to_listen_to_depth_that_is_not_sent(stage: Stage, send_depth: bool) -> None:
    """Colour and poses only: a mapper without depth does not subscribe to it."""
    for name, kind in (("color/image", Image), ("color/camera_info", CameraInfo), ("instance/image", Image)):
        stage.listen(name, kind)
    stage.listen("/tf", TFMessage, qos.POSE)
    depth = stage.listen("depth/image", Image) if send_depth else []
    replay = stage.play(sequence=HOUSE, stop_frame=2, rate_hz=20.0, send_depth=send_depth, wait_for_subscriber_s=300.0)
    stage.end()
    assert len(replay.published) == 2
    stage.until(lambda: len(depth) == (2 if send_depth else 0), "depth")


def test_a_viewer_of_colour_alone_does_not_start_the_replay(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("gs_semantic.nodes.replay_node.TELL_AFTER_S", 0.0)
    colour = stage.listen("color/image", Image)
    others = (("color/camera_info", CameraInfo), ("depth/image", Image), ("instance/image", Image), ("/tf", TFMessage))
    monkeypatch.setattr(ReplayNode, "_tell", lambda self, text: told.append(text))
    stage.play(sequence=HOUSE, stop_frame=3, rate_hz=50.0)
    stage.until(lambda: told, "word of what is waited for")
    time.sleep(0.5)
    assert not colour
    assert all(name.strip("/") in told[0] for name, _ in others) and "waiting for a subscriber of" in told[0]
    for name, kind in others:
        assert not colour
        stage.listen(name, kind, qos.POSE if name == "/tf" else qos.SENSOR_OUTPUT)
    stage.end()
    stage.until(lambda: len(colour) == 3, "three frames")


@pytest.mark.parametrize("recorded", ["sequence", "bag"])
def test_depth_that_is_not_sent_is_not_waited_for(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(ReplayNode, "_warn", lambda self, text: warned.append(text))
    if recorded == "bag":
        write_bag(tmp_path / "bag")
        source, names, depth = {"bag": str(tmp_path / "bag")}, (COLOUR, INFO), DEPTH
    else:
        source, names, depth = {"sequence": HOUSE, "stop_frame": 3}, ("color/image", "color/camera_info"), "depth/image"
    colour, _ = (stage.listen(name, kind) for name, kind in zip(names, (Image, CameraInfo), strict=True))
    stage.listen("/tf", TFMessage, qos.POSE)
    stage.play(**source, masks="none", send_depth=False, rate_hz=50.0)
    stage.until(lambda: colour, "a colour image")
    unexpected = stage.listen(depth, Image)
    stage.end()
    assert not warned and not unexpected


def test_without_listeners_it_plays_after_its_patience_and_names_the_topics(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(ReplayNode, "_warn", lambda self, text: told.append(text))
    replay = stage.play(sequence=HOUSE, stop_frame=2, rate_hz=50.0, wait_for_subscriber_s=0.3, masks="none")
    stage.end()
    assert len(replay.published) == 2
    (text,) = told
    assert "/stage/color/image, /stage/color/camera_info" in text and "/stage/depth/image" in text
    assert "instance" not in text  # masks are not sent
    assert "no subscriber" in text and "Start the mapper" in text


# --- bags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_is_played_as_recorded_with_new_stamps(stage: Stage, tmp_path: Path, storage: str) -> None:
    blobs = write_bag(tmp_path / "bag", storage=storage)
    stage.listen_to_the_camera()
    before = stage.node.get_clock().now().nanoseconds
    replay = stage.play(bag=str(tmp_path / "bag"))
    stage.end()
    stage.until(lambda: all(len(kept) == FRAMES for kept in stage.received.values()), "all messages")
    colour, depth = stage.received[COLOUR], stage.received[DEPTH]
    assert np.diff(stamps(colour)).tolist() == [PERIOD_NS] * (FRAMES - 1)
    assert [b - a for a, b in zip(stamps(colour), stamps(depth), strict=True)] == [2_000_000] * FRAMES
    assert before <= stamps(colour)[0] <= stage.node.get_clock().now().nanoseconds
    assert [conversions.to_ns(msg.transforms[0].header.stamp) for msg in stage.received["/tf"]] == stamps(colour)
    for i, message in enumerate(colour):
        assert message.encoding == "bgr8" and message.header.frame_id == "camera_optical"
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        assert np.array_equal(pixels, blobs.image(i)[..., ::-1])
    assert [stamp for stamp, _ in replay.published] == stamps(colour)
    static = stage.listen("/tf_static", TFMessage, qos.STATIC_TF)  # somebody who comes late
    stage.until(lambda: static, "latched transforms")
    (transform,) = static[0].transforms
    assert np.allclose(conversions.read_transform(transform.transform, "tf"), T_BODY_CAMERA, atol=1e-9)
    assert conversions.to_ns(transform.header.stamp) <= stamps(colour)[0]


def test_a_looping_bag_has_rising_stamps(stage: Stage, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag")
    stage.listen_to_the_camera()
    stage.play(bag=str(tmp_path / "bag"), loop=True, bag_speed=5.0)
    stage.until(lambda: len(stage.received[COLOUR]) >= 3 * FRAMES, "three rounds")
    found = stamps(list(stage.received[COLOUR]))
    assert all(b > a for a, b in pairwise(found))
    assert found[1] - found[0] == PERIOD_NS / 5


def test_recorded_stamps_come_with_the_clock(stage: Stage, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag")
    stage.listen_to_the_camera()
    clock = stage.listen("/clock", Clock, qos.STATUS)
    stage.play(bag=str(tmp_path / "bag"), bag_stamps="recorded")
    stage.end()
    stage.until(lambda: all(len(stage.received[name]) == FRAMES for name in (COLOUR, INFO, DEPTH)), "all messages")
    assert stamps(stage.received[COLOUR]) == [stamp_of(i) for i in range(FRAMES)]
    times = [conversions.to_ns(message.clock) for message in clock]
    assert all(b > a for a, b in pairwise(times)) and len(times) > 5
    assert START_NS - PERIOD_NS <= times[0] and times[-1] <= stamp_of(FRAMES)


def test_only_some_topics_of_a_bag(stage: Stage, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag")
    stage.listen_to_the_camera()
    stage.play(bag=str(tmp_path / "bag"), bag_topics=f"{COLOUR}, {INFO}")
    stage.end()
    stage.until(lambda: len(stage.received[COLOUR]) == FRAMES, "all images")
    assert not stage.received[DEPTH] and not stage.received["/tf"]


@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        ({}, InvalidRequestError, "parameter sequence: give the folder of a recorded sequence, or a bag"),
        ({"sequence": HOUSE, "bag": "x"}, InvalidRequestError, "parameter sequence: .* or a bag as parameter bag"),
        ({"bag": "/no/such/bag"}, InvalidInputError, "/no/such/bag: no such bag; expected a folder with metadata.yaml"),
        ({"bag_topics": "/none"}, InvalidInputError, "parameter bag_topics: .* has no topic /none; it has /tf_static"),
        ({"bag_stamps": "zero"}, Exception, "bag_stamps"),
    ],
)
def test_what_cannot_be_played_is_named(
    stage: Stage, tmp_path: Path, parameters: dict[str, Any], error: type[Exception], text: str
) -> None:
    if any(name.startswith("bag_") for name in parameters):
        write_bag(tmp_path / "bag")
        parameters = {"bag": str(tmp_path / "bag"), **parameters}
    with pytest.raises(error, match=text):
        stage.play(**parameters)


def test_a_bag_cut_short_is_played_as_far_as_it_goes(stage: Stage, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames=30)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
    stage.listen_to_the_camera()
    stage.play(bag=str(tmp_path / "bag"), bag_speed=10.0)
    stage.end()
    stage.until(lambda: len(stage.received[COLOUR]) >= 5, "the first images")
    assert len(stage.received[COLOUR]) < 30


# --- time -------------------------------------------------------------------------------------------------------------


def test_timeline_moves_stamps_to_now() -> None:
    line = Timeline(1000, 2000, 5000, 2.0, keep_stamps=False)
    assert (line.due_ns(1000), line.due_ns(2000)) == (0, 500)
    assert (line.stamp_ns(1000), line.stamp_ns(2000)) == (5000, 5500)
    line.round = 1
    assert line.due_ns(1000) == (1000 + ROUND_GAP_NS) // 2 and line.stamp_ns(1000) == 5000 + line.due_ns(1000)


def test_timeline_keeps_stamps_for_the_clock() -> None:
    line = Timeline(START_NS, START_NS + 1000, 5000, 2.0, keep_stamps=True)
    line.anchor(7_000)  # a simulator's
    assert line.stamp_ns(7_500) == 7_500
    assert line.clock_ns(line.due_ns(START_NS + 1000)) == 8_000
    line.round = 1
    assert line.stamp_ns(7_500) == 7_500 + 1000 + ROUND_GAP_NS


def test_timeline_of_a_simulators_recording() -> None:
    line = Timeline(START_NS, START_NS + 1000, 5 * START_NS, 1.0, keep_stamps=False)
    line.anchor(12_000)
    assert line.stamp_ns(12_300) == 5 * START_NS + 300
    line.anchor(START_NS + 5)  # near the times: the same clock, whose stamps are a little older or newer
    other = Timeline(START_NS, START_NS + 1000, 5 * START_NS, 1.0, keep_stamps=False)
    other.anchor(START_NS - 40)
    assert other.stamp_ns(START_NS - 40) == 5 * START_NS - 40
