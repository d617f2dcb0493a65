"""The mapper's services.

ROS's own executors cannot wait for another thread without blocking all callbacks, so a reply is sent when it is there
(``DeferredService``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from geometry_msgs.msg import Point
from rclpy.node import Node
from std_msgs.msg import Header

from gs_semantic.errors import (
    EmptyMapError,
    ErrorCode,
    GsSemanticError,
    InvalidInputError,
    InvalidRequestError,
    NothingThereError,
    OutsideImageError,
    UnknownObjectError,
)
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.nodes import conversions
from gs_semantic.nodes.outputs import instance_info, instance_values
from gs_semantic.nodes.transforms import TransformError, checked_transform, inverse
from gs_semantic.objects.packing import PackedObjects, pack_gaussians
from gs_semantic.objects.registry import ObjectState
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
    from gs_semantic.mapping.view import MapView
    from gs_semantic.nodes.mapper_node import MapperNode

LARGEST_VIEW_PX = 16_000_000
RENDER_FLAGS = ("color", "semantic", "semantic_color", "instance", "confidence", "depth")


class DeferredService:
    """A service whose replies are sent later, from any thread.

    ``handle(request, reply)`` returns at once and sees to it that ``reply(response)`` is called once.
    """

    def __init__(self, node: Node, kind: type[Any], name: str, handle: Callable[[Any, Callable[[Any], None]], None]) -> None:
        self.service = node.create_service(kind, name, lambda request, response: request)
        send = self.service.send_response

        def defer(request: Any, header: Any) -> None:
            handle(request, lambda response: send(response, header))

        self.service.send_response = defer


class Services:
    """All services of the mapper node.

    Questions are answered from the node's view of the map, so that they never wait for mapping: listing objects at once,
    the rest by the thread that answers frames. What changes the map is done by the thread that maps.
    """

    def __init__(self, node: MapperNode) -> None:
        self._node = node
        self._made: list[DeferredService] = []
        at_once, by_answerer, by_mapper, on_disk = self._now, node.answering.call, node.mapping.call, node.disk
        for name, kind, answer, where in (
            ("list_objects", ListObjects, self._list_objects, at_once),
            ("get_object", GetObject, self._get_object, by_answerer),
            ("query_pixel", QueryPixel, self._query_pixel, by_answerer),
            ("query_region", QueryRegion, self._query_region, by_answerer),
            ("render_view", RenderView, self._render_view, by_answerer),
            ("pause", Control, self._control(node.pause), by_mapper),
            ("resume", Control, self._control(node.resume), by_mapper),
            ("reset", Control, self._control(node.reset), by_mapper),
            ("send_splats", Control, self._control(node.send_splats), by_mapper),
            ("save_map", SaveMap, self._save_map, on_disk),
            ("load_map", LoadMap, self._load_map, on_disk),
        ):
            self._add(name, kind, answer, where)

    @staticmethod
    def _now(task: Callable[[], None]) -> None:
        task()

    def _add(
        self,
        name: str,
        kind: type[Any],
        answer: Callable[[Any, Any], None],
        where: Callable[[Callable[[], None]], object],
    ) -> None:
        def handle(request: Any, reply: Callable[[Any], None]) -> None:
            where(lambda: reply(self._answered(name, kind, answer, request)))

        self._made.append(DeferredService(self._node, kind, f"~/{name}", handle))

    def close(self, node: Node) -> None:
        """Remove all services; nothing may be waiting for an answer."""
        for made in self._made:
            node.destroy_service(made.service)
        self._made.clear()

    def _answered(self, name: str, kind: type[Any], answer: Callable[[Any, Any], None], request: Any) -> Any:
        """The reply; any failure becomes code and text."""
        response = kind.Response()
        try:
            answer(request, response)
        except GsSemanticError as error:
            response.error_code, response.error_msg = int(error.code), str(error)
        except Exception as error:  # noqa: BLE001 - a planner must get an answer, and the node must go on
            self._node.get_logger().error(f"{name}: {error!r}")
            response.error_code, response.error_msg = int(ErrorCode.UNKNOWN), f"{name}: {error!r}"
        view = self._node.view
        if not response.header.frame_id:
            response.map_revision, response.header = view.revision, self._header(view)
        return response

    def _header(self, view: MapView) -> Header:
        return conversions.make_header(view.stamp_ns, self._node.frame_id)

    def _view(self, response: Any) -> MapView:
        """The view that a question is answered from; noted in the reply."""
        view = self._node.view
        response.map_revision, response.header = view.revision, self._header(view)
        return view

    def _filled_view(self, response: Any) -> MapView:
        view = self._view(response)
        if not len(view.gaussians):
            raise EmptyMapError("the map is empty: no frame has been mapped yet")
        return view

    # --- objects ----------------------------------------------------------------------------------------------------

    def _list_objects(self, request: ListObjects.Request, response: ListObjects.Response) -> None:
        view = self._view(response)
        records = view.objects.records
        index = np.flatnonzero(_fitting(request, view.objects) & (records["id"] > request.after_id))
        response.total = len(index)
        index = index[: request.max_results or None]
        response.count = len(index)
        response.objects = conversions.to_bytes_field(view.objects.to_bytes(index))
        if request.since_revision:
            response.present_ids = records["id"][records["state"] != ObjectState.TENTATIVE].tolist()

    def _get_object(self, request: GetObject.Request, response: GetObject.Response) -> None:
        view = self._view(response)
        index = np.flatnonzero(view.objects.records["id"] == request.id)
        if not len(index):
            raise UnknownObjectError(f"object {request.id} is not in the map; list_objects gives the ids there are")
        [record] = view.objects.records[index]
        response.object = conversions.to_bytes_field(view.objects.to_bytes(index))
        if request.include_gaussians and record["revision"] >= request.since_revision:
            rows = torch.nonzero(view.gaussians["object"] == int(record["slot"]))[:, 0]
            response.gaussian_count, response.gaussians = _gaussians(view.gaussians, rows, request.max_gaussians)

    def _query_pixel(self, request: QueryPixel.Request, response: QueryPixel.Response) -> None:
        view = self._filled_view(response)
        answer = self._node.answer_at(conversions.to_ns(request.stamp), request.camera)
        height, width = answer.instance.shape
        if not (0 <= request.u < width and 0 <= request.v < height):
            raise OutsideImageError(f"pixel u={request.u}, v={request.v} is outside of the {width}x{height} image")
        response.image_stamp = conversions.to_stamp(answer.stamp_ns)
        depth = float(answer.depth[request.v, request.u])
        response.depth = depth
        if depth > 0:
            camera = answer.camera
            local = np.array([(request.u - camera.cx) / camera.fx, (request.v - camera.cy) / camera.fy, 1.0]) * depth
            x, y, z = (camera.T_world_camera[:3, :3] @ local + camera.T_world_camera[:3, 3]).tolist()
            response.point = Point(x=x, y=y, z=z)
        slot = int(answer.instance[request.v, request.u])
        confidence = float(answer.confidence[request.v, request.u]) / 255
        index = np.flatnonzero(view.objects.records["slot"] == slot)
        if not slot or not len(index) or confidence < request.min_confidence:
            raise NothingThereError(f"no object at pixel u={request.u}, v={request.v} with the confidence asked for")
        [record] = view.objects.records[index]
        response.object_id, response.class_id = int(record["id"]), int(record["class_id"])
        response.class_name, response.confidence = view.objects.class_names[int(index[0])], confidence
        if request.include_object:
            response.object = conversions.to_bytes_field(view.objects.to_bytes(index))

    def _query_region(self, request: QueryRegion.Request, response: QueryRegion.Response) -> None:
        view = self._filled_view(response)
        inside = self._inside(request, view)
        slots = view.gaussians["object"].numpy()
        within = np.bincount(slots[inside], minlength=len(view.ids))
        whole = np.bincount(slots, minlength=len(view.ids))
        found = within[view.objects.records["slot"]]
        share = found / np.maximum(whole[view.objects.records["slot"]], 1)
        index = np.flatnonzero(_fitting(request, view.objects) & (found > 0) & (share >= request.min_inside))
        index = index[np.argsort(-found[index], kind="stable")]
        response.total = len(index)
        index = index[: request.max_results or None]
        response.count = len(index)
        response.objects = conversions.to_bytes_field(view.objects.to_bytes(index))
        response.gaussians_inside = found[index].tolist()
        if request.include_gaussians:
            rows = torch.from_numpy(np.flatnonzero(inside))
            response.gaussian_count, response.gaussians = _gaussians(view.gaussians, rows, request.max_gaussians)

    def _inside(self, request: QueryRegion.Request, view: MapView) -> np.ndarray:
        """Which Gaussians' centres lie in the region, bool (N,)."""
        center = np.array([request.center.x, request.center.y, request.center.z])
        q = request.orientation
        quaternion = np.array([q.x, q.y, q.z, q.w])
        try:
            rigid = checked_transform(center, quaternion if quaternion.any() else np.array([0, 0, 0, 1.0]), "orientation")
        except InvalidInputError as error:
            raise InvalidRequestError(str(error)) from error
        poses = self._node.inputs.poses
        map_frame = poses.map_frame
        if request.frame_id and request.frame_id != map_frame:
            try:
                rigid = poses.transform(map_frame, request.frame_id, view.stamp_ns) @ rigid
            except TransformError as error:
                raise InvalidRequestError(f"frame_id '{request.frame_id}': {error}") from error
        to_region = inverse(rigid).astype(np.float32)
        local = view.gaussians.means.numpy() @ to_region[:3, :3].T + to_region[:3, 3]
        if request.shape == QueryRegion.Request.SHAPE_SPHERE:
            if not request.radius > 0:
                raise InvalidRequestError(f"radius is {request.radius}, a sphere needs a positive one")
            return (local**2).sum(1) <= request.radius**2
        if request.shape != QueryRegion.Request.SHAPE_BOX:
            raise InvalidRequestError(f"shape is {request.shape}: 0 (box) and 1 (sphere) are known")
        half = np.array([request.size.x, request.size.y, request.size.z]) / 2
        if not (half > 0).all():
            raise InvalidRequestError(f"size is {(2 * half).tolist()}, a box needs three positive lengths")
        return (np.abs(local) <= half).all(1)

    # --- views ------------------------------------------------------------------------------------------------------

    def _render_view(self, request: RenderView.Request, response: RenderView.Response) -> None:
        node = self._node
        flags = {name for name in RENDER_FLAGS if getattr(request, f"include_{name}")}
        if not flags:
            raise InvalidRequestError("nothing is asked for: set at least one include_ flag")
        view = self._filled_view(response)
        camera = self._camera(request)
        header = response.header
        response.camera_info = conversions.write_camera(camera, header)
        if flags & {"color", "depth"}:
            with torch.no_grad():
                rendering = node.rasterizer.render(view.gaussians, camera)
            if "color" in flags:
                rgb = (rendering.rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
                response.color = conversions.write_image(rgb, "rgb8", header)
            if "depth" in flags:
                response.depth = conversions.write_image(rendering.depth.numpy(), "32FC1", header)
        if flags - {"color", "depth"}:
            labels = view.render_labels(node.rasterizer, camera)
            if "semantic" in flags:
                encoding = conversions.semantic_encoding(view.labels)
                response.semantic = conversions.write_classes(labels.semantic, encoding, header)
            if "semantic_color" in flags:
                coloured = next(iter(node.answerers.values())).class_colours(labels.semantic)
                response.semantic_color = conversions.write_image(coloured, "rgb8", header)
            if "confidence" in flags:
                response.confidence = conversions.write_image(labels.confidence, "mono8", header)
            if "instance" in flags:
                values, slots = instance_values(labels.instance)
                response.instance = conversions.write_image(values, "16UC1", header)
                response.instance_info = instance_info(slots, view, header)

    def _camera(self, request: RenderView.Request) -> Camera:
        try:
            pose = conversions.read_pose(request.pose, "pose")
            if request.width == 0:
                if self._node.last_camera is None:
                    raise InvalidRequestError("width is 0, and there is no input camera yet to take the intrinsics from")
                return self._node.last_camera.at(pose)
            if request.width * request.height > LARGEST_VIEW_PX:
                raise InvalidRequestError(
                    f"width x height is {request.width}x{request.height}, at most {LARGEST_VIEW_PX} pixels are drawn"
                )
            intrinsics = (request.fx, request.fy, request.cx, request.cy)
            return Camera(request.width, request.height, *intrinsics, pose)
        except InvalidInputError as error:
            raise InvalidRequestError(str(error)) from error

    # --- control and files --------------------------------------------------------------------------------------------

    @staticmethod
    def _control(action: Callable[[], None]) -> Callable[[Any, Any], None]:
        return lambda request, response: action()

    def _save_map(self, request: SaveMap.Request, response: SaveMap.Response) -> None:
        path = _path(request.path)
        saved = self._node.save(path)
        response.path, response.gaussians, response.objects = str(path), len(saved.gaussians), len(saved.objects)

    def _load_map(self, request: LoadMap.Request, response: LoadMap.Response) -> None:
        gaussians, objects = self._node.load(_path(request.path))
        response.map_id, response.gaussians = gaussians.map_id, len(gaussians)
        response.objects = len(objects.present())


def _path(text: str) -> Path:
    if not text:
        raise InvalidRequestError("path is empty: give a folder")
    return Path(text).expanduser().absolute()


def _fitting(request: ListObjects.Request | QueryRegion.Request, objects: PackedObjects) -> np.ndarray:
    """Which objects fit a request's filters, bool (N,)."""
    records = objects.records
    fits = records["confidence"] >= request.min_confidence
    if not request.include_tentative:
        fits &= records["state"] != ObjectState.TENTATIVE
    if request.since_revision:
        fits &= records["revision"] > request.since_revision
    if len(request.class_ids) or len(request.class_names):
        named = np.array([name in set(request.class_names) for name in objects.class_names], bool)
        fits &= np.isin(records["class_id"], list(request.class_ids)) | named
    return fits


def _gaussians(gaussians: GaussianMap, rows: torch.Tensor, limit: int) -> tuple[int, Any]:
    """Count and packed bytes of rows (M,), an even selection of at most ``limit`` (0: all)."""
    if limit and len(rows) > limit:
        rows = rows[torch.linspace(0, len(rows) - 1, limit).round().long()]
    return len(rows), conversions.to_bytes_field(pack_gaussians(gaussians, rows))
