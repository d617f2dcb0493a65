"""Classes for a map from a method that labels Gaussians itself, in the place of masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

import numpy as np
import torch

from gs_semantic.gaussians import Frame, GaussianMap
from gs_semantic.labels import VOID, LabelSet
from gs_semantic.objects.registry import ObjectRegistry, ObjectState
from gs_semantic.rendering import Rasterizer


@dataclass(frozen=True)
class ClassUpdate:
    """Rows int64 (R,) of the map whose class changed or was confirmed, their classes int32 (R,), 0 = nothing known, and
    how probable these are, float32 (R,)."""

    rows: torch.Tensor
    classes: torch.Tensor
    probability: torch.Tensor


class SemanticSource(Protocol):
    """Labels the Gaussians that a keyframe sees. labels: names of its classes. attributes: of the map, in which it keeps
    what it knows of a Gaussian. rasterizer: draws for it, and may be changed."""

    labels: LabelSet
    attributes: tuple[str, ...]
    rasterizer: Rasterizer

    def update(self, gaussians: GaussianMap, frame: Frame) -> ClassUpdate:
        """Called once for every keyframe, after the map has been changed by it."""
        ...


class InLabels:
    """A ``SemanticSource`` whose classes have the ids of another label set: by name, new ones where an id means something
    else there."""

    def __init__(self, source: SemanticSource, known: LabelSet) -> None:
        learned = source.labels.names
        ids = {name: key for key, name in known.names.items()}
        fresh = count(max([*known.names, *learned]) + 1)
        self._table = np.zeros(max(learned) + 1, np.int32)
        for key, name in learned.items():
            self._table[key] = ids[name] if name in ids else key if key not in known.names else next(fresh)
        self.labels = LabelSet({int(self._table[key]): name for key, name in learned.items()})
        self.source, self.attributes = source, source.attributes

    @property
    def rasterizer(self) -> Rasterizer:
        return self.source.rasterizer

    @rasterizer.setter
    def rasterizer(self, value: Rasterizer) -> None:
        self.source.rasterizer = value

    def update(self, gaussians: GaussianMap, frame: Frame) -> ClassUpdate:
        """See ``SemanticSource``."""
        update = self.source.update(gaussians, frame)
        return replace(update, classes=torch.from_numpy(self._table)[update.classes.long()])


def take_classes(gaussians: GaussianMap, objects: ObjectRegistry, update: ClassUpdate, names: LabelSet) -> set[int]:
    """Write classes into the map: every class that occurs is one object. Returns the slots whose Gaussians changed.

    What belongs to an object of other making (masks, an operator) goes on belonging to it.
    """
    slot_of = {obj.class_id: obj.slot for obj in objects if obj.name == names.name(obj.class_id)}
    free = np.zeros(objects.slots, bool)
    free[[VOID, *slot_of.values()]] = True
    ours = torch.from_numpy(free)[gaussians["object"][update.rows].long()]
    update = ClassUpdate(update.rows[ours], update.classes[ours], update.probability[ours])
    if not len(update.rows):
        return set()
    table = np.zeros(max(names.names) + 1, np.int32)
    for key in torch.unique(update.classes[update.classes > 0]).tolist():
        if key not in slot_of:
            obj = objects.open()
            obj.state, obj.name = ObjectState.CONFIRMED, names.name(key)
            obj.class_scores[key] = 1.0
            slot_of[key] = obj.slot
        table[key] = slot_of[key]
    slots = torch.from_numpy(table)[update.classes.long()]
    before = gaussians["object"][update.rows]
    changed = set(torch.unique(torch.cat([before, slots])[torch.cat([before != slots] * 2)]).tolist()) - {0}
    gaussians["object"][update.rows] = slots
    gaussians["vote_object"][update.rows] = 0
    gaussians["vote_weight"][update.rows] = 0
    gaussians["vote_object"][update.rows, 0] = slots
    gaussians["vote_weight"][update.rows, 0] = torch.where(slots > 0, update.probability, 0)
    gaussians.touch(update.rows, core=False)
    return changed


def name_objects(gaussians: GaussianMap, objects: ObjectRegistry, update: ClassUpdate) -> set[int]:
    """Give objects without a class that of most of their Gaussians. Returns their slots."""
    owner, classes = gaussians["object"][update.rows].numpy(), update.classes.numpy()
    found = set()
    for obj in objects:
        mine = (owner == obj.slot) & (classes > 0)
        if obj.class_id == VOID and not obj.locked and mine.any():
            share = np.bincount(classes[mine], update.probability.numpy()[mine])
            obj.class_scores = {int(key): float(share[key] / share.sum()) for key in np.flatnonzero(share)}
            found.add(obj.slot)
    return found
