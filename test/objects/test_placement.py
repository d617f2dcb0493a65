"""Where to stand, and what stands on what."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.errors import InvalidRequestError, NothingThereError
from gs_semantic.objects.placement import above, approach, around, padded
from gs_semantic.objects.registry import Box

TABLE = Box(np.array([2.0, 1.0, 0.4]), np.array([1.2, 0.6, 0.8]), np.eye(3))
WALL = np.column_stack([np.full(200, 2.8), np.linspace(-2, 4, 200), np.full(200, 0.5)])  # beside it, in x


def test_the_robot_faces_the_object_from_the_nearest_free_side() -> None:
    pose = approach(TABLE, WALL, robot_radius=0.3, start=np.array([5.0, 1.0]))
    forward = TABLE.centre[:2] - pose[:2, 3]
    np.testing.assert_allclose(pose[:2, 0], forward / np.linalg.norm(forward), atol=1e-9)
    assert np.abs(pose[0, 3] - 2.8) >= 0.3 and pose[0, 3] < 2.8, "not behind or in the wall"
    outside = np.abs(pose[:2, 3] - TABLE.centre[:2]) - TABLE.size[:2] / 2
    assert outside.max() > 0.3, "and not in the table"
    free = approach(TABLE, WALL[:0], robot_radius=0.3, start=np.array([5.0, 1.0]))
    np.testing.assert_allclose(free[:2, 3], [2 + 0.6 + 0.6, 1.0], atol=1e-6)
    assert pose[2, 3] == pytest.approx(0.0)


def test_an_object_with_no_free_side_is_told() -> None:
    ring = np.array([[2 + 1.3 * np.cos(a), 1 + 1.3 * np.sin(a), 0.5] for a in np.linspace(0, 6.3, 200)])
    with pytest.raises(NothingThereError, match="every side is blocked"):
        approach(TABLE, np.concatenate([ring, ring * [0.8, 0.8, 1], ring * [0.9, 0.9, 1]]), robot_radius=0.4)
    with pytest.raises(InvalidRequestError):
        approach(TABLE, ring, robot_radius=float("nan"))


def test_what_stands_on_a_table() -> None:
    region = above(TABLE, 0.3)
    points = np.array([[2.0, 1.0, 0.85], [2.5, 1.2, 1.05], [2.5, 1.4, 0.9], [2.0, 1.0, 0.5], [2.0, 1.0, 1.2]])
    assert region.inside(points).tolist() == [True, True, False, False, False]


def test_space_around() -> None:
    region = around(TABLE, 1.0, 0.0, 1.0)
    points = np.array([[0.5, 1.0, 0.5], [0.3, 1.0, 0.5], [0.5, 1.0, 0.01], [0.5, 1.0, 1.2]])
    assert region.inside(points).tolist() == [True, False, False, False]


def test_clearance() -> None:
    np.testing.assert_allclose(padded(TABLE, 0.05).size, TABLE.size + 0.1)
    with pytest.raises(InvalidRequestError):
        padded(TABLE, -1.0)
