"""Go to an object: publishes a goal in front of it, on a side that is free.

    python examples/go_to_object.py chair --radius 0.3

The goal is a geometry_msgs/PoseStamped on /goal_pose, which Nav2 takes as it takes RViz's "2D Goal Pose".
"""

from __future__ import annotations

import argparse

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node

from gs_semantic.client import SemanticMap
from gs_semantic.nodes import conversions, qos
from gs_semantic.objects.placement import approach, around


class GoToObject(Node):
    """``goal_for`` asks the map and publishes."""

    def __init__(self, mapper: str, radius: float, height: float = 1.2, **options: object) -> None:
        super().__init__("go_to_object", **options)
        self.radius, self.height = radius, height
        self.semantic_map = SemanticMap(self, mapper=mapper)
        self.goals = self.create_publisher(PoseStamped, "/goal_pose", qos.LATCHED)

    def goal_for(self, what: str, robot: tuple[float, float] | None = None) -> PoseStamped:
        near = None if robot is None else (*robot, 0.0)
        target = self.semantic_map.find(what, near=near)
        if target.box is None:
            raise SystemExit(f"{target.label} {target.id} has no box yet: look at it from nearer")
        floor = float(target.box.centre[2] - target.box.size[2] / 2)
        space = around(target.box, 3 * self.radius + 0.5, floor, self.height)
        there = self.semantic_map.query_region(space, gaussians=True, max_gaussians=50_000).gaussians["position"]
        pose = approach(target.box, there, self.radius, start=None if robot is None else np.array(robot))
        objects = self.semantic_map.list_objects(max_results=1)
        goal = PoseStamped(header=conversions.make_header(0, objects.frame_id), pose=conversions.write_pose(pose))
        self.goals.publish(goal)
        self.get_logger().info(f"{target.label} {target.id}: goal at {pose[:2, 3].round(2).tolist()}")
        return goal

    def close(self) -> None:
        self.semantic_map.close()
        self.destroy_node()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", help="name or class of the object")
    parser.add_argument("--mapper", default="/gs_semantic/mapper")
    parser.add_argument("--radius", type=float, default=0.3, help="of the robot, m")
    arguments = parser.parse_args()
    rclpy.init()
    node = GoToObject(arguments.mapper, arguments.radius)
    try:
        node.goal_for(arguments.what)
        rclpy.spin(node)  # the goal stays for who comes later
    except KeyboardInterrupt:
        pass
    finally:
        node.close()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
