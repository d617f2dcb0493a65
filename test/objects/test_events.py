"""What is told of a registry that changes."""

from __future__ import annotations

import numpy as np

from gs_semantic.labels import LabelSet
from gs_semantic.objects.events import EventKind, EventWatch
from gs_semantic.objects.registry import Box, MapObject, ObjectRegistry, ObjectState


def add(objects: ObjectRegistry, x: float, class_id: int = 1, parent: int = 0) -> MapObject:
    obj = objects.open()
    obj.state, obj.class_scores, obj.parent = ObjectState.CONFIRMED, {class_id: 1.0}, parent
    obj.box = Box(np.array([x, 0, 0]), np.ones(3), np.eye(3))
    return obj


def world() -> tuple[ObjectRegistry, EventWatch, list[MapObject]]:
    objects, watch = ObjectRegistry(LabelSet({1: "cup", 2: "box"})), EventWatch()
    made = [add(objects, float(x)) for x in range(3)]
    assert [event.kind for event in watch.update(objects, "a")] == [EventKind.CREATED] * 3
    return objects, watch, made


def test_nothing_happens_nothing_is_told() -> None:
    objects, watch, made = world()
    made[0].box.centre[:] += 0.01  # measured better, not moved
    objects.open()  # tentative
    assert watch.update(objects, "a") == []


def test_an_object_that_was_moved() -> None:
    objects, watch, made = world()
    made[1].box, made[1].moved = Box(np.array([5.0, 0, 0]), np.ones(3), np.eye(3)), 77
    [event] = watch.update(objects, "a")
    assert (event.kind, event.object_id, event.label) == (EventKind.MOVED, 2, "cup")
    np.testing.assert_array_equal(event.old_position, [1, 0, 0])
    np.testing.assert_array_equal(event.position, [5, 0, 0])


def test_merged_objects_go_on_under_the_id_that_is_left() -> None:
    objects, watch, made = world()
    objects.heirs |= {3: 2, 2: 1}
    for obj in made[1:]:
        objects.drop(obj.slot)
    [event] = watch.update(objects, "a")
    assert (event.kind, event.object_id, event.others) == (EventKind.MERGED, 1, (2, 3))
    assert "merged into" in objects.why_unknown(3) and "object 1 " in objects.why_unknown(3)


def test_a_part_that_came_off() -> None:
    objects, watch, _ = world()
    add(objects, 9.0, parent=2)
    created, split = watch.update(objects, "a")
    assert (created.kind, created.object_id) == (EventKind.CREATED, 4)
    assert (split.kind, split.object_id, split.others) == (EventKind.SPLIT, 2, (4,))


def test_removed_and_dropped_objects() -> None:
    objects, watch, made = world()
    made[0].state = ObjectState.REMOVED
    objects.drop(made[1].slot)
    events = watch.update(objects, "a")
    assert [(event.kind, event.object_id) for event in events] == [(EventKind.REMOVED, 1), (EventKind.REMOVED, 2)]
    made[0].state = ObjectState.CONFIRMED
    assert [event.kind for event in watch.update(objects, "a")] == [EventKind.CREATED]


def test_renamed_by_an_operator_and_by_perception() -> None:
    objects, watch, made = world()
    made[0].name, made[1].class_scores = "grandma's", {2: 1.0}
    told = {event.object_id: (event.kind, event.old_label, event.label) for event in watch.update(objects, "a")}
    assert told == {1: (EventKind.RENAMED, "cup", "grandma's"), 2: (EventKind.RENAMED, "cup", "box")}


def test_another_map_has_other_objects() -> None:
    objects, watch, _ = world()
    kinds = [event.kind for event in watch.update(objects, "b")]
    assert kinds == [EventKind.REMOVED] * 3 + [EventKind.CREATED] * 3
