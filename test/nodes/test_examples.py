"""The example planner nodes, against a mapper that has mapped the made-up scene."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rig import BOX_PIXEL, CAMERA, LAMP_PIXEL, UPRIGHT, Rig
from std_msgs.msg import String

from gs_semantic.nodes import conversions, qos

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mapped(rig: Rig) -> Rig:
    """The scene as a robot sees it that stands on z = 0."""
    rig.pose = UPRIGHT
    rig.map_scene()
    rig.settled()
    return rig


def centre(pixel: tuple[int, int], depth: float = 1.8) -> np.ndarray:
    local = np.array([(pixel[0] - CAMERA.cx) / CAMERA.fx, (pixel[1] - CAMERA.cy) / CAMERA.fy, 1.0]) * depth
    return UPRIGHT[:3, :3] @ local + UPRIGHT[:3, 3]


def test_go_to_object(mapped: Rig) -> None:
    node = load("go_to_object").GoToObject("/rig/mapper", radius=0.2, context=mapped.context)
    try:
        goal = node.goal_for("lamp", robot=(0.5, 0.0))
    finally:
        node.close()
    assert goal.header.frame_id == "map"
    pose = conversions.read_pose(goal.pose, "goal")
    assert pose[0, 3] < 1.8, "before the wall"
    towards = centre(LAMP_PIXEL)[:2] - pose[:2, 3]
    np.testing.assert_allclose(pose[:2, 0], towards / np.linalg.norm(towards), atol=0.1)
    assert 0.3 < np.linalg.norm(towards) < 1.2


def test_on_the_table(mapped: Rig) -> None:
    """Nothing stands on the box, until it is said that the lamp does."""
    node = load("on_the_table").OnTheTable("/rig/mapper", "box", height=1.0, context=mapped.context)
    try:
        assert node.look() == []
        with mapped.planner() as planner:
            box, lamp = planner.find("box"), planner.find("lamp")
            motion = np.eye(4)
            motion[:3, 3] = box.box.centre - lamp.box.centre + [0.0, 0.0, 0.6]
            planner.move(lamp.id, motion)
        assert node.look() == [{"id": lamp.id, "label": "lamp"}]
        told: list[String] = []
        mapped.node.create_subscription(String, "/on_the_table/contents", told.append, qos.LATCHED_INPUT)
        mapped.until(lambda: told, "contents")
        assert json.loads(told[-1].data)["on_it"] == [{"id": lamp.id, "label": "lamp"}]
    finally:
        node.close()


def test_collision_object(mapped: Rig) -> None:
    node = load("collision_object").CollisionObjectPublisher("/rig/mapper", clearance=0.05, context=mapped.context)
    try:
        marker = node.publish("box")
        with mapped.planner() as planner:
            box = planner.find("box").box
    finally:
        node.close()
    np.testing.assert_allclose([marker.scale.x, marker.scale.y, marker.scale.z], box.size + 0.1, atol=1e-5)
    np.testing.assert_allclose([marker.pose.position.x, marker.pose.position.y], centre(BOX_PIXEL)[:2], atol=0.05)
