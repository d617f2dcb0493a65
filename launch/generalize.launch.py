"""Labels a scene that was never seen (`checkpoint:=gnesf.pt sequence:=sample/house`), or learns from rooms
(`task:=train method:=gnesf rooms:=rooms`); without, waits for goals.

Show all arguments: ros2 launch gs_semantic generalize.launch.py --show-args
"""

from gs_semantic.nodes.launch_description import describe


def generate_launch_description():
    return describe("generalize")
