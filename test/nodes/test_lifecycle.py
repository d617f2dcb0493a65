"""The mapper as a lifecycle node, through the services that `ros2 lifecycle` uses."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rclpy
from gs_semantic.msg import Status
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.context import Context
from rclpy.parameter import Parameter
from rig import Rig

from gs_semantic.errors import GsSemanticError, MapFormatError
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.nodes.lifecycle import ManagedNode


def call(rig: Rig, kind: type[Any], name: str, request: Any) -> Any:
    client = rig.node.create_client(kind, f"/rig/mapper/{name}")
    assert client.wait_for_service(60)
    future = client.call_async(request)
    rig.until(future.done, name)
    rig.node.destroy_client(client)
    return future.result()


def change(rig: Rig, transition: str) -> bool:
    """As `ros2 lifecycle set` does; True when it succeeded."""
    return call(rig, ChangeState, "change_state", ChangeState.Request(transition=Transition(label=transition))).success


def state(rig: Rig) -> str:
    return call(rig, GetState, "get_state", GetState.Request()).current_state.label


def told_state(rig: Rig, wanted: int) -> Status:
    rig.until(lambda: rig.received["status"][-1].state == wanted, f"status {wanted}")
    return rig.received["status"][-1]


def test_the_whole_life(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make_rig(save_on_exit=str(tmp_path / "map"))
    assert state(rig) == "active"
    rig.map_scene()
    objects = rig.status_after().objects

    assert change(rig, "deactivate") and state(rig) == "inactive"
    told_state(rig, Status.STATE_INACTIVE)
    rig.until(lambda: rig.publishers["color/image"].get_subscription_count() == 0, "end of the subscription")
    with rig.planner() as planner:  # goes on answering
        assert len(planner.list_objects()) == objects

    assert change(rig, "activate")
    rig.connected()
    rig.map_scene()

    assert change(rig, "deactivate") and change(rig, "cleanup") and state(rig) == "unconfigured"
    assert not hasattr(rig.mapper, "mapper")  # freed
    assert len(load_map(tmp_path / "map")[0]) > 0  # and saved
    told_state(rig, Status.STATE_UNCONFIGURED)

    assert change(rig, "configure") and change(rig, "activate")
    rig.connected()
    rig.map_scene()
    assert change(rig, "shutdown") and state(rig) == "finalized"


def test_waits_without_autostart(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(autostart=False)
    assert state(rig) == "unconfigured"
    assert "mapper/list_objects" not in str(rig.node.get_service_names_and_types())
    # what is read when the node is configured may be set now
    [result] = rig.mapper.set_parameters([Parameter("global_frame", value="map")])
    assert result.successful, result.reason
    assert change(rig, "configure") and change(rig, "activate")
    rig.connected()
    rig.map_scene()


def test_a_map_that_cannot_be_loaded_leaves_the_node_unconfigured(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    (tmp_path / "map").mkdir()
    rig = make_rig(autostart=False, load_map=str(tmp_path / "map"))
    assert not change(rig, "configure")
    assert state(rig) == "unconfigured"
    assert isinstance(rig.mapper.transition_error, MapFormatError)
    rig.mapper.set_parameters([Parameter("load_map", value="")])
    assert change(rig, "configure") and change(rig, "activate")
    rig.connected()
    rig.map_scene()


def test_cleanup_keeps_a_map_that_cannot_be_saved(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    rig = make_rig(save_on_exit=str(file / "map"))
    rig.map_scene()
    assert change(rig, "deactivate")
    assert not change(rig, "cleanup")
    assert state(rig) == "inactive"
    with rig.planner() as planner:
        assert len(planner.list_objects()) == 2
    rig.mapper.set_parameters([Parameter("save_on_exit", value=str(tmp_path / "map"))])
    assert change(rig, "cleanup")
    assert len(load_map(tmp_path / "map")[0]) > 0


def test_a_wrong_start_ends_the_process_with_its_reason(ros_domain_id: int, make_rig: Callable[..., Rig]) -> None:
    with pytest.raises(GsSemanticError, match="cuda"):
        make_rig(device="cuda")


def test_a_destroyed_node_leaves_the_graph_at_once(rig: Rig) -> None:
    """Not only when Python's collector comes by: others would go on to see it, and its ports would stay taken."""

    def seen() -> bool:
        return ("leaver", "/rig") in rig.node.get_node_names_and_namespaces()

    context = Context()  # a participant of its own
    rclpy.init(context=context)
    gc.disable()
    try:
        node = ManagedNode("leaver", context=context, namespace="rig")
        rig.until(seen, "the node")
        node.destroy_node()
        rig.until(lambda: not seen(), "the node's end")
    finally:
        gc.enable()
        rclpy.try_shutdown(context=context)
