"""Editing a map object by object: extract, remove, move, swap.

Functions change the map and the registry that they are given; who wants to keep them gives copies. Which Gaussians an
object has, is a ``Selection``: those that carry its label, or the rule by which Gaussian Grouping removes objects.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import Delaunay, QhullError
from scipy.spatial.transform import Rotation

from gs_semantic.errors import InvalidRequestError, NothingThereError, UnknownObjectError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.rigid import move_rows
from gs_semantic.mapping.lifting import add_votes, register_votes, relabel_votes
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.registry import Box, MapObject, ObjectRegistry, Provenance
from gs_semantic.rendering.harmonics import rotate_harmonics

PROBABILITY = "object_probability"  # attribute (N,): of the label, where a map was trained with one


@dataclass(frozen=True)
class Selection:
    """Which Gaussians an object has.

    probability: None for those that carry its label; else those whose probability of being the object's is larger (0.3 in
    Gaussian Grouping). hull: also all others inside the convex hull of these, whatever they belong to, after leaving
    out those that lie beyond the quartiles by more than ``outlier_factor`` times their distance along any axis.
    """

    probability: float | None = None
    hull: bool = False
    outlier_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.probability is not None and not 0 <= self.probability < 1:
            raise InvalidRequestError(f"probability {self.probability} is not from 0 to below 1")
        if not self.outlier_factor >= 0:
            raise InvalidRequestError(f"outlier_factor {self.outlier_factor} is negative")

    def of(self, gaussians: GaussianMap, slot: int) -> np.ndarray:
        """bool (N,): the Gaussians of the object in a slot."""
        if self.probability is None:
            own = gaussians["object"].numpy() == slot
        else:
            own = probability_of(gaussians, slot) > self.probability
        if self.hull and own.any():
            points = gaussians.means.numpy()
            own = own | inside_hull(points, without_outliers(points[own], self.outlier_factor))
        return own


def probability_of(gaussians: GaussianMap, slot: int) -> np.ndarray:
    """Probability of each Gaussian (N,) that it belongs to the object in ``slot``.

    That of its label where the map was trained with one (then 0 for all other objects), else the object's share of the
    Gaussian's votes, else 1 for the label.
    """
    labelled = (gaussians["object"].numpy() == slot).astype(np.float32)
    if PROBABILITY in gaussians:
        return labelled * gaussians[PROBABILITY].numpy()
    if "vote_weight" in gaussians:
        weight = gaussians["vote_weight"].numpy()
        support = (weight * (gaussians["vote_object"].numpy() == slot)).sum(axis=1)
        return support / np.maximum(weight.sum(axis=1), 1e-9)
    return labelled


def without_outliers(points: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Points (M, 3) without those that lie, along any axis, farther from the middle half than ``factor`` times its width."""
    first, third = np.percentile(points, [25, 75], axis=0)
    margin = factor * (third - first)
    return points[((points >= first - margin) & (points <= third + margin)).all(axis=1)]


def inside_hull(points: np.ndarray, hull: np.ndarray) -> np.ndarray:
    """bool (N,): which points (N, 3) lie in the convex hull of others (M, 3). A flat hull has nothing inside."""
    inside = np.zeros(len(points), bool)
    if len(hull) < 4:
        return inside
    near = ((points >= hull.min(axis=0)) & (points <= hull.max(axis=0))).all(axis=1)
    try:
        inside[near] = Delaunay(hull).find_simplex(points[near]) >= 0
    except QhullError:  # all points in one plane
        return inside
    return inside


def find_objects(objects: ObjectRegistry, names: Iterable[str]) -> list[MapObject]:
    """Objects by id or name, each once; UnknownObjectError for a name that no object has or that several have."""
    found: dict[int, MapObject] = {}
    for name in names:
        if name.isdecimal():
            obj = objects.by_id(int(name))
        else:
            called = [candidate for candidate in objects if objects.class_name(candidate) == name]
            if not called:
                known = ", ".join(sorted({objects.class_name(candidate) for candidate in objects})) or "no objects"
                raise UnknownObjectError(f"no object is called '{name}'; there are: {known}")
            if len(called) > 1:
                ids = ", ".join(str(candidate.id) for candidate in called)
                raise UnknownObjectError(f"{len(called)} objects are called '{name}'; give one of the ids {ids}")
            obj = called[0]
        found[obj.slot] = obj
    return list(found.values())


def extract(
    gaussians: GaussianMap, objects: ObjectRegistry, chosen: Sequence[MapObject], selection: Selection = Selection()
) -> None:
    """Keep nothing but the chosen objects; what the selection takes from others becomes theirs. The map gets a new id."""
    taken = _selected(gaussians, chosen, selection)
    labels, owner = gaussians["object"].numpy(), np.zeros(len(gaussians), np.int32)
    for obj in reversed(chosen):  # the first one that selects a Gaussian has it, but for those labelled so
        owner[taken[obj.slot]] = obj.slot
    for slot, own in taken.items():
        owner[own & (labels == slot)] = slot
    kept = owner > 0
    gaussians.keep(torch.from_numpy(kept))
    owner = owner[kept]
    _forget(gaussians, objects, [obj for obj in objects if obj.slot not in taken])
    _label(gaussians, owner)
    gaussians.map_id = uuid.uuid4().hex
    _update(gaussians, objects, taken)


def remove(
    gaussians: GaussianMap, objects: ObjectRegistry, chosen: Sequence[MapObject], selection: Selection = Selection()
) -> None:
    """Take the chosen objects out of the map. Gaussians of other objects that the selection takes go, too."""
    taken = _selected(gaussians, chosen, selection)
    gone = np.logical_or.reduce(list(taken.values()))
    robbed = gaussians["object"].numpy()[gone]
    gaussians.keep(torch.from_numpy(~gone))
    _forget(gaussians, objects, chosen)
    _update(gaussians, objects, robbed)


def move(
    gaussians: GaussianMap,
    objects: ObjectRegistry,
    chosen: Sequence[MapObject],
    motion: np.ndarray,
    selection: Selection = Selection(),
) -> None:
    """Move the chosen objects rigidly, together, by ``motion`` (4, 4) in the map frame: p becomes motion @ p."""
    motion = _rigid(motion)
    taken = _selected(gaussians, chosen, selection)
    _move(gaussians, np.flatnonzero(np.logical_or.reduce(list(taken.values()))), motion)
    _follow(gaussians, objects, {obj.slot: motion for obj in chosen}, taken)


def move_map(gaussians: GaussianMap, objects: ObjectRegistry, motion: np.ndarray) -> None:
    """Move a whole map, objects, views and anchor with it, rigidly by ``motion`` (4, 4): into another frame."""
    motion = _rigid(motion)
    _move(gaussians, np.arange(len(gaussians)), motion)
    for obj in objects:
        _place(obj, motion)
    gaussians.views = tuple(camera.at(motion @ camera.T_world_camera) for camera in gaussians.views)
    if gaussians.anchor is not None:
        gaussians.anchor = replace(gaussians.anchor, T_map_frame=motion @ gaussians.anchor.T_map_frame)


def turn_about(centre: np.ndarray, degrees: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Motion (4, 4): turn about the map's x, then y, then z axis by ``degrees`` (3,) around ``centre``, then shift (m)."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    motion[:3, 3] = centre - motion[:3, :3] @ centre + shift
    return motion


def swap(
    gaussians: GaussianMap,
    objects: ObjectRegistry,
    first: MapObject,
    second: MapObject,
    selection: Selection = Selection(),
) -> None:
    """Put each of two objects where the other stands: the middles of their boxes' bottoms change places (z is up)."""
    if first is second:
        raise InvalidRequestError(f"object {first.id}: cannot be swapped with itself")
    taken = _selected(gaussians, (first, second), selection)
    shift = np.eye(4)
    shift[:3, 3] = _stands(second) - _stands(first)
    back = np.linalg.inv(shift)
    _move(gaussians, np.flatnonzero(taken[first.slot]), shift)
    _move(gaussians, np.flatnonzero(taken[second.slot] & ~taken[first.slot]), back)
    _follow(gaussians, objects, {first.slot: shift, second.slot: back}, taken)


def _stands(obj: MapObject) -> np.ndarray:
    if obj.box is None:
        raise NothingThereError(f"object {obj.id}: has no box, so it cannot be swapped")
    return obj.box.centre - [0.0, 0.0, obj.box.size[2] / 2]


def _selected(gaussians: GaussianMap, chosen: Sequence[MapObject], selection: Selection) -> dict[int, np.ndarray]:
    """Gaussians of each chosen object by slot; NothingThereError for an object without any."""
    if not chosen:
        raise InvalidRequestError("no object is given; name one by its id or name")
    if "object" not in gaussians:
        raise NothingThereError("the map has no labels: its Gaussians do not know their objects")
    taken = {obj.slot: selection.of(gaussians, obj.slot) for obj in chosen}
    for obj in chosen:
        if not taken[obj.slot].any():
            raise NothingThereError(f"object {obj.id}: no Gaussian of the map belongs to it")
    return taken


def _forget(gaussians: GaussianMap, objects: ObjectRegistry, gone: Sequence[MapObject]) -> None:
    """Clear the slots of objects from the map, which then may be given again, and drop the objects."""
    table = np.arange(objects.slots, dtype=np.int32)
    table[[obj.slot for obj in gone]] = 0
    if "vote_object" in gaussians:
        relabel_votes(gaussians, table)
    else:
        labels = gaussians["object"].numpy()
        labels[:] = table[labels]
        gaussians.touch(core=False)
    for obj in list(gone):
        objects.drop(obj.slot)


def _label(gaussians: GaussianMap, owner: np.ndarray) -> None:
    """Give every Gaussian the label of its owner (N,) slots; one that had another gets a vote for it."""
    rows = np.flatnonzero(gaussians["object"].numpy() != owner)
    if not len(rows):
        return
    register_votes(gaussians)
    gaussians["vote_weight"].numpy()[rows] = 0
    gaussians["vote_object"].numpy()[rows] = 0
    add_votes(gaussians, rows, owner[rows], np.ones(len(rows), np.float32))


def _rigid(motion: np.ndarray) -> np.ndarray:
    motion = np.asarray(motion, np.float64)
    rotation = motion[:3, :3] if motion.shape == (4, 4) else np.zeros((3, 3))
    if not (np.isfinite(motion).all() and np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)):
        raise InvalidRequestError("motion: expected a rigid 4x4 matrix of finite numbers")
    return motion


def _move(gaussians: GaussianMap, rows: np.ndarray, motion: np.ndarray) -> None:
    if gaussians.sh_degree and not np.array_equal(motion[:3, :3], np.eye(3)):
        gaussians.sh[rows] = rotate_harmonics(gaussians.sh[rows], torch.from_numpy(motion[:3, :3]))
    move_rows(gaussians, rows, motion[None])


def _follow(
    gaussians: GaussianMap, objects: ObjectRegistry, motions: dict[int, np.ndarray], taken: dict[int, np.ndarray]
) -> None:
    """Move what is known of the objects with their Gaussians; those of others that came along are looked at anew."""
    for slot, motion in motions.items():
        obj = objects.by_slot(slot)
        obj.provenance, obj.revision = Provenance.OPERATOR, gaussians.revision
        _place(obj, motion)
    others = np.unique(gaussians["object"].numpy()[np.logical_or.reduce(list(taken.values()))])
    _update(gaussians, objects, [slot for slot in others.tolist() if slot not in motions])


def _place(obj: MapObject, motion: np.ndarray) -> None:
    rotation = motion[:3, :3]
    if obj.centroid is not None and obj.covariance is not None:
        obj.centroid = rotation @ obj.centroid + motion[:3, 3]
        obj.covariance = rotation @ obj.covariance @ rotation.T
    if obj.box is not None:
        obj.box = Box(rotation @ obj.box.centre + motion[:3, 3], obj.box.size, rotation @ obj.box.rotation)


def _update(gaussians: GaussianMap, objects: ObjectRegistry, slots: Iterable[int] | np.ndarray) -> None:
    """Places and boxes of the objects in these slots anew."""
    labels = gaussians["object"].numpy()
    for slot in np.unique(list(slots)).tolist():
        if objects.has_slot(slot):
            update_geometry(objects.by_slot(slot), gaussians, np.flatnonzero(labels == slot))
