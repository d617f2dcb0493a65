"""A camera that can go wrong in ten ways, as a process of its own: the other half of the fault drill.

Plays frames of a recorded sequence to and fro with stamps of now. Commands come as words on stdin, one a line: the name
of a fault, or ``well``. Every change is answered on stdout by a JSON line, once the first frame after it has been sent.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from gs_semantic.data.formats import open_sequence
from gs_semantic.gaussians import Frame
from gs_semantic.msg import MaskInfo as MaskInfoMsg
from gs_semantic.nodes import conversions, images, qos

COLOUR, INFO, DEPTH, MASKS, MASK_INFO, TF = (
    *("color/image", "color/camera_info", "depth/image", "instance/image", "instance/info", "/tf"),
)
MAP_FRAME, CAMERA_FRAME = "map", "camera_optical_frame"
UNKNOWN_FRAME, DEPTH_FRAME = "unlinked_optical_frame", "depth_optical_frame"
TF_DELAY_S = 0.9  # longer than the mapper waits
STAMP_OFFSET_S = 0.037
JUMP_S = 30.0
BAD_ENCODING = "64FC3"
WELL = "well"

Messages = dict[str, Any]


class FaultyCamera(Node):
    """``fault`` names what is wrong at present; ``tick`` sends one frame."""

    def __init__(self, sequence: Path, frames: int, namespace: str, **options: Any) -> None:
        super().__init__("camera", namespace=namespace, **options)
        recorded = open_sequence(sequence)
        self._frames = [recorded[index] for index in range(min(frames, len(recorded)))]
        self._number = 0
        self.fault = WELL
        self._said = WELL
        self._offset_ns = 0
        self._late: list[tuple[float, TFMessage]] = []
        kinds = {COLOUR: Image, INFO: CameraInfo, DEPTH: Image, MASKS: Image, MASK_INFO: MaskInfoMsg, TF: TFMessage}
        self._out = {name: self.create_publisher(kind, name, self._profile(name)) for name, kind in kinds.items()}
        self._wrong: dict[str, Callable[[Messages], None]] = {
            "camera_info": lambda messages: messages.pop(INFO),
            "tf_missing": self._unknown_frame,
            "stamps": self._shift_depth,
            "encoding": self._change_encoding,
            "unregistered": self._unregister,
            "frame_id": self._empty_frame,
            "mask_size": self._shrink_masks,
        }

    @staticmethod
    def _profile(name: str, reliability: str = "reliable") -> QoSProfile:
        return qos.POSE if name == TF else qos.sensor_input(reliability)

    def command(self, word: str) -> None:
        """Begin a fault, or end it."""
        if "depth_qos" in (word, self.fault):
            self.destroy_publisher(self._out[DEPTH])
            reliability = "best_effort" if word == "depth_qos" else "reliable"
            self._out[DEPTH] = self.create_publisher(Image, DEPTH, self._profile(DEPTH, reliability))
        if word == "clock_back":
            self._offset_ns -= int(JUMP_S * 1e9)
        self.fault = word

    def tick(self) -> None:
        """Send one frame, and the transforms that are late by now."""
        stamp = time.time_ns() + self._offset_ns
        messages = self._messages(self._next_frame(), stamp)
        self._wrong.get(self.fault, lambda messages: None)(messages)
        if self.fault == "tf_late":
            self._late.append((time.monotonic() + TF_DELAY_S, messages.pop(TF)))
        elif self._late:
            self._late.clear()  # what comes now is newer
        while self._late and self._late[0][0] <= time.monotonic():
            self._out[TF].publish(self._late.pop(0)[1])
        begun = time.monotonic_ns()
        for name in (TF, INFO, DEPTH, MASK_INFO, MASKS, COLOUR):
            if name in messages:
                self._out[name].publish(messages[name])
        if self.fault != self._said:
            self._said = self.fault
            say("now", fault=self.fault, t_ns=begun, stamp_ns=stamp)

    def _next_frame(self) -> Frame:
        count = len(self._frames)
        place = self._number % max(2 * count - 2, 1)  # to and fro, so that the camera never jumps
        self._number += 1
        return self._frames[place if place < count else 2 * count - 2 - place]

    def _messages(self, frame: Frame, stamp_ns: int) -> Messages:
        def header() -> Any:
            return conversions.make_header(stamp_ns, CAMERA_FRAME)

        assert frame.depth is not None and frame.instances is not None
        transform = TransformStamped(header=conversions.make_header(stamp_ns, MAP_FRAME), child_frame_id=CAMERA_FRAME)
        transform.transform = conversions.write_transform(frame.camera.T_world_camera)
        return {
            TF: TFMessage(transforms=[transform]),
            INFO: conversions.write_camera(frame.camera, header()),
            DEPTH: conversions.write_image(np.asarray(frame.depth, np.float32), "32FC1", header()),
            COLOUR: conversions.write_image(np.ascontiguousarray(frame.rgb), "rgb8", header()),
            MASKS: conversions.write_image(frame.instances.astype(np.uint16), "16UC1", header()),
            MASK_INFO: conversions.write_masks(frame.masks, header()),
        }

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    @staticmethod
    def _unknown_frame(messages: Messages) -> None:
        for name in (COLOUR, DEPTH, INFO, MASKS):
            messages[name].header.frame_id = UNKNOWN_FRAME

    @staticmethod
    def _shift_depth(messages: Messages) -> None:
        stamp = conversions.to_ns(messages[DEPTH].header.stamp) + int(STAMP_OFFSET_S * 1e9)
        messages[DEPTH].header.stamp = conversions.to_stamp(stamp)

    @staticmethod
    def _change_encoding(messages: Messages) -> None:
        messages[COLOUR].encoding = BAD_ENCODING

    @staticmethod
    def _unregister(messages: Messages) -> None:
        """Depth as a camera beside the colour camera gives it, with nothing said about how they stand."""
        depth = images.read_depth(messages[DEPTH], DEPTH)
        small = cv2.resize(depth, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_NEAREST)
        header = messages[DEPTH].header
        header.frame_id = DEPTH_FRAME
        messages[DEPTH] = conversions.write_image(small, "32FC1", header)

    @staticmethod
    def _empty_frame(messages: Messages) -> None:
        messages[COLOUR].header.frame_id = ""

    @staticmethod
    def _shrink_masks(messages: Messages) -> None:
        masks = images.read_instances(messages[MASKS], MASKS).astype(np.uint16)
        messages[MASKS] = conversions.write_image(np.ascontiguousarray(masks[::2, ::2]), "16UC1", messages[MASKS].header)


def say(event: str, **details: Any) -> None:
    print(json.dumps({"event": event, **details}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gs_semantic.benchmarks.faulty_camera", description=__doc__)
    parser.add_argument("--sequence", type=Path, required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--rate-hz", type=float, default=5.0)
    options = parser.parse_args()
    rclpy.init()
    camera = FaultyCamera(options.sequence, options.frames, options.namespace)
    words: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            words.put(line.strip())

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    say("ready")
    period = 1 / options.rate_hz
    due = time.monotonic()
    try:
        while reading.is_alive():  # stdin is open: somebody commands
            while not words.empty():
                camera.command(words.get())
            camera.tick()
            due = max(due + period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
