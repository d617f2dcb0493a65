"""/diagnostics names what is wrong, with whom, and is quiet again afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rig import Rig
from sensor_msgs.msg import CameraInfo, Image

from gs_semantic.nodes import diagnostics, qos
from gs_semantic.nodes.faults import Finding, Severity

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Report:
    """The newest status of each part."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.parts, self.rounds = rig, {}, 0
        rig.node.create_subscription(DiagnosticArray, "/diagnostics", self._take, qos.DIAGNOSTICS)

    def _take(self, msg: DiagnosticArray) -> None:
        with self.rig.changed:
            self.parts = {status.name.removeprefix("rig/mapper: "): status for status in msg.status}
            self.rounds += 1
            self.rig.changed.notify_all()

    def until(self, part: str, level: bytes, *words: str) -> DiagnosticStatus:
        def come() -> bool:
            status = self.parts.get(part)
            return status is not None and status.level == level and all(word in status.message for word in words)

        try:
            self.rig.until(come, f"{part}: {words}")
        except TimeoutError as error:
            raise AssertionError(f"{part}: {self.parts.get(part)}") from error
        return self.parts[part]

    def values(self, part: str) -> dict[str, str]:
        return {entry.key: entry.value for entry in self.parts[part].values}


@pytest.fixture
def report(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> Report:
    monkeypatch.setattr(diagnostics, "PATIENCE_S", 0.5)
    monkeypatch.setattr(diagnostics, "SILENT_S", 0.5)
    return Report(make_rig(diagnostics_hz=10.0))


def test_all_is_well(report: Report) -> None:
    rig = report.rig
    rig.map_scene()
    report.until("map", OK, "Gaussians")
    rig.until(lambda: "2 objects" in report.parts["map"].message, "objects")
    for part in ("state", "clock", "/rig/color/image", "synchronisation", "poses", "answers", "budgets"):
        report.until(part, OK)
    values = report.values("/rig/color/image")
    assert float(values["rate_hz"]) > 0 and values["publishers"] == "/rig/camera"
    assert values["type"] == "sensor_msgs/msg/Image" and "best effort" in values["qos"]
    assert float(report.values("budgets")["rss_mb"]) > 50


def test_a_topic_that_falls_silent_and_comes_back(report: Report) -> None:
    rig = report.rig
    rig.map_scene()
    report.until("/rig/depth/image", ERROR, "messages have stopped")
    rig.send()
    report.until("/rig/depth/image", OK)


def test_a_topic_that_nobody_publishes(report: Report) -> None:
    rig = report.rig
    rig.node.destroy_publisher(rig.publishers.pop("depth/image"))
    other = rig.node.create_publisher(Image, "depth_of_another_name", qos.SENSOR_OUTPUT)
    report.until("/rig/depth/image", ERROR, "nobody publishes", "/rig/depth_of_another_name", "depth_image:=")
    rig.told("/rig/depth/image", "nobody publishes")
    rig.node.destroy_publisher(other)
    rig.publishers["depth/image"] = rig.node.create_publisher(Image, "depth/image", qos.SENSOR_OUTPUT)
    rig.connected()
    rig.still_works()


def test_incompatible_qos_by_peer_and_policy(make_rig: Callable[..., Rig]) -> None:
    report = Report(make_rig(diagnostics_hz=10.0, input_qos="reliable"))
    rig = report.rig
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    weak = rig.node.create_publisher(Image, "depth/image", best_effort)
    report.until("/rig/depth/image", ERROR, "/rig/camera offers reliability best effort", "requests reliable")
    rig.told("/rig/depth/image", "reliability")
    rig.node.destroy_publisher(weak)
    report.until("/rig/depth/image", OK)
    rig.still_works()


def test_two_publishers_by_name(report: Report) -> None:
    rig = report.rig
    second = rig.node.create_publisher(CameraInfo, "color/camera_info", qos.SENSOR_OUTPUT)
    report.until("/rig/color/camera_info", WARN, "2 nodes at once: /rig/camera, /rig/camera")
    rig.node.destroy_publisher(second)
    rig.send()
    report.until("/rig/color/camera_info", OK)
    rig.still_works()


def test_another_type_on_the_topic(report: Report) -> None:
    rig = report.rig
    context = Context()
    rclpy.init(context=context)
    other = rclpy.create_node("other", context=context, namespace="rig")
    other.create_publisher(CameraInfo, "depth/image", qos.SENSOR_OUTPUT)
    report.until("/rig/depth/image", ERROR, "/rig/other publishes sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/Image")
    other.destroy_node()
    rclpy.try_shutdown(context=context)
    rig.send()
    report.until("/rig/depth/image", OK)
    rig.still_works()


def test_the_topic_without_partners_is_named(report: Report) -> None:
    rig = report.rig
    for _ in range(8):
        messages = rig.messages(rig.next_stamp())
        messages["depth/image"].header.stamp.nanosec += 7_000_000
        rig.publish(messages)
    status = report.until("synchronisation", ERROR, "/rig/depth/image")
    assert status.level == ERROR
    assert int(report.values("synchronisation")["missing /rig/depth/image"]) > 0
    rig.map_scene()
    report.until("synchronisation", OK, "100%")


def test_a_missing_transform_is_named(report: Report) -> None:
    rig = report.rig
    messages = rig.messages(rig.next_stamp())
    del messages["/tf"]
    rig.publish(messages)
    report.until("poses", ERROR, "'camera'", "'map'")
    rig.map_scene()
    report.until("poses", OK)


def test_use_sim_time_without_a_clock(make_rig: Callable[..., Rig]) -> None:
    report = Report(make_rig(diagnostics_hz=10.0, use_sim_time=True))
    report.until("clock", ERROR, "/clock is silent")
    report.rig.told("use_sim_time is set, but /clock is silent")
    report.rig.map_scene()  # stamps are those of the images


def test_a_part_is_summed_up_as_diagnostic_updater_would(rig: Rig) -> None:
    """Level, message without the separators, and values, for any mixture of findings."""
    theirs = pytest.importorskip("diagnostic_updater", reason="diagnostic_updater is not installed")
    ill = [Finding("one", Severity.WARNING, "s", "first"), Finding("two", Severity.ERROR, "s", "second", "Mend it.")]
    for findings in ([], ill[:1], ill, ill[::-1]):
        ours = diagnostics.Diagnostics._status(rig.mapper.diagnostics, "part", "all is well", findings, tell=False, rate=3)
        expected = theirs.DiagnosticStatusWrapper(name="rig/mapper: part", hardware_id="gs_semantic")
        expected.summary(OK, "all is well")
        for finding in findings:
            expected.mergeSummary(diagnostics.LEVELS[finding.severity], diagnostics._sentence(finding))
        expected.add("rate", "3")
        assert (ours.level, ours.name, ours.hardware_id) == (expected.level, expected.name, expected.hardware_id)
        assert ours.message.split(" | ") == expected.message.split("; ")
        assert [(v.key, v.value) for v in ours.values] == [(v.key, v.value) for v in expected.values]
