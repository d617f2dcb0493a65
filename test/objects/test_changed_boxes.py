"""Which boxes of space have to be looked at again between two lists of objects."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.mapping.view import pack_registry
from gs_semantic.objects.queries import bounds, changed_boxes
from gs_semantic.objects.registry import Box, MapObject, ObjectRegistry, ObjectState


def registry() -> tuple[ObjectRegistry, MapObject]:
    objects = ObjectRegistry()
    for x in (0.0, 5.0):
        obj = objects.open()
        obj.state, obj.class_scores = ObjectState.CONFIRMED, {1: 1.0}
        place(obj, x)
    return objects, objects.by_id(1)


def place(obj: MapObject, x: float, size: float = 0.4) -> None:
    obj.box, obj.centroid = Box(np.array([x, 0, 0.2]), np.full(3, size), np.eye(3)), np.array([x, 0, 0.2])
    obj.covariance = np.eye(3)


def changes(change) -> list:
    objects, obj = registry()
    before = pack_registry(objects).records.copy()
    change(objects, obj)
    return changed_boxes(before, pack_registry(objects).records)


def test_nothing_changed() -> None:
    assert changes(lambda objects, obj: None) == []


def test_an_object_that_was_moved_left_one_box_and_fills_another() -> None:
    old, new = changes(lambda objects, obj: place(obj, 1.0))
    np.testing.assert_allclose(old, [[-0.2, -0.2, 0], [0.2, 0.2, 0.4]], atol=1e-6)
    np.testing.assert_allclose(new, [[0.8, -0.2, 0], [1.2, 0.2, 0.4]], atol=1e-6)


@pytest.mark.parametrize("how", ["removed", "dropped"])
def test_an_object_that_was_taken_away(how) -> None:
    def change(objects: ObjectRegistry, obj: MapObject) -> None:
        if how == "dropped":
            objects.drop(obj.slot)
        else:
            obj.state = ObjectState.REMOVED

    [(low, _)] = changes(change)
    assert low[0] == pytest.approx(-0.2)


def test_what_grew_or_was_never_believed_is_left_alone() -> None:
    assert changes(lambda objects, obj: place(obj, 0.1, 0.9)) == []
    objects, obj = registry()
    obj.state = ObjectState.TENTATIVE
    before = pack_registry(objects).records.copy()
    objects.drop(obj.slot)
    assert changed_boxes(before, pack_registry(objects).records) == []


def test_a_turned_box_is_held_by_an_upright_one() -> None:
    objects, obj = registry()
    angle = np.pi / 4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    obj.box = Box(np.zeros(3), np.array([2.0, 0.0, 1.0]), turn)
    low, high = bounds(pack_registry(objects).records[0])
    np.testing.assert_allclose(high, [np.sqrt(0.5), np.sqrt(0.5), 0.5], atol=1e-6)
    np.testing.assert_allclose(low, -high, atol=1e-6)
