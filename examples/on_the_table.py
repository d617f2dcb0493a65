"""What is on the table? Answers once, and again whenever an object comes, goes or moves.

    python examples/on_the_table.py table

Publishes a line of JSON on ~/contents (std_msgs/String): ``{"table": 12, "on_it": [{"id": 3, "label": "mug"}]}``.
"""

from __future__ import annotations

import argparse
import json

import rclpy
from gs_semantic.msg import ObjectEvent
from rclpy.node import Node
from std_msgs.msg import String

from gs_semantic.client import SemanticMap
from gs_semantic.nodes import qos
from gs_semantic.objects.placement import above


class OnTheTable(Node):
    """Listens to ~/object_events, so that it need not poll."""

    def __init__(self, mapper: str, table: str, height: float = 0.5, **options: object) -> None:
        super().__init__("on_the_table", **options)
        self.table, self.height = table, height
        self.semantic_map = SemanticMap(self, mapper=mapper)
        self.contents = self.create_publisher(String, "~/contents", qos.LATCHED)
        self.create_subscription(ObjectEvent, f"{mapper}/object_events", self.look, qos.EVENTS)

    def look(self, _event: ObjectEvent | None = None) -> list[dict[str, object]]:
        table = self.semantic_map.find(self.table)
        if table.box is None:
            return []
        inside = self.semantic_map.query_region(above(table.box, self.height), min_inside=0.5).objects
        on_it: list[dict[str, object]] = [{"id": o.id, "label": o.label} for o in inside if o.id != table.id]
        self.contents.publish(String(data=json.dumps({"table": table.id, "on_it": on_it})))
        return on_it

    def close(self) -> None:
        self.semantic_map.close()
        self.destroy_node()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="name or class of the table")
    parser.add_argument("--mapper", default="/gs_semantic/mapper")
    arguments = parser.parse_args()
    rclpy.init()
    node = OnTheTable(arguments.mapper, arguments.table)
    try:
        print(json.dumps(node.look(), indent=1))
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.close()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
