"""The planner's Python client, and a live copy of the map (needs rclpy)."""

from gs_semantic.client.semantic_map import (
    Gaussians,
    ObjectAnswer,
    Objects,
    PixelAnswer,
    RegionAnswer,
    SemanticMap,
    View,
)
from gs_semantic.client.splat_stream import SplatStream

__all__ = ["Gaussians", "ObjectAnswer", "Objects", "PixelAnswer", "RegionAnswer", "SemanticMap", "SplatStream", "View"]
