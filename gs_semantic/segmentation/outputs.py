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

    An object's id is that of the id images. The probability also stands in the vote table, as the one vote there is.
    """
    gaussians, scene = method.gaussians.snapshot(), method.scene
    register_votes(gaussians)
    gaussians.register(PROBABILITY, ())
    classes, probability = method.gaussian_classes()
    gaussians["object"] = torch.from_numpy(classes.astype(np.int32))
    gaussians[PROBABILITY] = torch.from_numpy(probability)
    gaussians["vote_object"][:, 0] = gaussians["object"]
    gaussians["vote_weight"][:, 0] = torch.where(gaussians["object"] > 0, gaussians[PROBABILITY], 0)
    objects = ObjectRegistry(scene.labels)
    rows = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[rows], np.arange(scene.class_count + 1))
    for slot in range(1, scene.class_count):
        own = np.sort(rows[starts[slot] : starts[slot + 1]])
        if not len(own):
            continue
        obj = objects.open(object_id=int(scene.ids[slot]), slot=slot)
        obj.state = ObjectState.CONFIRMED
        info = scene.infos.get(obj.id)
        if info is not None:
            obj.class_scores[info.class_id] = info.score
        obj.observations = sum(view.ids is not None and bool((view.ids == obj.id).any()) for view in scene.train)
        update_geometry(obj, gaussians, own)
    return gaussians, objects


def write_map(folder: Path, method: LiftingMethod) -> None:
    """Write the map as it is, in place of an older one; StorageError names the folder."""
    gaussians, objects = labelled_map(method)
    save_map(folder, gaussians, objects, optimiser_state=False)
