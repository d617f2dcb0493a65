"""Bags for tests: what a robot's recorder would have written, from the little scene of blobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from blobs import CAMERA, FRAMES, Blobs
from scipy.spatial.transform import Rotation

from gs_semantic.data.bag_writer import BagWriter

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
CAMERA_FRAME = "camera_optical"
T_BODY_CAMERA = np.eye(4)
T_BODY_CAMERA[:3, :3] = Rotation.from_euler("xyz", [-90, 0, -90], degrees=True).as_matrix()
T_BODY_CAMERA[:3, 3] = [0.2, 0.0, 0.7]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
TF = "tf2_msgs/msg/TFMessage"
ODOM = "nav_msgs/msg/Odometry"
POSE = "geometry_msgs/msg/PoseStamped"


def stamp_of(index: int) -> int:
    return START_NS + index * PERIOD_NS


class Recorder:
    """A BagWriter with the messages of a robot."""

    def __init__(self, path: Path, storage: str = "mcap") -> None:
        self.writer = BagWriter(path, storage)
        self._known: set[str] = set()

    def __enter__(self) -> Recorder:  # noqa: PYI034
        self.writer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.__exit__(*error)

    def write(self, topic: str, kind: str, stamp_ns: int, message: Any, latched: bool = False) -> None:
        if topic not in self._known:
            self._known.add(topic)
            self.writer.add_topic(topic, kind, latched)
        self.writer.write(topic, stamp_ns, message)

    def image(self, topic: str, stamp_ns: int, pixels: np.ndarray, encoding: str, frame: str = CAMERA_FRAME) -> None:
        message = self.writer.message(
            IMAGE,
            header=self.writer.header(stamp_ns, frame),
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=pixels[0].nbytes,
            data=np.ascontiguousarray(pixels).reshape(-1).view(np.uint8),
        )
        self.write(topic, IMAGE, stamp_ns, message)

    def jpeg(self, topic: str, stamp_ns: int, rgb: np.ndarray, text: str = "jpeg") -> None:
        data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].reshape(-1)
        header = self.writer.header(stamp_ns, CAMERA_FRAME)
        self.write(topic, COMPRESSED, stamp_ns, self.writer.message(COMPRESSED, header=header, format=text, data=data))

    def info(
        self, topic: str, stamp_ns: int, blobs: Blobs, model: str = "plumb_bob", frame: str = CAMERA_FRAME
    ) -> None:
        projection = np.zeros((3, 4))
        projection[:, :3] = blobs.camera.K
        region = self.writer.message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        message = self.writer.message(
            INFO,
            header=self.writer.header(stamp_ns, frame),
            height=blobs.camera.height,
            width=blobs.camera.width,
            distortion_model=model,
            d=np.asarray(blobs.coefficients, np.float64),
            k=blobs.camera.K.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=projection.reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=region,
        )
        self.write(topic, INFO, stamp_ns, message)

    def transform(
        self, topic: str, stamp_ns: int, parent: str, child: str, matrix: np.ndarray, length: float = 1.0
    ) -> None:
        message = self.writer.message
        translation, rotation = self._parts(matrix, length)
        stamped = message(
            "geometry_msgs/msg/TransformStamped",
            header=self.writer.header(stamp_ns, parent),
            child_frame_id=child,
            transform=message("geometry_msgs/msg/Transform", translation=translation, rotation=rotation),
        )
        self.write(topic, TF, stamp_ns, message(TF, transforms=[stamped]), latched=topic == "/tf_static")

    def _parts(self, matrix: np.ndarray, length: float = 1.0, point: str = "Vector3") -> tuple[Any, Any]:
        x, y, z = matrix[:3, 3].tolist()
        qx, qy, qz, qw = (Rotation.from_matrix(matrix[:3, :3]).as_quat() * length).tolist()
        message = self.writer.message
        return (
            message(f"geometry_msgs/msg/{point}", x=x, y=y, z=z),
            message("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
        )

    def _pose(self, matrix: np.ndarray) -> Any:
        position, orientation = self._parts(matrix, point="Point")
        return self.writer.message("geometry_msgs/msg/Pose", position=position, orientation=orientation)

    def pose(self, topic: str, stamp_ns: int, matrix: np.ndarray) -> None:
        header = self.writer.header(stamp_ns, "map")
        self.write(topic, POSE, stamp_ns, self.writer.message(POSE, header=header, pose=self._pose(matrix)))

    def odometry(self, topic: str, stamp_ns: int, matrix: np.ndarray, child: str = "base_link") -> None:
        message = self.writer.message
        zero = message("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
        twist = message("geometry_msgs/msg/Twist", linear=zero, angular=zero)
        odometry = message(
            ODOM,
            header=self.writer.header(stamp_ns, "odom"),
            child_frame_id=child,
            pose=message("geometry_msgs/msg/PoseWithCovariance", pose=self._pose(matrix), covariance=np.zeros(36)),
            twist=message("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
        )
        self.write(topic, ODOM, stamp_ns, odometry)


def write_bag(
    path: Path,
    blobs: Blobs | None = None,
    *,
    storage: str = "mcap",
    poses: str = "tf",
    model: str = "plumb_bob",
    change: Callable[[Recorder, int], None] | None = None,
    frames: int = FRAMES,
) -> Blobs:
    """A bag as a RealSense-like camera on a robot would leave it; ``change`` adds to it after every frame."""
    blobs = blobs or Blobs()
    with Recorder(path, storage) as recorder:
        recorder.transform("/tf_static", stamp_of(0), "base_link", CAMERA_FRAME, T_BODY_CAMERA)
        for i in range(frames):
            k, stamp = i % FRAMES, stamp_of(i)
            T_world_body = blobs.poses[k] @ np.linalg.inv(T_BODY_CAMERA)
            if poses == "tf":
                recorder.transform("/tf", stamp, "map", "base_link", T_world_body)
            elif poses == "odom":
                recorder.odometry("/odom", stamp, T_world_body)
            elif poses == "pose":
                recorder.pose("/slam/pose", stamp, blobs.poses[k])
            recorder.info("/camera/color/camera_info", stamp, blobs, model)
            recorder.image("/camera/color/image_raw", stamp, blobs.image(k)[..., ::-1], "bgr8")
            depth = (blobs.depth(k) * 1000).astype(np.uint16)
            recorder.image("/camera/aligned_depth_to_color/image_raw", stamp + 2_000_000, depth, "16UC1")
            recorder.image("/camera/depth/image_rect_raw", stamp, depth[::2, ::2], "16UC1", "camera_depth_optical")
            recorder.image("/camera/infra1/image_rect_raw", stamp, depth.astype(np.uint8), "mono8", "camera_infra1")
            recorder.info("/camera/depth/camera_info", stamp, Blobs(camera=CAMERA.resized(80, 60)), "plumb_bob")
            if change is not None:
                change(recorder, i)
    return blobs
