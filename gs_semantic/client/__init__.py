"""The planner's Python client, blocking and for asyncio, and a live copy of the map (needs rclpy)."""

from gs_semantic.client.aio import AsyncSemanticMap
from gs_semantic.client.semantic_map import (
    DistanceAnswer,
    Gaussians,
    NearestAnswer,
    ObjectAnswer,
    Objects,
    PathAnswer,
    PixelAnswer,
    RayAnswer,
    RegionAnswer,
    SemanticMap,
    TextAnswer,
    View,
)
from gs_semantic.client.splat_stream import SplatStream

__all__ = [
    "AsyncSemanticMap",
    "DistanceAnswer",
    "Gaussians",
    "NearestAnswer",
    "ObjectAnswer",
    "Objects",
    "PathAnswer",
    "PixelAnswer",
    "RayAnswer",
    "RegionAnswer",
    "SemanticMap",
    "SplatStream",
    "TextAnswer",
    "View",
]
