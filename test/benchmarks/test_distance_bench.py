"""The truth that distances are compared with, and what the comparison counts; the bench of saving on a small map."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gs_semantic.benchmarks.distance import accuracy, read_triangles, scene_distance, triangle_distance
from gs_semantic.benchmarks.saving import run_saving
from gs_semantic.errors import InvalidRequestError
from gs_semantic.space.distance import Distances

CORNERS = np.array(list(itertools.product((0.0, 1.0), repeat=3)))


def cube() -> np.ndarray:
    """Two triangles (12, 3, 3) on each side of the unit cube."""
    sides = []
    for axis, value in itertools.product(range(3), (0.0, 1.0)):
        a, b, c, d = CORNERS[CORNERS[:, axis] == value]
        sides += [[a, b, d], [a, d, c]]
    return np.array(sides)


def test_distance_to_the_faces_edges_and_corners_of_a_cube() -> None:
    points = np.random.default_rng(0).uniform(-1, 2, (500, 3))
    outside = np.maximum(-points, points - 1)
    truth = np.where((outside > 0).any(1), np.linalg.norm(np.maximum(outside, 0), axis=1), -outside.max(1))
    np.testing.assert_allclose(scene_distance(points, cube(), np.random.default_rng(1)), truth, atol=2e-3)


def test_a_triangle_without_area_is_its_edge() -> None:
    line = np.array([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]])
    assert triangle_distance(np.array([[0.5, 3.0, 4.0]]), line) == pytest.approx(5.0)


class Answers:
    """A field with given answers."""

    def __init__(self, distance, unknown) -> None:
        count = len(distance)
        self._found = Distances(np.array(distance), np.zeros((count, 3)), np.zeros(count, int), np.array(unknown))

    def query(self, points) -> Distances:
        return self._found


def test_what_counts_as_wrong() -> None:
    # right, 1 cm off, said free before a surface, said blocked in free space, unknown, behind a surface and said free
    field = Answers([0.5, 0.31, 0.2, 0.01, 0.5, 0.4], [False, False, False, False, True, False])
    truth = np.array([0.5, 0.3, 0.01, 0.4, 0.5, 0.02])
    before = np.array([True] * 5 + [False])
    results = accuracy(field, np.zeros((6, 3)), before, truth)
    assert results["compared"] == 4
    assert results["abs_error_median_m"] == pytest.approx((0.01 + 0.19) / 2)
    assert results["free_false_positives_pct"] == pytest.approx(100 * 2 / 4), "of those said free"
    assert results["false_obstacles_pct"] == pytest.approx(100 / 4), "of those that are free"
    assert results["free_unknown_pct"] == pytest.approx(100 / 4)
    assert results["behind_said_free_pct"] == 100


def test_meshes_that_cannot_be_read(tmp_path) -> None:
    np.savez(tmp_path / "other.npz", points=np.zeros(3))
    with pytest.raises(InvalidRequestError, match="array 'tri'"):
        read_triangles(tmp_path / "other.npz")
    np.savez(tmp_path / "cube.npz", tri=cube())
    assert read_triangles(tmp_path / "cube.npz").shape == (12, 3, 3)


def test_saving_is_timed(tmp_path) -> None:
    results = run_saving(tmp_path, 2000, 5)
    assert results["save_s"] > 0 and results["load_s"] > 0 and results["folder_mb"] > 0.2
