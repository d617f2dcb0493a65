"""A live copy of the mapper's Gaussians, from ~/splats.

with SplatStream() as stream:
    stream.wait()
    print(len(stream.splats), stream.splats["position"].mean(0))
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from gs_semantic.errors import GsSemanticError, InvalidInputError
from gs_semantic.msg import SplatChunk
from gs_semantic.nodes import qos
from gs_semantic.objects.splats import Chunk, SplatCopy
from gs_semantic.srv import Control

if TYPE_CHECKING:
    from typing_extensions import Self

ASK_AGAIN_S = 2.0


class SplatStream:
    """Follows a mapper's map. When a chunk was lost, it asks for the whole map again by itself."""

    def __init__(self, name: str = "/gs_semantic/mapper", domain_id: int | None = None) -> None:
        self._name = name.rstrip("/")
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = rclpy.create_node("splat_stream", context=self._context, use_global_arguments=False)
        self._copy = SplatCopy()
        self._changed = threading.Condition()
        self._asked = float("-inf")
        self.bytes_received = 0
        self.frame_id = ""
        self._send = self._node.create_client(Control, f"{self._name}/send_splats")
        self._node.create_subscription(SplatChunk, f"{self._name}/splats", self._take, qos.SPLATS)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="splats", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave ROS; what was received stays."""
        self._executor.shutdown()
        self._thread.join(timeout=5)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    @property
    def splats(self) -> np.ndarray:
        """Structured array (N,) of ``gs_semantic.objects.splats.SPLAT``, by rising ``uid``; never changed afterwards."""
        with self._changed:
            return self._copy.splats

    def __len__(self) -> int:
        """Splats received, without making ``splats`` of them."""
        with self._changed:
            return len(self._copy)

    @property
    def revision(self) -> int:
        """Map revision of the newest chunk."""
        return self._copy.revision

    @property
    def complete(self) -> bool:
        """Has the whole map come, and every change since?"""
        return self._copy.complete

    def wait(self, revision: int = 0, timeout_s: float = 30.0) -> None:
        """Wait until the copy is complete and at least as new as ``revision``; GsSemanticError when it is not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.complete and self.revision >= revision, timeout_s):
                raise GsSemanticError(
                    f"{self._name}/splats: no whole map of revision {revision} within {timeout_s:g} s; is the mapper "
                    "running, with this name and the same ROS_DOMAIN_ID, and does it have a map?"
                )

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _take(self, msg: Any) -> None:
        chunk = Chunk(msg.sequence, msg.flags, msg.map_revision, msg.map_id, msg.count, msg.removed, msg.data)
        with self._changed:
            self.bytes_received += len(msg.data)
            self.frame_id = msg.header.frame_id
            try:
                follows = self._copy.apply(chunk)
            except InvalidInputError as error:
                self._node.get_logger().warning(f"{self._name}/splats: {error}; the whole map is asked for")
                follows = False
            self._changed.notify_all()
        now = time.monotonic()
        if not follows and now - self._asked > ASK_AGAIN_S and self._send.service_is_ready():
            self._asked = now
            self._send.call_async(Control.Request())
