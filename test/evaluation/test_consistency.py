import numpy as np
import pytest

from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.consistency import (
    ConsistencyScore,
    LabelledView,
    away_from_borders,
    view_pairs_at_distance,
    warped_pixels,
)
from gs_semantic.gaussians import Camera


def camera(x: float = 0.0, size: tuple[int, int] = (64, 48)) -> Camera:
    pose = np.eye(4)
    pose[0, 3] = x
    return Camera(*size, 64.0, 64.0, 31.5, 23.5, pose)


def wall(x: float, labels: np.ndarray | None = None, depth: float = 2.0) -> LabelledView:
    size = (48, 64)
    return LabelledView(camera(x), np.zeros(size, int) if labels is None else labels, np.full(size, depth))


def test_a_wall_moves_by_its_disparity():
    # half a metre to the right at 2 m: 16 px
    rows, columns, other_rows, other_columns = warped_pixels(wall(0.0), wall(0.5))
    assert (columns - other_columns == 16).all() and (rows == other_rows).all()
    assert len(rows) == 44 * 44  # without 16 + 2 columns on the left, 2 on the right, and 2 rows above and below


def test_labels_that_stick_to_the_surface_agree_and_those_that_stick_to_the_image_do_not():
    column = np.broadcast_to(np.arange(64), (48, 64))
    score = ConsistencyScore()
    score.update(wall(0.0, column), wall(0.5, column + 16))
    assert score.value == 1.0
    score = ConsistencyScore()
    score.update(wall(0.0, column // 32), wall(0.5, column // 32))
    # of columns 18 .. 61, those of 32 .. 47 land on the other half
    assert score.value == pytest.approx(1 - 16 / 44)


def test_hidden_pixels_do_not_count():
    near = wall(0.5)
    near.depth[:, 20:40] = 1.0
    _, _, _, columns = warped_pixels(wall(0.0), near)
    assert len(columns) and not ((columns >= 18) & (columns < 42)).any()
    score = ConsistencyScore()
    score.update(wall(0.0), wall(0.5, depth=1.0))
    assert score.compared == 0 and np.isnan(score.value)


def test_two_pixels_at_borders_are_left_out():
    depth = np.full((20, 30), 2.0)
    depth[:, 15:] = 3.0
    inner = away_from_borders(depth, None, 2)
    assert inner[10].nonzero()[0].tolist() == [*range(2, 13), *range(17, 28)]
    assert inner[:, 5].nonzero()[0].tolist() == list(range(2, 18))
    truth = np.zeros((20, 30), int)
    truth[8:] = 1
    inner = away_from_borders(np.full((20, 30), 2.0), truth, 2)
    assert inner[:, 5].nonzero()[0].tolist() == [*range(2, 6), *range(10, 18)]
    depth[3, 3] = 0
    assert not away_from_borders(depth, None, 0)[3, 3]


def test_a_slanted_floor_is_no_border():
    depth = np.broadcast_to(np.linspace(1.0, 3.0, 48)[:, None], (48, 64))
    assert away_from_borders(depth, None, 2).sum() > 0.8 * 48 * 64 * 0.9


def test_pairs_lie_within_the_distances_and_overlap():
    cameras = [camera(x) for x in (0.0, 0.1, 0.5, 1.4)]
    depths = [np.full((48, 64), 2.0)] * 4
    pairs = view_pairs_at_distance(cameras, depths)
    assert {frozenset(pair) for pair in pairs} == {frozenset(p) for p in ((0, 2), (1, 2), (2, 3))}
    assert len(view_pairs_at_distance(cameras, depths, count=2)) == 2
    away = [np.full((48, 64), 0.2)] * 4
    with pytest.raises(InvalidRequestError, match="0.2 to 1 m apart"):
        view_pairs_at_distance(cameras, away)
