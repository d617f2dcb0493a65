"""What the mapper publishes. Nothing is computed for a topic without a subscriber."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from geometry_msgs.msg import Point, Quaternion, Vector3
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from gs_semantic.gaussians import Frame
from gs_semantic.gaussians.gaussian_map import sh_to_rgb
from gs_semantic.labels import OBJECT_COLOURS, VOID, LabelSet, palette
from gs_semantic.mapping.events import LabelImages
from gs_semantic.mapping.view import MapView
from gs_semantic.msg import InstanceInfo, LabelMap, ObjectEvent, ObjectList, ObjectMasks, Status
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.budgets import Bandwidth
from gs_semantic.nodes.conversions import POINT
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.region_messages import to_vector
from gs_semantic.nodes.statistics import Statistics
from gs_semantic.objects.events import ObjectEvent as Happening
from gs_semantic.objects.packing import matrix_to_quaternion, pack_masks
from gs_semantic.objects.registry import MapObject, ObjectRegistry

if TYPE_CHECKING:
    from gs_semantic.nodes.vision import VisionPublisher

LARGEST_VALUE = 65535  # of a 16UC1 pixel


def instance_values(instance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel values uint16 (H,W) of an image of slots, and the slots (V,) of the values that occur.

    Values are the slots themselves while they fit 16 bits; else they are numbered in this image.
    """
    if instance.max(initial=0) <= LARGEST_VALUE:
        values = instance.astype(np.uint16)
        present = np.flatnonzero(np.bincount(values.reshape(-1)))
        return values, present[present != VOID]
    slots, dense = np.unique(instance, return_inverse=True)
    shift = int(slots[0] != VOID)
    return (dense.reshape(instance.shape) + shift).astype(np.uint16), slots[slots != VOID]


def instance_info(slots: np.ndarray, view: MapView, header: Header) -> InstanceInfo:
    """The table beside an instance image; ``slots`` as ``instance_values`` returns them."""
    direct = slots.max(initial=0) <= LARGEST_VALUE
    return InstanceInfo(
        header=header,
        map_revision=view.revision,
        values=slots.tolist() if direct else list(range(1, len(slots) + 1)),
        object_ids=view.ids[slots].tolist(),
        class_ids=view.classes[slots].tolist(),
    )


class Wire:
    """Publishes bulk data of one class of traffic, and counts it: once per subscriber, as if all were elsewhere."""

    def __init__(self, name: str, bandwidth: Bandwidth, statistics: Statistics) -> None:
        self._name, self._bandwidth, self._statistics = name, bandwidth, statistics

    @property
    def allowance(self) -> float:
        """Bytes that may be sent now; not positive: wait."""
        return self._bandwidth.allowance(self._name)

    def publish(self, publisher: Publisher, msg: Any) -> None:
        size = len(msg.data) * publisher.get_subscription_count()
        publisher.publish(msg)
        self._bandwidth.spend(self._name, size)
        self._statistics.sent(size)


class Answerer:
    """Publishes label images for the frames of one camera, below its name where there are several."""

    def __init__(self, node: Node, wire: Wire, camera: str = "") -> None:
        prefix = f"~/{camera}/" if camera else "~/"

        def images(name: str) -> Publisher:
            return node.create_publisher(Image, prefix + name, qos.IMAGE_OUTPUT)

        self._semantic, self._colour = images("semantic/image"), images("semantic/image_color")
        self._confidence, self._instance = images("semantic/confidence"), images("instance/image")
        self._info = node.create_publisher(InstanceInfo, prefix + "instance/info", qos.IMAGE_OUTPUT)
        self._masks = node.create_publisher(ObjectMasks, prefix + "object_masks", qos.IMAGE_OUTPUT)
        self._points = node.create_publisher(PointCloud2, prefix + "semantic/points", qos.CLOUD_OUTPUT)
        self._camera = node.create_publisher(CameraInfo, prefix + "semantic/camera_info", qos.IMAGE_OUTPUT)
        self._wire = wire
        self._all = (
            *(self._semantic, self._colour, self._confidence, self._instance, self._camera),
            *(self._info, self._masks, self._points),
        )
        self._palette = palette(256)
        self._rays: tuple[tuple[float, ...], np.ndarray, np.ndarray] | None = None

    def close(self, node: Node) -> None:
        for publisher in self._all:
            node.destroy_publisher(publisher)

    @property
    def wanted(self) -> bool:
        """Does anybody listen?"""
        return any(map(listened_to, self._all))

    def publish(self, answer: LabelImages, frame: Frame, view: MapView) -> None:
        header = conversions.make_header(answer.stamp_ns, frame.frame_id)
        if listened_to(self._camera):
            self._camera.publish(conversions.write_camera(answer.camera, header))
        if listened_to(self._semantic):
            encoding = conversions.semantic_encoding(view.labels)
            self._wire.publish(self._semantic, conversions.write_classes(answer.semantic, encoding, header))
        if listened_to(self._instance) or listened_to(self._info):
            values, slots = instance_values(answer.instance)
            self._wire.publish(self._instance, conversions.write_image(values, "16UC1", header))
            self._info.publish(instance_info(slots, view, header))
        if listened_to(self._confidence):
            self._wire.publish(self._confidence, conversions.write_image(answer.confidence, "mono8", header))
        if listened_to(self._colour):
            self._wire.publish(
                self._colour, conversions.write_image(self.class_colours(answer.semantic), "rgb8", header)
            )
        if listened_to(self._masks):
            height, width = answer.instance.shape
            data = pack_masks(answer.instance, answer.confidence, view.ids, view.classes)
            self._wire.publish(
                self._masks,
                ObjectMasks(
                    header=header,
                    map_revision=view.revision,
                    width=width,
                    height=height,
                    count=int.from_bytes(data[8:12], "little"),
                    data=conversions.to_bytes_field(data),
                ),
            )
        if listened_to(self._points):
            self._wire.publish(self._points, conversions.write_cloud(self._cloud(answer, frame), header))

    def class_colours(self, semantic: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3)."""
        largest = int(semantic.max(initial=0))
        if largest >= len(self._palette):
            self._palette = palette(2 * largest)
        return self._palette[semantic]

    def _cloud(self, answer: LabelImages, frame: Frame) -> np.ndarray:
        """Records (H, W) in the camera's frame, NaN where the map shows nothing."""
        camera = answer.camera
        key = (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        if self._rays is None or self._rays[0] != key:
            x = (np.arange(camera.width, dtype=np.float32) - camera.cx) / camera.fx
            y = (np.arange(camera.height, dtype=np.float32) - camera.cy) / camera.fy
            self._rays = (key, x[None, :].astype(np.float32), y[:, None].astype(np.float32))
        z = np.where(answer.depth > 0, answer.depth, np.nan).astype(np.float32)
        points = np.zeros(z.shape, POINT)
        points["x"], points["y"], points["z"] = self._rays[1] * z, self._rays[2] * z, z
        points["rgb"] = conversions.packed_rgb(frame.rgb)
        points["label"], points["instance"] = answer.semantic, answer.instance
        points["confidence"] = answer.confidence * np.float32(1 / 255)
        return points


class MapPublisher:
    """Publishes the map itself: objects, markers, cloud, label names; latched, on change, at bounded rates."""

    def __init__(self, node: Node, parameters: NodeParameters, wire: Wire) -> None:
        self._wire = wire
        self._points = node.create_publisher(PointCloud2, "~/map/points", qos.LATCHED)
        self._objects = node.create_publisher(ObjectList, "~/objects", qos.LATCHED)
        self._markers = node.create_publisher(MarkerArray, "~/objects/markers", qos.LATCHED)
        self._labels = node.create_publisher(LabelMap, "~/label_map", qos.LATCHED)
        self._events = node.create_publisher(ObjectEvent, "~/object_events", qos.EVENTS)
        self._selected = node.create_publisher(ObjectList, "~/selected_object", qos.LATCHED)
        self._vision = _make_vision(node)
        self._parameters = parameters
        self._due = {self._points: _Due(), self._objects: _Due(), self._markers: _Due()}
        if self._vision is not None:
            self._due[self._vision.objects] = _Due()
        self._shown: set[int] = set()  # slots that have a marker
        self._palette = palette(OBJECT_COLOURS)

    def close(self, node: Node) -> None:
        for publisher in (
            *(self._points, self._objects, self._markers, self._labels, self._events, self._selected),
        ):
            node.destroy_publisher(publisher)
        if self._vision is not None:
            self._vision.close(node)

    def labels(self, labels: LabelSet, header: Header) -> None:
        colours = palette(max(labels.names, default=0) + 1)
        self._labels.publish(conversions.write_label_map(labels, colours, header))
        if self._vision is not None:
            self._vision.publish_labels(labels, header)

    def update(
        self, view: MapView, objects: ObjectRegistry, key: int, header: Header, selected: int = 0
    ) -> None:
        """Publish what has changed and is due. ``key`` changes when the objects, or the selected one, do."""
        objects_s, points_s = 1 / self._parameters.objects_hz, 1 / self._parameters.map_points_hz
        if listened_to(self._objects) and self._due[self._objects].take(key, objects_s):
            self._wire.publish(
                self._objects,
                ObjectList(
                    header=header,
                    map_revision=view.revision,
                    count=len(view.objects),
                    data=conversions.to_bytes_field(view.objects.to_bytes()),
                ),
            )
        if listened_to(self._markers) and self._due[self._markers].take(key, objects_s):
            self._markers.publish(self.markers(objects.present(), objects, header, selected))
        vision = self._vision
        if vision is not None and listened_to(vision.objects) and self._due[vision.objects].take(key, objects_s):
            vision.publish_objects(objects.present(), header)
        wanted = listened_to(self._points) and self._wire.allowance > 0
        if wanted and self._due[self._points].take(view.revision, points_s):
            self._wire.publish(self._points, conversions.write_cloud(self.cloud(view), header))

    def events(self, events: Iterable[Happening], revision: int, header: Header) -> None:
        """Tell what happened to objects, at once and in order."""
        for event in events:
            self._events.publish(
                ObjectEvent(
                    header=header,
                    map_revision=revision,
                    kind=int(event.kind),
                    object_id=event.object_id,
                    others=list(event.others),
                    class_id=event.class_id,
                    label=event.label,
                    old_label=event.old_label,
                    position=to_vector(Point, event.position),
                    old_position=to_vector(Point, (0, 0, 0) if event.old_position is None else event.old_position),
                )
            )

    def selected(self, view: MapView, object_id: int, header: Header) -> None:
        """Tell which object is selected (none: an empty list)."""
        index = np.flatnonzero((view.objects.records["id"] == object_id) & (object_id > 0))
        data = conversions.to_bytes_field(view.objects.to_bytes(index))
        self._selected.publish(ObjectList(header=header, map_revision=view.revision, count=len(index), data=data))

    def markers(
        self, present: Iterable[MapObject], objects: ObjectRegistry, header: Header, selected: int = 0
    ) -> MarkerArray:
        """A box and a name per object, updated in place, that of the selected id lit; DELETE for those that vanished."""
        out: list[Marker] = []
        slots: set[int] = set()
        for obj in present:
            if obj.box is None:
                continue
            slots.add(obj.slot)
            red, green, blue = (self._palette[obj.slot % OBJECT_COLOURS] / 255.0).tolist()
            x, y, z = obj.box.centre.tolist()
            box = Marker(header=header, ns="boxes", id=obj.slot, type=Marker.CUBE, action=Marker.ADD)
            box.pose.position = Point(x=x, y=y, z=z)
            qx, qy, qz, qw = matrix_to_quaternion(obj.box.rotation).tolist()
            box.pose.orientation = Quaternion(x=qx, y=qy, z=qz, w=qw)
            sx, sy, sz = np.maximum(obj.box.size, 0.001).tolist()
            box.scale = Vector3(x=sx, y=sy, z=sz)
            box.color = ColorRGBA(r=red, g=green, b=blue, a=0.3)
            if obj.id == selected:
                box.color = ColorRGBA(r=1.0, g=0.9, b=0.0, a=0.8)
            text = Marker(header=header, ns="names", id=obj.slot, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
            text.pose.position = Point(x=x, y=y, z=z + sz / 2 + 0.08)
            text.pose.orientation.w = 1.0
            text.scale.z = 0.12
            text.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
            text.text = f"{objects.class_name(obj)} {obj.id}"
            out += [box, text]
        for slot in sorted(self._shown - slots):
            out += [Marker(header=header, ns=ns, id=slot, action=Marker.DELETE) for ns in ("boxes", "names")]
        self._shown = slots
        return MarkerArray(markers=out)

    def cloud(self, view: MapView) -> np.ndarray:
        """Centres of the Gaussians (N,) as records; an even selection when there are more than the limit."""
        step = max(1, -(-len(view.gaussians) // self._parameters.map_points_max))
        return map_cloud(view, torch.arange(0, len(view.gaussians), step))


def map_cloud(view: MapView, rows: torch.Tensor) -> np.ndarray:
    """Centres of Gaussians ``rows`` (M,) as records ``POINT``."""
    gaussians = view.gaussians
    points = np.zeros(len(rows), POINT)
    means = gaussians.means[rows].numpy()
    points["x"], points["y"], points["z"] = means[:, 0], means[:, 1], means[:, 2]
    rgb = (sh_to_rgb(gaussians.sh[rows, 0]).clamp(0, 1) * 255).to(torch.uint8).numpy()
    points["rgb"] = conversions.packed_rgb(rgb)
    slots = gaussians["object"][rows].numpy()
    points["label"] = view.classes[slots]
    points["instance"] = np.where(view.ids[slots] > 0, slots, VOID)
    points["confidence"] = gaussians.opacity_logits[rows].sigmoid().numpy() * (points["instance"] > 0)
    return points


def _make_vision(node: Node) -> VisionPublisher | None:
    if importlib.util.find_spec("vision_msgs") is None:
        return None
    from gs_semantic.nodes.vision import VisionPublisher

    return VisionPublisher(node)


class StatusPublisher:
    def __init__(self, node: Node) -> None:
        self._publisher = node.create_publisher(Status, "~/status", qos.STATUS)

    def publish(self, status: Status) -> None:
        self._publisher.publish(status)


class _Due:
    """True when something has changed and the last time is long enough ago."""

    def __init__(self) -> None:
        self._last, self._key = float("-inf"), -1

    def take(self, key: int, period_s: float) -> bool:
        now = time.monotonic()
        if key == self._key or now - self._last < period_s:
            return False
        self._key, self._last = key, now
        return True


def listened_to(publisher: Publisher) -> bool:
    return publisher.get_subscription_count() > 0
