"""A copy of the map for readers in other threads: it stays as it is while mapping goes on."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.gaussians.copies import CopyPool
from gs_semantic.gaussians.gaussian_map import CORE
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.events import LabelImages
from gs_semantic.objects.packing import PackedObjects, pack_objects
from gs_semantic.objects.registry import ObjectRegistry
from gs_semantic.rendering.base import Rasterizer

_pools: weakref.WeakKeyDictionary[GaussianMap, CopyPool] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class MapView:
    """Gaussians and objects of one map revision. Nobody changes what it holds.

    Tensors of ``gaussians`` are valid as long as somebody holds it: the next view may use their memory.

    ids uint64 (S,) and classes uint16 (S,) belong to object slots; both are 0 where no published object (confirmed or
    stale) is. stamp_ns: newest frame in the map. embeddings: (D,) by object id, in the space of ``embedding_model``.
    """

    gaussians: GaussianMap
    labels: LabelSet
    objects: PackedObjects
    ids: np.ndarray
    classes: np.ndarray
    stamp_ns: int = 0
    embeddings: dict[int, np.ndarray] = field(default_factory=dict)
    embedding_model: str = ""
    _slots: np.ndarray = field(init=False, repr=False)  # slot -> published slot

    def __post_init__(self) -> None:
        slots = np.where(self.ids > 0, np.arange(len(self.ids)), 0).astype(np.int32)
        object.__setattr__(self, "_slots", slots)

    @classmethod
    def of(cls, gaussians: GaussianMap, objects: ObjectRegistry, stamp_ns: int, packed: PackedObjects) -> MapView:
        """Copy a map; ``packed`` is ``pack_registry`` of its objects."""
        gaussians.register("object", (), torch.int32)
        copy = _pools.setdefault(gaussians, CopyPool()).copy(gaussians, ("object",))
        ids, classes = np.zeros(objects.slots, np.uint64), np.zeros(objects.slots, np.uint16)
        for obj in objects.present():
            ids[obj.slot], classes[obj.slot] = obj.id, obj.class_id
        embeddings = {obj.id: obj.embedding for obj in objects.present() if obj.embedding is not None}
        return cls(copy, objects.labels, packed, ids, classes, stamp_ns, embeddings, objects.embedding_model)

    @property
    def revision(self) -> int:
        return self.gaussians.revision

    def without(self, slots: Collection[int]) -> MapView:
        """The map as if some objects were not there; what was hidden behind them may never have been seen."""
        left = torch.from_numpy(np.flatnonzero(~np.isin(self.gaussians["object"].numpy(), list(slots))))
        part = rows_of(self.gaussians, left)
        part.register("object", (), torch.int32)
        part["object"] = self.gaussians["object"][left]
        return replace(self, gaussians=part)

    def render_labels(self, rasterizer: Rasterizer, camera: Camera, stamp_ns: int = 0) -> LabelImages:
        """Label images seen by a camera."""
        return label_images(rasterizer, self.gaussians, camera, self._slots, self.classes, stamp_ns)


def rows_of(gaussians: GaussianMap, rows: torch.Tensor) -> GaussianMap:
    """A map of some rows, core attributes only, with the revision of the whole."""
    part = GaussianMap(gaussians.sh_degree, gaussians.map_id, gaussians.frame_id)
    part.add(**{name: gaussians[name][rows] for name in CORE})
    part.continue_from(gaussians.next_uid, gaussians.revision)
    return part


def label_images(
    rasterizer: Rasterizer,
    gaussians: GaussianMap,
    camera: Camera,
    slots: np.ndarray,
    classes: np.ndarray,
    stamp_ns: int = 0,
) -> LabelImages:
    """Label images of a map. slots int32 (S,): the object to show for each object slot, 0 = none; classes (S,)."""
    result = rasterizer.render_ids(gaussians, camera, gaussians["object"])
    winner = result.ids.numpy()
    instance = slots[winner]
    confidence = np.round(result.confidence.numpy() * 255).astype(np.uint8)
    confidence[instance == 0] = 0
    return LabelImages(stamp_ns, camera, instance, classes[winner], confidence, result.depth.numpy())


def forget_copies(gaussians: GaussianMap) -> None:
    """Free the memory that waits for the next view of a map; those in use stay."""
    _pools.pop(gaussians, None)


def pack_registry(objects: ObjectRegistry) -> PackedObjects:
    """All objects, tentative and removed ones too, by rising id."""
    return pack_objects(sorted(objects, key=lambda obj: obj.id), objects)
