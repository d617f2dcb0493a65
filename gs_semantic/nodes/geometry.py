"""Distances and path checks for planners, from what a thread in the background has built of the map."""

from __future__ import annotations

import array
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import Point
from nav_msgs.msg import OccupancyGrid

from gs_semantic.errors import GsSemanticError, InvalidRequestError
from gs_semantic.mapping.view import MapView
from gs_semantic.nodes import conversions, faults, qos
from gs_semantic.nodes.mapper_parameters import class_radii
from gs_semantic.nodes.outputs import listened_to
from gs_semantic.nodes.region_messages import to_vector
from gs_semantic.objects.queries import changed_boxes
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.space.distance import DistanceField
from gs_semantic.space.occupancy import UNKNOWN, GridSpec, Inflation, inflate, occupancy
from gs_semantic.space.seen import SeenSpace
from gs_semantic.srv import CheckPath, GetGrid, QueryDistance

if TYPE_CHECKING:
    from gs_semantic.nodes.mapper_node import MapperNode

PERIOD_S = 2.0  # a field of an older map revision is used so long
SLICE_S = 1.0  # of looking around, before what was seen so far is used
PATIENCE_S = 15.0  # of the first question, for which there is nothing yet
RESULTS = {"free": CheckPath.Request.FREE, "blocked": CheckPath.Request.BLOCKED, "unseen": CheckPath.Request.UNSEEN}


@dataclass(frozen=True)
class Built:
    """What answers come from: ``field`` is of ``view``, ``looked`` is the last view that ``seen`` was drawn from."""

    view: MapView
    field: DistanceField
    seen: SeenSpace
    looked: MapView
    complete: bool  # all keyframes have been looked at
    time: float  # when ``field`` was made
    slices: int = 0  # of work on ``seen`` since


class Geometry:
    """Answers in a thread of its own; another one builds, only after somebody asked, and at most every ``PERIOD_S``.

    Meanwhile answers come from what there is, so that no question but the first waits, and that one for a limited time.
    """

    def __init__(self, node: MapperNode) -> None:
        self._node = node
        self._thread = ThreadPoolExecutor(1, "geometry")
        self._builder = ThreadPoolExecutor(1, "looking")
        self._built: Built | None = None
        self._building: Future[None] | None = None
        self._rasterizer: CpuRasterizer | None = None
        self._closing = threading.Event()
        self._grids = [
            node.create_publisher(OccupancyGrid, f"~/{name}", qos.LATCHED) for name in ("occupancy", "costmap")
        ]
        self._grids_time = float("-inf")
        self._grids_shown: tuple[float, ...] = ()  # what was built, and who listened
        self._latched: dict[int, OccupancyGrid] = {}  # what each publisher has published last
        self.failed = ""  # why the last building came to nothing; empty when it did not

    def run(self, task: Callable[[], None]) -> None:
        self._thread.submit(task)

    def close(self) -> None:
        self._closing.set()
        self._thread.shutdown(wait=True)
        self._builder.shutdown(wait=True)
        for publisher in self._grids:
            self._node.destroy_publisher(publisher)

    # --- building -----------------------------------------------------------------------------------------------------

    def current(self, response: Any) -> Built:
        """What to answer from; its revision is noted in the reply."""
        newest = self._node.map_services.queries.filled_view(response)
        built = self._refreshed(newest)
        if built is None:
            assert self._building is not None
            built = self._first(self._building, newest)
        response.map_revision = built.view.revision
        return built

    def _refreshed(self, newest: MapView) -> Built | None:
        """What there is; something newer is built if it is time for that."""
        built = self._of(newest)
        fresh = built is not None and (
            (built.view.revision == newest.revision and built.complete) or time.monotonic() - built.time < PERIOD_S
        )
        if not fresh and (self._building is None or self._building.done()):
            self._building = self._builder.submit(self._try_to_build)
        return built

    def _of(self, view: MapView) -> Built | None:
        """What has been built, if it is of the same map."""
        built = self._built
        if built is None or built.view.gaussians.map_id != view.gaussians.map_id:
            return None
        return built if built.view.revision <= view.revision else None  # an earlier state of it may have been loaded

    def _first(self, building: Future[None], view: MapView) -> Built:
        end = time.monotonic() + PATIENCE_S
        while (built := self._of(view)) is None:
            try:
                building.result(timeout=0.02)
            except FutureTimeoutError:
                pass  # not yet
            if building.done() and self._of(view) is None:  # it was of another map
                if self.failed:
                    raise GsSemanticError(self.failed)
                building = self._building = self._builder.submit(self._try_to_build)
            if time.monotonic() > end or self._closing.is_set():
                raise GsSemanticError(
                    f"the map is not ready for questions of distance after {PATIENCE_S:g} s; ask again"
                )
        return built

    def _try_to_build(self) -> None:
        """Build, and tell when that fails: nobody looks at the future of a building that no question waits for."""
        try:
            self._build()
            self.failed = ""
        except Exception as error:  # noqa: BLE001 - the node must go on, with what there was before
            revision = self._built.view.revision if self._built is not None else "none"
            self.failed = faults.GEOMETRY_OLD.text(revision=revision, why=repr(error))
            self._node.get_logger().error("".join(traceback.format_exception(error)))
            self._node.report("geometry", GsSemanticError(self.failed))

    def _build(self) -> None:
        """Bring all up to date, slice by slice."""
        if self._rasterizer is None:
            self._rasterizer = CpuRasterizer(self._node.config.raster_settings)
        complete = False
        while not complete and not self._closing.is_set():
            view = self._node.view
            before = self._of(view)
            seen, boxes = SeenSpace(), []
            if before is not None:
                seen, boxes = before.seen, changed_boxes(before.looked.objects.records, view.objects.records)
            complete = seen.update(view.gaussians, self._node.mapper.views, self._rasterizer, boxes, SLICE_S)
            if before is not None and (
                before.view.revision == view.revision or time.monotonic() - before.time < PERIOD_S
            ):
                self._built = replace(before, looked=view, complete=complete, slices=before.slices + 1)
            else:
                field = DistanceField(view.gaussians, seen)
                self._built = Built(view, field, seen, view, complete, time.monotonic())

    # --- answering ----------------------------------------------------------------------------------------------------

    def query_distance(self, request: QueryDistance.Request, response: QueryDistance.Response) -> None:
        built = self.current(response)
        field, view = built.field, built.view
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
        built = self.current(response)
        field, view = built.field, built.view
        path = np.array([[corner.x, corner.y, corner.z] for corner in request.path]).reshape(-1, 3)
        pose = self._node.map_services.queries.T_map(request.frame_id, view)
        path = path @ pose[:3, :3].T + pose[:3, 3]
        found = field.check_path(path, request.radius, self._slots(request.without_ids, view))
        response.result, response.clearance = RESULTS[found.result], found.clearance
        response.travelled, response.point = found.travelled, to_vector(Point, found.point)
        response.object_id = int(view.ids[found.slot])

    def get_grid(self, request: GetGrid.Request, response: GetGrid.Response) -> None:
        built = self.current(response)
        view = built.view
        if len(request.class_ids) != len(request.class_radii):
            raise InvalidRequestError(
                f"class_ids has {len(request.class_ids)} entries, class_radii has {len(request.class_radii)}"
            )
        lower, upper = ([point.x, point.y] for point in (request.lower, request.upper))
        everything = not any([*lower, *upper])
        spec = GridSpec(
            round(request.resolution, 6) or GridSpec.resolution,  # float32
            *((request.low, request.high) if request.low or request.high else (GridSpec.low, GridSpec.high)),
            *((None, None) if everything else (np.array(lower), np.array(upper))),
        )
        grid = occupancy(view.gaussians, built.seen, spec, self._slots(request.without_ids, view))
        if request.costs:
            radii = dict(zip(request.class_ids, request.class_radii, strict=True))
            inflation = Inflation(
                request.inscribed_radius, request.inflation_radius, request.decay or Inflation.decay, radii
            )
            grid = inflate(grid, inflation, view.classes)
        response.grid = conversions.write_grid(grid, response.header)

    # --- topics -------------------------------------------------------------------------------------------------------

    def update(self) -> None:
        """Publish the grids when somebody listens and it is time to. Returns at once."""
        parameters, now = self._node.parameters, time.monotonic()
        if now - self._grids_time >= 1 / parameters.grids_hz and any(map(listened_to, self._grids)):
            self._grids_time = now
            self.run(self._try_to_publish)

    def _try_to_publish(self) -> None:
        try:
            self._publish_grids()
        except Exception as error:  # noqa: BLE001 - the thread's other tasks must go on
            self._node.report("grids", error)

    def _publish_grids(self) -> None:
        view, parameters = self._node.view, self._node.parameters
        built = self._refreshed(view) if len(view.gaussians) else None
        listeners = tuple(publisher.get_subscription_count() for publisher in self._grids)
        if built is None:
            self._withdraw()
            return
        if (shown := (built.time, built.slices, *listeners)) == self._grids_shown:
            return
        self._grids_shown = shown
        header = conversions.make_header(built.view.stamp_ns, self._node.frame_id)
        spec = GridSpec(parameters.grids_resolution_m, parameters.grids_low_m, parameters.grids_high_m)
        grid = occupancy(built.view.gaussians, built.seen, spec)
        radii = class_radii(parameters)
        named = {key: radii[name] for key, name in built.view.labels.names.items() if name in radii}
        inflation = Inflation(
            parameters.costmap_inscribed_m, parameters.costmap_inflation_m, parameters.costmap_decay, named
        )
        self._publish(0, conversions.write_grid(grid, header))
        if listened_to(self._grids[1]):
            self._publish(1, conversions.write_grid(inflate(grid, inflation, built.view.classes), header))

    def _publish(self, number: int, grid: OccupancyGrid) -> None:
        self._grids[number].publish(grid)
        self._latched[number] = grid

    def _withdraw(self) -> None:
        """The map that the latched grids were of is gone: what they showed is unknown now."""
        self._grids_shown = ()
        for number, grid in self._latched.items():
            grid.header.stamp = self._node.get_clock().now().to_msg()
            grid.data = array.array("b", [UNKNOWN]) * len(grid.data)
            self._grids[number].publish(grid)
        self._latched.clear()

    def _slots(self, ids: Iterable[int], view: MapView) -> list[int]:
        return self._node.map_services.queries.slots(ids, view)
