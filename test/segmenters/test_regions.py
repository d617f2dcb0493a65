from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gs_semantic.segmenters.regions import Borders, RegionSums, union

LABELS = np.array([[1, 1, 2], [1, 3, 2], [0, 3, 2]])
EDGES = np.array([[0.0, 1.0, 2.0], [0.5, 3.0, 1.0], [9.0, 0.0, 4.0]], np.float32)


def test_borders_of_an_image():
    borders = Borders.of(LABELS, EDGES)
    assert list(zip(borders.a.tolist(), borders.b.tolist(), strict=True)) == [(1, 2), (1, 3), (2, 3)]
    assert borders.length.tolist() == [1, 2, 2]
    # 1|2: max(1, 2); 1|3: max(.5, 3) and max(1, 3); 2|3: max(3, 1) and max(0, 4)
    assert np.allclose(borders.strength, [2, 3, 3.5])


def test_borders_of_joined_regions_are_weighted_by_length():
    joined = Borders.of(LABELS, EDGES).renumbered(np.array([0, 1, 1, 2]))
    assert (joined.a.tolist(), joined.b.tolist(), joined.length.tolist()) == ([1], [2], [4])
    assert np.allclose(joined.strength, (2 * 3 + 2 * 3.5) / 4)


def test_only_mutually_closest_pairs_are_joined_but_for_weak_regions():
    chain = Borders(np.array([1, 2]), np.array([2, 3]), np.ones(2), np.zeros(2))
    score, allowed = np.array([0.1, 0.2]), np.array([True, True])
    a, b = chain.closest(score, allowed, np.zeros(4, bool))
    assert (a.tolist(), b.tolist()) == ([1], [2])
    a, b = chain.closest(score, allowed, np.array([False, False, False, True]))
    assert (a.tolist(), b.tolist()) == ([1, 2], [2, 3])
    assert len(chain.closest(score, ~allowed, np.zeros(4, bool))[0]) == 0


def test_no_borders():
    one = Borders.of(np.ones((3, 3), int), np.zeros((3, 3), np.float32))
    assert len(one.a) == 0 and len(one.renumbered(np.array([0, 1])).a) == 0


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12))
def test_union_joins_exactly_what_is_connected(pairs):
    table = union(10, np.array([a for a, _ in pairs], int), np.array([b for _, b in pairs], int))
    assert table[0] == 0 and set(table.tolist()) == set(range(int(table.max()) + 1))
    reach = np.eye(10, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for k in range(10):
        reach |= reach[:, k : k + 1] & reach[k : k + 1]
    assert np.array_equal(table[:, None] == table[None], reach)


def test_plane_error_and_sums():
    """Two regions on one plane, a third at another depth."""
    height, width = 20, 30
    v, u = np.mgrid[0:height, 0:width]
    inverse = 0.3 + 0.001 * u + 0.002 * v
    labels = np.where(u < 10, 1, np.where(u < 20, 2, 3))
    inverse = np.where(labels == 2, inverse + 0.1, inverse)
    colour = np.zeros((height, width, 3))
    colour[labels == 3] = (3, 4, 0)
    inverse[0, 0] = 9.0  # an outlier that is not to be looked at
    flat = np.ones(labels.shape, bool)
    flat[0, 0] = False
    regions = RegionSums.of(labels, colour, inverse, flat)
    assert regions.flat_area.tolist() == [0, 199, 200, 200]
    errors = regions.plane_error(np.array([1, 1]), np.array([3, 2]))
    assert errors[0] < 1e-4 and errors[1] > 0.02
    assert np.allclose(regions.colour_difference(np.array([1]), np.array([3])), 5)
    joined = regions.joined(np.array([0, 1, 2, 1]))
    assert joined.area.tolist() == [0, 400, 200]
