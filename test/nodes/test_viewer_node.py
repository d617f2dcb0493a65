"""The viewer's side of ROS: the live map as the viewer sees it (the page itself: test/viewer/test_browser.py)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import numpy as np
import pytest
from gs_semantic.msg import ObjectList
from rclpy.parameter import Parameter
from rig import Rig

from gs_semantic.errors import MissingExtraError
from gs_semantic.nodes import qos
from gs_semantic.nodes.viewer_node import LiveSource, ViewerNode
from gs_semantic.objects.packing import unpack_objects


def test_the_live_map_and_its_objects(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(splats_hz=50.0)
    rig.map_scene()
    rig.settled()
    source = LiveSource(rig.node, "/rig/mapper")
    try:
        rig.until(lambda: len(source.newest().splats) == len(rig.mapper.view.gaussians), "the splats")
        rig.until(lambda: len(source.newest().objects) == 2, "the objects")
        snapshot = source.newest()
        assert source.newest() is snapshot and snapshot.frame_id == "map"
        assert {int(i) for i in np.unique(snapshot.splats["object_id"]) if i} == set(snapshot.objects)
        [lamp] = [obj for obj in snapshot.objects.values() if obj.class_name == "lamp"]
        source.rename(lamp.id, "reading lamp")
        rig.until(lambda: source.newest().objects[lamp.id].label == "reading lamp", "the new name")
        told: list[int] = []
        listen = rig.node.create_subscription(
            ObjectList, "mapper/selected_object", lambda msg: told.extend(obj.id for obj in unpack_objects(msg.data)), qos.LATCHED
        )
        source.select(lamp.id)
        rig.until(lambda: told == [lamp.id], "the selection")
        rig.node.destroy_subscription(listen)
    finally:
        source.close()


@pytest.mark.skipif(importlib.util.find_spec("viser") is None, reason="the extra 'viewer' is not installed (pip install viser)")
def test_the_node_serves_the_map_of_its_namespace(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(splats_hz=50.0)
    rig.map_scene()
    rig.settled()
    node = ViewerNode(context=rig.context, namespace="rig", parameter_overrides=[Parameter("port", value=0)])
    try:
        assert node.source.title == "/rig/mapper" and node.viewer.address.startswith("http://127.0.0.1:")
        rig.until(lambda: len(node.source.newest().splats) == len(rig.mapper.view.gaussians), "the splats")
    finally:
        node.destroy_node()


def test_without_viser_the_extra_is_named(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gs_semantic\[viewer\]'"):
        ViewerNode(context=rig.context, namespace="rig")
