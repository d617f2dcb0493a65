import pytest
import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.segmentation.generalization.rt_gs2.serialization import (
    MAX_BITS,
    ORDERS,
    curve_codes,
    grid_cells,
    hilbert,
    patch_rows,
    z_order,
)

CUBE = torch.cartesian_prod(*[torch.arange(8)] * 3)


def test_z_order_of_known_cells():
    cells = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1], [2, 0, 0], [3, 5, 7]])
    assert z_order(cells).tolist() == [0, 1, 2, 4, 7, 32, 0b011_101_111]


def test_z_order_holds_all_bits():
    top = (1 << MAX_BITS) - 1
    assert z_order(torch.tensor([[top, top, top]])).item() == (1 << 3 * MAX_BITS) - 1


def test_hilbert_of_two_cells_a_side_is_the_gray_code():
    cells = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 0, 0]])
    assert hilbert(cells, 1).tolist() == list(range(8))


def test_hilbert_visits_every_cell_once_in_touching_steps():
    codes = hilbert(CUBE, 3)
    assert sorted(codes.tolist()) == list(range(512))
    walk = CUBE[codes.argsort()]
    assert ((walk[1:] - walk[:-1]).abs().sum(dim=1) == 1).all()


@pytest.mark.parametrize("order", ORDERS)
def test_three_bits_less_is_the_code_of_the_larger_cell(order):
    assert torch.equal(curve_codes(CUBE, order, 3) >> 3, curve_codes(CUBE >> 1, order, 2))


def test_trans_swaps_the_first_two_axes():
    for order in ("z", "hilbert"):
        assert torch.equal(curve_codes(CUBE, f"{order}-trans", 3), curve_codes(CUBE[:, [1, 0, 2]], order, 3))
        assert not torch.equal(curve_codes(CUBE, f"{order}-trans", 3), curve_codes(CUBE, order, 3))


def test_last_patch_borrows_from_the_one_before():
    rows, own = patch_rows(10, 4)
    assert rows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert rows.reshape(-1)[own].tolist() == list(range(10))
    assert own.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]


def test_fewer_points_than_a_patch_are_one_patch():
    rows, own = patch_rows(3, 1024)
    assert rows.tolist() == [[0, 1, 2]] and own.tolist() == [0, 1, 2]


def test_cells_start_at_the_smallest_point():
    assert grid_cells(torch.tensor([[-1.0, 0, 5], [-0.95, 0.21, 5]]), 0.1).tolist() == [[0, 0, 0], [0, 2, 0]]


def test_stray_points_are_refused():
    with pytest.raises(InvalidInputError, match="stray"):
        grid_cells(torch.tensor([[0.0, 0, 0], [1e9, 0, 0]]), 0.07)
    with pytest.raises(InvalidInputError, match="NaN"):
        grid_cells(torch.tensor([[0.0, 0, float("nan")]]), 0.07)
