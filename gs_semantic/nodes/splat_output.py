"""~/splats: the map as packed changes, for viewers and other machines."""

from __future__ import annotations

import time

from rclpy.node import Node
from std_msgs.msg import Header

from gs_semantic.mapping.view import MapView
from gs_semantic.msg import SplatChunk
from gs_semantic.nodes import conversions, qos
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.outputs import Wire
from gs_semantic.objects.splats import SplatSender

LARGEST_CHUNK = 1_000_000  # bytes


class SplatPublisher:
    """Sends what changed, as often as ``splats_hz`` and the bandwidth allow; a new subscriber gets the whole map first."""

    def __init__(self, node: Node, parameters: NodeParameters, wire: Wire) -> None:
        self._publisher = node.create_publisher(SplatChunk, "~/splats", qos.SPLATS)
        self._parameters, self._wire = parameters, wire
        self._sender = SplatSender()
        self._subscribers = 0
        self._next = 0.0

    def close(self, node: Node) -> None:
        node.destroy_publisher(self._publisher)

    def send_all(self) -> None:
        """Begin to send the whole map."""
        self._sender.restart()

    @property
    def waiting(self) -> int:
        """Splats that are to be sent."""
        return self._sender.waiting if self._subscribers else 0

    def update(self, view: MapView, header: Header) -> None:
        """Send the next chunk when it is due."""
        subscribers = self._publisher.get_subscription_count()
        if subscribers > self._subscribers:
            self._sender.restart()
        self._subscribers = subscribers
        now = time.monotonic()
        if not subscribers or now < self._next:
            return
        room = min(self._wire.allowance / subscribers, LARGEST_CHUNK)
        if room <= 0:
            return
        self._sender.update(view)
        chunk = self._sender.take(view, int(room))
        self._next = now + 1 / self._parameters.splats_hz
        if chunk is None:
            return
        self._wire.publish(
            self._publisher,
            SplatChunk(
                header=header,
                map_id=chunk.map_id,
                map_revision=chunk.revision,
                sequence=chunk.sequence,
                flags=chunk.flags,
                count=chunk.count,
                removed=chunk.removed,
                data=conversions.to_bytes_field(chunk.data),
            ),
        )
