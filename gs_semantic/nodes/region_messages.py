"""gs_semantic/Region to and from ``objects.regions.Region``."""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Quaternion, Vector3

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.msg import Region as RegionMsg
from gs_semantic.nodes.transforms import checked_transform
from gs_semantic.objects.packing import matrix_to_quaternion
from gs_semantic.objects.regions import BoxShape, FrustumShape, PrismShape, Region, Shape, SphereShape


def read_region(msg: RegionMsg, T_map_frame: np.ndarray) -> Region:
    """The region in the map; ``T_map_frame`` (4, 4) places the message's frame_id. InvalidRequestError names the field."""
    if msg.shape == RegionMsg.SHAPE_PRISM:
        corners = np.array([[corner.x, corner.y] for corner in msg.polygon]).reshape(-1, 2)
        bottom = msg.polygon[0].z if len(corners) else 0.0
        return Region(PrismShape(corners, bottom, msg.height), T_map_frame)
    shape: Shape
    if msg.shape == RegionMsg.SHAPE_BOX:
        shape = BoxShape(np.array([msg.size.x, msg.size.y, msg.size.z]))
    elif msg.shape == RegionMsg.SHAPE_SPHERE:
        shape = SphereShape(msg.radius)
    elif msg.shape == RegionMsg.SHAPE_FRUSTUM:
        shape = FrustumShape(msg.horizontal_fov, msg.vertical_fov, msg.near, msg.far)
    else:
        raise InvalidRequestError(f"shape is {msg.shape}: 0 (box), 1 (sphere), 2 (prism) and 3 (frustum) are known")
    centre = np.array([msg.center.x, msg.center.y, msg.center.z])
    q = msg.orientation
    quaternion = np.array([q.x, q.y, q.z, q.w])
    try:
        placed = checked_transform(centre, quaternion if quaternion.any() else np.array([0, 0, 0, 1.0]), "region")
    except InvalidInputError as error:
        raise InvalidRequestError(str(error)) from error
    return Region(shape, T_map_frame @ placed)


def write_region(region: Region, frame_id: str = "") -> RegionMsg:
    """The message of a region in a frame (empty: the map's). A prism must stand upright: its polygon lies in the world."""
    msg, shape, pose = RegionMsg(frame_id=frame_id), region.shape, region.T_world_region
    if isinstance(shape, PrismShape):
        upright = np.allclose(pose[2, :2], 0) and np.isclose(pose[2, 2], 1)
        if not upright:
            raise InvalidRequestError("a prism stands upright in its frame; give frame_id to tilt it")
        corners = np.column_stack([shape.polygon, np.full(len(shape.polygon), shape.bottom)])
        msg.shape, msg.height = RegionMsg.SHAPE_PRISM, float(shape.height)
        msg.polygon = [to_vector(Point, corner) for corner in corners @ pose[:3, :3].T + pose[:3, 3]]
        return msg
    msg.center = to_vector(Point, pose[:3, 3])
    x, y, z, w = matrix_to_quaternion(pose[:3, :3]).tolist()
    msg.orientation = Quaternion(x=x, y=y, z=z, w=w)
    if isinstance(shape, BoxShape):
        msg.shape, msg.size = RegionMsg.SHAPE_BOX, to_vector(Vector3, shape.size)
    elif isinstance(shape, SphereShape):
        msg.shape, msg.radius = RegionMsg.SHAPE_SPHERE, float(shape.radius)
    elif isinstance(shape, FrustumShape):
        msg.shape = RegionMsg.SHAPE_FRUSTUM
        msg.horizontal_fov, msg.vertical_fov = float(shape.horizontal_fov), float(shape.vertical_fov)
        msg.near, msg.far = float(shape.near), float(shape.far)
    else:
        raise InvalidRequestError(f"{type(shape).__name__} has no message")
    return msg


def to_vector(kind: type[Any], values: Any) -> Any:
    """A Point or Vector3 of three numbers."""
    x, y, z = map(float, values)
    return kind(x=x, y=y, z=z)
