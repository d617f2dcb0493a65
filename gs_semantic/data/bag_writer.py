"""Writing ROS 2 bags without ROS: serialised messages, and whole recorded sequences as a camera would send them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from gs_semantic.data.bag_files import is_bag, typestore
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.data.trajectory import camera_on_body
from gs_semantic.errors import InvalidRequestError, StorageError
from gs_semantic.files import make_folder, reason, sync_folder
from gs_semantic.gaussians import Camera, Frame, MaskInfo
from gs_semantic.labels import LabelSet, palette

if TYPE_CHECKING:
    from rosbags.interfaces import Connection, Qos

    from gs_semantic.evaluation.damage import Damage

STORAGES = ("mcap", "sqlite3")
IMAGES = ("raw", "compressed")
NAMESPACE = "/gs_semantic"  # where the nodes of this package listen by default
FRAMES = {"global": "map", "body": "base_link", "camera": "camera_color_optical_frame"}
FIRST_STAMP_NS = 1_000_000_000  # stamp 0 means "none" in ROS
JPEG_QUALITY = 95


class BagWriter:
    """A bag that takes the place of ``path`` when the block ends well; otherwise an older bag there stays as it was.

    While it is written it lies beside ``path`` under a temporary name. StorageError names ``path``: the disk refuses,
    or something that is not a bag is there.
    """

    def __init__(self, path: str | Path, storage: str = "mcap") -> None:
        if storage not in STORAGES:
            raise InvalidRequestError(f"storage '{storage}': expected one of {', '.join(STORAGES)}")
        self.path = Path(path).absolute()
        if self.path.exists() and not (is_bag(self.path) and self.path.is_dir()):
            raise StorageError(f"{self.path}: is there and is not a bag's folder; choose another name")
        self.types = typestore()
        self._storage = storage
        self._connections: dict[str, Connection] = {}
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> BagWriter:  # noqa: PYI034
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        make_folder(self._temporary)
        self._writer = Writer(
            self._temporary / self.path.name,
            version=9,
            storage_plugin=StoragePlugin.MCAP if self._storage == "mcap" else StoragePlugin.SQLITE3,
        )
        if self._storage == "mcap":
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._guarded(self._writer.open)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._guarded(self._finish)
            else:
                self._writer.abort()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def add_topic(self, name: str, kind: str, latched: bool = False) -> None:
        """Announce a topic of a message type such as ``sensor_msgs/msg/Image``."""
        self._connections[name] = self._guarded(
            lambda: self._writer.add_connection(name, kind, typestore=self.types, offered_qos_profiles=[_qos(latched)])
        )

    def write(self, topic: str, time_ns: int, message: Any) -> None:
        """Append a message, made with ``message``."""
        connection = self._connections[topic]
        data = self.types.serialize_cdr(message, connection.msgtype)
        self._guarded(lambda: self._writer.write(connection, time_ns, data))

    def message(self, kind: str, **fields: Any) -> Any:
        """A message of a type, all fields given."""
        return self.types.types[kind](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        stamp = self.message(
            "builtin_interfaces/msg/Time", sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000
        )
        return self.message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _finish(self) -> None:
        self._writer.close()
        finished = self._temporary / self.path.name
        for file in finished.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        if self.path.exists():
            self.path.rename(self._temporary / "old")
        try:
            finished.rename(self.path)
        except OSError:
            if (self._temporary / "old").exists():
                (self._temporary / "old").rename(self.path)
            raise
        sync_folder(self.path.parent)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """The disk's refusals as StorageError."""
        from rosbags.rosbag2 import WriterError

        try:
            return work()
        except (OSError, sqlite3.Error, WriterError) as error:
            raise StorageError(f"{self.path}: the bag was not written: {reason(error)}") from error


def _qos(latched: bool) -> Qos:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    never = QosTime(9_223_372_036, 854_775_807)  # as ROS writes an infinite time
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 10,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        never,
        never,
        QosLiveliness.AUTOMATIC,
        never,
        False,
    )


# --- sequences --------------------------------------------------------------------------------------------------------


def write_sequence(
    sequence: FrameSequence,
    path: str | Path,
    *,
    storage: str = "mcap",
    images: str = "raw",
    damage: Damage | None = None,
    indices: Iterable[int] | None = None,
    namespace: str = NAMESPACE,
    progress: Callable[[], object] = lambda: None,
) -> int:
    """Write a sequence as a bag that the nodes of this package listen to without any argument; returns its frames.

    Topics are those of the replay node in ``namespace``, poses are on /tf and /tf_static. images: raw, or JPEG for
    colour and PNG for the rest. damage: what becomes of the masks (None: there are none).
    """
    if images not in IMAGES:
        raise InvalidRequestError(f"images '{images}': expected one of {', '.join(IMAGES)}")
    chosen = list(range(len(sequence)) if indices is None else indices)
    if not chosen:
        raise InvalidRequestError(f"{sequence.folder}: no frame is left to be written")
    shift = max(0, FIRST_STAMP_NS - sequence.stamp_ns(chosen[0]))
    with BagWriter(path, storage) as writer:
        out = _SequenceTopics(writer, sequence, namespace.rstrip("/"), images == "compressed", damage is not None)
        out.announce(sequence.labels, sequence.stamp_ns(chosen[0]) + shift)
        for index in chosen:
            frame = sequence[index]
            instances, masks = frame.instances, frame.masks
            if damage is None:
                instances = None
            elif instances is not None:
                instances, masks = damage.apply(instances, masks, index)
            out.write(frame, instances, masks, frame.stamp_ns + shift)
            progress()
    return len(chosen)


class _SequenceTopics:
    """The topics of one camera in a bag."""

    def __init__(
        self, writer: BagWriter, sequence: FrameSequence, namespace: str, compressed: bool, masks: bool
    ) -> None:
        self._writer, self._compressed = writer, compressed
        kind = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
        ending = "/compressed" if compressed else ""
        self._names = {
            "color": f"{namespace}/color/image{ending}",
            "depth": f"{namespace}/depth/image{'/compressedDepth' if compressed else ''}",
            "instance": f"{namespace}/instance/image{ending}",
            "info": f"{namespace}/color/camera_info",
            "masks": f"{namespace}/instance/info",
            "labels": f"{namespace}/label_map",
        }
        writer.add_topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
        writer.add_topic("/tf", "tf2_msgs/msg/TFMessage")
        writer.add_topic(self._names["labels"], "gs_semantic/msg/LabelMap", latched=True)
        writer.add_topic(self._names["info"], "sensor_msgs/msg/CameraInfo")
        if sequence.has_depth:
            writer.add_topic(self._names["depth"], kind)
        if sequence.has_instances and masks:
            writer.add_topic(self._names["masks"], "gs_semantic/msg/MaskInfo")
            writer.add_topic(self._names["instance"], kind)
        writer.add_topic(self._names["color"], kind)

    def announce(self, labels: LabelSet, time_ns: int) -> None:
        """What is latched: the camera on the body, and the names of the classes."""
        writer, ids = self._writer, sorted(labels.names)
        self._transform("/tf_static", time_ns, FRAMES["body"], FRAMES["camera"], camera_on_body())
        names = writer.message(
            "gs_semantic/msg/LabelMap",
            header=writer.header(time_ns, FRAMES["camera"]),
            class_ids=np.array(ids, np.uint16),
            names=[labels.names[key] for key in ids],
            colors=palette(max(ids) + 1)[ids].reshape(-1),
        )
        writer.write(self._names["labels"], time_ns, names)

    def write(self, frame: Frame, instances: np.ndarray | None, masks: dict[int, MaskInfo], time_ns: int) -> None:
        """One frame, the colour image last."""
        writer = self._writer
        T_world_body = frame.camera.T_world_camera @ np.linalg.inv(camera_on_body())
        self._transform("/tf", time_ns, FRAMES["global"], FRAMES["body"], T_world_body)
        writer.write(self._names["info"], time_ns, self._camera_info(frame.camera, time_ns))
        if instances is not None:
            info = writer.message(
                "gs_semantic/msg/MaskInfo",
                header=writer.header(time_ns, FRAMES["camera"]),
                ids=np.array(list(masks), np.uint16),
                class_ids=np.array([mask.class_id for mask in masks.values()], np.uint16),
                scores=np.array([mask.score for mask in masks.values()], np.float32),
            )
            writer.write(self._names["masks"], time_ns, info)
            small = int(instances.max(initial=0)) <= 255
            pixels = instances.astype(np.uint8 if small else np.uint16)
            self._image("instance", pixels, "mono8" if small else "16UC1", time_ns)
        if frame.depth is not None:
            millimetres = np.round(np.where(np.isfinite(frame.depth), frame.depth, 0) * 1000)
            self._image("depth", np.where(millimetres <= 65535, millimetres, 0).astype(np.uint16), "16UC1", time_ns)
        self._image("color", frame.rgb, "rgb8", time_ns)

    def _image(self, name: str, pixels: np.ndarray, encoding: str, time_ns: int) -> None:
        writer, topic = self._writer, self._names[name]
        header = writer.header(time_ns, FRAMES["camera"])
        if not self._compressed:
            image = writer.message(
                "sensor_msgs/msg/Image",
                header=header,
                height=pixels.shape[0],
                width=pixels.shape[1],
                encoding=encoding,
                is_bigendian=0,
                step=pixels.shape[1] * pixels.itemsize * (pixels.shape[2] if pixels.ndim == 3 else 1),
                data=np.ascontiguousarray(pixels).reshape(-1).view(np.uint8),
            )
            writer.write(topic, time_ns, image)
            return
        text, head = f"{encoding}; png compressed", b""  # the words of ROS's image transports
        if name == "color":
            text = "rgb8; jpeg compressed bgr8"
            data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        else:
            data = cv2.imencode(".png", pixels)[1].tobytes()
        if name == "depth":
            text, head = f"{encoding}; compressedDepth png", struct.pack("<iff", 0, 0.0, 0.0)
        content = np.frombuffer(head + data, np.uint8)
        message = writer.message("sensor_msgs/msg/CompressedImage", header=header, format=text, data=content)
        writer.write(topic, time_ns, message)

    def _camera_info(self, camera: Camera, time_ns: int) -> Any:
        writer, projection = self._writer, np.zeros((3, 4))
        projection[:, :3] = camera.K
        region = writer.message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return writer.message(
            "sensor_msgs/msg/CameraInfo",
            header=writer.header(time_ns, FRAMES["camera"]),
            height=camera.height,
            width=camera.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=camera.K.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=projection.reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=region,
        )

    def _transform(self, topic: str, time_ns: int, parent: str, child: str, matrix: np.ndarray) -> None:
        message = self._writer.message
        x, y, z = matrix[:3, 3].tolist()
        qx, qy, qz, qw = Rotation.from_matrix(matrix[:3, :3]).as_quat().tolist()
        transform = message(
            "geometry_msgs/msg/Transform",
            translation=message("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=message("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
        )
        stamped = message(
            "geometry_msgs/msg/TransformStamped",
            header=self._writer.header(time_ns, parent),
            child_frame_id=child,
            transform=transform,
        )
        self._writer.write(topic, time_ns, message("tf2_msgs/msg/TFMessage", transforms=[stamped]))
