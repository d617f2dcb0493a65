"""Ask a running mapper: which objects are there, where, what is at this pixel, how does it look from there.

    with SemanticMap() as semantic_map:
        for obj in semantic_map.list_objects(classes=["chair"], min_confidence=0.5):
            print(obj.id, obj.label, obj.box.centre)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import rclpy
from geometry_msgs.msg import Point, Quaternion, Vector3
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gs_semantic import errors
from gs_semantic.errors import ErrorCode, GsSemanticError
from gs_semantic.gaussians import Camera
from gs_semantic.nodes import conversions
from gs_semantic.objects.packing import GAUSSIAN, ObjectView, unpack_gaussians, unpack_objects
from gs_semantic.srv import (
    Control,
    GetObject,
    ListObjects,
    LoadMap,
    QueryPixel,
    QueryRegion,
    RenderView,
    SaveMap,
)

if TYPE_CHECKING:
    from typing_extensions import Self

# A reply is lost while the mapper has not discovered this client yet, so requests without side effects are repeated.
RESEND_S = 2.0

Gaussians = np.ndarray  # structured array: uid, position, rotation (wxyz), scale, opacity, rgb

_ERRORS: dict[int, type[GsSemanticError]] = {
    int(kind.code): kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, GsSemanticError) and kind is not GsSemanticError
}


@dataclass(frozen=True)
class Objects(Sequence[ObjectView]):
    """Objects with what is true of the whole answer. ``total`` counts those that fit, before max_results."""

    objects: tuple[ObjectView, ...]
    total: int
    revision: int
    frame_id: str
    stamp_ns: int
    present_ids: frozenset[int] = frozenset()  # with since_revision: every object there is

    @overload
    def __getitem__(self, index: int) -> ObjectView: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ObjectView, ...]: ...
    def __getitem__(self, index: int | slice) -> ObjectView | tuple[ObjectView, ...]:
        return self.objects[index]

    def __len__(self) -> int:
        return len(self.objects)

    def __iter__(self) -> Iterator[ObjectView]:
        return iter(self.objects)


@dataclass(frozen=True)
class ObjectAnswer:
    """One object; ``gaussians`` is empty unless asked for."""

    object: ObjectView
    gaussians: Gaussians
    revision: int
    frame_id: str


@dataclass(frozen=True)
class PixelAnswer:
    """What is at a pixel. ``point`` (3,) m in frame ``frame_id``."""

    object: ObjectView
    confidence: float
    depth: float
    point: np.ndarray
    image_stamp_ns: int
    revision: int
    frame_id: str


@dataclass(frozen=True)
class RegionAnswer:
    """Objects in a region, by falling number of their Gaussians in it."""

    objects: Objects
    gaussians_inside: tuple[int, ...]
    gaussians: Gaussians


@dataclass(frozen=True)
class View:
    """Images of the map, all (H, W) or (H, W, 3); None where not asked for.

    color, semantic_color uint8 rgb; semantic uint8 or uint16 class ids; instance uint16, whose values mean the objects
    ``object_ids[value]``; confidence uint8, 255 = certain; depth float32 m, 0 = nothing there.
    """

    camera: Camera
    color: np.ndarray | None
    semantic: np.ndarray | None
    semantic_color: np.ndarray | None
    instance: np.ndarray | None
    confidence: np.ndarray | None
    depth: np.ndarray | None
    object_ids: dict[int, int]
    revision: int


class SemanticMap:
    """Client of one mapper node. Every call waits for its reply, at most ``timeout_s``, and may come from any thread.

    Calls raise the GsSemanticError that belongs to the reply's error code (UnknownObjectError, EmptyMapError, ...); its
    ``code`` is that number. Needs no rclpy.init: the client has a ROS context of its own.
    """

    def __init__(self, node: str = "/gs_semantic/mapper", timeout_s: float = 20.0) -> None:
        self._name = "/" + node.strip("/")
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("semantic_map", context=self._context, start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._clients: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave ROS; the client cannot be used afterwards."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    # --- objects ----------------------------------------------------------------------------------------------------

    def list_objects(
        self,
        classes: Iterable[str | int] = (),
        min_confidence: float = 0.0,
        max_results: int = 0,
        after_id: int = 0,
        since_revision: int = 0,
        include_tentative: bool = False,
    ) -> Objects:
        """Objects by rising id. ``classes`` are names or ids; ``since_revision`` asks only for those changed since."""
        request = ListObjects.Request(
            max_results=max_results,
            after_id=after_id,
            min_confidence=float(min_confidence),
            since_revision=since_revision,
            include_tentative=include_tentative,
            **_classes(classes),
        )
        reply = self._call("list_objects", ListObjects, request)
        return _objects(reply, frozenset(reply.present_ids))

    def get_object(self, object_id: int, gaussians: bool = False, max_gaussians: int = 0) -> ObjectAnswer:
        """One object; with ``gaussians`` its Gaussians too. UnknownObjectError for an id that is not there."""
        request = GetObject.Request(id=object_id, include_gaussians=gaussians, max_gaussians=max_gaussians)
        reply = self._call("get_object", GetObject, request)
        return ObjectAnswer(
            unpack_objects(reply.object)[0], _gaussians(reply.gaussians), reply.map_revision, reply.header.frame_id
        )

    def query_pixel(
        self, u: int, v: int, stamp_ns: int = 0, min_confidence: float = 0.0, camera: str = ""
    ) -> PixelAnswer:
        """The object at column u, row v of the answered frame with this stamp (0: the newest).

        ``camera`` is one of the mapper's parameter cameras, empty: any. OutsideImageError, NothingThereError
        and EmptyMapError say why there is none.
        """
        request = QueryPixel.Request(
            u=u,
            v=v,
            stamp=conversions.to_stamp(stamp_ns),
            min_confidence=float(min_confidence),
            include_object=True,
            camera=camera,
        )
        reply = self._call("query_pixel", QueryPixel, request)
        return PixelAnswer(
            object=unpack_objects(reply.object)[0],
            confidence=reply.confidence,
            depth=reply.depth,
            point=np.array([reply.point.x, reply.point.y, reply.point.z]),
            image_stamp_ns=conversions.to_ns(reply.image_stamp),
            revision=reply.map_revision,
            frame_id=reply.header.frame_id,
        )

    def query_box(
        self,
        centre: Sequence[float] | np.ndarray,
        size: Sequence[float] | np.ndarray,
        quaternion: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0, 1.0),
        **filters: Any,
    ) -> RegionAnswer:
        """Objects in a box: centre and size (3,) m, orientation x y z w. Filters as in ``query_sphere``."""
        request = QueryRegion.Request(shape=QueryRegion.Request.SHAPE_BOX)
        request.size = _vector(Vector3, size)
        x, y, z, w = map(float, quaternion)
        request.orientation = Quaternion(x=x, y=y, z=z, w=w)
        return self._region(request, centre, **filters)

    def query_sphere(self, centre: Sequence[float] | np.ndarray, radius: float, **filters: Any) -> RegionAnswer:
        """Objects in a sphere: centre (3,), radius, m.

        Filters: classes, min_confidence, min_inside (share of an object's Gaussians that must lie inside), max_results,
        include_tentative, gaussians (return those inside), max_gaussians, frame_id (of the region; default the map's).
        """
        request = QueryRegion.Request(shape=QueryRegion.Request.SHAPE_SPHERE, radius=float(radius))
        return self._region(request, centre, **filters)

    def _region(
        self,
        request: QueryRegion.Request,
        centre: Sequence[float] | np.ndarray,
        *,
        classes: Iterable[str | int] = (),
        min_confidence: float = 0.0,
        min_inside: float = 0.0,
        max_results: int = 0,
        include_tentative: bool = False,
        gaussians: bool = False,
        max_gaussians: int = 0,
        frame_id: str = "",
    ) -> RegionAnswer:
        request.center = _vector(Point, centre)
        request.frame_id = frame_id
        request.min_confidence, request.min_inside = float(min_confidence), float(min_inside)
        request.max_results, request.include_tentative = max_results, include_tentative
        request.include_gaussians, request.max_gaussians = gaussians, max_gaussians
        for name, value in _classes(classes).items():
            setattr(request, name, value)
        reply = self._call("query_region", QueryRegion, request)
        return RegionAnswer(_objects(reply), tuple(reply.gaussians_inside), _gaussians(reply.gaussians))

    # --- views ------------------------------------------------------------------------------------------------------

    def render_view(
        self,
        T_map_camera: np.ndarray,
        camera: Camera | None = None,
        *,
        color: bool = True,
        semantic: bool = False,
        semantic_color: bool = False,
        instance: bool = False,
        confidence: bool = False,
        depth: bool = False,
    ) -> View:
        """The map seen from a pose (4x4, optical frame), through ``camera``'s intrinsics or those of the input camera."""
        request = RenderView.Request(
            pose=conversions.write_pose(np.asarray(T_map_camera)),
            include_color=color,
            include_semantic=semantic,
            include_semantic_color=semantic_color,
            include_instance=instance,
            include_confidence=confidence,
            include_depth=depth,
        )
        if camera is not None:
            request.width, request.height = camera.width, camera.height
            request.fx, request.fy, request.cx, request.cy = camera.fx, camera.fy, camera.cx, camera.cy
        reply = self._call("render_view", RenderView, request)
        return View(
            camera=conversions.read_camera(reply.camera_info, "render_view", np.asarray(T_map_camera)),
            color=_image(reply.color),
            semantic=_image(reply.semantic),
            semantic_color=_image(reply.semantic_color),
            instance=_image(reply.instance),
            confidence=_image(reply.confidence),
            depth=_image(reply.depth),
            object_ids=dict(zip(reply.instance_info.values, reply.instance_info.object_ids, strict=True)),
            revision=reply.map_revision,
        )

    # --- control ----------------------------------------------------------------------------------------------------

    def pause(self) -> int:
        """Freeze the map; queries go on. Returns the map revision, as ``resume`` and ``reset`` do."""
        return self._call("pause", Control, Control.Request()).map_revision

    def resume(self) -> int:
        return self._call("resume", Control, Control.Request()).map_revision

    def reset(self) -> int:
        """Forget map and objects; ids are not given again."""
        return self._call("reset", Control, Control.Request()).map_revision

    def save(self, path: str | Path, timeout_s: float = 120.0) -> Path:
        """Write the map into a folder on the mapper's machine; returns its absolute path."""
        return Path(self._call("save_map", SaveMap, SaveMap.Request(path=str(path)), timeout_s).path)

    def load(self, path: str | Path, timeout_s: float = 120.0) -> int:
        """Replace the map by one from a folder on the mapper's machine; returns its number of Gaussians."""
        return self._call("load_map", LoadMap, LoadMap.Request(path=str(path)), timeout_s).gaussians

    def wait(self, timeout_s: float = 30.0) -> None:
        """Wait until the mapper is there. GsSemanticError when it is not in time."""
        with self._lock:
            self._client("list_objects", ListObjects, timeout_s)

    # --- calling ----------------------------------------------------------------------------------------------------

    def _client(self, name: str, kind: type[Any], timeout_s: float) -> Any:
        if name not in self._clients:
            self._clients[name] = self._node.create_client(kind, f"{self._name}/{name}")
        client = self._clients[name]
        if not client.service_is_ready() and not client.wait_for_service(timeout_s):
            raise GsSemanticError(
                f"{self._name}/{name}: no such service after {timeout_s:g} s; is the mapper running, with this name and "
                "the same ROS_DOMAIN_ID?"
            )
        return client

    def _call(self, name: str, kind: type[Any], request: Any, timeout_s: float | None = None) -> Any:
        again = timeout_s is None  # saving and loading take their time, and are asked for once
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        with self._lock:
            client = self._client(name, kind, timeout_s)
            while True:
                left = deadline - time.monotonic()
                future = client.call_async(request)
                self._executor.spin_until_future_complete(future, max(0.0, min(left, RESEND_S) if again else left))
                if future.done():
                    break
                client.remove_pending_request(future)
                if time.monotonic() >= deadline:
                    raise GsSemanticError(f"{self._name}/{name}: no reply within {timeout_s:g} s")
            reply = future.result()
        if reply.error_code != ErrorCode.OK:
            raise _ERRORS.get(reply.error_code, GsSemanticError)(reply.error_msg)
        return reply


def _classes(classes: Iterable[str | int]) -> dict[str, list[Any]]:
    chosen = list(classes)
    return {
        "class_names": [entry for entry in chosen if isinstance(entry, str)],
        "class_ids": [entry for entry in chosen if not isinstance(entry, str)],
    }


def _objects(reply: Any, present: frozenset[int] = frozenset()) -> Objects:
    header: Header = reply.header
    return Objects(
        tuple(unpack_objects(reply.objects)),
        reply.total,
        reply.map_revision,
        header.frame_id,
        conversions.to_ns(header.stamp),
        present,
    )


def _gaussians(data: Any) -> Gaussians:
    return unpack_gaussians(data) if len(data) else np.zeros(0, GAUSSIAN)


def _image(msg: Image) -> np.ndarray | None:
    return conversions.read_image(msg, "render_view", tuple(conversions.LAYOUTS)) if len(msg.data) else None


def _vector(kind: type[Any], values: Sequence[float] | np.ndarray) -> Any:
    x, y, z = map(float, values)
    return kind(x=x, y=y, z=z)
