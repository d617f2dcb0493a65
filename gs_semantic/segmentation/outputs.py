"""What a training run leaves: a map folder in which every Gaussian has its object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.map_folder import save_map
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.objects.edit import PROBABILITY
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.registry import ObjectRegistry, ObjectState
from gs_semantic.segmentation.method import LiftingMethod


def labelled_map(method: LiftingMethod) -> tuple[GaussianMap, ObjectRegistry]:
    """A copy of the map with ``object`` int32 (the object's slot, 0 = none) and ``object_probability``; its objects.

    An object's id is that of the id images, or the method's own. The probability also stands in the vote table, as the
    one vote there is.
    """
    classes, probability = method.gaussian_classes()
    gaussians, ids = method.gaussians.snapshot("cpu"), method.ids
    register_votes(gaussians)
    gaussians.register(PROBABILITY, ())
    gaussians["object"] = torch.from_numpy(classes.astype(np.int32))
    gaussians[PROBABILITY] = torch.from_numpy(probability)
    gaussians["vote_object"][:, 0] = gaussians["object"]
    gaussians["vote_weight"][:, 0] = torch.where(gaussians["object"] > 0, gaussians[PROBABILITY], 0)
    objects, seen = ObjectRegistry(method.scene.labels), method.seen_objects() if len(ids) > 1 else {}
    rows = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[rows], np.arange(len(ids) + 1))
    for slot in range(1, len(ids)):
        own = np.sort(rows[starts[slot] : starts[slot + 1]])
        if not len(own):
            continue
        obj = objects.open(object_id=int(ids[slot]), slot=slot)
        obj.state = ObjectState.CONFIRMED
        known = seen.get(obj.id)
        if known is not None:
            obj.observations = known.views
            if known.info is not None:
                obj.class_scores[known.info.class_id] = known.info.score
        update_geometry(obj, gaussians, own)
    return gaussians, objects


def write_map(folder: Path, method: LiftingMethod) -> None:
    """Write the map as it is, in place of an older one; StorageError names the folder."""
    gaussians, objects = labelled_map(method)
    save_map(folder, gaussians, objects, optimiser_state=False)
