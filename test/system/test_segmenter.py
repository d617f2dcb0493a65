"""A recording without masks, through a segmenter and the mapper, to images of objects: as a user starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import rclpy
from gs_semantic.msg import InstanceInfo
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.environment import ros_environment
from gs_semantic.share import share_path

PATIENCE_S = 120.0


def test_masks_of_the_geometric_segmenter_become_objects(ros_domain_id, tmp_path, monkeypatch):
    for name, value in ros_environment().items():
        monkeypatch.setenv(name, value)
    source, folder = share_path("sample", "house"), tmp_path / "house"  # without its masks and its class names
    folder.mkdir()
    for name in ("rgb", "depth", "intrinsics.json", "traj.txt"):
        (folder / name).symlink_to(source / name)
    command = [sys.executable, "-m", "gs_semantic.cli", "run", "segment"]
    words = [f"sequence:={folder}", "segmenter:=geometric", "namespace:=segmented", "rate_hz:=3", "loop:=true"]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([*command, *words], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", context=context)
    masks, objects, infos = [], [], []
    node.create_subscription(Image, "/segmented/instance/image", masks.append, qos.sensor_input())
    node.create_subscription(Image, "/segmented/mapper/instance/image", objects.append, qos.IMAGE_OUTPUT)
    node.create_subscription(InstanceInfo, "/segmented/mapper/instance/info", infos.append, qos.IMAGE_OUTPUT)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        deadline, seen = time.monotonic() + PATIENCE_S, 0
        while (seen < 3 or not infos) and time.monotonic() < deadline and process.poll() is None:
            executor.spin_once(timeout_sec=0.5)
            if objects:
                seen = len(set(np.unique(conversions.read_instances(objects[-1], "objects"))) - {0})
        text = (tmp_path / "log").read_text()
        assert seen >= 3, text
        assert masks, text
        assert set(infos[-1].class_ids) <= {0}  # geometric masks have no class
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(PATIENCE_S)
        log.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    assert code == 0, (tmp_path / "log").read_text()

