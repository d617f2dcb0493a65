"""Distances and path checks for planners, from a field that is at most ``PERIOD_S`` old."""

from __future__ import annotations

import array
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import Point

from gs_semantic.errors import InvalidRequestError, UnknownObjectError
from gs_semantic.mapping.view import MapView
from gs_semantic.mapping.visibility import Visibility
from gs_semantic.nodes.region_messages import to_vector
from gs_semantic.objects.distance import DistanceField
from gs_semantic.srv import CheckPath, QueryDistance

if TYPE_CHECKING:
    from gs_semantic.nodes.mapper_node import MapperNode

PERIOD_S = 2.0  # a field of an older map revision is used so long: building one for a large map takes a second
RESULTS = {"free": CheckPath.Request.FREE, "blocked": CheckPath.Request.BLOCKED, "unseen": CheckPath.Request.UNSEEN}


class Geometry:
    """Has a thread of its own, because a field takes a while to build."""

    def __init__(self, node: MapperNode) -> None:
        self._node = node
        self._thread = ThreadPoolExecutor(1, "geometry")
        self._view: MapView | None = None
        self._field: DistanceField | None = None
        self._visibility: Visibility | None = None
        self._built = float("-inf")

    def run(self, task: Callable[[], None]) -> None:
        self._thread.submit(task)

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _current(self, response: Any) -> tuple[DistanceField, MapView]:
        """The field, and the view that it is of."""
        newest = self._node.map_services.queries.filled_view(response)
        view, field = self._view, self._field
        same = view is not None and view.gaussians.map_id == newest.gaussians.map_id
        fresh = view is not None and (view.revision == newest.revision or time.monotonic() - self._built < PERIOD_S)
        if view is None or field is None or not (same and fresh):
            view, field = newest, DistanceField(newest.gaussians, self._look(newest, same))
            self._view, self._field, self._built = view, field, time.monotonic()
        response.map_revision = view.revision
        return field, view

    def _look(self, view: MapView, same: bool) -> Visibility:
        """What the keyframes have seen; fused anew when the map was replaced or outgrew the grid, or keyframes moved."""
        keyframes = list(self._node.mapper.keyframes.frames)
        means = view.gaussians.means.numpy()
        eyes = [keyframe.camera.T_world_camera[:3, 3] for keyframe in keyframes]
        # what is free lies between the cameras and what they see
        low, high = (np.min([means.min(0), *eyes], axis=0), np.max([means.max(0), *eyes], axis=0))
        known = self._visibility
        if known is None or not same or not known.holds(low, high) or not known.update(keyframes):
            known = Visibility(low, high)
            known.update(keyframes)
        self._visibility = known
        return known

    def query_distance(self, request: QueryDistance.Request, response: QueryDistance.Response) -> None:
        field, view = self._current(response)
        points = np.array(request.points, np.float32)
        if len(points) % 3:
            raise InvalidRequestError(f"points has {len(points)} numbers, expected three for each point")
        points = points.reshape(-1, 3)
        radii = np.array(request.radii, np.float32)
        if len(radii) not in (0, 1, len(points)):
            raise InvalidRequestError(f"radii has {len(radii)} numbers, expected none, one, or {len(points)}")
        pose = self._node.map_services.queries.T_map(request.frame_id, view)
        points = points @ pose[:3, :3].T.astype(np.float32) + pose[:3, 3].astype(np.float32)
        only, without = self._slots(request.only_ids, view), self._slots(request.without_ids, view)
        found = field.query(points, radii if len(radii) else 0.0, only, without)
        response.distances = array.array("f", found.distance.astype("<f4").tobytes())
        response.unknown = array.array("B", found.unknown.astype(np.uint8).tobytes())
        if request.include_gradients:
            response.gradients = array.array("f", found.gradient.astype("<f4").tobytes())

    def check_path(self, request: CheckPath.Request, response: CheckPath.Response) -> None:
        field, view = self._current(response)
        path = np.array([[corner.x, corner.y, corner.z] for corner in request.path]).reshape(-1, 3)
        pose = self._node.map_services.queries.T_map(request.frame_id, view)
        path = path @ pose[:3, :3].T + pose[:3, 3]
        found = field.check_path(path, request.radius, self._slots(request.without_ids, view))
        response.result, response.clearance = RESULTS[found.result], found.clearance
        response.travelled, response.point = found.travelled, to_vector(Point, found.point)
        response.object_id = int(view.ids[found.slot])

    @staticmethod
    def _slots(ids: Iterable[int], view: MapView) -> list[int]:
        records, out = view.objects.records, []
        for object_id in ids:
            index = np.flatnonzero(records["id"] == object_id)
            if not len(index):
                raise UnknownObjectError(f"object {object_id} is not in the map; list_objects gives the ids there are")
            out.append(int(records["slot"][index[0]]))
        return out
