"""Questions to the mapper: which objects are there, where, what is at this pixel, on this ray, near this point."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from geometry_msgs.msg import Point, PointStamped
from sensor_msgs.msg import Image

from gs_semantic.errors import (
    EmptyMapError,
    InvalidRequestError,
    NothingThereError,
    OutsideImageError,
    UnknownObjectError,
)
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.gaussians.camera import looking_along
from gs_semantic.mapping.view import MapView
from gs_semantic.nodes import conversions
from gs_semantic.nodes.outputs import map_cloud
from gs_semantic.nodes.region_messages import read_region
from gs_semantic.nodes.transforms import TransformError
from gs_semantic.objects.packing import pack_gaussians
from gs_semantic.objects.queries import Filter, box_distances, in_regions
from gs_semantic.objects.registry import ObjectState
from gs_semantic.objects.text import THRESHOLD, TextEncoder, match_embeddings, match_names
from gs_semantic.srv import GetObject, ListObjects, QueryNearest, QueryPixel, QueryRay, QueryRegion, QueryText

if TYPE_CHECKING:
    from gs_semantic.nodes.mapper_node import MapperNode

RAY_PX, RAY_FOCAL_PX = 9, 500.0  # a ray is a tiny image: one pixel is 2 mrad wide
CLICK_REACH_M = 0.15  # a clicked point means an object that has a Gaussian so near
CLICK_VOTERS = 15  # the nearest Gaussians, of which most decide


class Queries:
    """Answers questions from the node's view of the map; each method fills the response that it is given."""

    def __init__(self, node: MapperNode) -> None:
        self._node = node

    # --- the view ---------------------------------------------------------------------------------------------------

    def view(self, response: Any) -> MapView:
        """The view that a question is answered from; noted in the reply."""
        view = self._node.view
        response.map_revision = view.revision
        response.header = conversions.make_header(view.stamp_ns, self._node.frame_id)
        return view

    def filled_view(self, response: Any) -> MapView:
        """The same; EmptyMapError while there is nothing in it."""
        view = self.view(response)
        if not len(view.gaussians):
            raise EmptyMapError("the map is empty: no frame has been mapped yet")
        return view

    def T_map(self, frame_id: str, view: MapView) -> np.ndarray:
        """Pose (4, 4) of a frame in the map; InvalidRequestError when TF does not know it."""
        poses = self._node.inputs.poses
        if not frame_id or frame_id == self._node.frame_id:
            return np.eye(4)
        try:
            return poses.transform(self._node.frame_id, frame_id, view.stamp_ns)
        except TransformError as error:
            raise InvalidRequestError(f"frame_id '{frame_id}': {error}") from error

    @staticmethod
    def slots(ids: Iterable[int], view: MapView) -> list[int]:
        """Slots of objects; UnknownObjectError names an id that is not there."""
        records, out = view.objects.records, []
        for object_id in ids:
            index = np.flatnonzero(records["id"] == object_id)
            if not len(index):
                raise UnknownObjectError(f"object {object_id} is not in the map; list_objects gives the ids there are")
            out.append(int(records["slot"][index[0]]))
        return out

    def point(self, point: Any, frame_id: str, view: MapView, what: str) -> np.ndarray:
        """A message's point (3,) in the map frame."""
        place = np.array([point.x, point.y, point.z])
        if not np.isfinite(place).all():
            raise InvalidRequestError(f"{what} is {place.tolist()}: not finite")
        pose = self.T_map(frame_id, view)
        return pose[:3, :3] @ place + pose[:3, 3]

    # --- lists ------------------------------------------------------------------------------------------------------

    def list_objects(self, request: ListObjects.Request, response: ListObjects.Response) -> None:
        view = self.view(response)
        records = view.objects.records
        fits = object_filter(request).fits(view.objects) & (records["id"] > request.after_id)
        if request.regions:
            regions = [read_region(region, self.T_map(region.frame_id, view)) for region in request.regions]
            fits &= in_regions(records, regions)
        _fill(request, response, view, np.flatnonzero(fits))
        if request.since_revision:
            hidden = (ObjectState.TENTATIVE, ObjectState.REMOVED)
            response.present_ids = records["id"][~np.isin(records["state"], hidden)].tolist()

    def query_region(self, request: QueryRegion.Request, response: QueryRegion.Response) -> None:
        view = self.filled_view(response)
        region = read_region(request.region, self.T_map(request.region.frame_id, view))
        inside = region.inside(view.gaussians.means.numpy())
        slots = view.gaussians["object"].numpy()
        within = np.bincount(slots[inside], minlength=len(view.ids))
        own = view.objects.records["slot"]
        found = within[own]
        share = found / np.maximum(np.bincount(slots, minlength=len(view.ids))[own], 1)
        index = np.flatnonzero(object_filter(request).fits(view.objects) & (found > 0) & (share >= request.min_inside))
        index = _fill(request, response, view, index[np.argsort(-found[index], kind="stable")])
        response.gaussians_inside = found[index].tolist()
        if request.include_gaussians:
            rows = torch.from_numpy(np.flatnonzero(inside))
            response.gaussian_count, response.gaussians = packed_rows(view.gaussians, rows, request.max_gaussians)

    def query_nearest(self, request: QueryNearest.Request, response: QueryNearest.Response) -> None:
        view = self.view(response)
        point = self.point(request.point, request.frame_id, view, "point")
        if not request.max_distance >= 0:
            raise InvalidRequestError(f"max_distance is {request.max_distance}, expected 0 or more")
        distance = box_distances(view.objects.records, point)
        near = np.isfinite(distance) & (distance <= (request.max_distance or np.inf))
        index = np.flatnonzero(object_filter(request).fits(view.objects) & near)
        index = _fill(request, response, view, index[np.argsort(distance[index], kind="stable")])
        response.distances = distance[index].tolist()

    def query_text(self, request: QueryText.Request, response: QueryText.Response) -> None:
        view = self.view(response)
        if not (np.isfinite(request.min_score) and 0 <= request.min_score <= 1):
            raise InvalidRequestError(f"min_score is {request.min_score}, expected 0 to 1")
        objects = view.objects
        names = zip(objects.operator_names, objects.class_names, strict=True)
        present, least = Filter().fits(objects), request.min_score or THRESHOLD
        scores = np.where(present, match_names(request.text, list(names), list(request.negatives)), 0)
        response.matcher = "names"
        language = self._node.language
        if not (scores >= least).any() and language is not None and view.embedding_model == language.name:
            # nothing is called so: does something look so?
            response.matcher = language.name
            scores = np.where(present, self._likeness(request, view, language), 0)
        index = np.flatnonzero(scores >= least)
        if not len(index):
            looks = "" if response.matcher == "names" else f", nor does one look so to {response.matcher}"
            raise NothingThereError(f"'{request.text}' is not found: no object of the map is called so{looks}")
        index = index[np.argsort(-scores[index], kind="stable")][: request.max_results or None]
        response.count = len(index)
        response.objects = conversions.to_bytes_field(objects.to_bytes(index))
        response.scores = scores[index].tolist()
        if request.include_heat:
            response.heat = self._heat(view, scores)

    @staticmethod
    def _likeness(request: QueryText.Request, view: MapView, language: TextEncoder) -> np.ndarray:
        """Scores (N,) of the view's objects by their embeddings; 0 without one."""
        ids = view.objects.records["id"].tolist()
        there = [row for row, object_id in enumerate(ids) if object_id in view.embeddings]
        scores = np.zeros(len(ids))
        if there:
            embeddings = np.stack([view.embeddings[ids[row]] for row in there])
            scores[there] = match_embeddings(request.text, embeddings, language, list(request.negatives))
        return scores

    def _heat(self, view: MapView, scores: np.ndarray) -> Image:
        """How well what the newest frame shows fits; ``scores`` (N,) belong to the view's objects."""
        answer = self._node.answer_at(0)
        table = np.zeros(max(len(view.ids), int(answer.instance.max(initial=0)) + 1), np.float32)
        table[view.objects.records["slot"]] = scores
        heat = np.round(table[answer.instance] * answer.confidence).astype(np.uint8)
        return conversions.write_image(heat, "mono8", conversions.make_header(answer.stamp_ns, self._node.frame_id))

    # --- one object -------------------------------------------------------------------------------------------------

    def get_object(self, request: GetObject.Request, response: GetObject.Response) -> None:
        view = self.view(response)
        index = np.flatnonzero(view.objects.records["id"] == request.id)
        if not len(index):
            raise UnknownObjectError(self._node.mapper.objects.why_unknown(request.id))
        [record] = view.objects.records[index]
        response.object = conversions.to_bytes_field(view.objects.to_bytes(index))
        if request.include_embedding and request.id in view.embeddings:
            response.embedding = view.embeddings[request.id].tolist()
            response.embedding_model = view.embedding_model
        if not (request.include_gaussians or request.include_cloud) or record["revision"] < request.since_revision:
            return
        # numpy: torch's threads would wait for those of mapping
        own = np.flatnonzero(view.gaussians["object"].numpy() == int(record["slot"]))
        rows = _even(torch.from_numpy(own), request.max_gaussians)
        response.gaussian_count = len(rows)
        if request.include_gaussians:
            response.gaussians = conversions.to_bytes_field(pack_gaussians(view.gaussians, rows))
        if request.include_cloud:
            response.cloud = conversions.write_cloud(map_cloud(view, rows), response.header)

    def query_pixel(self, request: QueryPixel.Request, response: QueryPixel.Response) -> None:
        view = self.filled_view(response)
        answer = self._node.answer_at(conversions.to_ns(request.stamp), request.camera)
        height, width = answer.instance.shape
        if not (0 <= request.u < width and 0 <= request.v < height):
            raise OutsideImageError(f"pixel u={request.u}, v={request.v} is outside of the {width}x{height} image")
        response.image_stamp = conversions.to_stamp(answer.stamp_ns)
        response.depth = depth = float(answer.depth[request.v, request.u])
        if depth > 0:
            camera = answer.camera
            local = np.array([(request.u - camera.cx) / camera.fx, (request.v - camera.cy) / camera.fy, 1.0]) * depth
            x, y, z = (camera.T_world_camera[:3, :3] @ local + camera.T_world_camera[:3, 3]).tolist()
            response.point = Point(x=x, y=y, z=z)
        slot, confidence = int(answer.instance[request.v, request.u]), answer.confidence[request.v, request.u] / 255
        where = f"at pixel u={request.u}, v={request.v}"
        self._tell_object(request, response, view, slot, float(confidence), where)

    def query_ray(self, request: QueryRay.Request, response: QueryRay.Response) -> None:
        view = self.filled_view(response)
        origin = self.point(request.origin, request.frame_id, view, "origin")
        direction = np.array([request.direction.x, request.direction.y, request.direction.z])
        length = np.linalg.norm(direction)
        if not (np.isfinite(length) and length > 0):
            raise InvalidRequestError(f"direction is {direction.tolist()}, expected a finite vector that is not zero")
        if not request.max_distance >= 0:
            raise InvalidRequestError(f"max_distance is {request.max_distance}, expected 0 or more")
        forward = self.T_map(request.frame_id, view)[:3, :3] @ (direction / length)
        middle = RAY_PX // 2
        camera = Camera(
            RAY_PX, RAY_PX, RAY_FOCAL_PX, RAY_FOCAL_PX, float(middle), float(middle), looking_along(origin, forward)
        )
        answer = view.render_labels(self._node.rasterizer, camera)
        depth = float(answer.depth[middle, middle])
        if depth <= 0 or depth > (request.max_distance or np.inf):
            raise NothingThereError("the ray meets nothing within max_distance")
        response.distance = depth
        x, y, z = (origin + depth * forward).tolist()
        response.point = Point(x=x, y=y, z=z)
        slot, confidence = int(answer.instance[middle, middle]), answer.confidence[middle, middle] / 255
        self._tell_object(request, response, view, slot, float(confidence), "where the ray meets the map")

    @staticmethod
    def _tell_object(request: Any, response: Any, view: MapView, slot: int, confidence: float, where: str) -> None:
        """Fill in what a pixel or ray shows; NothingThereError when that is no object."""
        index = np.flatnonzero(view.objects.records["slot"] == slot)
        if not slot or not len(index) or confidence < request.min_confidence:
            raise NothingThereError(f"no object {where} with the confidence asked for")
        [record] = view.objects.records[index]
        response.object_id, response.class_id = int(record["id"]), int(record["class_id"])
        response.class_name, response.confidence = view.objects.class_names[int(index[0])], confidence
        if request.include_object:
            response.object = conversions.to_bytes_field(view.objects.to_bytes(index))

    def clicked(self, msg: PointStamped) -> int:
        """Id of the object at a clicked point, 0: none is within ``CLICK_REACH_M``."""
        view = self._node.view
        point = self.point(msg.point, msg.header.frame_id, view, "point").astype(np.float32)
        slots = view.gaussians["object"].numpy()
        near = np.flatnonzero((np.abs(view.gaussians.means.numpy() - point) <= CLICK_REACH_M).all(axis=1))
        near = near[view.ids[slots[near]] > 0]
        if not len(near):
            return 0
        distance = np.linalg.norm(view.gaussians.means.numpy()[near] - point, axis=1)
        voters = slots[near[np.argsort(distance, kind="stable")[:CLICK_VOTERS]]]
        return int(view.ids[np.bincount(voters).argmax()])


def object_filter(request: Any) -> Filter:
    """The filter fields that all lists have in common."""
    return Filter(
        request.min_confidence,
        list(request.class_ids),
        list(request.class_names),
        list(request.states),
        request.include_tentative,
        request.since_revision,
    )


def packed_rows(gaussians: GaussianMap, rows: torch.Tensor, limit: int) -> tuple[int, Any]:
    """Count and packed bytes of rows (M,), an even selection of at most ``limit`` (0: all)."""
    rows = _even(rows, limit)
    return len(rows), conversions.to_bytes_field(pack_gaussians(gaussians, rows))


def _even(rows: torch.Tensor, limit: int) -> torch.Tensor:
    if limit and len(rows) > limit:
        return rows[torch.linspace(0, len(rows) - 1, limit).round().long()]
    return rows


def _fill(request: Any, response: Any, view: MapView, index: np.ndarray) -> np.ndarray:
    """Put objects ``index`` (N,) into a reply, as many as were asked for; returns those."""
    response.total = len(index)
    index = index[: request.max_results or None]
    response.count = len(index)
    response.objects = conversions.to_bytes_field(view.objects.to_bytes(index))
    return index
