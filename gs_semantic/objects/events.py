"""What happened to the objects between two looks at the registry: created, moved, merged, split, removed, renamed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from gs_semantic.objects.registry import MapObject, ObjectRegistry


class EventKind(IntEnum):
    """As in gs_semantic/msg/ObjectEvent."""

    CREATED = 1
    MOVED = 2
    MERGED = 3
    SPLIT = 4
    REMOVED = 5
    RENAMED = 6


@dataclass(frozen=True)
class ObjectEvent:
    """others: ids that were merged into the object, or came off it. Positions (3,) m, NaN: not known."""

    kind: EventKind
    object_id: int
    class_id: int
    label: str
    position: np.ndarray
    others: tuple[int, ...] = ()
    old_label: str = ""
    old_position: np.ndarray | None = None


@dataclass(frozen=True)
class _Known:
    class_id: int
    label: str
    position: np.ndarray
    moved: int
    parent: int


class EventWatch:
    """Compares the registry with what it was at the last call. Only objects that planners see count."""

    def __init__(self) -> None:
        self._map_id = ""
        self._known: dict[int, _Known] = {}
        self._gone: dict[int, _Known] = {}  # told as removed: such an object may turn up elsewhere

    def update(self, objects: ObjectRegistry, map_id: str) -> list[ObjectEvent]:
        """What has happened, removals first; another ``map_id`` means that the whole map was replaced."""
        now = {obj.id: obj for obj in objects.present()}
        replaced, self._map_id = map_id != self._map_id, map_id
        if replaced:
            self._gone.clear()
        events: list[ObjectEvent] = []
        merged: defaultdict[int, list[int]] = defaultdict(list)
        for object_id, old in self._known.items():
            if object_id in now and not replaced:
                continue
            heir = 0 if replaced else objects.heir(object_id)
            if heir in now:
                merged[heir].append(object_id)
            else:
                self._gone[object_id] = old
                events.append(ObjectEvent(EventKind.REMOVED, object_id, old.class_id, old.label, old.position))
        known = {} if replaced else self._known
        split: defaultdict[int, list[int]] = defaultdict(list)
        for object_id, obj in now.items():
            state = _state(obj, objects)
            plain = (object_id, state.class_id, state.label, state.position)
            before = known.get(object_id) or (None if replaced else self._gone.pop(object_id, None))
            if state.parent in now and state.parent in known and (before is None or before.parent != state.parent):
                split[state.parent].append(object_id)
            if before is None:
                events.append(ObjectEvent(EventKind.CREATED, *plain))
                continue
            if before.moved != state.moved:
                events.append(ObjectEvent(EventKind.MOVED, *plain, old_position=before.position))
            elif object_id not in known:
                events.append(ObjectEvent(EventKind.CREATED, *plain))  # it was there all the time
            if before.label != state.label:
                events.append(ObjectEvent(EventKind.RENAMED, *plain, old_label=before.label))
        for kind, groups in ((EventKind.MERGED, merged), (EventKind.SPLIT, split)):
            for object_id, others in groups.items():
                state = _state(now[object_id], objects)
                events.append(
                    ObjectEvent(kind, object_id, state.class_id, state.label, state.position, tuple(sorted(others)))
                )
        self._known = {object_id: _state(obj, objects) for object_id, obj in now.items()}
        return events


def _state(obj: MapObject, objects: ObjectRegistry) -> _Known:
    position = np.full(3, np.nan)
    if obj.box is not None:
        position = obj.box.centre
    elif obj.centroid is not None:
        position = obj.centroid
    return _Known(obj.class_id, objects.class_name(obj), position, obj.moved, obj.parent)
