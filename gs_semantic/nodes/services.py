"""The mapper's services.

ROS's own executors cannot wait for another thread without blocking all callbacks, so a reply is sent when it is there
(``DeferredService``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rclpy.node import Node

from gs_semantic.errors import ErrorCode, GsSemanticError, InvalidInputError, InvalidRequestError
from gs_semantic.gaussians import Camera
from gs_semantic.nodes import conversions
from gs_semantic.nodes.edits import Edits
from gs_semantic.nodes.geometry import Geometry
from gs_semantic.nodes.outputs import instance_info, instance_values
from gs_semantic.nodes.queries import Queries
from gs_semantic.rendering.cpu import CpuRasterizer
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
    those about Gaussians by a thread of their own, and those that need a rendering by the thread that answers frames. What changes the map is done by the thread that maps.
    """

    def __init__(self, node: MapperNode) -> None:
        self._node = node
        self.queries = queries = Queries(node)
        edits = Edits(node)
        self.geometry = geometry = Geometry(node)
        self._made: list[DeferredService] = []
        at_once, aside, on_disk = self._now, node.ask, node.disk
        by_answerer, by_mapper = node.answering.call, node.mapping.call
        for name, kind, answer, where in (
            ("list_objects", ListObjects, queries.list_objects, at_once),
            ("get_object", GetObject, queries.get_object, aside),
            ("query_pixel", QueryPixel, queries.query_pixel, by_answerer),
            ("query_region", QueryRegion, queries.query_region, aside),
            ("query_nearest", QueryNearest, queries.query_nearest, at_once),
            ("query_text", QueryText, queries.query_text, by_answerer),
            ("query_ray", QueryRay, queries.query_ray, by_answerer),
            ("query_distance", QueryDistance, geometry.query_distance, geometry.run),
            ("check_path", CheckPath, geometry.check_path, geometry.run),
            ("get_grid", GetGrid, geometry.get_grid, geometry.run),
            ("render_view", RenderView, self._render_view, by_answerer),
            ("edit_object", EditObject, edits.edit, by_mapper),
            ("correct_poses", CorrectPoses, edits.correct_poses, by_mapper),
            ("extract_object", ExtractObject, edits.extract, by_answerer),
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
        self.geometry.close()
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
        if not response.header.frame_id:
            self.queries.view(response)
        return response

    # --- views ------------------------------------------------------------------------------------------------------

    def _render_view(self, request: RenderView.Request, response: RenderView.Response) -> None:
        node = self._node
        flags = {name for name in RENDER_FLAGS if getattr(request, f"include_{name}")}
        if not flags:
            raise InvalidRequestError("nothing is asked for: set at least one include_ flag")
        view = self.queries.filled_view(response)
        camera = self._camera(request)
        header = response.header
        response.camera_info = conversions.write_camera(camera, header)
        rasterizer = node.rasterizer
        if request.without_ids:
            view = view.without(self.queries.slots(request.without_ids, view))
            rasterizer = CpuRasterizer(node.config.raster_settings)  # the node's keeps the whole map packed
        if flags & {"color", "depth"}:
            with torch.no_grad():
                rendering = rasterizer.render(view.gaussians, camera)
            if "color" in flags:
                rgb = (rendering.rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
                response.color = conversions.write_image(rgb, "rgb8", header)
            if "depth" in flags:
                response.depth = conversions.write_image(rendering.depth.numpy(), "32FC1", header)
        if flags - {"color", "depth"}:
            labels = view.render_labels(rasterizer, camera)
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
