"""What the mapper publishes, seen from outside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gs_semantic.msg import InstanceInfo, LabelMap, ObjectList, ObjectMasks
from rig import BOX_PIXEL, CAMERA, LAMP_PIXEL, WALL_PIXEL, Rig
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.view import MapView, pack_registry
from gs_semantic.nodes import conversions, outputs, qos
from gs_semantic.objects.packing import unpack_masks, unpack_objects
from gs_semantic.objects.registry import ObjectRegistry, ObjectState

IMAGES = ("semantic/image", "semantic/image_color", "semantic/confidence", "instance/image")


def latest(rig: Rig, name: str, condition: Callable[[object], bool] = lambda msg: True) -> object:
    rig.until(lambda: rig.received[name] and condition(rig.received[name][-1]), name)
    return rig.received[name][-1]


def test_images_have_the_stamp_and_frame_of_the_input(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(*IMAGES)
    stamp = rig.map_scene()
    encodings = {}
    for name in IMAGES:
        rig.answer(stamp, name)
        [msg] = [m for m in rig.received[name] if conversions.to_ns(m.header.stamp) == stamp]
        assert msg.header.frame_id == "camera"
        encodings[name] = msg.encoding
    assert encodings == dict(zip(IMAGES, ("mono8", "rgb8", "mono8", "16UC1"), strict=True))
    assert rig.answer(stamp, "semantic/confidence")[BOX_PIXEL[::-1]] > 128
    assert rig.answer(stamp, "semantic/confidence")[WALL_PIXEL[::-1]] == 0


def test_colours_are_those_of_the_label_map(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig("semantic/image", "semantic/image_color")
    rig.listen("label_map", LabelMap, qos.LATCHED_INPUT)
    labels = latest(rig, "label_map", lambda msg: 7 in msg.class_ids)
    assert dict(zip(labels.class_ids, labels.names, strict=True)) == {0: "void", 3: "box", 7: "lamp"}
    colours = np.frombuffer(labels.colors, np.uint8).reshape(-1, 3)
    stamp = rig.map_scene()
    shown = rig.answer(stamp, "semantic/image_color")
    np.testing.assert_array_equal(shown[LAMP_PIXEL[::-1]], colours[list(labels.class_ids).index(7)])
    np.testing.assert_array_equal(shown[WALL_PIXEL[::-1]], [0, 0, 0])


def test_instances_masks_and_objects_agree(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig("semantic/image", "instance/image")
    rig.listen("instance/info", InstanceInfo, qos.IMAGE_OUTPUT)
    rig.listen("object_masks", ObjectMasks, qos.IMAGE_OUTPUT)
    rig.listen("objects", ObjectList, qos.LATCHED)
    rig.map_scene()
    stamp = rig.map_scene()
    instance = rig.answer(stamp, "instance/image")
    info = latest(rig, "instance/info", lambda msg: conversions.to_ns(msg.header.stamp) == stamp)
    ids = dict(zip(info.values, info.object_ids, strict=True))
    assert sorted(ids) == [v for v in np.unique(instance) if v]
    masks = latest(rig, "object_masks", lambda msg: conversions.to_ns(msg.header.stamp) == stamp)
    unpacked = unpack_masks(masks.data)
    assert masks.count == len(unpacked) == 2
    for mask in unpacked:
        whole = np.zeros(instance.shape, bool)
        rows, columns = mask.mask.shape
        whole[mask.y : mask.y + rows, mask.x : mask.x + columns] = mask.mask
        np.testing.assert_array_equal(whole, instance == mask.slot)
        assert ids[mask.slot] == mask.id
    listed = latest(rig, "objects", lambda msg: msg.count == 2)
    assert listed.header.frame_id == "map"
    objects = unpack_objects(listed.data)
    assert {obj.id for obj in objects} == set(ids.values())
    assert {obj.label for obj in objects} == {"box", "lamp"}
    box = next(obj for obj in objects if obj.label == "box")
    expected = (np.array([*BOX_PIXEL]) - [CAMERA.cx, CAMERA.cy]) / CAMERA.fx * 1.8
    np.testing.assert_allclose(box.centroid, [*expected, 1.8], atol=0.05)


def test_points_of_the_image(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig("semantic/image")
    rig.listen("semantic/points", PointCloud2, qos.CLOUD_OUTPUT)
    stamp = rig.map_scene()
    cloud = latest(rig, "semantic/points", lambda msg: conversions.to_ns(msg.header.stamp) == stamp)
    assert (cloud.height, cloud.width, cloud.header.frame_id) == (120, 160, "camera")
    points = np.frombuffer(cloud.data, conversions.POINT).reshape(120, 160)
    at = points[LAMP_PIXEL[::-1]]
    assert at["label"] == 7
    np.testing.assert_allclose(at["z"], 1.8, atol=0.03)
    np.testing.assert_allclose(at["x"], (LAMP_PIXEL[0] - CAMERA.cx) / CAMERA.fx * at["z"], rtol=1e-4)
    assert at["rgb"] == 0x1E1EC8  # the input's colour


def test_points_of_the_map_are_latched_and_bounded(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(map_points_max=500, map_points_hz=10.0)
    rig.map_scene()
    rig.listen("map/points", PointCloud2, qos.LATCHED)  # comes late
    cloud = latest(rig, "map/points", lambda msg: msg.width > 0)
    assert cloud.header.frame_id == "map"
    assert 250 < cloud.width <= 500
    points = np.frombuffer(cloud.data, conversions.POINT)
    assert {0, 3, 7} == set(points["label"].tolist())
    assert np.all((points["z"] > 1.6) & (points["z"] < 2.2))


def test_nothing_is_rendered_without_a_subscriber(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(*())  # the rig listens to semantic/image by default
    rig.node.destroy_subscription(next(s for s in rig.node.subscriptions if s.topic_name.endswith("semantic/image")))
    rig.until(lambda: not rig.mapper.answerers[""].wanted, "end of the subscription")
    for count in (1, 2, 3):
        rig.send()  # one by one: the queue keeps the latest only
        rig.until(lambda count=count: rig.mapper.statistics.frames_mapped == count, f"frame {count}")
    assert rig.status_after().frames_answered == 0
    assert rig.status_after().gaussians > 0


def test_markers_are_updated_in_place(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(objects_hz=50.0)
    rig.listen("objects/markers", MarkerArray, qos.LATCHED)
    rig.map_scene()
    first = latest(rig, "objects/markers", lambda msg: len(msg.markers) == 4)
    assert {(m.ns, m.action) for m in first.markers} == {("boxes", Marker.ADD), ("names", Marker.ADD)}
    assert {m.text.split()[0] for m in first.markers if m.ns == "names"} == {"box", "lamp"}
    keys = {(m.ns, m.id) for m in first.markers}
    rig.map_scene()
    second = latest(rig, "objects/markers", lambda msg: msg is not first)
    assert {(m.ns, m.id, m.action) for m in second.markers} == {(ns, i, Marker.ADD) for ns, i in keys}
    rig.settled()  # a frame that is mapped only after the reset would bring both back
    rig.mapper.mapping.call(rig.mapper.reset)
    last = latest(rig, "objects/markers", lambda msg: {m.action for m in msg.markers} == {Marker.DELETE})
    assert {(m.ns, m.id) for m in last.markers} == keys


def test_objects_and_classes_in_vision_msgs(make_rig: Callable[..., Rig]) -> None:
    """The same content as in our own messages."""
    vision = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed")
    rig = make_rig(objects_hz=50.0)
    rig.listen("objects", ObjectList, qos.LATCHED)
    rig.listen("vision/objects", vision.Detection3DArray, qos.LATCHED)
    rig.listen("vision/label_info", vision.LabelInfo, qos.LATCHED)
    rig.map_scene()
    rig.settled()
    own = latest(rig, "objects", lambda msg: msg.count == 2)
    objects = {obj.id: obj for obj in unpack_objects(own.data)}
    found = latest(rig, "vision/objects", lambda msg: len(msg.detections) == 2)
    assert found.header.frame_id == own.header.frame_id
    info = latest(rig, "vision/label_info", lambda msg: len(msg.class_map) > 1)
    assert {entry.class_id: entry.class_name for entry in info.class_map} == {0: "void", 3: "box", 7: "lamp"}
    assert {int(entry.id) for entry in found.detections} == objects.keys()
    for entry in found.detections:
        obj, centre, size = objects[int(entry.id)], entry.bbox.center.position, entry.bbox.size
        assert int(entry.results[0].hypothesis.class_id) == obj.class_id
        np.testing.assert_allclose([centre.x, centre.y, centre.z], obj.box.centre, atol=1e-4)
        np.testing.assert_allclose([size.x, size.y, size.z], obj.box.size, atol=1e-4)


def test_slots_beyond_16_bits_are_numbered_in_each_image() -> None:
    objects = ObjectRegistry()
    near, far = objects.open(slot=5), objects.open(slot=100_000)
    near.state = far.state = ObjectState.CONFIRMED
    view = MapView.of(GaussianMap(), objects, 0, pack_registry(objects))
    image = np.array([[0, 5], [100_000, 5]], np.int32)
    values, slots = outputs.instance_values(image)
    assert values.dtype == np.uint16
    info = outputs.instance_info(slots, view, conversions.make_header(0, "c"))
    table = {0: 0, **dict(zip(info.values, info.object_ids, strict=True))}
    assert [[table[v] for v in row] for row in values.tolist()] == [[0, near.id], [far.id, near.id]]


def test_status_counts(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.map_scene()
    rig.settled()
    status = rig.status_when(lambda status: min(status.frames_mapped, status.frames_answered) >= 4, "four frames")
    assert (status.state_text, status.frames_received, status.frames_mapped, status.frames_answered) == ("mapping", 4, 4, 4)
    assert (status.objects, status.frames_dropped, status.invalid_inputs) == (2, 0, 0)
    assert status.gaussians == len(rig.mapper.mapper.gaussians) > 1000
    assert status.keyframes_integrated >= 3
    assert status.rss_mb > 100
    assert status.latency_p95_ms >= status.latency_p50_ms > 0


def test_status_says_what_is_missing_before_the_first_frame(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    assert rig.status_after().warnings == ["/rig/color/image: no message has come", "/rig/depth/image: no message has come"]


