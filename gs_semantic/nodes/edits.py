"""Edits of objects through services, and objects written to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from gs_semantic.errors import InvalidInputError, InvalidRequestError, NothingThereError, UnknownObjectError
from gs_semantic.gaussians.ply import save_ply
from gs_semantic.mapping.edits import Editor, Outcome
from gs_semantic.mapping.view import pack_registry, rows_of
from gs_semantic.nodes import conversions
from gs_semantic.nodes.region_messages import read_region
from gs_semantic.objects.convex import convex_parts, save_parts
from gs_semantic.objects.mesh import object_mesh
from gs_semantic.objects.packing import quaternion_to_matrix
from gs_semantic.objects.regions import Region
from gs_semantic.srv import CorrectPoses, EditObject, ExtractObject

if TYPE_CHECKING:
    from gs_semantic.nodes.mapper_node import MapperNode

PARTS = 8  # convex parts of a collision object, when the request does not say


class Edits:
    """Changes the map when asked to; ``edit`` runs in the mapping thread, ``extract`` on the view."""

    def __init__(self, node: MapperNode) -> None:
        self._node = node
        self._editor = Editor(node.mapper)

    def edit(self, request: EditObject.Request, response: EditObject.Response) -> None:
        kind, editor, expected = request.operation, self._editor, request.expected_revision
        one, others = request.id, list(request.others)
        if kind == EditObject.Request.SELECT:
            self._select(one, response)
            return
        operations: dict[int, Callable[[], Outcome]] = {
            EditObject.Request.RENAME: lambda: editor.rename(one, request.name, expected),
            EditObject.Request.MERGE: lambda: editor.merge(one, others, expected),
            EditObject.Request.SPLIT: lambda: editor.split(one, self._region(request), expected),
            EditObject.Request.DELETE: lambda: editor.delete(one, expected),
            EditObject.Request.LOCK: lambda: editor.lock(one, True, expected),
            EditObject.Request.UNLOCK: lambda: editor.lock(one, False, expected),
            EditObject.Request.MOVE: lambda: editor.move(one, self._motion(request), expected),
            EditObject.Request.UNDO: editor.undo,
        }
        if kind not in operations:
            raise InvalidRequestError(f"operation is {kind}: 1 (rename) to 9 (select) are known")
        outcome = operations[kind]()
        self._node.objects_edited()
        response.done, response.new_id, response.undoable = outcome.text, outcome.new_id, editor.undoable
        if outcome.object is not None:
            self._tell(outcome.object.id, response)

    def _tell(self, object_id: int, response: EditObject.Response) -> None:
        """The object as the map has it now; the view shows it from here on."""
        packed = pack_registry(self._node.mapper.objects)
        index = np.flatnonzero(packed.records["id"] == object_id)
        response.object = conversions.to_bytes_field(packed.to_bytes(index))

    def _select(self, object_id: int, response: EditObject.Response) -> None:
        if object_id:
            self._node.mapper.objects.by_id(object_id)  # UnknownObjectError
            self._tell(object_id, response)
        self._node.select(object_id)
        response.done = f"select object {object_id}" if object_id else "select nothing"
        response.undoable = self._editor.undoable

    def _region(self, request: EditObject.Request) -> Region:
        pose = self._node.map_services.queries.T_map(request.region.frame_id, self._node.view)
        return read_region(request.region, pose)

    @staticmethod
    def _motion(request: EditObject.Request) -> np.ndarray:
        try:
            return conversions.read_pose(request.motion, "motion")
        except InvalidInputError as error:
            raise InvalidRequestError(str(error)) from error

    def correct_poses(self, request: CorrectPoses.Request, response: CorrectPoses.Response) -> None:
        if len(request.stamps) != len(request.poses):
            raise InvalidRequestError(f"{len(request.stamps)} stamps and {len(request.poses)} poses: expected as many")
        try:
            poses = {
                conversions.to_ns(stamp): conversions.read_pose(pose, f"poses[{number}]")
                for number, (stamp, pose) in enumerate(zip(request.stamps, request.poses, strict=True))
            }
        except InvalidInputError as error:
            raise InvalidRequestError(str(error)) from error
        response.keyframes, response.gaussians = self._node.mapper.correct_poses(poses)
        self._node.objects_edited()

    # --- files ------------------------------------------------------------------------------------------------------

    def extract(self, request: ExtractObject.Request, response: ExtractObject.Response) -> None:
        view = self._node.map_services.queries.filled_view(response)
        if not request.path:
            raise InvalidRequestError("path is empty: give a file")
        path = Path(request.path).expanduser().absolute()
        if request.kind == ExtractObject.Request.BACKGROUND:
            slots = self._node.map_services.queries.slots([request.id], view) if request.id else view.objects.records["slot"]
            _check_splats(path)
            rest = view.without(slots.tolist() if isinstance(slots, np.ndarray) else slots).gaussians
            save_ply(path, rest)
            response.path, response.parts = str(path), len(rest)
            return
        index = np.flatnonzero(view.objects.records["id"] == request.id)
        if not len(index):
            raise UnknownObjectError(self._node.mapper.objects.why_unknown(request.id))
        [record] = view.objects.records[index]
        rows = torch.from_numpy(np.flatnonzero(view.gaussians["object"].numpy() == int(record["slot"])))
        if not len(rows):
            raise NothingThereError(f"object {request.id}: no Gaussian of the map belongs to it")
        own = rows_of(view.gaussians, rows)
        if request.kind == ExtractObject.Request.GAUSSIANS:
            _check_splats(path)
            save_ply(path, own)
            response.parts = len(own)
        elif request.kind == ExtractObject.Request.MESH:
            mesh = object_mesh(own, self._node.rasterizer)
            mesh.save(path)
            response.parts = len(mesh.triangles)
        elif request.kind == ExtractObject.Request.COLLISION:
            axes = quaternion_to_matrix(record["box_rotation"]) if record["box_rotation"].any() else np.eye(3)
            parts = convex_parts(own.means.numpy(), request.max_parts or PARTS, axes)
            save_parts(path, parts)
            response.parts = len(parts)
        else:
            raise InvalidRequestError(f"kind is {request.kind}: 0 (Gaussians), 1 (mesh), 2 (collision) and 3 (background) are known")
        response.path = str(path)


def _check_splats(path: Path) -> None:
    if path.suffix.lower() != ".ply":
        raise InvalidRequestError(f"{path}: Gaussians are written as .ply")
