"""Two maps of the same place become one, and every object of the second is told which id it has now.

An object of the second map is that of the first one where both fill the same space: how much of the smaller one lies near
Gaussians of the other. They are matched one to one so that the sum of these overlaps is largest, as masks are matched to objects.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from gs_semantic.errors import InvalidRequestError, MapFrameMismatchError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.lifting import register_votes, relabel_votes
from gs_semantic.objects import edit
from gs_semantic.objects.geometry import in_box, update_geometry
from gs_semantic.objects.registry import MapObject, ObjectRegistry, ObjectState, Provenance

CELL_M = 0.05  # of a surface that need not be taken over when the first map has one in the same cell
NEAR_M = 0.05  # Gaussians of the same place are not farther apart
SAMPLE = 500  # Gaussians of an object that are compared
LEAST_OVERLAP = 0.4  # share of the smaller object, from which two are the same
OTHER_CLASS = 0.5  # factor of the overlap of objects of different classes
TOMBSTONE_MARGIN_M = 0.05  # around an object that an operator deleted
UID_BITS = 21  # of a cell's number along each axis


@dataclass(frozen=True)
class Reconciled:
    """What became of one object of the second map. what: "same" as object ``id`` of the first one; "added" under the new
    ``id``; "deleted": an operator of the first map deleted object ``id`` there; "empty": no Gaussian belonged to it, so that nothing
    of it is taken over. overlap: share of the smaller of the two
    that lies near the other. disagreements: what the maps say differently of it; the first one counts."""

    second_id: int
    id: int
    what: str
    label: str
    overlap: float = 0.0
    disagreements: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergeReport:
    """objects: those of the second map that are confirmed, stale or deleted by hand, by id. added: Gaussians taken over;
    covered: left out, because the first map has a surface there."""

    objects: tuple[Reconciled, ...]
    added: int
    covered: int

    def ids(self) -> dict[int, int]:
        """Id in the second map -> id in the merged one."""
        return {found.second_id: found.id for found in self.objects if found.what in ("same", "added")}

    def count(self, what: str) -> int:
        return sum(found.what == what for found in self.objects)


def merge_maps(
    first: tuple[GaussianMap, ObjectRegistry],
    second: tuple[GaussianMap, ObjectRegistry],
    T_first_second: np.ndarray | None = None,
) -> MergeReport:
    """Add the second map to the first one, in place; the second one is used up. The merged map has a new map id.

    T_first_second (4, 4): where the second map's frame is in the first one's; None: told by the anchors of the maps, or the
    same. Ids of the first map stay. MapFrameMismatchError where nothing says that both are in one frame.
    """
    gaussians, objects = first
    other, others = second
    if gaussians.sh_degree != other.sh_degree:
        raise InvalidRequestError(f"colours of degree {gaussians.sh_degree} and {other.sh_degree} cannot be one map")
    motion = _relation(gaussians, other) if T_first_second is None else np.asarray(T_first_second, np.float64)
    for each in (gaussians, other):
        register_votes(each)
    if not np.array_equal(motion, np.eye(4)):
        edit.move_map(other, others, motion)
    classes = _join_labels(objects, others.labels)
    if not objects.embedding_model:
        objects.embedding_model = others.embedding_model
    if objects.embedding_model != others.embedding_model:
        for obj in others:
            obj.embedding, obj.embedding_weight = None, 0.0
    table = np.zeros(others.slots, np.int32)  # slot of the second map -> slot in the merged one
    found = _match(gaussians, objects, other, others, classes)
    report = []
    touched: set[int] = set()
    gone = np.zeros(len(other), bool)
    slots = other["object"].numpy().copy()
    held = set(np.unique(slots).tolist())
    for obj in sorted(others, key=lambda obj: obj.id):
        own_class = {classes.get(key, key): score for key, score in obj.class_scores.items()}
        label = obj.name or objects.labels.name(max(own_class, key=lambda key: own_class[key], default=0))
        if not obj.shown:
            continue  # tentative ones are forgotten, removed ones have no Gaussians
        if obj.slot not in held:
            report.append(Reconciled(obj.id, 0, "empty", label))
            continue
        tombstone = _tombstone(objects, obj)
        if obj.slot in found:
            kept, overlap = found[obj.slot]
            report.append(Reconciled(obj.id, kept.id, "same", label, overlap, _disagreements(objects, kept, label)))
            _take_over(kept, obj, own_class)
        elif tombstone is not None:
            report.append(Reconciled(obj.id, tombstone.id, "deleted", label))
            gone |= slots == obj.slot
            continue
        else:
            kept = objects.open(obj.first_seen_ns)
            _become(kept, obj, own_class)
            report.append(Reconciled(obj.id, kept.id, "added", label))
        table[obj.slot] = kept.slot
        touched.add(kept.slot)
    covered = ~gone & _occupied(other, _cells(gaussians.means.numpy()))
    relabel_votes(other, table)
    voteless = other["vote_weight"].numpy().sum(axis=1) == 0  # of a map that was labelled otherwise
    other["object"].numpy()[voteless] = table[slots[voteless]]
    other["keyframe"] = torch.full((len(other),), -1, dtype=torch.int32)  # keyframes of another run move nothing here
    other.keep(torch.from_numpy(~(gone | covered)))
    added = len(other)
    gaussians.merge(other)
    gaussians.views += other.views
    gaussians.map_id = uuid.uuid4().hex
    labels = gaussians["object"].numpy()
    for slot in touched:
        update_geometry(objects.by_slot(slot), gaussians, np.flatnonzero(labels == slot), keep_place=True)
    return MergeReport(tuple(report), added, int(covered.sum()))


def _relation(first: GaussianMap, second: GaussianMap) -> np.ndarray:
    """Pose (4, 4) of the second map's frame in the first one's."""
    a, b = first.anchor, second.anchor
    if a is not None and b is not None:
        if a.frame and a.frame == b.frame:
            return np.asarray(a.T_map_frame @ np.linalg.inv(b.T_map_frame))
        if a.localization_map and a.localization_map != b.localization_map:
            raise MapFrameMismatchError(
                f"the maps were made in localisation maps '{a.localization_map}' and '{b.localization_map}': say where the "
                "second one's frame is in the first one's"
            )
    if first.frame_id != second.frame_id:
        raise MapFrameMismatchError(
            f"the maps are in frames '{first.frame_id}' and '{second.frame_id}': say where the second one's frame is in the "
            "first one's"
        )
    return np.eye(4)


def _join_labels(objects: ObjectRegistry, others: LabelSet) -> dict[int, int]:
    """Take over class names that are new; returns class id of the second map -> class id in the merged one."""
    names = dict(objects.labels.names)
    table = {}
    for class_id, name in sorted(others.names.items()):
        own = objects.labels.id_of(name)
        if own is None:
            own = class_id if class_id not in names else max(names) + 1
            names[own] = name
        table[class_id] = own
    objects.labels = LabelSet(names)
    return table


def _match(
    gaussians: GaussianMap,
    objects: ObjectRegistry,
    other: GaussianMap,
    others: ObjectRegistry,
    classes: dict[int, int],
) -> dict[int, tuple[MapObject, float]]:
    """Slot of the second map -> the same object of the first one, and the overlap."""
    here, there = objects.present(), others.present()
    own, theirs = ([cKDTree(_points(of, obj)) for obj in group] for of, group in ((gaussians, here), (other, there)))
    overlap = np.zeros((len(here), len(there)))
    for row, column in np.ndindex(overlap.shape):
        if _may_meet(here[row], there[column]):
            overlap[row, column] = _overlap(own[row], theirs[column])
    same = np.array([[a.class_id == classes.get(b.class_id, b.class_id) for b in there] for a in here], bool)
    score = overlap * np.where(same.reshape(overlap.shape), 1.0, OTHER_CLASS)
    rows, columns = linear_sum_assignment(-score)
    return {
        there[column].slot: (here[row], float(overlap[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if score[row, column] >= LEAST_OVERLAP
    }


def _may_meet(a: MapObject, b: MapObject) -> bool:
    if a.box is None or b.box is None:
        return False
    reach = (np.linalg.norm(a.box.size) + np.linalg.norm(b.box.size)) / 2 + NEAR_M
    return float(np.linalg.norm(a.box.centre - b.box.centre)) <= reach


def _cells(points: np.ndarray) -> np.ndarray:
    """Sorted numbers int64 of the cells that points (N, 3) lie in, each once."""
    return np.unique(_numbers(points))


def _numbers(points: np.ndarray) -> np.ndarray:
    half = 1 << (UID_BITS - 1)
    index = np.clip(np.floor(points / CELL_M), -half, half - 1).astype(np.int64) + half
    return np.asarray((index[:, 0] << 2 * UID_BITS) | (index[:, 1] << UID_BITS) | index[:, 2])


def _points(gaussians: GaussianMap, obj: MapObject) -> np.ndarray:
    return np.asarray(gaussians.means.numpy()[gaussians["object"].numpy() == obj.slot])


def _overlap(a: cKDTree, b: cKDTree) -> float:
    """Share of the smaller one's Gaussians that lie near the other's."""
    small, large = sorted((a, b), key=lambda tree: np.prod(np.ptp(tree.data, axis=0) + NEAR_M) if tree.n else 0.0)
    if not small.n or not large.n:
        return 0.0
    sample = small.data[:: max(1, small.n // SAMPLE)]
    distance, _ = large.query(sample, distance_upper_bound=NEAR_M)
    return float(np.isfinite(distance).mean())


def _occupied(gaussians: GaussianMap, cells: np.ndarray) -> np.ndarray:
    """bool (N,): which Gaussians lie in one of the cells."""
    return np.isin(_numbers(gaussians.means.numpy()), cells)


def _tombstone(objects: ObjectRegistry, obj: MapObject) -> MapObject | None:
    """What an operator deleted where this object stands."""
    if obj.centroid is None:
        return None
    for dead in objects:
        deleted = dead.state is ObjectState.REMOVED and dead.locked and dead.box is not None
        if deleted and dead.box is not None and in_box(dead.box, obj.centroid[None], TOMBSTONE_MARGIN_M)[0]:
            return dead
    return None


def _disagreements(objects: ObjectRegistry, kept: MapObject, label: str) -> tuple[str, ...]:
    own = objects.class_name(kept)
    return (f"first map: {own}, second map: {label}",) if own != label else ()


def _take_over(kept: MapObject, obj: MapObject, class_scores: dict[int, float]) -> None:
    """Evidence of the second map; names and locks of the first one come first."""
    for class_id, score in class_scores.items():
        kept.class_scores[class_id] = kept.class_scores.get(class_id, 0.0) + score
    kept.name = kept.name or obj.name
    kept.locked |= obj.locked
    kept.observations += obj.observations
    kept.first_seen_ns = min(kept.first_seen_ns, obj.first_seen_ns)
    kept.last_seen_ns = max(kept.last_seen_ns, obj.last_seen_ns)
    if obj.embedding is not None:
        kept.take_embedding(obj.embedding, obj.embedding_weight)
    if obj.state is ObjectState.CONFIRMED:
        kept.state = ObjectState.CONFIRMED


def _become(new: MapObject, obj: MapObject, class_scores: dict[int, float]) -> None:
    """What is known of an object of the second map, under a new id and slot."""
    for spec in fields(MapObject):
        if spec.name not in ("id", "slot", "parent"):
            setattr(new, spec.name, getattr(obj, spec.name))
    new.class_scores = class_scores
    new.provenance = obj.provenance if obj.provenance is Provenance.OPERATOR else Provenance.RESTORED
