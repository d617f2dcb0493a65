"""Class names and objects as vision_msgs, for tools that know those; only where vision_msgs is installed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from rclpy.node import Node
from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox3D,
    Detection3D,
    Detection3DArray,
    LabelInfo,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    VisionClass,
)

from gs_semantic.errors import InvalidInputError
from gs_semantic.labels import LabelSet
from gs_semantic.nodes import faults, qos
from gs_semantic.objects.packing import matrix_to_quaternion
from gs_semantic.objects.registry import MapObject

UNLABELED = 65535  # by the definition of VisionClass, whatever its name


def read_label_info(msg: LabelInfo, topic: str) -> LabelSet:
    """The classes of a vision pipeline; InvalidInputError when an id has two names, or there is none."""
    names: dict[int, str] = {}
    for entry in msg.class_map:
        if names.setdefault(int(entry.class_id), str(entry.class_name)) != entry.class_name:
            reason = f"class_map names class {entry.class_id} both {names[entry.class_id]!r} and {entry.class_name!r}"
            raise InvalidInputError(faults.LABELS_UNREADABLE.text(source=topic, reason=reason))
    names.pop(UNLABELED, None)
    if not names:
        raise InvalidInputError(faults.LABELS_UNREADABLE.text(source=topic, reason="class_map names no class"))
    return LabelSet({0: "void"} | names)


class VisionPublisher:
    """``~/vision/label_info`` and ``~/vision/objects``, the content of ``~/label_map`` and ``~/objects``."""

    def __init__(self, node: Node) -> None:
        self._labels = node.create_publisher(LabelInfo, "~/vision/label_info", qos.LATCHED)
        self.objects = node.create_publisher(Detection3DArray, "~/vision/objects", qos.LATCHED)

    def close(self, node: Node) -> None:
        node.destroy_publisher(self._labels)
        node.destroy_publisher(self.objects)

    def publish_labels(self, labels: LabelSet, header: Header) -> None:
        named = [VisionClass(class_id=class_id, class_name=name) for class_id, name in sorted(labels.names.items())]
        self._labels.publish(LabelInfo(header=header, class_map=named))

    def publish_objects(self, present: Iterable[MapObject], header: Header) -> None:
        """Boxes (m, in the header's frame) of the objects that have one; a detection's ``id`` is the object's."""
        detections = [_detection(obj, header) for obj in present if obj.box is not None]
        self.objects.publish(Detection3DArray(header=header, detections=detections))


def _detection(obj: MapObject, header: Header) -> Detection3D:
    assert obj.box is not None
    (x, y, z), (sx, sy, sz) = obj.box.centre.tolist(), np.asarray(obj.box.size).tolist()
    qx, qy, qz, qw = matrix_to_quaternion(obj.box.rotation).tolist()
    pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
    found = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id=str(obj.class_id), score=float(obj.confidence)))
    found.pose.pose = pose
    box = BoundingBox3D(center=pose, size=Vector3(x=sx, y=sy, z=sz))
    return Detection3D(header=header, id=str(obj.id), results=[found], bbox=box)
