"""Objects of the map: persistent ids, class evidence, states and geometry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from gs_semantic.errors import UnknownObjectError
from gs_semantic.labels import VOID, LabelSet


class ObjectState(IntEnum):
    TENTATIVE = 0  # seen, not yet often enough to be believed
    CONFIRMED = 1
    STALE = 2  # expected in view but not seen for a while
    REMOVED = 3  # seen to be gone; or, when locked, deleted by an operator: perception gives its place no new object


class Provenance(IntEnum):
    PERCEIVED = 0
    RESTORED = 1  # came from a loaded map
    OPERATOR = 2


@dataclass
class Box:
    """Oriented box in the map frame: centre (3,), size (3,) m, rotation (3,3) whose columns are the box axes."""

    centre: np.ndarray
    size: np.ndarray
    rotation: np.ndarray


@dataclass
class MapObject:
    """One object. ``slot`` is its dense number inside the map, ``id`` the persistent one that the outside sees."""

    id: int
    slot: int
    state: ObjectState = ObjectState.TENTATIVE
    provenance: Provenance = Provenance.PERCEIVED
    class_scores: dict[int, float] = field(default_factory=dict)  # class id -> summed evidence
    name: str = ""  # operator's name; empty: the class name counts
    observations: int = 0
    first_seen_ns: int = 0
    last_seen_ns: int = 0
    revision: int = 0  # map revision of the last change
    locked: bool = False  # by an operator: perception changes neither its identity nor its state
    parent: int = 0  # id of the object that it was split off from
    moved: int = 0  # map revision at which it moved as a whole
    edited: int = 0  # map revision of the last change of identity: edit, merge, split, removal
    most_gaussians: int = 0  # that it has had
    embedding: np.ndarray | None = None  # (D,) in the space of the registry's ``embedding_model``
    embedding_weight: float = 0.0  # of the observations in it
    # geometry, filled by objects.geometry
    num_gaussians: int = 0
    box: Box | None = None
    centroid: np.ndarray | None = None  # (3,)
    covariance: np.ndarray | None = None  # (3,3) of the Gaussians' centres

    def take_embedding(self, vector: np.ndarray, weight: float) -> None:
        """Add what others saw of it, (D,), with the weight of these observations; the embedding keeps its length of 1."""
        old = np.zeros_like(vector) if self.embedding is None else self.embedding
        total = self.embedding_weight * old + weight * vector
        length = float(np.linalg.norm(total))
        if length > 0:
            self.embedding = (total / length).astype(np.float32)
            self.embedding_weight += weight

    @property
    def class_id(self) -> int:
        """Class with the most evidence; 0 (void) without any."""
        return max(self.class_scores, key=lambda key: self.class_scores[key]) if self.class_scores else VOID

    @property
    def confidence(self) -> float:
        """Share of the winning class in all class evidence, 0..1."""
        total = sum(self.class_scores.values())
        return self.class_scores[self.class_id] / total if total > 0 else 0.0

    @property
    def shown(self) -> bool:
        """Is it one that a planner should see?"""
        return self.state in (ObjectState.CONFIRMED, ObjectState.STALE)


class ObjectRegistry:
    """All objects by slot. Ids are unbounded, rise, and are never given twice; the slot of a dropped object is given to
    a later one (pixels hold 16 bit), so whoever drops an object must first clear its slot from the map."""

    def __init__(self, labels: LabelSet | None = None) -> None:
        self.labels = labels or LabelSet()
        self.heirs: dict[int, int] = {}  # id of a merged object -> id of the one that took it over
        self.embedding_model = ""
        self._by_slot: dict[int, MapObject] = {}
        self._next_id = 1
        self._next_slot = 1
        self._dropped: list[int] = []

    def __len__(self) -> int:
        return len(self._by_slot)

    def __iter__(self) -> Iterator[MapObject]:
        return iter(self._by_slot.values())

    def open(self, stamp_ns: int = 0, object_id: int | None = None, slot: int | None = None) -> MapObject:
        """A new tentative object (or a restored one, with its own id and slot)."""
        obj = MapObject(
            id=self._next_id if object_id is None else object_id,
            slot=self._free_slot() if slot is None else slot,
            first_seen_ns=stamp_ns,
            last_seen_ns=stamp_ns,
        )
        if obj.slot in self._dropped:
            self._dropped.remove(obj.slot)
        self._by_slot[obj.slot] = obj
        self._next_id = max(self._next_id, obj.id + 1)
        self._next_slot = max(self._next_slot, obj.slot + 1)
        return obj

    def _free_slot(self) -> int:
        return self._dropped.pop() if self._dropped else self._next_slot

    def by_slot(self, slot: int) -> MapObject:
        return self._by_slot[slot]

    def by_id(self, object_id: int) -> MapObject:
        """UnknownObjectError for an id that never was or is gone; it says what became of it."""
        for obj in self._by_slot.values():
            if obj.id == object_id:
                return obj
        raise UnknownObjectError(self.why_unknown(object_id))

    def why_unknown(self, object_id: int) -> str:
        """What to tell who asks for an id that is not there."""
        heir = self.heir(object_id)
        if heir:
            return f"object {object_id} was found to be part of object {heir} and merged into it; use that id"
        was = "is in the map no more" if 0 < object_id < self._next_id else "is not in the map"
        return f"object {object_id} {was}; list_objects gives the ids there are"

    def heir(self, object_id: int) -> int:
        """The id that an object's identity lives on under after merges; 0 when it was not merged."""
        heir = self.heirs.get(object_id, 0)
        while heir in self.heirs:
            heir = self.heirs[heir]
        return heir

    def has_slot(self, slot: int) -> bool:
        return slot in self._by_slot

    def drop(self, slot: int) -> None:
        """Forget an object (its id is not given again)."""
        if self._by_slot.pop(slot, None) is not None:
            self._dropped.append(slot)

    def absorb(self, keep: MapObject, lose: MapObject) -> None:
        """``lose`` was a part of ``keep``, or the same: its evidence and its identity go on there, and it is dropped.

        Who calls this renames its slot in the map.
        """
        for class_id, score in lose.class_scores.items():
            keep.class_scores[class_id] = keep.class_scores.get(class_id, 0.0) + score
        keep.observations += lose.observations
        if lose.embedding is not None:
            keep.take_embedding(lose.embedding, lose.embedding_weight)
        keep.first_seen_ns = min(keep.first_seen_ns, lose.first_seen_ns)
        keep.last_seen_ns = max(keep.last_seen_ns, lose.last_seen_ns)
        if lose.state is ObjectState.CONFIRMED:
            keep.state = ObjectState.CONFIRMED
        self.heirs[lose.id] = keep.id
        self.drop(lose.slot)

    def continue_ids(self, before: ObjectRegistry) -> None:
        """Go on counting ids where another registry stopped."""
        self._next_id = max(self._next_id, before._next_id)

    @property
    def slots(self) -> int:
        """One more than the largest slot: the size of a table indexed by slot."""
        return self._next_slot

    @property
    def next_id(self) -> int:
        """The id that the next new object gets."""
        return self._next_id

    def continue_from(self, next_id: int, next_slot: int) -> None:
        """Give no id or slot below these again (loading)."""
        self._next_id = max(self._next_id, next_id)
        self._next_slot = max(self._next_slot, next_slot)

    def present(self) -> list[MapObject]:
        """Objects a planner should see: confirmed and stale ones, by id."""
        return sorted((o for o in self if o.shown), key=lambda o: o.id)

    def class_name(self, obj: MapObject) -> str:
        return obj.name or self.labels.object_name(obj.class_id)
