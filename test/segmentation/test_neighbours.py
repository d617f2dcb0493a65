"""Euclidean and locally adaptive neighbours."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from gs_semantic.segmentation.neighbours import DeviceNeighbourIndex, NeighbourIndex

# target, then the points of the worked example; the target moves along +x
EXAMPLE = np.array([[0, 0, 0], [1, 0, 0], [2, 5, 0], [-0.1, 0, 0], [0.5, 9, 0]], float)
TARGET, AHEAD, FAR, BEHIND, NEXT_TO_PLANE = range(5)
FORWARD = np.array([[1.0, 0, 0]])


class OnDevice:
    """The search of devices with arrays in and out, so that both answer the same questions."""

    def __init__(self, points, limit, random):
        self.index = DeviceNeighbourIndex(torch.from_numpy(points), limit, random)

    def sample(self, count, random):
        return self.index.sample(count, random).numpy()

    def nearest(self, targets, count):
        return self.index.nearest(torch.from_numpy(targets), count).numpy()

    def adaptive(self, targets, directions, count, candidates):
        tensors = torch.from_numpy(targets), torch.from_numpy(directions)
        return self.index.adaptive(*tensors, count, candidates).numpy()


@pytest.fixture(params=[NeighbourIndex, OnDevice])
def kind(request):
    return request.param


@pytest.fixture
def index(kind):
    return kind(EXAMPLE, 100, np.random.default_rng(0))


def test_the_literal_rule_orders_by_projection_alone(index):
    found = index.adaptive(np.array([TARGET]), FORWARD, 3, candidates=0)
    assert found.tolist() == [[NEXT_TO_PLANE, AHEAD, FAR]]


def test_the_local_rule_projects_near_points_only_and_falls_back_to_the_nearest(index):
    found = index.adaptive(np.array([TARGET]), FORWARD, 2, candidates=2)
    assert found.tolist() == [[AHEAD, BEHIND]]


@pytest.mark.parametrize("candidates", [0, 2, 4])
@pytest.mark.parametrize("direction", [0.0, np.nan])
def test_without_a_direction_the_nearest_are_taken(index, candidates, direction):
    found = index.adaptive(np.array([TARGET]), np.full((1, 3), direction), 2, candidates)
    assert found.tolist() == [[BEHIND, AHEAD]]


def test_a_tiny_scene_repeats_what_there_is(index):
    found = index.adaptive(np.array([TARGET]), FORWARD, 7, candidates=64)
    assert found.shape == (1, 7) and TARGET not in found
    assert set(found[0].tolist()) == {AHEAD, FAR, BEHIND, NEXT_TO_PLANE}


@pytest.mark.parametrize("count", [300, 9000])  # all are measured, or those in near leaves
def test_nearest_are_those_of_a_plain_search(kind, count):
    random = np.random.default_rng(1)
    points = random.normal(size=(count, 3))
    index = kind(points, 10_000, random)
    targets = index.sample(20, random)
    distance = np.linalg.norm(points[targets][:, None] - points[None], axis=2)
    assert (index.nearest(targets, 5) == np.argsort(distance, axis=1)[:, :5]).all()


def test_the_literal_rule_is_that_of_a_plain_search(kind):
    random = np.random.default_rng(2)
    points, directions = random.normal(size=(300, 3)), random.normal(size=(9, 3))
    index = kind(points, 1000, random)
    targets = index.sample(9, random)
    for row, found in enumerate(index.adaptive(targets, directions, 5, candidates=0)):
        along = (points - points[targets[row]]) @ directions[row]
        positive = np.nonzero(along > 1e-6)[0]
        wanted = positive[np.argsort(along[positive])[:5]].tolist()  # fewer at the edge of the cloud
        assert found.tolist()[: len(wanted)] == wanted


def test_only_a_subset_of_a_large_map_is_searched():
    random = np.random.default_rng(3)
    index = NeighbourIndex(random.normal(size=(500, 3)), 100, random)
    assert len(index.rows) == 100 == len(np.unique(index.rows))
    assert index.nearest(np.arange(100), 5).max() < 100


@pytest.mark.parametrize("candidates", [0, 64])
def test_no_matrix_of_all_distances_is_made(candidates):
    random = np.random.default_rng(4)
    points = random.normal(size=(60_000, 3)).astype(np.float32)
    index = NeighbourIndex(points, 200_000, random)
    targets = index.sample(1000, random)
    tracemalloc.start()
    index.adaptive(targets, random.normal(size=(len(targets), 3)), 5, candidates)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # 1000 x 60,000 float32 would be 240 MB, and a sort of them twice that


def test_a_restored_index_answers_alike():
    index = NeighbourIndex(EXAMPLE, 100, np.random.default_rng(0))
    again = NeighbourIndex.of(index.rows, index.points)
    assert (again.nearest(np.arange(5), 3) == index.nearest(np.arange(5), 3)).all()
