"""Questions about the objects of one map revision, answered from their packed records. Needs no ROS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gs_semantic.errors import InvalidRequestError
from gs_semantic.objects.packing import FLAG_HAS_BOX, FLAG_HAS_CENTROID, PackedObjects, quaternion_to_matrix
from gs_semantic.objects.regions import Region
from gs_semantic.objects.registry import ObjectState

MOVED_M = 0.05  # an object that was shifted by more stands elsewhere


@dataclass(frozen=True)
class Filter:
    """Which objects are meant. ``states`` empty: confirmed and stale ones, with ``tentative`` those too. Both lists of
    classes empty: every class. ``since``: only those that changed after this map revision, 0: all."""

    min_confidence: float = 0.0
    class_ids: Iterable[int] = ()
    class_names: Iterable[str] = ()
    states: Iterable[int] = ()
    tentative: bool = False
    since: int = 0

    def __post_init__(self) -> None:
        known = [int(state) for state in ObjectState]
        wrong = [int(state) for state in self.states if int(state) not in known]
        if wrong:
            raise InvalidRequestError(f"states holds {wrong[0]}, expected some of {known}")
        if not np.isfinite(self.min_confidence):
            raise InvalidRequestError("min_confidence is not a number")

    def fits(self, objects: PackedObjects) -> np.ndarray:
        """bool (N,): which of the objects are meant."""
        records = objects.records
        fits = records["confidence"] >= self.min_confidence
        states = [int(state) for state in self.states]
        if states:
            fits &= np.isin(records["state"], states)
        else:
            fits &= records["state"] != ObjectState.REMOVED
            if not self.tentative:
                fits &= records["state"] != ObjectState.TENTATIVE
        if self.since:
            fits &= records["revision"] > self.since
        ids, names = list(self.class_ids), set(self.class_names)
        if ids or names:
            named = np.array([name in names for name in objects.class_names], bool)
            fits &= np.isin(records["class_id"], ids) | named
        return fits


def in_regions(records: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """bool (N,): which objects' centroids lie in one of the regions; of none: all."""
    if not regions:
        return np.ones(len(records), bool)
    known = (records["flags"] & FLAG_HAS_CENTROID) > 0
    return known & np.logical_or.reduce([region.inside(records["centroid"].astype(np.float64)) for region in regions])


def changed_boxes(before: np.ndarray, after: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Between two lists of records: boxes, low and high (3,) m in the map frame, out of which and into which objects were
    moved, or from which they were taken. Confirmed and stale objects only; a box that merely grew is none of them."""
    there = np.isin(before["state"], (ObjectState.CONFIRMED, ObjectState.STALE)) & ((before["flags"] & FLAG_HAS_BOX) > 0)
    now = {int(record["id"]): record for record in after if record["state"] != ObjectState.REMOVED}
    boxes = []
    for record in before[there]:
        other = now.get(int(record["id"]))
        if other is None:
            boxes.append(bounds(record))
        elif other["flags"] & FLAG_HAS_BOX:
            shift = np.linalg.norm(other["centroid"] - record["centroid"])
            same_size = np.abs(np.sort(other["box_size"]) - np.sort(record["box_size"])).max() <= shift
            if shift > MOVED_M and same_size:
                boxes += [bounds(record), bounds(other)]
    return boxes


def bounds(record: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner (3,) m of the upright box around an object's box."""
    reach = np.abs(quaternion_to_matrix(record["box_rotation"][None])[0]) @ (record["box_size"] / 2)
    return record["box_centre"] - reach, record["box_centre"] + reach


def box_distances(records: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Distance (N,) in m of a point (3,) from the objects' boxes, 0 inside, inf for objects without one."""
    out = np.full(len(records), np.inf)
    boxed = np.flatnonzero((records["flags"] & FLAG_HAS_BOX) > 0)
    if len(boxed):
        of = records[boxed]
        local = np.einsum("nij,ni->nj", quaternion_to_matrix(of["box_rotation"]), point - of["box_centre"])
        out[boxed] = np.linalg.norm(np.maximum(np.abs(local) - of["box_size"] / 2, 0), axis=1)
    return out
