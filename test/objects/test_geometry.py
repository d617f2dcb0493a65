"""Boxes fit objects although masks are never exact."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.lifting import register_votes
from gs_semantic.objects.geometry import update_geometry, upright_box
from gs_semantic.objects.registry import MapObject

SIZE = np.array([1.0, 0.5, 0.8])
CENTRE = np.array([2.0, -1.0, 0.4])


def turn(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def cuboid(degrees: float = 0.0, count: int = 3000) -> np.ndarray:
    """Points on the surface of a cuboid that is turned about z."""
    random = np.random.default_rng(0)
    points = random.uniform(-0.5, 0.5, (count, 3))
    points[np.arange(count), random.integers(0, 3, count)] = random.choice([-0.5, 0.5], count)
    return CENTRE + (points * SIZE) @ turn(degrees).T


def mapped(points: np.ndarray, votes: np.ndarray | None = None) -> GaussianMap:
    gaussians = GaussianMap()
    rows = {
        "means": points.astype(np.float32),
        "quats": np.ones((len(points), 4), np.float32),
        "log_scales": np.zeros((len(points), 3), np.float32),
        "opacity_logits": np.zeros(len(points), np.float32),
        "sh": np.zeros((len(points), 1, 3), np.float32),
    }
    if votes is not None:
        register_votes(gaussians)
        rows["vote_weight"] = votes.astype(np.float32)
    gaussians.add(**rows)
    return gaussians


def measured(points: np.ndarray, votes: np.ndarray | None = None) -> MapObject:
    obj = MapObject(id=1, slot=1)
    update_geometry(obj, mapped(points, votes), np.arange(len(points)))
    return obj


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90, 160])
def test_the_box_of_a_turned_cuboid(degrees):
    box = upright_box(cuboid(degrees))
    np.testing.assert_allclose(box.centre, CENTRE, atol=0.02)
    np.testing.assert_allclose(np.sort(box.size), np.sort(SIZE), atol=0.03)
    np.testing.assert_allclose(box.rotation @ box.rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(box.rotation) == pytest.approx(1) and box.rotation[2, 2] == 1
    long = box.rotation[:, int(np.argmax(box.size[:2]))] if box.size[:2].max() > 0.9 else np.full(3, np.nan)
    assert abs(long @ turn(degrees)[:, 0]) > 0.99


def test_gaussians_with_divided_votes_do_not_count():
    points = np.concatenate([cuboid(), CENTRE + [[d, 0.0, 0.0] for d in np.linspace(0.5, 2.5, 150)]])
    votes = np.zeros((len(points), 4))
    votes[:3000, 0] = 5
    votes[3000:] = [3, 2, 0, 0]
    obj = measured(points, votes)
    assert obj.num_gaussians == 3150
    np.testing.assert_allclose(np.sort(obj.box.size), np.sort(SIZE), atol=0.04)
    np.testing.assert_allclose(obj.centroid, CENTRE, atol=0.03)


def test_strays_apart_from_the_object_do_not_count():
    points = np.concatenate([cuboid(), CENTRE + np.random.default_rng(1).normal([2.0, 0, 0], 0.1, (150, 3))])
    obj = measured(points)
    np.testing.assert_allclose(np.sort(obj.box.size), np.sort(SIZE), atol=0.04)


def test_an_object_in_two_parts_of_similar_size_keeps_both():
    obj = measured(np.concatenate([cuboid(), cuboid() + [3.0, 0, 0]]))
    assert obj.box.size[:2].max() > 3.8


def test_when_all_votes_are_divided_all_count():
    obj = measured(cuboid(), np.tile([2.0, 1.5, 0, 0], (3000, 1)))
    np.testing.assert_allclose(np.sort(obj.box.size), np.sort(SIZE), atol=0.03)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_few_gaussians_have_a_box_too(count):
    points = cuboid(count=count)
    obj = measured(points, np.ones((count, 4)))
    local = (points - obj.box.centre) @ obj.box.rotation
    assert (np.abs(local) <= obj.box.size / 2 + 1e-6).all() and (obj.box.size > 0).all()
    assert np.isfinite(obj.covariance).all()


def test_no_gaussians_no_geometry():
    obj = measured(cuboid())
    update_geometry(obj, mapped(np.zeros((0, 3))), np.zeros(0, np.int64))
    assert obj.num_gaussians == 0 and obj.box is None and obj.centroid is None and obj.covariance is None
