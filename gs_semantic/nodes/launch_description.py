"""The bridge from the table of start arguments to ROS's launch; only launch files import it."""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, SetEnvironmentVariable
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gs_semantic.nodes.arguments import USES, NodeStart
from gs_semantic.nodes.environment import ros_environment

PATIENCE_S = 30  # a node may have to save its map after SIGINT


def describe(use_name: str) -> LaunchDescription:
    """The launch description of one use: its arguments, the DDS environment, its nodes."""
    use = USES[use_name]

    def start(context) -> list[Node]:
        given = {a.name: LaunchConfiguration(a.name).perform(context) for a in use.arguments}
        return [launch_node(node) for node in use.plan(given)]

    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            **({"choices": list(argument.choices)} if argument.choices else {}),
        )
        for argument in use.arguments
    ]
    environment = [SetEnvironmentVariable(name, value) for name, value in ros_environment().items()]
    return LaunchDescription([*declared, *environment, OpaqueFunction(function=start)])


def launch_node(node: NodeStart) -> Node:
    """The launch action of one planned node; the end of an essential node ends the launch."""
    return Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace,
        parameters=[str(layer) if not isinstance(layer, dict) else layer for layer in node.parameters],
        remappings=list(node.remappings),
        arguments=list(node.arguments),
        ros_arguments=["--log-level", node.log_level],
        output="screen",
        sigterm_timeout=str(PATIENCE_S),
        on_exit=[EmitEvent(event=Shutdown(reason=f"{node.name} has ended"))] if node.essential else None,
    )
