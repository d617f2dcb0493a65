"""Occupancy and costs of a mapped room against its plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scene import BOXES

from gs_semantic.errors import InvalidRequestError
from gs_semantic.space.occupancy import FREE, INSCRIBED, OCCUPIED, UNKNOWN, GridSpec, Inflation, inflate, occupancy

SPEC = GridSpec(0.05, 0.1, 1.0)
BEFORE = np.array([[0.1, -0.2], [0.0, 0.2], [0.3, 0.3]])  # in view, on the floor


def at(grid, points: np.ndarray) -> np.ndarray:
    row, column, on = grid.index(points)
    assert on.all()
    return grid.cells[row, column]


def front(box: int) -> np.ndarray:
    """On the side that the cameras see."""
    low, high, *_ = BOXES[box]
    return np.array([[low[0], y] for y in np.linspace(low[1] + 0.1, high[1] - 0.1, 9)])


def test_cells_are_occupied_free_and_unknown(mapped) -> None:
    mapper, field = mapped
    grid = occupancy(mapper.gaussians, field.seen, SPEC)
    row, column, on = grid.index(front(0))
    near = [grid.cells[r - 1 : r + 2, c - 1 : c + 2].max() for r, c in zip(row, column, strict=True)]
    assert on.all() and (np.array(near) == OCCUPIED).mean() > 0.8
    assert (at(grid, BEFORE) == FREE).mean() > 0.6 and OCCUPIED not in at(grid, BEFORE)
    low, high, *_ = BOXES[0]
    assert at(grid, np.array([(low + high)[:2] / 2])) != FREE, "nobody saw the inside of a box"
    outside = occupancy(mapper.gaussians, field.seen, GridSpec(0.05, 0.1, 1.0, np.array([5, 5]), np.array([6, 6])))
    assert (outside.cells == UNKNOWN).all()


def test_a_cell_knows_its_object_and_an_object_can_be_left_out(mapped) -> None:
    mapper, field = mapped
    grid = occupancy(mapper.gaussians, field.seen, SPEC)
    row, column, _ = grid.index(front(2))
    slots = grid.slot[np.clip(row[:, None] + [-1, 0, 1], 0, None), column[:, None]]
    [slot] = [obj.slot for obj in mapper.objects.present() if obj.class_id == 3]
    assert (slots == slot).any(axis=1).mean() > 0.6
    without = occupancy(mapper.gaussians, field.seen, SPEC, [slot])
    assert not (without.slot == slot).any()
    assert (without.cells == OCCUPIED).sum() < (grid.cells == OCCUPIED).sum()
    assert (without.cells[grid.slot == slot] == OCCUPIED).mean() < 0.2, "the wall behind it is in some of its cells"


def test_gaussians_that_float_where_cameras_looked_through_do_not_count(mapped) -> None:
    mapper, field = mapped
    floating = mapper.gaussians.snapshot()
    rows = floating.clone(torch.arange(50))
    floating.means[rows] = floating.means.new_tensor([0.1, -0.2, 0.6])
    grid = occupancy(floating, field.seen, SPEC)
    assert at(grid, np.array([[0.1, -0.2]])) != OCCUPIED


def test_costs_fall_with_distance_and_differ_by_class(mapped) -> None:
    mapper, field = mapped
    grid = occupancy(mapper.gaussians, field.seen, SPEC)
    classes = np.zeros(mapper.objects.slots, np.int64)
    for obj in mapper.objects.present():
        classes[obj.slot] = obj.class_id
    plain = inflate(grid, Inflation(0.1, 0.3, 5.0), classes)
    wide = inflate(grid, Inflation(0.1, 0.3, 5.0, {2: 0.8}), classes)
    assert (plain.cells[grid.cells == OCCUPIED] == OCCUPIED).all()
    assert (wide.cells >= plain.cells)[grid.cells != UNKNOWN].all() and (wide.cells > plain.cells).any()
    low = BOXES[0][0]
    line = np.array([[low[0] - d, -0.2] for d in (0.1, 0.2, 0.5)])
    costs = at(wide, line)
    assert costs[0] >= costs[1] > costs[2] > 0 and at(plain, line)[2] == 0
    assert set(np.unique(plain.cells)) <= set(range(-1, 101))
    assert (plain.cells[grid.cells == UNKNOWN] != FREE).all(), "unknown never becomes free"
    single = np.zeros((21, 21), np.int8)
    single[10, 10] = OCCUPIED
    one = type(grid)(single, np.zeros((21, 21), np.int32), np.zeros(2), 0.05)
    cells = inflate(one, Inflation(0.1, 0.3, 5.0)).cells[10, 10:]
    expected = [OCCUPIED, INSCRIBED, INSCRIBED, *(98 * np.exp(-5 * (np.array([0.15, 0.2, 0.25, 0.3]) - 0.1))).round(), 0]
    assert cells[:8].tolist() == [int(value) for value in expected]


@pytest.mark.parametrize("make", [
    lambda: GridSpec(0.0), lambda: GridSpec(np.nan), lambda: GridSpec(low=1.0, high=0.5), lambda: GridSpec(high=np.inf),
    lambda: GridSpec(lower=np.zeros(2)), lambda: GridSpec(lower=np.ones(2), upper=np.zeros(2)),
    lambda: Inflation(-0.1), lambda: Inflation(by_class={1: np.nan}),
])  # fmt: skip
def test_grids_that_mean_nothing_are_refused(make) -> None:
    with pytest.raises(InvalidRequestError):
        make()


def test_too_large_a_grid_is_refused(mapped) -> None:
    spec = GridSpec(0.01, lower=np.zeros(2), upper=np.full(2, 1000.0))
    with pytest.raises(InvalidRequestError, match="coarser"):
        occupancy(mapped[0].gaussians, mapped[1].seen, spec)
