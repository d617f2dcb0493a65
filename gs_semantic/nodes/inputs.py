"""What the mapper listens to: one or several cameras, the poses, the class names."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TypeVar

from rclpy.node import Node

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Frame
from gs_semantic.labels import LabelSet
from gs_semantic.msg import LabelMap
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.camera_input import CameraInput
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.poses import Poses
from gs_semantic.nodes.stamps import StampWatch
from gs_semantic.nodes.statistics import Statistics
from gs_semantic.nodes.subscriptions import Subscriptions
from gs_semantic.nodes.synchronizer import Match

LABELS, LABEL_INFO = "label_map", "vision/label_info"
L = TypeVar("L")


class Inputs:
    """Hands every complete frame to ``on_match``, from the executor's thread and in no time; the rest is counted.

    Listens between ``subscribe`` and ``unsubscribe``. ``on_problem`` gets every error with a key that names its source;
    errors name the topic (as remapped) and the field.
    """

    def __init__(
        self,
        node: Node,
        parameters: NodeParameters,
        statistics: Statistics,
        on_match: Callable[[Match], None],
        on_labels: Callable[[LabelSet], None],
        on_problem: Callable[[str, Exception], None],
    ) -> None:
        self._parameters, self._on_labels, self._on_problem = parameters, on_labels, on_problem
        self.topics = {name: node.resolve_topic_name(name) for name in (LABELS, LABEL_INFO)}
        self.subscriptions = Subscriptions(node)
        self.stamps = StampWatch()
        self.poses = Poses(node, parameters, self.stamps, on_problem, self._retry)
        self.cameras = [
            CameraInput(
                *(node, namespace, parameters, statistics, self.subscriptions, self.stamps, self.poses, on_match, on_problem)
            )
            for namespace in parameters.cameras or [""]
        ]
        self._by_source = {camera.synchronizer.leading: camera for camera in self.cameras}

    def subscribe(self) -> None:
        """Start to listen."""
        self.poses.subscribe(self.subscriptions)
        take = self._labels_callback(LABELS, conversions.read_label_map)
        self.subscriptions.add(LabelMap, LABELS, take, qos.LATCHED_INPUT)
        if importlib.util.find_spec("vision_msgs") is not None:
            from vision_msgs.msg import LabelInfo

            from gs_semantic.nodes.vision import read_label_info

            take = self._labels_callback(LABEL_INFO, read_label_info)
            self.subscriptions.add(LabelInfo, LABEL_INFO, take, qos.LATCHED_INPUT)
        for camera in self.cameras:
            camera.subscribe()

    def unsubscribe(self) -> None:
        """Stop to listen, and forget what waits."""
        self.subscriptions.clear()
        for camera in self.cameras:
            camera.unsubscribe()
        self.stamps.clear()
        self.poses.clear()

    def close(self) -> None:
        self.unsubscribe()
        for camera in self.cameras:
            camera.close()

    def retime(self) -> None:
        """Take over changed times to wait."""
        for camera in self.cameras:
            camera.retime()

    def _retry(self) -> None:
        for camera in self.cameras:
            camera.retry()

    # --- what came ----------------------------------------------------------------------------------------------------

    def _labels_callback(self, name: str, read: Callable[[L, str], LabelSet]) -> Callable[[L], None]:
        def take(msg: L) -> None:
            try:
                labels = read(msg, self.topics[name])
            except InvalidInputError as error:
                self._on_problem(name, error)
                return
            self._on_labels(labels)

        return take

    def camera_of(self, match: Match) -> CameraInput:
        """The camera that a match is of."""
        return self._by_source[match.source]

    def frame(self, match: Match) -> Frame:
        """The frame of a match, in the worker's thread. InvalidInputError names topic and field."""
        return self.camera_of(match).frame(match)

    @property
    def received(self) -> int:
        """Colour images."""
        return sum(camera.synchronizer.counts.received[camera.synchronizer.leading] for camera in self.cameras)

    @property
    def matched(self) -> int:
        return sum(camera.synchronizer.counts.matched for camera in self.cameras)

    @property
    def unmatched(self) -> int:
        """Colour images whose partners did not come."""
        return sum(sum(camera.synchronizer.counts.unmatched.values()) for camera in self.cameras)

    @property
    def dropped(self) -> int:
        return sum(camera.synchronizer.counts.dropped for camera in self.cameras)

    @property
    def without_masks(self) -> int:
        return sum(camera.synchronizer.counts.without_optional for camera in self.cameras)

    def explain(self) -> list[str]:
        """Sentences about topics that are missing or never match, for people."""
        return [text for camera in self.cameras for text in camera.explain()]
