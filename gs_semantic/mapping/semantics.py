"""Classes for a map from a method that labels Gaussians itself, in the place of masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from gs_semantic.gaussians import Frame, GaussianMap
from gs_semantic.labels import LabelSet
from gs_semantic.objects.registry import ObjectRegistry, ObjectState


@dataclass(frozen=True)
class ClassUpdate:
    """Rows int64 (R,) of the map whose class changed or was confirmed, their classes int32 (R,), 0 = nothing known, and
    how probable these are, float32 (R,)."""

    rows: torch.Tensor
    classes: torch.Tensor
    probability: torch.Tensor


class SemanticSource(Protocol):
    """Labels the Gaussians that a keyframe sees. labels: names of its classes."""

    labels: LabelSet

    def update(self, gaussians: GaussianMap, frame: Frame) -> ClassUpdate:
        """Called once for every keyframe, after the map has been changed by it."""
        ...


def take_classes(gaussians: GaussianMap, objects: ObjectRegistry, update: ClassUpdate, names: LabelSet) -> set[int]:
    """Write classes into the map: every class that occurs is one object. Returns the slots whose Gaussians changed."""
    if not len(update.rows):
        return set()
    slot_of = {obj.class_id: obj.slot for obj in objects if obj.name == names.name(obj.class_id)}
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
