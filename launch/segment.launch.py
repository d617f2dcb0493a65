"""Live semantic mapping of a robot's camera, or of a recorded sequence (`sequence:=...`).

Show all arguments: ros2 launch gs_semantic segment.launch.py --show-args
"""

from gs_semantic.nodes.launch_description import describe


def generate_launch_description():
    return describe("segment")
