"""Cluster indices of feature fields, and how many pieces an object is made of."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.evaluation.compactness import components_by_object
from gs_semantic.evaluation.feature_field import FeatureFieldScore


def blobs(distance: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (40,50,3) of two classes whose means are ``distance`` apart, deviation 1; a row of class 0 of nonsense."""
    random = np.random.default_rng(seed)
    truth = np.ones((40, 50), np.int32)
    truth[20:] = 2
    features = random.normal(size=(40, 50, 3)) + np.where(truth[..., None] == 2, distance, 0.0)
    truth[0], features[0] = 0, 1e6
    return features, truth


def test_indices_of_known_clusters_rise_and_fall_with_their_distance():
    pytest.importorskip("sklearn")
    found = {}
    for distance in (2.0, 8.0):
        score = FeatureFieldScore()
        score.update(*blobs(distance))
        found[distance] = score.result()
    # between / within: n d^2 3 / 4 over 3; deviations sqrt(3) on both sides over the distance of the centres
    assert found[8.0].calinski_harabasz == pytest.approx(1950 * 8**2 / 4, rel=0.1)
    assert found[8.0].davies_bouldin == pytest.approx(2 * 1.6 / (8 * 3**0.5), rel=0.05)
    assert found[2.0].calinski_harabasz < found[8.0].calinski_harabasz
    assert found[2.0].davies_bouldin > found[8.0].davies_bouldin


def test_the_number_of_samples_is_fixed():
    pytest.importorskip("sklearn")
    score = FeatureFieldScore(pixels=100)
    for seed in range(3):
        score.update(*blobs(4.0, seed))
    assert sum(map(len, score._classes)) == 300
    again = FeatureFieldScore(pixels=100)
    for seed in range(3):
        again.update(*blobs(4.0, seed))
    assert again.result() == score.result()


def test_one_class_alone_has_no_score_and_sizes_must_agree():
    pytest.importorskip("sklearn")
    score = FeatureFieldScore()
    features, truth = blobs(1.0)
    score.update(features, np.minimum(truth, 1))
    assert np.isnan(score.result().calinski_harabasz) and np.isnan(FeatureFieldScore().result().davies_bouldin)
    with pytest.raises(ValueError, match="same size"):
        score.update(features, truth[:5])


def test_pieces_that_lie_apart_are_counted():
    random = np.random.default_rng(0)
    ball = random.uniform(-0.1, 0.1, (400, 3))
    points = np.concatenate([ball, ball + [1, 0, 0], ball + [0, 3, 0], [[5, 5, 5]], [[9, 9, 9]]])
    objects = np.repeat([1, 1, 2, 2, 3], [400, 400, 400, 1, 1])
    assert components_by_object(points, objects) == {1: 2, 2: 2, 3: 1}
    # a lone point finds its nearest ones however far; two balls have all of theirs inside
    assert components_by_object(points, objects, reach_m=10) == {1: 2, 2: 1, 3: 1}
    assert components_by_object(points, np.zeros(len(points), int)) == {}
