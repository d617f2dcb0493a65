"""Which points lie in a region, and which regions are refused."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.errors import InvalidRequestError
from gs_semantic.objects.regions import BoxShape, FrustumShape, PrismShape, Region, SphereShape

POINTS = np.random.default_rng(0).uniform(-2, 2, (5000, 3))
L_SHAPE = np.array([[-1, -1], [1, -1], [1, 0], [0, 0], [0, 1], [-1, 1]], float)


def placed(shift: tuple[float, float, float], degrees: float = 0.0) -> np.ndarray:
    """Turned about z, then shifted."""
    turn = np.radians(degrees)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pose[:3, 3] = shift
    return pose


def test_a_box_that_is_turned() -> None:
    inside = Region(BoxShape(np.array([2.0, 0.5, 1.0])), placed((0, 0.5, 0), 90)).inside(POINTS)
    x, y, z = POINTS.T
    np.testing.assert_array_equal(inside, (abs(x) <= 0.25) & (abs(y - 0.5) <= 1) & (abs(z) <= 0.5))


def test_a_sphere() -> None:
    inside = Region(SphereShape(1.0), placed((1, 0, 0))).inside(POINTS)
    np.testing.assert_array_equal(inside, np.linalg.norm(POINTS - [1, 0, 0], axis=1) <= 1)


@pytest.mark.parametrize("corners", [L_SHAPE, L_SHAPE[::-1]], ids=["anticlockwise", "clockwise"])
def test_a_prism_that_is_not_convex(corners: np.ndarray) -> None:
    inside = Region(PrismShape(corners, -0.5, 1.0)).inside(POINTS)
    x, y, z = POINTS.T
    inner = (abs(x) < 1) & (abs(y) < 1) & ~((x > 0) & (y > 0))
    np.testing.assert_array_equal(inside, inner & (z >= -0.5) & (z <= 0.5))


def test_a_frustum() -> None:
    inside = Region(FrustumShape(np.pi / 2, np.pi / 3, 0.5, 1.5)).inside(POINTS)
    x, y, z = POINTS.T
    wanted = (z >= 0.5) & (z <= 1.5) & (abs(x) <= z) & (abs(y) <= z * np.tan(np.pi / 6))
    np.testing.assert_array_equal(inside, wanted)


@pytest.mark.parametrize("make, words", [
    (lambda: BoxShape(np.array([1, 0, 1.0])), "three positive"),
    (lambda: BoxShape(np.array([1, np.nan, 1.0])), "three positive"),
    (lambda: SphereShape(0.0), "positive"),
    (lambda: SphereShape(float("nan")), "positive"),
    (lambda: PrismShape(np.zeros((0, 2)), 0, 1), "0 corners"),
    (lambda: PrismShape(np.array([[0, 0], [1, 0]]), 0, 1), "2 corners"),
    (lambda: PrismShape(np.array([[0, 0], [1, 1], [2, 2]]), 0, 1), "one line"),
    (lambda: PrismShape(np.array([[0, 0], [1, 0], [np.inf, 2]]), 0, 1), "NaN or infinite"),
    (lambda: PrismShape(L_SHAPE, 0, 0), "height is 0"),
    (lambda: FrustumShape(np.pi, 1, 0, 1), "horizontal_fov"),
    (lambda: FrustumShape(1, 1, 1, 1), "near is 1"),
])  # fmt: skip
def test_degenerate_regions_are_refused(make, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        make()
