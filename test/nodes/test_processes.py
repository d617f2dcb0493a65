"""The nodes as processes: transport, ends and interrupts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import rclpy
from gs_semantic.msg import Status
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from gs_semantic.benchmarks.live import read_publish_log
from gs_semantic.client import SemanticMap
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.launcher import NodeProcesses

ROOT = Path(__file__).resolve().parents[2]
HOUSE = str(ROOT / "sample" / "house")
PATIENCE_S = 120.0


@pytest.fixture
def processes(ros_domain_id: int) -> Iterator[NodeProcesses]:
    with NodeProcesses({"ROS_DOMAIN_ID": str(ros_domain_id)}) as processes:
        yield processes


@pytest.fixture
def start(processes: NodeProcesses, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    def start(node: str, **parameters: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"gs_semantic.nodes.{node}", "--ros-args", "-r", "__ns:=/proc"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        with (tmp_path / f"{node}.log").open("wb") as log:
            return processes.start_command(node, command, log)

    return start


class Listener:
    """Receives topics of other processes until a condition holds."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node: Node = rclpy.create_node("listener", context=self.context, namespace="proc")
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come"
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def listener(ros_domain_id: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    from gs_semantic.nodes.environment import ros_environment

    for name, value in ros_environment().items():
        monkeypatch.setenv(name, value)
    listener = Listener()
    yield listener
    listener.close()


def stand_in_for_a_mapper(listener: Listener) -> None:
    """Subscribe to what the replay waits for."""
    for name, kind in (
        ("color/image", Image),
        ("depth/image", Image),
        ("instance/image", Image),
        ("color/camera_info", CameraInfo),
        ("/tf", TFMessage),
    ):
        listener.node.create_subscription(kind, name, lambda msg: None, qos.sensor_input())


def said(tmp_path: Path, node: str) -> str:
    return (tmp_path / f"{node}.log").read_text(encoding="utf-8", errors="replace")


def status_of(listener: Listener) -> list[Status]:
    kept: list[Status] = []
    listener.node.create_subscription(Status, "mapper/status", kept.append, qos.STATUS)
    return kept


def test_300_frames_without_a_loss(
    start: Callable[..., subprocess.Popen[bytes]], listener: Listener, tmp_path: Path
) -> None:
    """Colour and depth at 640x480 from another process, with the QoS that the mapper requests.

    Only the history is longer: a machine under load may hold this process up for seconds.
    """
    quality = QoSProfile(depth=300, reliability=qos.sensor_input().reliability)
    stamps: dict[str, set[int]] = {"color/image": set(), "depth/image": set()}
    for name, seen in stamps.items():
        listener.node.create_subscription(
            Image, name, lambda msg, seen=seen: seen.add(conversions.to_ns(msg.header.stamp)), quality
        )
    stand_in_for_a_mapper(listener)
    log = tmp_path / "published.csv"
    replay = start("replay", sequence=HOUSE, loop="true", rate_hz=30.0, masks="none", publish_log=log)
    listener.until(lambda: len(stamps["color/image"]) >= 300, "300 frames")
    replay.send_signal(signal.SIGINT)
    assert replay.wait(PATIENCE_S) == 0
    published = sorted(read_publish_log(log))
    assert len(published) >= 300
    listener.until(lambda: all(set(published) <= seen for seen in stamps.values()), "all that was sent")


def test_replay_ends_by_itself(
    start: Callable[..., subprocess.Popen[bytes]], listener: Listener, tmp_path: Path
) -> None:
    stamps: list[int] = []
    listener.node.create_subscription(
        Image, "color/image", lambda msg: stamps.append(conversions.to_ns(msg.header.stamp)), qos.sensor_input()
    )
    stand_in_for_a_mapper(listener)
    log = tmp_path / "published.csv"
    replay = start(
        "replay", sequence=HOUSE, rate_hz=20.0, start_frame=2, stop_frame=12, skip_every=5, publish_log=log
    )
    listener.until(lambda: replay.poll() is not None, "end of the replay")
    assert replay.returncode == 0
    listener.until(lambda: len(stamps) >= 8, "what was sent last")
    assert stamps == sorted(read_publish_log(log))
    assert len(stamps) == 8  # frames 2 to 11 without 4 and 9
    assert {b - a for a, b in pairwise(stamps)} == {50_000_000}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "parameter sequence: give the folder"),
        ({"sequence": "/no/such/folder"}, "/no/such/folder: no such folder"),
        ({"sequence": HOUSE, "masks": "blurred"}, "parameter masks: 'blurred' is not one of"),
        ({"sequence": HOUSE, "rate_hz": -1.0}, "parameter rate_hz: -1.0 is outside [0.01, 1000.0]"),
        ({"sequence": HOUSE, "start_frame": 500}, "nothing is left of 60 frames"),
    ],
)
def test_replay_that_cannot_start_says_why(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, parameters: dict[str, Any], words: str
) -> None:
    assert start("replay", **parameters).wait(PATIENCE_S) == 1
    text = said(tmp_path, "replay")
    assert words in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"load_map": "/no/such/map"}, "/no/such/map"),
        ({"max_gaussians": 1}, "parameter max_gaussians: 1 is outside"),
        ({"pose_source": "gps"}, "parameter pose_source: 'gps' is not one of 'tf', 'odom', 'pose'"),
        ({"sync_slop_s": "near"}, "parameter sync_slop_s"),
    ],
)
def test_mapper_that_cannot_start_says_why(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, parameters: dict[str, Any], words: str
) -> None:
    assert start("mapper", **parameters).wait(PATIENCE_S) == 1
    text = said(tmp_path, "mapper")
    assert words in text
    assert "Traceback" not in text


@pytest.mark.parametrize("delay_s", [0.6, 1.2, 2.5])
def test_interrupt_while_starting(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, delay_s: float
) -> None:
    mapper = start("mapper", save_on_exit=tmp_path / "map")
    wait_for_handler(mapper)
    time.sleep(delay_s)
    mapper.send_signal(signal.SIGINT)
    assert mapper.wait(PATIENCE_S) == 0, said(tmp_path, "mapper")
    assert "Traceback" not in said(tmp_path, "mapper")


def wait_for_handler(process: subprocess.Popen[bytes]) -> None:
    """Until our program runs in the process: before that, SIGINT meets the bare interpreter."""
    caught = 1 << (signal.SIGTERM - 1)  # Python itself catches SIGINT only
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
        if int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16) & caught:
            return
        time.sleep(0.005)


def test_interrupt_while_mapping_saves_the_map(
    start: Callable[..., subprocess.Popen[bytes]], listener: Listener, tmp_path: Path
) -> None:
    kept = status_of(listener)
    mapper = start("mapper", save_on_exit=tmp_path / "map")
    start("replay", sequence=HOUSE, rate_hz=15.0)
    listener.until(lambda: kept and kept[-1].keyframes_integrated >= 2, "a map")
    mapper.send_signal(signal.SIGINT)
    assert mapper.wait(PATIENCE_S) == 0, said(tmp_path, "mapper")
    gaussians, objects = load_map(tmp_path / "map")
    assert len(gaussians) > 1000
    assert len(objects) > 0
    assert "Traceback" not in said(tmp_path, "mapper")


def test_interrupt_during_services_and_saving(
    start: Callable[..., subprocess.Popen[bytes]], listener: Listener, tmp_path: Path
) -> None:
    kept = status_of(listener)
    mapper = start("mapper")
    start("replay", sequence=HOUSE, rate_hz=15.0)
    listener.until(lambda: kept and kept[-1].keyframes_integrated >= 2, "a map")
    with SemanticMap("/proc/mapper", timeout_s=PATIENCE_S) as planner:
        folder = planner.save(tmp_path / "map")
        saved = len(load_map(folder)[0])
        planner._node.create_client(*_save(planner)).call_async(_request(folder))
        mapper.send_signal(signal.SIGINT)
        assert mapper.wait(PATIENCE_S) == 0, said(tmp_path, "mapper")
    assert len(load_map(folder)[0]) >= saved  # whole, the old one or the new one
    assert "Traceback" not in said(tmp_path, "mapper")


def _save(planner: SemanticMap) -> tuple[Any, str]:
    from gs_semantic.srv import SaveMap

    return SaveMap, f"{planner._name}/save_map"


def _request(folder: Path) -> Any:
    from gs_semantic.srv import SaveMap

    return SaveMap.Request(path=str(folder))


def test_interrupt_with_bad_input_and_a_disk_that_refuses(
    start: Callable[..., subprocess.Popen[bytes]], listener: Listener, tmp_path: Path
) -> None:
    """What cannot be saved is told, with code 1; it does not pass for a normal end."""
    (tmp_path / "file").write_text("in the way")
    kept = status_of(listener)
    mapper = start("mapper", save_on_exit=tmp_path / "file")
    broken = listener.node.create_publisher(Image, "color/image", qos.SENSOR_OUTPUT)
    listener.until(lambda: kept and broken.get_subscription_count(), "the mapper")
    broken.publish(Image(encoding="nonsense"))
    mapper.send_signal(signal.SIGINT)
    assert mapper.wait(PATIENCE_S) == 1
    assert f"{tmp_path / 'file'}: is a file, a map is a folder" in said(tmp_path, "mapper")
    assert "Traceback" not in said(tmp_path, "mapper")


def test_terminate_is_a_normal_end_too(
    start: Callable[..., subprocess.Popen[bytes]], listener: Listener
) -> None:
    kept = status_of(listener)
    mapper = start("mapper")
    listener.until(lambda: kept, "the mapper")
    mapper.send_signal(signal.SIGTERM)
    assert mapper.wait(PATIENCE_S) == 0
