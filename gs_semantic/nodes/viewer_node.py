"""The viewer node: the live map in the browser, through the client's stream of splats and the mapper's services."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from gs_semantic.client import SemanticMap, SplatStream
from gs_semantic.errors import GsSemanticError
from gs_semantic.nodes.parameters import declare, parameter
from gs_semantic.nodes.process import SpinThread, StopSignal
from gs_semantic.objects.packing import ObjectView
from gs_semantic.viewer.server import Viewer
from gs_semantic.viewer.settings import HOST, PORT, SPLATS
from gs_semantic.viewer.source import Snapshot, by_id

LIST_S = 1.0  # how often the objects are asked for, at most, while the map changes
RELIST_S = 5.0  # and while its splats stand still
SNAPSHOT_S = 0.25  # between two looks at splats that change, and as long again as the last one took
ANSWER_S = 10.0  # patience with a mapper that does not answer


@dataclass
class ViewerParameters:
    mapper: str = parameter("mapper", "name of the mapper node, relative to the namespace of this one")
    host: str = parameter(HOST, "address to listen on; other than loopback: browsers need the token")
    port: int = parameter(PORT, "port; 0: any free one", 0, 65535)
    token: str = parameter("", "key that browsers need; empty: none on loopback, else one is made and logged")
    splats: int = parameter(SPLATS, "Gaussians sent to a page at most", 1, 10_000_000)


class LiveSource:
    """A running mapper's map, as ``gs_semantic.viewer.source.MapSource``. A thread of its own asks for the objects and
    tells of selections, so that a mapper which is busy, or gone, does not stop the view."""

    def __init__(self, node: Node, mapper: str, domain_id: int | None = None) -> None:
        self.title = mapper
        self.stream = SplatStream(mapper, domain_id)
        self._client = SemanticMap(node, ANSWER_S, mapper)
        self._newest = Snapshot()
        self._next_s, self._received = 0.0, 0  # when splats are looked at again, bytes of the stream at the last look
        self._objects: dict[int, ObjectView] = {}
        self._logger = node.get_logger()
        self._selected: queue.SimpleQueue[int] = queue.SimpleQueue()  # what the mapper has to be told
        self._ending, self._again = threading.Event(), threading.Event()
        self._lister = threading.Thread(target=self._list, name="objects", daemon=True)
        self._lister.start()

    def close(self) -> None:
        self._ending.set()
        self._again.set()
        self._lister.join(timeout=ANSWER_S)  # it may wait for a mapper that is gone
        self._client.close()
        self.stream.close()

    def _list(self) -> None:
        listed, asked = -1, time.monotonic()
        while not self._ending.is_set():
            wanted = self._again.wait(LIST_S)
            self._again.clear()
            self._tell_selected()
            revision = self.stream.revision
            due = time.monotonic() - asked > RELIST_S  # names and boxes change without a splat that does
            if self._ending.is_set() or not len(self.stream) or (revision == listed and not wanted and not due):
                continue
            asked = time.monotonic()
            try:
                self._objects, listed = by_id(list(self._client.list_objects())), revision
            except GsSemanticError:
                listed = -1  # what was known stays, and it is asked again

    def newest(self) -> Snapshot:
        splats, objects, now = self._newest.splats, self._objects, time.monotonic()
        received = self.stream.bytes_received
        if now >= self._next_s and received != self._received:
            splats, self._received = self.stream.splats, received
            self._next_s = time.monotonic() + SNAPSHOT_S + (time.monotonic() - now)
        if splats is not self._newest.splats or objects is not self._newest.objects:
            self._newest = Snapshot("live", self.stream.revision, self.stream.frame_id, splats, objects)
        return self._newest

    def earlier(self) -> Sequence[Snapshot]:
        return ()

    def rename(self, object_id: int, name: str) -> None:
        self._client.rename(object_id, name)
        self._again.set()

    def select(self, object_id: int) -> None:
        """The mapper is told later: the view does not wait for it."""
        self._selected.put(object_id)
        self._again.set()

    def _tell_selected(self) -> None:
        selected = None
        while not self._selected.empty():
            selected = self._selected.get()  # only the last one counts
        if selected is None or self._ending.is_set():
            return
        try:
            self._client.select(selected)
        except GsSemanticError as error:
            self._logger.warning(f"the mapper was not told that object {selected} is selected: {error}")


class ViewerNode(Node):
    """See the module; ``run`` works until it is told to stop."""

    def __init__(self, **options: Any) -> None:
        super().__init__("viewer", **options)
        self.parameters = p = declare(self, ViewerParameters)
        self.source = LiveSource(self, self.resolve_service_name(p.mapper))
        try:
            self.viewer = Viewer(self.source, p.host, p.port, p.token, p.splats)
        except BaseException:
            self.source.close()
            raise
        self.get_logger().info(f"the map of {self.source.title} is shown at {self.viewer.address}")

    def run(self, stop: StopSignal) -> None:
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        with SpinThread(executor):
            self.viewer.wait(lambda: bool(stop))

    def destroy_node(self) -> None:
        self.viewer.close()
        self.source.close()
        super().destroy_node()
