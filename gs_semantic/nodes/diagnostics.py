"""/diagnostics: what every part of the mapper is doing, and what is wrong with whom, once a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from gs_semantic.nodes import conversions, faults, qos
from gs_semantic.nodes.camera_input import COLOUR, DEPTH, DEPTH_INFO, INFO
from gs_semantic.nodes.faults import Finding, Severity
from gs_semantic.nodes.poses import STATIC_TF, TF
from gs_semantic.nodes.subscriptions import Traffic, strangers, type_name

if TYPE_CHECKING:
    from gs_semantic.nodes.inputs import Inputs
    from gs_semantic.nodes.mapper_node import MapperNode

PATIENCE_S = 2.0  # a topic may be silent for so long after its subscription
SILENT_S = 2.0  # ... and between two messages
GOOD_RATIO = 0.9  # of colour images that find their partners
ARGUMENTS = {INFO: "camera_info", DEPTH_INFO: "depth_info"}  # others are called as their topic
LISTED = 5  # topics named as candidates
LEVELS = {Severity.OK: DiagnosticStatus.OK, Severity.WARNING: DiagnosticStatus.WARN, Severity.ERROR: DiagnosticStatus.ERROR}


class Diagnostics:
    """Publishes one status per part of the node: its state, each input, synchronisation, poses, answers, map, training, distances and grids, budgets.

    ``faults`` holds the sentences of the last round, for ~/status.
    """

    def __init__(self, node: MapperNode) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        self._name = node.get_fully_qualified_name().lstrip("/")
        self._before = (0, 0)  # matched and dropped colour images at the last round
        self.faults: list[str] = []

    def publish(self) -> None:
        """One round."""
        node = self._node
        self.faults = []
        parts = [self._state()]
        if node.configured:
            parts += [self._clock(), *self._inputs(node.inputs), self._synchronisation(node.inputs), self._poses(node.inputs)]
            parts += [self._answers(), self._map(), self._training(), self._geometry(), self._budgets(), self._listeners()]
        header = conversions.make_header(node.get_clock().now().nanoseconds, "")
        self._publisher.publish(DiagnosticArray(header=header, status=parts))

    def _status(
        self, part: str, message: str, findings: list[Finding], tell: bool = True, **values: object
    ) -> DiagnosticStatus:
        """A status whose level is that of the worst finding; ``tell``: also in ~/status."""
        worst = max(findings, key=lambda finding: finding.severity, default=None)
        texts = [_sentence(finding) for finding in findings]
        self.faults += texts if tell else []
        return DiagnosticStatus(
            level=LEVELS[worst.severity] if worst else DiagnosticStatus.OK,
            name=f"{self._name}: {part}",
            message=" | ".join(texts) or message,
            hardware_id="gs_semantic",
            values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
        )

    def _listeners(self) -> DiagnosticStatus:
        """Those who listen to us."""
        node = self._node
        return self._status("subscribers", "types fit", strangers(node, node.get_name(), node.get_namespace()))

    # --- parts --------------------------------------------------------------------------------------------------------

    def _state(self) -> DiagnosticStatus:
        node = self._node
        failed = node.transition_error
        findings = [] if failed is None else [Finding("transition", Severity.ERROR, "lifecycle", str(failed))]
        return self._status("state", node.lifecycle_state, findings, lifecycle=node.lifecycle_state)

    def _clock(self) -> DiagnosticStatus:
        node, findings = self._node, []
        simulated = bool(node.get_parameter("use_sim_time").value)
        now = node.get_clock().now().nanoseconds
        if simulated and not now:
            findings.append(faults.CLOCK_SILENT.found("/clock", what="is silent"))
        name = "/clock" if simulated else "wall clock"
        return self._status("clock", name, findings, use_sim_time=simulated, jumps_back=node.inputs.stamps.jumps)

    def _inputs(self, inputs: Inputs) -> list[DiagnosticStatus]:
        needed = self._needed(inputs)
        found: dict[str, list[Finding]] = {}
        for finding in inputs.subscriptions.findings():
            found.setdefault(finding.subject, []).append(finding)
        return [self._input(t, found.get(t.topic, []), t.topic in needed) for t in inputs.subscriptions.watched()]

    def _needed(self, inputs: Inputs) -> set[str]:
        """Topics without which there is no frame."""
        topics = {camera.topics[role] for camera in inputs.cameras for role in (COLOUR, INFO)}
        topics |= {camera.topics[DEPTH] for camera in inputs.cameras if camera.needs_depth}
        watched = [traffic.topic for traffic in inputs.subscriptions.watched()]
        listened = {topic for topic in watched if any(topic == t or topic.startswith(f"{t}/compressed") for t in topics)}
        return listened | {inputs.poses.source}

    def _input(self, traffic: Traffic, findings: list[Finding], needed: bool) -> DiagnosticStatus:
        publishers = self._node.inputs.subscriptions.publishers(traffic)
        transforms = traffic.topic in (self._node.inputs.poses.topics[TF], self._node.inputs.poses.topics[STATIC_TF])
        findings = [*findings, *self._silence(traffic, publishers, needed, bool(findings))]
        if len(publishers) > 1 and not transforms:
            names = ", ".join(publishers)
            findings.append(
                faults.TWO_PUBLISHERS.found(traffic.topic, topic=traffic.topic, count=len(publishers), nodes=names)
            )
        rate, latency = traffic.latency_ms.rate_hz(), traffic.latency_ms.percentile(50)
        return self._status(
            traffic.topic,
            f"{rate:.1f} Hz" if traffic.count else "silent",
            findings,
            rate_hz=rate,
            messages=traffic.count,
            latency_p50_ms=latency,
            latency_p95_ms=traffic.latency_ms.percentile(95),
            publishers=", ".join(publishers) or "none",
            type=type_name(traffic.kind),
            qos=qos.describe(traffic.profile),
        )

    def _silence(self, traffic: Traffic, publishers: list[str], needed: bool, explained: bool) -> list[Finding]:
        """Why nothing comes on a topic that is needed."""
        topic, now = traffic.topic, time.monotonic()
        if not needed or explained or now - traffic.since < PATIENCE_S:
            return []
        if not publishers:
            if topic == self._node.inputs.poses.topics[TF]:
                return []  # the chain may be static; what is missing of it stands in "poses"
            kind = type_name(traffic.kind)
            same = [name for name, kinds in self._node.get_topic_names_and_types() if kind in kinds and name != topic]
            same = [name for name in same if self._node.count_publishers(name)]
            return [
                faults.NO_PUBLISHER.found(
                    topic,
                    topic=topic,
                    type=kind,
                    argument=self._argument(topic),
                    candidates=", ".join(sorted(same)[:LISTED]) or "none",
                )
            ]
        names = ", ".join(publishers)
        if not traffic.count:
            return [faults.NO_MESSAGE.found(topic, topic=topic, seconds=now - traffic.since, publishers=names)]
        if now - traffic.last > SILENT_S:
            return [faults.NO_LONGER.found(topic, topic=topic, seconds=now - traffic.last)]
        return []

    def _argument(self, topic: str) -> str:
        """The start argument that names a topic: ``color_image`` of the colour images."""
        roles = {t: role for camera in self._node.inputs.cameras for role, t in camera.topics.items()}
        roles |= {t: role for role, t in self._node.inputs.poses.topics.items()}
        role = next((role for t, role in roles.items() if topic == t or topic.startswith(f"{t}/compressed")), topic)
        return ARGUMENTS.get(role, role.strip("/").replace("/", "_"))

    def _synchronisation(self, inputs: Inputs) -> DiagnosticStatus:
        matched, dropped = inputs.matched - self._before[0], inputs.dropped - self._before[1]
        self._before = (inputs.matched, inputs.dropped)
        ratio = matched / (matched + dropped) if matched + dropped else 1.0
        findings = []
        if dropped > 0 and ratio < GOOD_RATIO:
            for camera in inputs.cameras:
                if reason := camera.synchronizer.last_drop:
                    found = faults.of_text(camera.topics[COLOUR], reason, faults.STAMPS_APART)
                    severity = found.severity if matched else Severity.ERROR
                    findings.append(Finding(found.name, severity, found.subject, found.message, found.mend))
        missing: dict[str, int] = {}
        for camera in inputs.cameras:
            for name, count in camera.synchronizer.counts.unmatched.items():
                missing[name] = missing.get(name, 0) + count
        return self._status(
            "synchronisation",
            f"{ratio:.0%} of the colour images found their partners",
            findings,
            tell=False,  # it has been told when it happened
            matched=inputs.matched,
            dropped=inputs.dropped,
            match_ratio=ratio,
            without_masks=inputs.without_masks,
            **{f"missing {name}": count for name, count in sorted(missing.items())},
        )

    def _poses(self, inputs: Inputs) -> DiagnosticStatus:
        node = self._node
        texts = [text for text in node.statistics.warnings() if text.startswith("pose")]
        findings = [faults.of_text("poses", texts[-1], faults.TF_MISSING)] if texts else []
        return self._status(
            "poses",
            f"from {inputs.poses.source}",
            findings,
            tell=False,
            source=node.parameters.pose_source,
            map_frame=inputs.poses.map_frame,
            frames_without_pose=node.statistics.pose_missing,
        )

    def _answers(self) -> DiagnosticStatus:
        node, s = self._node, self._node.statistics
        values: dict[str, Any] = {
            "input_hz": s.inputs.rate_hz(),
            "answer_hz": s.answers.rate_hz(),
            "latency_p50_ms": s.answers.percentile(50),
            "latency_p95_ms": s.answers.percentile(95),
            "overtaken": node.answering.replaced,
            "invalid_inputs": s.invalid_inputs,
        }
        return self._status("answers", f"{values['answer_hz']:.1f} Hz", [], **values)

    def _map(self) -> DiagnosticStatus:
        node = self._node
        gaussians, keyframes = len(node.mapper.gaussians), len(node.mapper.keyframes)
        return self._status(
            "map",
            f"{gaussians} Gaussians, {len(node.view.objects)} objects",
            [],
            gaussians=gaussians,
            objects=len(node.view.objects),
            keyframes=keyframes,
            revision=node.view.revision,
            frame=node.frame_id,
            work_pending=node.mapper.pending,
        )

    def _training(self) -> DiagnosticStatus:
        """Of the live map: what is being trained, how far it is, and what went wrong last."""
        training = self._node.training
        findings = [faults.of_text("training", training.error)] if training.error else []
        values = {} if training.progress is None else training.progress.as_dict()
        return self._status("training", training.state, findings, **values)

    def _geometry(self) -> DiagnosticStatus:
        """What distances, paths and grids are answered from."""
        geometry = self._node.map_services.geometry
        findings = [faults.of_text("geometry", geometry.failed)] if geometry.failed else []
        return self._status("geometry", "as asked", findings)

    def _budgets(self) -> DiagnosticStatus:
        node, p = self._node, self._node.parameters
        findings = [faults.of_text("budgets", text, faults.BUDGET_HELD) for text in node.governor.given_up]
        rss, sent = node.statistics.rss_mb(), node.statistics.sent_mbps()
        return self._status(
            "budgets",
            f"{rss:.0f} MB, {sent:.1f} Mbit/s",
            findings,
            rss_mb=rss,
            sent_mbps=sent,
            max_gaussians=node.mapper.config.max_gaussians,
            max_keyframes=node.mapper.config.max_keyframes,
            budget_mb=p.budget_mb,
            budget_hz=p.budget_hz,
            budget_mbps=p.budget_mbps,
        )


def _sentence(finding: Finding) -> str:
    text = f"{finding.message}. {finding.mend}" if finding.mend else finding.message
    return f"{text} [{finding.name}]"


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
