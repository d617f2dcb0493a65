"""Which mask is which object: overlap of the frame's masks with the objects the map already knows.

Overlap is measured on the Gaussians, not on pixels: a transpose pass gives each visible Gaussian the mask that covers
it and with how many pixels, and its votes say to which objects it belongs so far. Counts are areas in pixels, so large
masks decide before small ones (area-aware assignment).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from gs_semantic.gaussians import MaskInfo
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.objects.registry import ObjectRegistry, ObjectState

INSIDE = 0.5  # share of a mask on an object's Gaussians from which it is a part of the object
HYPOTHESIS = 0.75  # weight of the overlap with a tentative object, against that with a confirmed one


@dataclass(frozen=True)
class Evidence:
    """One keyframe on the visible Gaussians (V rows): mask index 1..M (0 = unlabelled), its weight in pixels, votes.

    areas: pixels of each mask (M + 1,), infos: class and score of each mask (M + 1, entry 0 unused). features (V,D): the
    Gaussians' identities, for who wants to look at them.
    """

    mask: np.ndarray
    weight: np.ndarray
    vote_object: np.ndarray
    vote_weight: np.ndarray
    areas: np.ndarray
    infos: list[MaskInfo]
    stamp_ns: int
    features: np.ndarray | None = None


@dataclass(frozen=True)
class Membership:
    """How much visible Gaussian ``row`` belongs to object ``slot``: ``share`` 0..1; one entry a pair, all (E,)."""

    row: np.ndarray
    slot: np.ndarray
    share: np.ndarray


@dataclass
class Assignment:
    """Object slot of each mask (M + 1,), 0 = none; ``shielded``: pairs (mask, object slot) on whose Gaussians the mask
    must not vote, because a mask that swallowed a known neighbour says nothing about it; ``merged``: old slot -> slot
    that took it over; ``split``: slot of a part -> slot of the object that it came off, whose votes on the part's Gaussians
    it takes over; ``forgotten`` slots; ``changed`` slots; where learned, ``features`` (V,D) that the visible Gaussians get,
    and ``kept`` bool (V,): the others get no vote."""

    slots: np.ndarray
    shielded: set[tuple[int, int]] = field(default_factory=set)
    merged: dict[int, int] = field(default_factory=dict)
    split: dict[int, int] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    features: np.ndarray | None = None
    kept: np.ndarray | None = None


class Associator(Protocol):
    """Decides the object of every mask of a keyframe and keeps the registry's states."""

    def associate(self, evidence: Evidence, objects: ObjectRegistry) -> Assignment: ...

    def codes(self, slots: int) -> torch.Tensor | None:
        """Features (slots, D) that the Gaussians of each object should have; None: any that differ."""
        ...


class OverlapAssociator:
    """Area-aware one-to-one assignment by overlap and class; new, tentative, confirmed and stale states; merging.

    Under- and over-segmented masks are expected. A part of an object that arrives as a mask of its own opens a tentative
    object, which dies unless later masks repeat it; a mask that covers two objects goes to the one it fits better, and
    only when this happens more often than masks tell the two apart are they merged. The other way round, a part that
    masks keep telling apart comes off with the votes that the whole has on it, however many these are by then. What an
    operator has locked is neither merged nor split nor taken for another class.
    """

    def __init__(self, config: MapperConfig) -> None:
        self.config = config
        self._covered: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._apart: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._inside: defaultdict[tuple[int, int], int] = defaultdict(int)  # (part, whole): times told apart
        self._misses: defaultdict[int, int] = defaultdict(int)
        self._age: defaultdict[int, int] = defaultdict(int)
        self._ids: dict[int, int] = {}  # slot -> id of the object that the counts are of

    def associate(self, evidence: Evidence, objects: ObjectRegistry) -> Assignment:
        config = self.config
        self._drop_gone(objects)
        masks = len(evidence.areas)
        result = Assignment(np.zeros(masks, np.int32))
        membership = self.membership(evidence)
        present, overlap, mapped_area, object_area, visible_area, touched = _overlaps(evidence, membership, masks)
        union = mapped_area[:, None] + object_area[None, :] - overlap
        iou = overlap / np.maximum(union, 1e-6)
        parts = {part for part, _ in self._inside}
        tentative = np.array(
            [objects.by_slot(int(s)).state is ObjectState.TENTATIVE or int(s) in parts for s in present], bool
        )
        if tentative.any():
            # A hypothesis is outvoted where older labels were wrong; what counts is where it was seen, not its share.
            seen = touched[:, tentative]
            union = mapped_area[:, None] + seen.sum(0)[None, :] - seen
            iou[:, tentative] = np.maximum(iou[:, tentative], HYPOTHESIS * seen / np.maximum(union, 1e-6))
            overlap = overlap.copy()
            overlap[:, tentative] = np.maximum(overlap[:, tentative], HYPOTHESIS * seen)
        known = np.array([objects.by_slot(int(slot)).class_id for slot in present], np.int64)[None, :]
        given = np.array([info.class_id for info in evidence.infos], np.int64)[:, None]
        iou[(known > 0) & (given > 0) & (known != given)] *= config.class_mismatch_factor
        # area-aware: the sum of matched pixels is maximised, not the mean of ratios
        allowed = iou >= config.match_min_iou
        if len(present) and masks > 1:
            gain = np.where(allowed, overlap * iou, 0.0)
            rows, columns = linear_sum_assignment(gain, maximize=True)
            for row, column in zip(rows, columns, strict=True):
                if row > 0 and allowed[row, column]:
                    result.slots[row] = present[column]
        if len(present):
            self._hold(objects, result, present, overlap, mapped_area)
        self._open_new(evidence, objects, result, masks)
        self._observe(evidence, objects, result)
        if len(present):
            self._pairs(objects, result, present, overlap, object_area)
            self._split(objects, result, present, overlap, mapped_area)
            self._merge(objects, result)
            self._miss(objects, result, present, visible_area)
        self._forget(objects, result)
        self._ids = {obj.slot: obj.id for obj in objects}
        return result

    def codes(self, slots: int) -> torch.Tensor | None:
        return None

    def membership(self, evidence: Evidence) -> Membership:
        """By votes."""
        row, entry = np.nonzero(evidence.vote_weight > 0)  # most of the table is empty
        share = evidence.vote_weight[row, entry] / evidence.vote_weight.sum(1)[row]
        return Membership(row, evidence.vote_object[row, entry], share)

    @staticmethod
    def _hold(
        objects: ObjectRegistry, result: Assignment, present: np.ndarray, overlap: np.ndarray, area: np.ndarray
    ) -> None:
        """A mask on a locked object that is taken for nothing else is a part of it, not something new."""
        for column in [c for c, slot in enumerate(present) if objects.by_slot(int(slot)).locked]:
            inside = (result.slots == 0) & (overlap[:, column] >= INSIDE * np.maximum(area, 1e-6))
            inside[0] = False
            result.slots[inside] = present[column]

    def _open_new(self, evidence: Evidence, objects: ObjectRegistry, result: Assignment, masks: int) -> None:
        for row in range(1, masks):
            if result.slots[row] == 0 and evidence.areas[row] >= self.config.mask_min_px:
                obj = objects.open(evidence.stamp_ns)
                result.slots[row] = obj.slot
                result.changed.add(obj.slot)

    def _observe(self, evidence: Evidence, objects: ObjectRegistry, result: Assignment) -> None:
        for row in range(1, len(result.slots)):
            slot = int(result.slots[row])
            if slot == 0:
                continue
            obj, info = objects.by_slot(slot), evidence.infos[row]
            obj.observations += 1
            obj.last_seen_ns = max(obj.last_seen_ns, evidence.stamp_ns)
            if info.class_id and not obj.locked:
                obj.class_scores[info.class_id] = obj.class_scores.get(info.class_id, 0.0) + info.score
            self._misses[slot] = 0
            self._age[slot] = 0
            if obj.state is ObjectState.STALE or (
                obj.state is ObjectState.TENTATIVE and obj.observations >= self.config.confirm_observations
            ):
                obj.state = ObjectState.CONFIRMED
                result.changed.add(slot)

    def _pairs(
        self, objects: ObjectRegistry, result: Assignment, present: np.ndarray, overlap: np.ndarray, area: np.ndarray
    ) -> None:
        """Count, for pairs of objects in view, masks that covered both and keyframes that told them apart."""
        config = self.config
        inside = overlap / np.maximum(area, 1e-6)[None, :]
        large = area >= config.mask_min_px
        matched = {int(slot): row for row, slot in enumerate(result.slots) if slot}
        for row in range(1, len(result.slots)):
            owner = int(result.slots[row])
            if owner == 0:
                continue
            for column in np.nonzero((inside[row] >= config.cover_fraction) & large)[0]:
                other = int(present[column])
                if other == owner:
                    continue
                key = (min(owner, other), max(owner, other))
                if other in matched:
                    continue
                self._covered[key] += 1
                if objects.by_slot(other).observations > config.confirm_observations:
                    result.shielded.add((row, other))
        seen = [int(s) for s, ok in zip(present, large, strict=True) if ok and int(s) in matched]
        touching = {key for key in self._covered if key[0] in matched and key[1] in matched}
        for key in touching:
            if key[0] in seen and key[1] in seen:
                self._apart[key] += 1

    def _split(
        self, objects: ObjectRegistry, result: Assignment, present: np.ndarray, overlap: np.ndarray, area: np.ndarray
    ) -> None:
        """Count how often a mask on Gaussians of an object was another object beside it; often enough, and it comes off."""
        matched = {int(slot) for slot in result.slots if slot}
        share = overlap / np.maximum(area, 1e-6)[:, None]  # of each mask, on each object
        for row in range(1, len(result.slots)):
            part = int(result.slots[row])
            if not part or area[row] < self.config.mask_min_px:
                continue
            inside = np.nonzero(share[row] >= INSIDE)[0]
            for key in [key for key in self._inside if key[0] == part and key[1] in present]:
                if key[1] not in present[inside]:
                    del self._inside[key]  # it has Gaussians of its own by now
            for column in inside:
                whole = int(present[column])
                if whole == part or whole not in matched:
                    continue
                key = (part, whole)
                self._inside[key] += 1
                held = self._covered.setdefault((min(key), max(key)), 0)  # from now on it counts when they are apart
                a, b = objects.by_slot(part), objects.by_slot(whole)
                if a.locked or b.locked or self._inside[key] < max(self.config.split_observations, 2 * held):
                    continue
                a.parent = b.id
                result.split[part] = whole
                result.changed |= {part, whole}
                del self._inside[key]

    def _merge(self, objects: ObjectRegistry, result: Assignment) -> None:
        config = self.config
        for key, covered in list(self._covered.items()):
            if covered < config.merge_observations or covered < config.merge_ratio * self._apart.get(key, 0):
                continue
            if not (objects.has_slot(key[0]) and objects.has_slot(key[1])):
                continue  # one was merged just now
            a, b = objects.by_slot(key[0]), objects.by_slot(key[1])
            if a.locked or b.locked or (a.class_id and b.class_id and a.class_id != b.class_id):
                continue
            keep, lose = (a, b) if (a.observations, -a.slot) >= (b.observations, -b.slot) else (b, a)
            objects.absorb(keep, lose)
            result.merged[lose.slot] = keep.slot
            result.slots[result.slots == lose.slot] = keep.slot
            result.changed |= {keep.slot, lose.slot}
            self._drop(lose.slot)

    def _miss(self, objects: ObjectRegistry, result: Assignment, present: np.ndarray, visible: np.ndarray) -> None:
        """Objects in plain view that no mask claims are counted down to stale."""
        matched = set(result.slots.tolist())
        for column, slot in enumerate(present):
            slot = int(slot)
            if slot in matched or not objects.has_slot(slot) or visible[column] < 4 * self.config.mask_min_px:
                continue
            self._misses[slot] += 1
            obj = objects.by_slot(slot)
            if obj.state is ObjectState.CONFIRMED and self._misses[slot] >= self.config.stale_misses:
                obj.state = ObjectState.STALE
                result.changed.add(slot)

    def _forget(self, objects: ObjectRegistry, result: Assignment) -> None:
        for obj in list(objects):
            if obj.state is not ObjectState.TENTATIVE:
                continue
            self._age[obj.slot] += 1
            if self._age[obj.slot] > self.config.forget_after:
                objects.drop(obj.slot)
                self._drop(obj.slot)
                result.forgotten.add(obj.slot)

    def _drop_gone(self, objects: ObjectRegistry) -> None:
        """What an operator or a change of the scene took away: its counts are not those of whoever has its slot now."""
        for slot, key in self._ids.items():
            if not objects.has_slot(slot) or objects.by_slot(slot).id != key:
                self._drop(slot)

    def _drop(self, slot: int) -> None:
        """Forget what was counted of the object in a slot."""
        self._misses.pop(slot, None)
        self._age.pop(slot, None)
        for table in (self._covered, self._apart, self._inside):
            for pair in [pair for pair in table if slot in pair]:
                del table[pair]


def _overlaps(evidence: Evidence, membership: Membership, masks: int) -> tuple[np.ndarray, ...]:
    """Objects in view (S,), overlap (masks, S), area of each mask on Gaussians that belong to any object (masks,), area of
    each object on Gaussians that some mask covers (S,), its whole visible area (S,), and (masks, S) the area on Gaussians
    that belong to it at all; all in pixels."""
    row, slot = membership.row, membership.slot
    has = np.zeros(len(evidence.mask), bool)
    has[row] = True
    touch = evidence.weight[row]
    area = touch * membership.share
    present = np.nonzero(np.bincount(slot))[0]
    position = np.zeros(int(present[-1]) + 1 if len(present) else 1, np.int64)
    position[present] = np.arange(len(present))
    cell = evidence.mask[row] * len(present) + position[slot]
    shape = (masks, len(present))
    table = np.bincount(cell, weights=area, minlength=shape[0] * shape[1]).reshape(shape)
    touched = np.bincount(cell, weights=touch, minlength=shape[0] * shape[1]).reshape(shape)
    visible = table.sum(0)
    table[0] = touched[0] = 0  # unlabelled pixels are no evidence
    mapped = np.bincount(evidence.mask[has], weights=evidence.weight[has], minlength=masks)
    return present, table, mapped, table.sum(0), visible, touched
