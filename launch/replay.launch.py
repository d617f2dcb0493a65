"""Plays a recorded sequence as a posed RGB-D camera with masks.

Show all arguments: ros2 launch gs_semantic replay.launch.py --show-args
"""

from gs_semantic.nodes.launch_description import describe


def generate_launch_description():
    return describe("replay")
