"""docs/interfaces.md says what the running nodes do: every name, type, QoS and parameter."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from gs_semantic.errors import ErrorCode
from gs_semantic.nodes import qos
from gs_semantic.nodes.mapper_node import MapperNode
from gs_semantic.nodes.replay_node import ReplayNode
from gs_semantic.objects import packing, splats

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "interfaces.md").read_text(encoding="utf-8")
SOURCES = ("tf", "odom", "pose")


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    section = PAGE.split(f"\n{heading}\n", 1)[1]
    lines = section[section.index("\n|") + 1 :].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def documented(heading: str) -> dict[str, tuple[str, str]]:
    return {name.strip("`"): (kind, quality) for name, kind, quality, _ in rows(heading)}


def published_by_the_mapper() -> dict[str, tuple[str, str]]:
    more = documented("## mapper: the same in vision_msgs") if find_spec("vision_msgs") else {}
    return documented("## mapper: topics it publishes") | more


def heard_by_the_mapper() -> dict[str, tuple[str, str]]:
    more = documented("Only where the package vision_msgs is installed, in addition:") if find_spec("vision_msgs") else {}
    return documented("## mapper: topics it listens to") | more


def in_time(look: Callable[[], dict[str, Any]], complete: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What a look into ROS's graph gives once it is complete: discovery, of one's own endpoints too, takes its time.

    After two minutes, what there is, so that the comparison shows what is missing.
    """
    deadline = time.monotonic() + 120
    while not complete(found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@pytest.fixture
def make_node(ros_domain_id: int) -> Iterator[Callable[..., Any]]:
    context = Context()
    rclpy.init(context=context)
    made: list[Node] = []

    def make(kind: type[Node], **parameters: Any) -> Node:
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        made.append(kind(context=context, namespace="ns", parameter_overrides=overrides))
        return made[-1]

    yield make
    for node in made:
        node.destroy_node()
    rclpy.try_shutdown(context=context)


def endpoints(node: Node, entries: Any) -> dict[str, tuple[str, str]]:
    """Name -> type and QoS of a node's publishers or subscriptions, named as on the page."""
    own, namespace = f"/ns/{node.get_name()}/", "/ns/"
    out = {}
    for entry in entries:
        name = entry.topic_name
        if name in ("/rosout", "/parameter_events", "/clock"):
            continue
        if name.startswith(own):
            name = "~/" + name.removeprefix(own)
        else:
            name = name.removeprefix(namespace)
        kind = entry.msg_type
        out[name] = (f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}", qos.describe(entry.qos_profile))
    return out


def test_topics_of_the_mapper(make_node: Callable[..., Any]) -> None:
    listens: dict[str, tuple[str, str]] = {}
    for source in SOURCES:
        node = make_node(MapperNode, pose_source=source)
        listens |= endpoints(node, node.subscriptions)
        assert endpoints(node, node.publishers) == published_by_the_mapper()
    assert listens == heard_by_the_mapper()


def test_topics_of_the_replay(make_node: Callable[..., Any]) -> None:
    publishes: dict[str, tuple[str, str]] = {}
    for source in SOURCES:
        node = make_node(ReplayNode, pose_source=source, sequence=str(ROOT / "sample" / "house"))
        publishes |= endpoints(node, node.publishers)
        node.close()
    assert publishes == documented("## replay: topics it publishes")


def test_services_of_the_mapper(make_node: Callable[..., Any]) -> None:
    node = make_node(MapperNode)
    parameters = re.compile(
        r".*/(describe|get|list|set)_parameter.*|.*/get_type_description|.*/(change_state|get_state|get_\w+_(states|transitions|graph))"
        r"|.*/train/_action/.*"  # what the action is made of
    )
    expected = {name.strip("`"): kind for name, kind, _ in rows("## mapper: services")}

    def found() -> dict[str, str]:
        listed = node.get_service_names_and_types_by_node("mapper", "/ns")
        return {"~/" + n.removeprefix("/ns/mapper/"): kinds[0] for n, kinds in listed if not parameters.match(n)}

    assert in_time(found, lambda services: len(services) >= len(expected)) == expected


def test_names_seen_by_others(make_node: Callable[..., Any], make_rig: Callable[..., Any]) -> None:
    """The same through ROS's graph, from another node: nothing absolute but /tf."""
    rig = make_rig()
    expected = published_by_the_mapper()
    of_every_node = {"/rosout", "/parameter_events", "/rig/mapper/transition_event"}
    of_every_node |= {f"/rig/mapper/train/_action/{name}" for name in ("feedback", "status")}

    def others() -> dict[str, list[str]]:
        return dict(rig.node.get_publisher_names_and_types_by_node("mapper", "/rig"))

    everything = in_time(others, lambda names: len(names) >= len(expected) + len(of_every_node))
    seen = {name: kinds for name, kinds in everything.items() if name not in of_every_node}
    assert {name.replace("/rig/mapper/", "~/"): kinds[0] for name, kinds in seen.items()} == {
        name: kind for name, (kind, _) in expected.items()
    }
    for name, (_, quality) in expected.items():
        [info] = rig.node.get_publishers_info_by_topic(name.replace("~/", "/rig/mapper/"))
        assert qos.describe(info.qos_profile).split(", ")[:2] == quality.split(", ")[:2]


def test_parameters_are_described_in_the_node(make_node: Callable[..., Any]) -> None:
    node = make_node(MapperNode)
    descriptor = node.describe_parameter("sync_slop_s")
    assert "[s]" in descriptor.description and "at any time" in descriptor.additional_constraints
    assert "configured" in node.describe_parameter("pose_source").additional_constraints
    assert (descriptor.floating_point_range[0].from_value, descriptor.floating_point_range[0].to_value) == (0.0, 1.0)


@pytest.mark.parametrize("heading, dtype", [
    ("### Packed objects", packing.OBJECT), ("### Packed Gaussians", packing.GAUSSIAN), ("### Packed masks", packing.MASK),
    ("### Packed splats", splats.SPLAT),
])  # fmt: skip
def test_layouts(heading: str, dtype: Any) -> None:
    names = {"u": "uint", "i": "int", "f": "float"}
    found = []
    for name in dtype.names:
        kind, offset = dtype.fields[name][:2]
        text = f"{names[kind.base.kind]}{8 * kind.base.itemsize}" + (f"[{kind.shape[0]}]" if kind.shape else "")
        found.append([str(offset), text, f"`{name}`"])
    assert [row[:3] for row in rows(heading)] == found


def test_error_codes() -> None:
    assert [row[:2] for row in rows("## mapper: services") if row[0].isdigit()] == []
    text = PAGE.split("## mapper: services", 1)[1].split("\n## ", 1)[0]
    listed = re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)
    assert listed == [(str(int(code)), code.name) for code in ErrorCode]
