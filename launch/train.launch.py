"""Trains a map with objects from a recorded sequence (`method:=gradiseg sequence:=...`); without one, waits for goals.

Show all arguments: ros2 launch gs_semantic train.launch.py --show-args
"""

from gs_semantic.nodes.launch_description import describe


def generate_launch_description():
    return describe("train")
