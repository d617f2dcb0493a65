"""Edits by hand while mapping goes on: rename, merge, split, delete, lock, move, and their undoing.

An edited object is locked, so that perception does not undo it. Every edit keeps what it changed; undoing puts that back by
the keys of the Gaussians, whatever has been mapped since.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gs_semantic.errors import ConflictError, InvalidRequestError, NothingThereError, UnknownObjectError
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.objects import edit
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.regions import Region
from gs_semantic.objects.registry import MapObject, ObjectState, Provenance

KEPT = 50  # edits that can be undone
LONGEST_NAME = 200
VOTES = ("vote_object", "vote_weight", "object")


@dataclass
class _Done:
    """One edit: objects as they were, merged ids then, Gaussians (by uid) with what undoing needs of them."""

    text: str
    objects: list[MapObject]
    heirs: dict[int, int]
    rows: dict[str, torch.Tensor] = field(default_factory=dict)
    opened: int = 0  # id of an object that the edit made
    motion: np.ndarray | None = None


@dataclass(frozen=True)
class Outcome:
    """What an edit did. ``object`` is None when it is gone; ``new_id`` of an object that came off, else 0."""

    text: str
    object: MapObject | None
    new_id: int = 0


class Editor:
    """Edits the map of a mapper, between its steps. ``expected``: map revision at which the caller looked; ConflictError
    when one of the objects was edited, merged, split or removed since. 0: not checked."""

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper
        self._log: deque[_Done] = deque(maxlen=KEPT)
        self._map_id = mapper.gaussians.map_id

    @property
    def undoable(self) -> int:
        """Edits that can be undone; none of another map."""
        if self._map_id != self.mapper.gaussians.map_id:
            self._log.clear()
            self._map_id = self.mapper.gaussians.map_id
        return len(self._log)

    # --- edits ------------------------------------------------------------------------------------------------------

    def rename(self, object_id: int, name: str, expected: int = 0) -> Outcome:
        """An empty name lets the class name count again."""
        [obj] = self._chosen([object_id], expected)
        if len(name) > LONGEST_NAME:
            raise InvalidRequestError(f"name has {len(name)} characters, at most {LONGEST_NAME} are kept")
        old = self.mapper.objects.class_name(obj)
        self._begin(f"rename object {obj.id} from '{old}' to '{name}'", [obj], rows=False)
        obj.name = name.strip()
        return self._end(obj)

    def lock(self, object_id: int, locked: bool = True, expected: int = 0) -> Outcome:
        """A locked object is neither merged, split, renamed nor removed by perception."""
        [obj] = self._chosen([object_id], expected)
        self._begin(f"{'lock' if locked else 'unlock'} object {obj.id}", [obj], rows=False)
        return self._end(obj, locked)

    def merge(self, object_id: int, others: Sequence[int], expected: int = 0) -> Outcome:
        """The others become part of the first."""
        keep, *lost = self._chosen([object_id, *others], expected)
        if not lost:
            raise InvalidRequestError("others is empty: merging needs two objects or more")
        self._begin(f"merge {', '.join(str(obj.id) for obj in lost)} into object {keep.id}", [keep, *lost])
        for obj in lost:
            self.mapper.objects.absorb(keep, obj)
        self.mapper.rename_slots({obj.slot: keep.slot for obj in lost})
        return self._end(keep)

    def split(self, object_id: int, region: Region, expected: int = 0) -> Outcome:
        """What of the object lies in the region becomes an object of its own; its id is ``new_id``."""
        [obj] = self._chosen([object_id], expected)
        gaussians, objects = self.mapper.gaussians, self.mapper.objects
        rows = self._rows([obj])
        part = rows[region.inside(gaussians.means.numpy()[rows])]
        if not 0 < len(part) < len(rows):
            which = "none" if not len(part) else "all"
            raise NothingThereError(f"region: {which} of the {len(rows)} Gaussians of object {obj.id} lie in it")
        self._begin(f"split object {obj.id}", [obj])
        new = objects.open(obj.first_seen_ns)
        new.state, new.parent, new.class_scores = ObjectState.CONFIRMED, obj.id, dict(obj.class_scores)
        new.observations, new.last_seen_ns = obj.observations, obj.last_seen_ns
        self._log[-1].opened = new.id
        table = gaussians["vote_object"].numpy()
        table[part] = np.where(table[part] == obj.slot, new.slot, table[part])
        gaussians["object"].numpy()[part] = new.slot
        gaussians.touch(torch.from_numpy(part), core=False)
        self._lock(new)
        return self._end(obj, new_id=new.id)

    def delete(self, object_id: int, expected: int = 0) -> Outcome:
        """Remove an object with its Gaussians. It stays as a locked, removed one where it was: what is seen there later is
        taken for it, and not shown."""
        [obj] = self._chosen([object_id], expected)
        self._begin(f"delete object {obj.id}", [obj])
        self.mapper.gaussians.remove(torch.from_numpy(self._rows([obj])))
        self.mapper.forget_slot(obj.slot)
        obj.state, obj.num_gaussians = ObjectState.REMOVED, 0
        self._end(obj)
        return Outcome(self._log[-1].text, None)

    def move(self, object_id: int, motion: np.ndarray, expected: int = 0) -> Outcome:
        """Move an object rigidly: a point p of it goes to motion @ p; (4, 4) in the map frame."""
        [obj] = self._chosen([object_id], expected)
        done = _Done(f"move object {obj.id}", [copy.deepcopy(obj)], {}, motion=np.asarray(motion, np.float64))
        edit.move(self.mapper.gaussians, self.mapper.objects, [obj], motion)
        self._log.append(done)
        outcome = self._end(obj)
        obj.moved = obj.edited
        return outcome

    def undo(self) -> Outcome:
        """Take back the last edit that has not been taken back. NothingThereError without one."""
        if not self.undoable:
            raise NothingThereError("there is no edit to undo")
        done, objects, gaussians = self._log.pop(), self.mapper.objects, self.mapper.gaussians
        if done.motion is not None:
            [before] = done.objects
            obj = objects.by_id(before.id)
            edit.move(gaussians, objects, [obj], np.linalg.inv(done.motion))
            self._restore(before)
        else:
            slots = {before.slot: self._restore(before).slot for before in done.objects}
            if done.opened:  # gives its Gaussians back before it goes
                new = objects.by_id(done.opened)
                objects.absorb(objects.by_id(done.objects[0].id), new)
                del objects.heirs[new.id]
                self.mapper.rename_slots({new.slot: objects.by_id(done.objects[0].id).slot})
            for lost in set(objects.heirs) - set(done.heirs):
                if lost in {before.id for before in done.objects}:
                    del objects.heirs[lost]
            self._put_back(done.rows, slots)
        for before in done.objects:
            obj = objects.by_id(before.id)
            obj.edited = obj.revision = gaussians.revision
            obj.moved = gaussians.revision if done.motion is not None else obj.moved
            update_geometry(obj, gaussians, self._rows([obj]))
        return Outcome(f"undone: {done.text}", objects.by_id(done.objects[0].id))

    # --- parts ------------------------------------------------------------------------------------------------------

    def _chosen(self, ids: Sequence[int], expected: int) -> list[MapObject]:
        """The objects, which must be there, differ, and not have changed since."""
        objects = self.mapper.objects
        if len(set(ids)) != len(ids):
            raise InvalidRequestError(f"ids {list(ids)}: one is given twice")
        out = []
        for object_id in ids:
            heir = objects.heir(object_id)
            if expected and heir:
                raise ConflictError(f"object {object_id} was merged into object {heir} meanwhile; look again")
            obj = objects.by_id(object_id)
            if obj.state is ObjectState.REMOVED:
                raise UnknownObjectError(f"object {object_id} was removed; it cannot be edited (undo brings a deleted one back)")
            if expected and obj.edited > expected:
                raise ConflictError(
                    f"object {object_id} was changed at map revision {obj.edited}, after revision {expected} that you "
                    "looked at; look again"
                )
            out.append(obj)
        return out

    def _rows(self, chosen: Sequence[MapObject]) -> np.ndarray:
        return np.flatnonzero(np.isin(self.mapper.gaussians["object"].numpy(), [obj.slot for obj in chosen]))

    def _begin(self, text: str, chosen: Sequence[MapObject], rows: bool = True) -> None:
        """Keep what an edit is about to change."""
        assert self.undoable >= 0  # forgets edits of another map
        done = _Done(text, [copy.deepcopy(obj) for obj in chosen], dict(self.mapper.objects.heirs))
        if rows:
            gaussians, index = self.mapper.gaussians, torch.from_numpy(self._rows(chosen))
            done.rows = {name: gaussians[name][index].clone() for name in gaussians}
        self._log.append(done)

    def _lock(self, obj: MapObject, locked: bool = True) -> None:
        obj.locked, obj.provenance = locked, Provenance.OPERATOR
        obj.edited = obj.revision = self.mapper.gaussians.revision
        if obj.state is not ObjectState.REMOVED:
            if obj.state is ObjectState.TENTATIVE:
                obj.state = ObjectState.CONFIRMED
            update_geometry(obj, self.mapper.gaussians, self._rows([obj]))

    def _end(self, obj: MapObject, locked: bool = True, new_id: int = 0) -> Outcome:
        self.mapper.gaussians.touch(torch.zeros(0, dtype=torch.int64), core=False)  # an edit is a revision of its own
        self._lock(obj, locked)
        if new_id:
            self._lock(self.mapper.objects.by_id(new_id))
        return Outcome(self._log[-1].text, obj, new_id)

    def _restore(self, before: MapObject) -> MapObject:
        """Make an object what it was; one that is gone comes back under its id, in a slot of its own."""
        objects = self.mapper.objects
        try:
            now = objects.by_id(before.id)
        except UnknownObjectError:
            free = not objects.has_slot(before.slot)
            now = objects.open(object_id=before.id, slot=before.slot if free else None)
        slot = now.slot
        now.__dict__.update(copy.deepcopy(before).__dict__)
        now.slot = slot
        return now

    def _put_back(self, rows: dict[str, torch.Tensor], slots: dict[int, int]) -> None:
        """Votes of the kept rows as they were; rows that are gone come back."""
        if not rows or not len(rows["uid"]):
            return
        gaussians = self.mapper.gaussians
        rows = {name: values.clone() for name, values in rows.items()}
        table = np.arange(max(self.mapper.objects.slots, int(rows["vote_object"].max()) + 1), dtype=np.int32)
        for old, new in slots.items():
            table[old] = new
        for name in ("vote_object", "object"):
            rows[name] = torch.from_numpy(table[rows[name].numpy()])
        uid = gaussians["uid"].numpy()
        order = np.argsort(uid, kind="stable")
        place = np.minimum(np.searchsorted(uid[order], rows["uid"].numpy()), max(len(uid) - 1, 0))
        found = uid[order[place]] == rows["uid"].numpy() if len(uid) else np.zeros(len(rows["uid"]), bool)
        there = torch.from_numpy(order[place[found]])
        kept = torch.from_numpy(found)
        for name in VOTES:
            gaussians[name][there] = rows[name][kept]
        gaussians.touch(there, core=False)
        if not found.all():
            gaussians.add(**{name: values[~kept] for name, values in rows.items() if name in gaussians})
