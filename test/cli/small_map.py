"""A small map with objects, and a labelled sequence that shows exactly what the map renders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gs_semantic.data.folder_writer import write_folder
from gs_semantic.data.opaque_room import OBJECTS, opaque_room, room_camera
from gs_semantic.data.sequence import FrameSequence, InstanceRecord
from gs_semantic.gaussians import Camera, Frame, MaskInfo
from gs_semantic.gaussians.map_folder import save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.mapping.offline import MapOffline
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.registry import ObjectRegistry, ObjectState

CLASSES = {0: "void", 1: "box", 2: "ball"}
VIEWS = 2


def write_map(folder: Path, count: int = 6000) -> Path:
    """A room of discs, whose things are objects of the ids and slots 1..30; object 1 is named "left box"."""
    gaussians = opaque_room(count)
    slots = gaussians["object"].clone()
    register_votes(gaussians)
    gaussians["vote_object"][:, 0], gaussians["vote_weight"][:, 0] = slots, 3.0 * (slots > 0)
    objects = ObjectRegistry(LabelSet(dict(CLASSES)))
    for slot in range(1, OBJECTS + 1):
        obj = objects.open()
        obj.state, obj.class_scores = ObjectState.CONFIRMED, {1 if slot % 3 else 2: 2.0}
        update_geometry(obj, gaussians, np.flatnonzero(slots.numpy() == slot))
    objects.by_id(1).name = "left box"
    save_map(folder, gaussians, objects)
    return folder


class Rendered(FrameSequence):
    """What a map shows from a corner of the room, as if it were recorded."""

    format = "rendered"
    has_depth = has_instances = has_semantic = True

    def __init__(self, map_folder: Path) -> None:
        super().__init__(map_folder)
        self.shown = MapOffline.open(map_folder)
        self.labels = LabelSet(dict(CLASSES))
        self.cameras = [room_camera(96, 72, 0.3 * i - 0.15) for i in range(VIEWS)]
        self.poses = np.stack([camera.T_world_camera for camera in self.cameras])
        self.instances = {
            obj.slot: InstanceRecord(f"thing {obj.slot}", obj.class_id) for obj in self.shown.mapper.objects
        }

    def _camera(self, index: int) -> Camera:
        return self.cameras[index]

    def _semantic(self, index: int) -> np.ndarray:
        return self.shown.render_labels(self.cameras[index]).semantic.astype(np.int32)

    def _read(self, index: int) -> Frame:
        labels = self.shown.render_labels(self.cameras[index])
        masks = {int(key): MaskInfo(1 if key % 3 else 2) for key in np.unique(labels.instance) if key}
        rgb = self.shown.render_colour(self.cameras[index])
        return Frame(self.stamp_ns(index), self.cameras[index], rgb, labels.depth, labels.instance, masks)


def write_views(map_folder: Path, folder: Path) -> Path:
    write_folder(Rendered(map_folder), folder)
    return folder
