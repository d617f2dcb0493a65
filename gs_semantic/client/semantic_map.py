"""Ask a running mapper: which objects are there, where, what is at this pixel, how does it look from there.

    with SemanticMap() as semantic_map:
        mug = semantic_map.find("mug", near=(1.0, 0.5, 0.8))
        for obj in semantic_map.list_objects(classes=["chair"], min_confidence=0.5):
            print(obj.id, obj.label, obj.box.centre)
"""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import rclpy
from geometry_msgs.msg import Point, Pose, PoseStamped, Vector3
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

from gs_semantic import errors
from gs_semantic.errors import ErrorCode, GsSemanticError, InvalidRequestError, UnknownObjectError
from gs_semantic.gaussians import Camera
from gs_semantic.nodes import conversions
from gs_semantic.nodes.region_messages import to_vector, write_region
from gs_semantic.objects.packing import (
    GAUSSIAN,
    ObjectView,
    quaternion_to_matrix,
    unpack_gaussians,
    unpack_objects,
)
from gs_semantic.objects.regions import BoxShape, Region, SphereShape
from gs_semantic.objects.registry import ObjectState
from gs_semantic.space.occupancy import Inflation
from gs_semantic.srv import (
    CheckPath,
    Control,
    CorrectPoses,
    EditObject,
    ExtractObject,
    GetGrid,
    GetObject,
    ListObjects,
    LoadMap,
    QueryDistance,
    QueryNearest,
    QueryPixel,
    QueryRay,
    QueryRegion,
    QueryText,
    RenderView,
    SaveMap,
)

if TYPE_CHECKING:
    from typing_extensions import Self

MAPPER = "/gs_semantic/mapper"
# A reply is lost while the mapper has not discovered this client yet, so requests without side effects are repeated.
RESEND_S = 2.0
EDIT_PATIENCE_S = 60.0  # an edit is asked for once
EXTRACTS = ("gaussians", "mesh", "collision", "background")  # by their number in ExtractObject

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
    """One object; ``gaussians`` is empty unless asked for, ``embedding`` (D,) too when it has none."""

    object: ObjectView
    gaussians: Gaussians
    revision: int
    frame_id: str
    cloud: PointCloud2 | None = None
    embedding: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    embedding_model: str = ""


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
class NearestAnswer:
    """Objects by rising distance, m, of their boxes from a point."""

    objects: Objects
    distances: tuple[float, ...]


@dataclass(frozen=True)
class RayAnswer:
    """What a ray meets, ``distance`` m from its origin at ``point`` (3,) m in frame ``frame_id``."""

    object: ObjectView
    confidence: float
    distance: float
    point: np.ndarray
    revision: int
    frame_id: str


@dataclass(frozen=True)
class TextAnswer:
    """Objects by falling score, 0..1; ``heat`` uint8 (H, W), 255 = fits best, None unless asked for."""

    objects: tuple[ObjectView, ...]
    scores: tuple[float, ...]
    matcher: str
    heat: np.ndarray | None
    revision: int


@dataclass(frozen=True)
class DistanceAnswer:
    """distances (N,) m; unknown (N,) bool: something that nobody has seen may be nearer; gradients (N, 3) in the map, of
    length 1, away from what is nearest, None unless asked for."""

    distances: np.ndarray
    unknown: np.ndarray
    gradients: np.ndarray | None
    revision: int


@dataclass(frozen=True)
class PathAnswer:
    """result: "free", "blocked" or "unseen"; least clearance, m; ``point`` (3,), ``travelled`` m along the path: the first that
    is not free, or the one with the least clearance; the object that is nearest there, 0: none."""

    result: str
    clearance: float
    travelled: float
    point: np.ndarray
    object_id: int
    revision: int


@dataclass(frozen=True)
class GridAnswer:
    """cells int8 (H, W): -1 unknown, 0 free, 100 occupied, in between costs. Cell (row, column) has its lower corner at
    ``origin`` (2,) + resolution (column, row), m in frame ``frame_id``."""

    cells: np.ndarray
    origin: np.ndarray
    resolution: float
    revision: int
    frame_id: str


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
    ``code`` is that number. Given a mapper's name, it needs no rclpy.init: it has a ROS context of its own. Given a node
    of yours, it joins that node's context; it may be asked from the node's own callbacks, because it does not need your
    executor.
    """

    def __init__(self, node: str | Node = MAPPER, timeout_s: float = 20.0, mapper: str = MAPPER) -> None:
        """``node``: the mapper's name, or your node, and then ``mapper`` is the mapper's name."""
        self._name = "/" + (mapper if isinstance(node, Node) else node).strip("/")
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._own_context = not isinstance(node, Node)
        if isinstance(node, Node):
            self._context = node.context
        else:
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
        if self._own_context:
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
        states: Iterable[ObjectState] = (),
        regions: Iterable[Region] = (),
    ) -> Objects:
        """Objects by rising id. ``classes`` are names or ids; ``since_revision`` asks only for those changed since.

        states: only these; empty: confirmed and stale ones. regions: only objects whose centroid lies in one of them.
        """
        request = ListObjects.Request(max_results=max_results, after_id=after_id, since_revision=since_revision)
        request.regions = [write_region(region) for region in regions]
        _set_filter(request, classes, min_confidence, include_tentative, states)
        reply = self._call("list_objects", ListObjects, request)
        return _objects(reply, frozenset(reply.present_ids))

    def get_object(
        self,
        object_id: int,
        gaussians: bool = False,
        max_gaussians: int = 0,
        cloud: bool = False,
        embedding: bool = False,
    ) -> ObjectAnswer:
        """One object; on request its Gaussians, the cloud of their centres, and its embedding.

        UnknownObjectError for an id that is not there; for one that was merged it names the id to use now.
        """
        request = GetObject.Request(
            id=object_id,
            include_gaussians=gaussians,
            max_gaussians=max_gaussians,
            include_cloud=cloud,
            include_embedding=embedding,
        )
        reply = self._call("get_object", GetObject, request)
        return ObjectAnswer(
            unpack_objects(reply.object)[0],
            _gaussians(reply.gaussians),
            reply.map_revision,
            reply.header.frame_id,
            reply.cloud if cloud else None,
            np.array(reply.embedding, np.float32),
            reply.embedding_model,
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
        """Objects in a box: centre and size (3,) m, orientation x y z w. Filters as in ``query_region``."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = quaternion_to_matrix(np.asarray(quaternion, float)), centre
        return self.query_region(Region(BoxShape(np.asarray(size, float)), pose), **filters)

    def query_sphere(self, centre: Sequence[float] | np.ndarray, radius: float, **filters: Any) -> RegionAnswer:
        """Objects in a sphere: centre (3,), radius, m. Filters as in ``query_region``."""
        pose = np.eye(4)
        pose[:3, 3] = centre
        return self.query_region(Region(SphereShape(float(radius)), pose), **filters)

    def query_region(
        self,
        region: Region,
        *,
        classes: Iterable[str | int] = (),
        min_confidence: float = 0.0,
        min_inside: float = 0.0,
        max_results: int = 0,
        include_tentative: bool = False,
        states: Iterable[ObjectState] = (),
        gaussians: bool = False,
        max_gaussians: int = 0,
        frame_id: str = "",
    ) -> RegionAnswer:
        """Objects in a box, sphere, prism or frustum (``gs_semantic.objects.regions``), placed in ``frame_id`` or the map.

        min_inside: share of an object's Gaussians that must lie inside. gaussians: return those inside, at most
        ``max_gaussians`` (0: all). Other filters as in ``list_objects``.
        """
        request = QueryRegion.Request(region=write_region(region, frame_id))
        request.min_inside, request.max_results = float(min_inside), max_results
        request.include_gaussians, request.max_gaussians = gaussians, max_gaussians
        _set_filter(request, classes, min_confidence, include_tentative, states)
        reply = self._call("query_region", QueryRegion, request)
        return RegionAnswer(_objects(reply), tuple(reply.gaussians_inside), _gaussians(reply.gaussians))

    def query_nearest(
        self,
        point: Sequence[float] | np.ndarray,
        max_distance: float = 0.0,
        max_results: int = 0,
        *,
        classes: Iterable[str | int] = (),
        min_confidence: float = 0.0,
        include_tentative: bool = False,
        states: Iterable[ObjectState] = (),
        frame_id: str = "",
    ) -> NearestAnswer:
        """Objects by rising distance of their boxes from a point (3,) m, in ``frame_id`` or the map; 0 = no limit."""
        request = QueryNearest.Request(
            point=to_vector(Point, point),
            max_distance=float(max_distance),
            max_results=max_results,
            frame_id=frame_id,
        )
        _set_filter(request, classes, min_confidence, include_tentative, states)
        reply = self._call("query_nearest", QueryNearest, request)
        return NearestAnswer(_objects(reply), tuple(reply.distances))

    def query_ray(
        self,
        origin: Sequence[float] | np.ndarray,
        direction: Sequence[float] | np.ndarray,
        max_distance: float = 0.0,
        min_confidence: float = 0.0,
        frame_id: str = "",
    ) -> RayAnswer:
        """The object that a ray meets first; NothingThereError when it meets none, or what it meets is no object."""
        request = QueryRay.Request(
            origin=to_vector(Point, origin),
            direction=to_vector(Vector3, direction),
            max_distance=float(max_distance),
            min_confidence=float(min_confidence),
            frame_id=frame_id,
            include_object=True,
        )
        reply = self._call("query_ray", QueryRay, request)
        return RayAnswer(
            unpack_objects(reply.object)[0],
            reply.confidence,
            reply.distance,
            np.array([reply.point.x, reply.point.y, reply.point.z]),
            reply.map_revision,
            reply.header.frame_id,
        )

    def find(
        self,
        what: str | int,
        near: Sequence[float] | np.ndarray | Pose | PoseStamped | None = None,
        max_distance: float = 0.0,
        min_confidence: float = 0.0,
    ) -> ObjectView:
        """The object that is meant: by id, operator's name or class name, the nearest to ``near`` when there are several.

        near: a point (3,) or pose (4, 4) in the map, or a ROS pose (a PoseStamped may be in any frame); None: the surest
        one. UnknownObjectError when there is none, which names what there is.
        """
        if isinstance(what, int):
            return self.get_object(what).object
        if not what.strip():
            raise InvalidRequestError("find: the text is empty")
        if near is None:
            every = list(self.list_objects(min_confidence=min_confidence))
        else:
            point, frame_id = _place(near)
            answer = self.query_nearest(point, max_distance, min_confidence=min_confidence, frame_id=frame_id)
            every = list(answer.objects)
        wanted = what.strip().casefold()
        fitting = [obj for obj in every if wanted in (obj.name.casefold(), obj.class_name.casefold())]
        if not fitting:
            known = ", ".join(sorted({obj.label for obj in every})) or "no objects"
            raise UnknownObjectError(f"no object is called '{what}'; there are: {known}")
        return fitting[0] if near is not None else max(fitting, key=lambda obj: obj.confidence)

    def query_text(
        self,
        text: str,
        negatives: Iterable[str] = (),
        max_results: int = 0,
        min_score: float = 0.0,
        heat: bool = False,
    ) -> TextAnswer:
        """Objects that words describe, the best first: names, class names and synonyms. NothingThereError when there is none.

        negatives: an object that fits one of these as well or better is left out. min_score: 0..1, 0 = the matcher's own.
        heat: also how well what the newest frame shows fits.
        """
        request = QueryText.Request(
            text=text,
            negatives=list(negatives),
            max_results=max_results,
            min_score=float(min_score),
            include_heat=heat,
        )
        reply = self._call("query_text", QueryText, request)
        objects = tuple(unpack_objects(reply.objects))
        return TextAnswer(objects, tuple(reply.scores), reply.matcher, _image(reply.heat), reply.map_revision)

    # --- geometry ---------------------------------------------------------------------------------------------------

    def query_distance(
        self,
        points: np.ndarray,
        radii: np.ndarray | float = 0.0,
        only: Iterable[int] = (),
        without: Iterable[int] = (),
        gradients: bool = False,
        frame_id: str = "",
    ) -> DistanceAnswer:
        """Distances of points (N, 3) m, or of spheres, to what the map knows, negative inside; all in ``frame_id`` or the map.

        radii: one for all or one each. only: distances to these objects alone; without: as if these were not there, for
        what is to be grasped. Space that nobody has seen is said to be unknown, never free.
        """
        points = np.ascontiguousarray(points, "<f4").reshape(-1, 3)
        radii = np.atleast_1d(np.asarray(radii, "<f4"))
        request = QueryDistance.Request(frame_id=frame_id, include_gradients=gradients)
        request.points = array.array("f", points.tobytes())
        request.radii = array.array("f", radii.tobytes())
        request.only_ids, request.without_ids = list(only), list(without)
        reply = self._call("query_distance", QueryDistance, request)
        return DistanceAnswer(
            np.array(reply.distances, np.float32),
            np.array(reply.unknown, bool),
            np.array(reply.gradients, np.float32).reshape(-1, 3) if gradients else None,
            reply.map_revision,
        )

    def check_path(
        self,
        path: np.ndarray,
        radius: float,
        without: Iterable[int] = (),
        frame_id: str = "",
    ) -> PathAnswer:
        """May a sphere move along a path of corners (K, 3)? "free", "blocked", or "unseen": nothing is known to be in the way,
        but part of it has not been seen."""
        corners = np.asarray(path, float).reshape(-1, 3)
        request = CheckPath.Request(frame_id=frame_id, radius=float(radius), without_ids=list(without))
        request.path = [to_vector(Point, corner) for corner in corners]
        reply = self._call("check_path", CheckPath, request)
        point = np.array([reply.point.x, reply.point.y, reply.point.z])
        result = ("free", "blocked", "unseen")[reply.result]
        return PathAnswer(result, reply.clearance, reply.travelled, point, reply.object_id, reply.map_revision)

    def get_grid(
        self,
        resolution: float = 0.05,
        heights: tuple[float, float] = (0.1, 1.5),
        corners: tuple[Sequence[float], Sequence[float]] | None = None,
        inflation: Inflation | None = None,
        without: Iterable[int] = (),
    ) -> GridAnswer:
        """Occupancy of the floor, or, with ``inflation``, costs around what stands on it, by class where its ``by_class`` says.

        heights: the band, m in the map frame, that the robot takes up. corners (2,) each, m; None: all that was seen.
        """
        request = GetGrid.Request(resolution=float(resolution), low=float(heights[0]), high=float(heights[1]))
        if corners is not None:
            request.lower, request.upper = (to_vector(Point, [*corner[:2], 0.0]) for corner in corners)
        request.without_ids = list(without)
        if inflation is not None:
            request.costs, request.decay = True, float(inflation.decay)
            request.inscribed_radius, request.inflation_radius = float(inflation.inscribed), float(inflation.radius)
            own = dict(inflation.by_class or {})
            request.class_ids, request.class_radii = list(own), [float(radius) for radius in own.values()]
        reply = self._call("get_grid", GetGrid, request)
        info = reply.grid.info
        cells = np.array(reply.grid.data, np.int8).reshape(info.height, info.width)
        origin = np.array([info.origin.position.x, info.origin.position.y])
        return GridAnswer(cells, origin, info.resolution, reply.map_revision, reply.header.frame_id)

    # --- edits ------------------------------------------------------------------------------------------------------

    def rename(self, object_id: int, name: str, expected_revision: int = 0) -> ObjectView:
        """Give an object a name of its own, empty: none. As every edit, this locks it against perception.

        expected_revision: the ``revision`` of the answer that you look at; ConflictError when the object was edited,
        merged, split or removed since. 0: not checked. All edits take it, and can be undone.
        """
        return self._edited(EditObject.Request.RENAME, object_id, expected_revision, name=name)

    def merge(self, object_id: int, others: Iterable[int], expected_revision: int = 0) -> ObjectView:
        """The others become part of the first; asking for their ids tells so."""
        return self._edited(EditObject.Request.MERGE, object_id, expected_revision, others=list(others))

    def split(self, object_id: int, region: Region, frame_id: str = "", expected_revision: int = 0) -> int:
        """What of an object lies in a region becomes an object of its own; returns its id."""
        request = self._edit_request(EditObject.Request.SPLIT, object_id, expected_revision)
        request.region = write_region(region, frame_id)
        return int(self._call("edit_object", EditObject, request, EDIT_PATIENCE_S).new_id)

    def delete(self, object_id: int, expected_revision: int = 0) -> None:
        """Remove an object and its Gaussians; perception does not bring it back."""
        request = self._edit_request(EditObject.Request.DELETE, object_id, expected_revision)
        self._call("edit_object", EditObject, request, EDIT_PATIENCE_S)

    def lock(self, object_id: int, locked: bool = True, expected_revision: int = 0) -> ObjectView:
        """Perception neither merges, splits, renames nor removes a locked object; false: it may again."""
        kind = EditObject.Request.LOCK if locked else EditObject.Request.UNLOCK
        return self._edited(kind, object_id, expected_revision)

    def move(self, object_id: int, motion: np.ndarray, expected_revision: int = 0) -> ObjectView:
        """Move an object with its Gaussians: a point p goes to motion @ p, (4, 4) in the map frame."""
        motion = np.asarray(motion, float)
        if motion.shape != (4, 4) or not np.isfinite(motion).all():
            raise InvalidRequestError("motion: expected a rigid 4x4 matrix of finite numbers")
        pose = conversions.write_pose(motion)
        return self._edited(EditObject.Request.MOVE, object_id, expected_revision, motion=pose)

    def undo(self) -> str:
        """Take back the last edit; returns what was undone. NothingThereError without one."""
        request = self._edit_request(EditObject.Request.UNDO, 0, 0)
        return str(self._call("edit_object", EditObject, request, EDIT_PATIENCE_S).done)

    def select(self, object_id: int) -> None:
        """Highlight an object, 0: none; ~/selected_object tells everybody."""
        self._call("edit_object", EditObject, self._edit_request(EditObject.Request.SELECT, object_id, 0), EDIT_PATIENCE_S)

    @staticmethod
    def _edit_request(kind: int, object_id: int, expected_revision: int, **fields: Any) -> Any:
        return EditObject.Request(operation=kind, id=object_id, expected_revision=expected_revision, **fields)

    def _edited(self, kind: int, object_id: int, expected_revision: int, **fields: Any) -> ObjectView:
        request = self._edit_request(kind, object_id, expected_revision, **fields)
        return unpack_objects(self._call("edit_object", EditObject, request, EDIT_PATIENCE_S).object)[0]

    def correct_poses(self, poses: dict[int, np.ndarray]) -> int:
        """Keyframes are elsewhere than thought: stamp in ns -> optical frame's pose (4, 4) in the map. Gaussians and objects
        move with them, ids stay. Returns how many Gaussians moved."""
        request = CorrectPoses.Request(
            stamps=[conversions.to_stamp(stamp) for stamp in poses],
            poses=[conversions.write_pose(np.asarray(pose, float)) for pose in poses.values()],
        )
        return int(self._call("correct_poses", CorrectPoses, request, EDIT_PATIENCE_S).gaussians)

    def extract(self, object_id: int, path: str | Path, kind: str = "gaussians", max_parts: int = 0) -> Path:
        """Write an object into a file on the mapper's machine; returns its absolute path.

        kind: "gaussians" (.ply of splats), "mesh" (.ply, .glb), "collision" (convex parts: .obj, .glb) or "background"
        (.ply of all splats but the object's; object 0: but those of all objects).
        """
        if kind not in EXTRACTS:
            raise InvalidRequestError(f"kind '{kind}': expected one of {', '.join(EXTRACTS)}")
        request = ExtractObject.Request(id=object_id, kind=EXTRACTS.index(kind), path=str(path), max_parts=max_parts)
        return Path(self._call("extract_object", ExtractObject, request, 120.0).path)

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
        without: Iterable[int] = (),
    ) -> View:
        """The map seen from a pose (4x4, optical frame), through ``camera``'s intrinsics or those of the input camera.

        without: objects that are not shown, but what was seen behind them."""
        request = RenderView.Request(
            pose=conversions.write_pose(np.asarray(T_map_camera)),
            include_color=color,
            include_semantic=semantic,
            include_semantic_color=semantic_color,
            include_instance=instance,
            include_confidence=confidence,
            include_depth=depth,
            without_ids=list(without),
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


def _set_filter(
    request: Any,
    classes: Iterable[str | int],
    min_confidence: float,
    include_tentative: bool,
    states: Iterable[ObjectState],
) -> None:
    """Fill in the fields that all lists have in common."""
    chosen = list(classes)
    request.class_names = [entry for entry in chosen if isinstance(entry, str)]
    request.class_ids = [entry for entry in chosen if not isinstance(entry, str)]
    request.min_confidence, request.include_tentative = float(min_confidence), include_tentative
    request.states = [int(state) for state in states]


def _place(near: Any) -> tuple[np.ndarray, str]:
    """Position (3,) and frame of what ``SemanticMap.find`` takes for a place."""
    frame_id = ""
    if isinstance(near, PoseStamped):
        frame_id, near = near.header.frame_id, near.pose
    if isinstance(near, Pose):
        near = near.position
        return np.array([near.x, near.y, near.z]), frame_id
    values = np.asarray(near, float)
    if values.shape not in ((3,), (4, 4)):
        raise InvalidRequestError(f"near: expected a point (3,), a pose (4, 4) or a ROS pose, not {values.shape}")
    return (values if values.shape == (3,) else values[:3, 3]), frame_id


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
