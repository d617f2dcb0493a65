"""An object as an obstacle for an arm: a box with clearance around it.

    python examples/collision_object.py mug --clearance 0.02

Publishes a moveit_msgs/CollisionObject on /collision_object where MoveIt is installed, and in any case a
visualization_msgs/Marker on ~/marker.
"""

from __future__ import annotations

import argparse
import importlib.util

import numpy as np
import rclpy
from geometry_msgs.msg import Pose, Vector3
from rclpy.node import Node
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from gs_semantic.client import SemanticMap
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.region_messages import to_vector
from gs_semantic.objects.placement import padded
from gs_semantic.objects.registry import Box


class CollisionObjectPublisher(Node):
    """``publish`` asks the map for an object and tells MoveIt and RViz."""

    def __init__(self, mapper: str, clearance: float, **options: object) -> None:
        super().__init__("collision_object", **options)
        self.clearance = clearance
        self.semantic_map = SemanticMap(self, mapper=mapper)
        self.markers = self.create_publisher(Marker, "~/marker", qos.LATCHED)
        self.moveit = importlib.util.find_spec("moveit_msgs") is not None
        if self.moveit:
            kind = importlib.import_module("moveit_msgs.msg").CollisionObject
            self.obstacles = self.create_publisher(kind, "/collision_object", qos.LATCHED)

    def publish(self, what: str) -> Marker:
        obj = self.semantic_map.find(what)
        answer = self.semantic_map.get_object(obj.id)
        if answer.object.box is None:
            raise SystemExit(f"{obj.label} {obj.id} has no box yet: look at it from nearer")
        box = padded(answer.object.box, self.clearance)
        marker = Marker(header=conversions.make_header(0, answer.frame_id), ns="collision", id=obj.slot, type=Marker.CUBE)
        marker.pose, marker.scale = pose_of(box), to_vector(Vector3, box.size)
        marker.color = ColorRGBA(r=1.0, g=0.2, b=0.1, a=0.5)
        self.markers.publish(marker)
        if self.moveit:
            self.obstacles.publish(self.collision_object(f"{obj.label}_{obj.id}", marker))
        return marker

    def collision_object(self, name: str, marker: Marker) -> object:
        messages, shapes = importlib.import_module("moveit_msgs.msg"), importlib.import_module("shape_msgs.msg")
        size = marker.scale
        primitive = shapes.SolidPrimitive(type=shapes.SolidPrimitive.BOX, dimensions=[size.x, size.y, size.z])
        return messages.CollisionObject(
            header=marker.header,
            id=name,
            primitives=[primitive],
            primitive_poses=[marker.pose],
            operation=messages.CollisionObject.ADD,
        )

    def close(self) -> None:
        self.semantic_map.close()
        self.destroy_node()


def pose_of(box: Box) -> Pose:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = box.rotation, box.centre
    return conversions.write_pose(pose)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", help="name or class of the object")
    parser.add_argument("--mapper", default="/gs_semantic/mapper")
    parser.add_argument("--clearance", type=float, default=0.02, help="m")
    arguments = parser.parse_args()
    rclpy.init()
    node = CollisionObjectPublisher(arguments.mapper, arguments.clearance)
    try:
        node.publish(arguments.what)
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.close()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
