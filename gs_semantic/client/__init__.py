"""The planner's Python client (needs rclpy)."""

from gs_semantic.client.semantic_map import (
    Gaussians,
    ObjectAnswer,
    Objects,
    PixelAnswer,
    RegionAnswer,
    SemanticMap,
    View,
)

__all__ = ["Gaussians", "ObjectAnswer", "Objects", "PixelAnswer", "RegionAnswer", "SemanticMap", "View"]
