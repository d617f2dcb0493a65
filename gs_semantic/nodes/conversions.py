"""The one bridge between ROS messages and arrays.

Reading: arrays are views of the message where its layout allows, and every error names topic and field (images.py,
calibration.py).
Writing: byte fields get an ``array.array('B')``; anything else would be copied element by element by the generated
setters.
"""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, Transform
from nav_msgs.msg import OccupancyGrid
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, MaskInfo
from gs_semantic.labels import LabelSet
from gs_semantic.msg import LabelMap
from gs_semantic.msg import MaskInfo as MaskInfoMsg
from gs_semantic.nodes import faults
from gs_semantic.nodes.calibration import read_camera as read_camera  # noqa: PLC0414 - used through this module
from gs_semantic.nodes.calibration import read_lens as read_lens  # noqa: PLC0414
from gs_semantic.nodes.images import LAYOUTS as LAYOUTS  # noqa: PLC0414
from gs_semantic.nodes.images import read_colour as read_colour  # noqa: PLC0414
from gs_semantic.nodes.images import read_depth as read_depth  # noqa: PLC0414
from gs_semantic.nodes.images import read_image as read_image  # noqa: PLC0414
from gs_semantic.nodes.images import read_instances as read_instances  # noqa: PLC0414
from gs_semantic.nodes.transforms import checked_transform
from gs_semantic.space.occupancy import Grid

# --- time -------------------------------------------------------------------------------------------------------------


def to_ns(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def make_header(stamp_ns: int, frame_id: str) -> Header:
    return Header(stamp=to_stamp(stamp_ns), frame_id=frame_id)


# --- bytes ------------------------------------------------------------------------------------------------------------


def to_bytes_field(data: bytes | bytearray | memoryview | np.ndarray) -> array.array[int]:
    """What a ``uint8[]`` field is set to."""
    out: array.array[int] = array.array("B")
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    out.frombytes(data)
    return out


# --- images -----------------------------------------------------------------------------------------------------------


def write_image(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """An image message of an array whose type and channels are those of the encoding."""
    kind, channels = LAYOUTS[encoding]
    found = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != kind or found != channels:
        raise ValueError(f"{encoding} is {np.dtype(kind)} with {channels} channels, got {pixels.dtype} with {found}")
    height, width = pixels.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * channels * pixels.dtype.itemsize,
        data=to_bytes_field(pixels),
    )


def semantic_encoding(labels: LabelSet) -> str:
    """mono8 while every class id is at most 254 (255 is left free for users), else 16UC1."""
    return "mono8" if max(labels.names, default=0) <= 254 else "16UC1"


def write_classes(classes: np.ndarray, encoding: str, header: Header) -> Image:
    """Semantic image; a class id that mono8 cannot hold is void there."""
    if encoding == "mono8":
        classes = np.where(classes > 255, 0, classes).astype(np.uint8)
    return write_image(classes, encoding, header)


# --- camera and pose --------------------------------------------------------------------------------------------------


def write_camera(camera: Camera, header: Header) -> CameraInfo:
    projection = np.zeros((3, 4))
    projection[:, :3] = camera.K
    return CameraInfo(
        header=header,
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=camera.K.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=projection.reshape(-1),
    )


def read_pose(msg: Pose, what: str) -> np.ndarray:
    """4x4 of a pose; InvalidInputError naming ``what`` (topic and field) for NaN or a non-unit quaternion."""
    p, q = msg.position, msg.orientation
    return checked_transform(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]), what)


def read_transform(msg: Transform, what: str) -> np.ndarray:
    """4x4 of a transform, checked like a pose."""
    p, q = msg.translation, msg.rotation
    return checked_transform(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]), what)


def write_pose(matrix: np.ndarray) -> Pose:
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = matrix[:3, 3].tolist()
    q = pose.orientation
    q.x, q.y, q.z, q.w = Rotation.from_matrix(matrix[:3, :3]).as_quat().tolist()
    return pose


def write_transform(matrix: np.ndarray) -> Transform:
    transform, pose = Transform(), write_pose(matrix)
    t, p = transform.translation, pose.position
    t.x, t.y, t.z = p.x, p.y, p.z
    transform.rotation = pose.orientation
    return transform


# --- labels and masks -------------------------------------------------------------------------------------------------


def read_label_map(msg: LabelMap, topic: str) -> LabelSet:
    if len(msg.class_ids) != len(msg.names):
        reason = f"class_ids has {len(msg.class_ids)} entries, names has {len(msg.names)}"
        raise InvalidInputError(faults.LABELS_UNREADABLE.text(source=topic, reason=reason))
    return LabelSet({0: "void"} | {int(key): str(name) for key, name in zip(msg.class_ids, msg.names, strict=True)})


def write_label_map(labels: LabelSet, colours: np.ndarray, header: Header) -> LabelMap:
    """``colours`` uint8 (C, 3) is indexed by class id."""
    ids = sorted(labels.names)
    return LabelMap(
        header=header,
        class_ids=ids,
        names=[labels.names[key] for key in ids],
        colors=to_bytes_field(colours[ids]),
    )


def read_masks(msg: MaskInfoMsg, topic: str) -> dict[int, MaskInfo]:
    """Class and score by mask id."""
    sizes = {"ids": len(msg.ids), "class_ids": len(msg.class_ids), "scores": len(msg.scores)}
    if len(set(sizes.values())) != 1:
        reason = ", ".join(f"{k} has {v} entries" for k, v in sizes.items())
        raise InvalidInputError(faults.MASK_INFO.text(topic=topic, reason=reason))
    scores = np.asarray(msg.scores, np.float32)
    if not np.isfinite(scores).all():
        raise InvalidInputError(faults.MASK_INFO.text(topic=topic, reason="scores contains NaN or infinity"))
    rows = zip(msg.ids, msg.class_ids, scores.tolist(), strict=True)
    return {int(key): MaskInfo(int(class_id), float(score)) for key, class_id, score in rows}


def write_masks(masks: dict[int, MaskInfo], header: Header) -> MaskInfoMsg:
    return MaskInfoMsg(
        header=header,
        ids=array.array("H", masks),
        class_ids=array.array("H", [info.class_id for info in masks.values()]),
        scores=array.array("f", [info.score for info in masks.values()]),
    )


# --- grids ------------------------------------------------------------------------------------------------------------


def write_grid(grid: Grid, header: Header) -> OccupancyGrid:
    """A grid on the ground of the header's frame."""
    msg = OccupancyGrid(header=header)
    msg.info.map_load_time, msg.info.resolution = header.stamp, float(grid.resolution)
    msg.info.height, msg.info.width = grid.cells.shape
    msg.info.origin.position.x, msg.info.origin.position.y = map(float, grid.origin)
    msg.data = array.array("b", grid.cells.tobytes())
    return msg


# --- clouds -----------------------------------------------------------------------------------------------------------

POINT = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<u4"),
        ("label", "<u2"),
        ("pad", "<u2"),
        ("instance", "<u4"),
        ("confidence", "<f4"),
    ]
)
_FIELD_TYPES = {
    "x": PointField.FLOAT32,
    "y": PointField.FLOAT32,
    "z": PointField.FLOAT32,
    "rgb": PointField.FLOAT32,  # RViz and PCL read the packed colour from a field declared as float
    "label": PointField.UINT16,
    "instance": PointField.UINT32,
    "confidence": PointField.FLOAT32,
}


def packed_rgb(rgb: np.ndarray) -> np.ndarray:
    """uint32 0x00RRGGBB (...) of uint8 (..., 3)."""
    wide = rgb.astype(np.uint32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def write_cloud(points: np.ndarray, header: Header) -> PointCloud2:
    """A cloud of ``POINT`` records: organised when they are (H, W), else one row."""
    height, width = points.shape if points.ndim == 2 else (1, len(points))
    fields = [
        PointField(name=name, offset=POINT.fields[name][1], datatype=kind, count=1)  # type: ignore[index]
        for name, kind in _FIELD_TYPES.items()
    ]
    return PointCloud2(
        header=header,
        height=height,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * width,
        data=to_bytes_field(points),
        is_dense=bool(points.ndim == 1),
    )
