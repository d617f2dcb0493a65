"""What GradiSeg adds: which Gaussians are split, along which axis, how many, and whose neighbours are adaptive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_room import HEIGHT, WIDTH, RoomSequence, small_method

from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.segmentation.engine import ImageGradients, StepStatistics
from gs_semantic.segmentation.trainer import Trainer

WINDOW = {"densify_from": 0, "densify_until": 0, "igd_from": 4, "igd_until": 16, "igd_every": 4, "la_from": 4}


def method_with(**options):
    return small_method("gradiseg", RoomSequence(6), hold_out_every=6, **(WINDOW | {"igd_radius_px": 0.0} | options))


def watch(method, gradients: list[list[float]], row: int) -> None:
    """Show the method one gradient of a row in each of several views."""
    for values in gradients:
        features = torch.zeros(1, method.config.identity_dims)
        features[0, : len(values)] = torch.tensor(values)
        statistics = StepStatistics(torch.tensor([row]), torch.zeros(1), torch.full((1,), 9.0), features)
        method.observe(5, 0, statistics)


@pytest.mark.parametrize(
    ("gradients", "chosen"),
    [([[1.0], [-1.0]], True), ([[1.0], [1.0]], False), ([[1.0, 0.0], [0.0, 1.0]], False), ([[0.0]], False)],
)
def test_only_gradients_that_disagree_make_a_candidate(gradients, chosen):
    method = method_with(igd_select="threshold", igd_threshold=0.5 * WIDTH * HEIGHT)
    watch(method, gradients, 7)
    assert method.candidates().tolist() == ([7] if chosen else [])


def test_a_least_conflict_may_be_asked_for():
    method = method_with(igd_select="threshold", igd_threshold=0.1, igd_score="norm", igd_conflict=0.5)
    watch(method, [[1.0], [0.5]], 7)
    watch(method, [[1.0], [-0.5]], 8)
    assert method.candidates().tolist() == [8]


def test_the_threshold_alone_chooses_where_the_paper_is_taken_literally():
    method = method_with(igd_select="threshold", igd_threshold=0.5, igd_score="norm")
    watch(method, [[1.0], [1.0]], 7)
    assert method.candidates().tolist() == [7]


def test_those_with_the_largest_gradients_come_first_and_small_ones_are_left_out():
    method = method_with(igd_quantile=0.0, igd_radius_px=4.0)
    for row, size in ((3, 1.0), (8, 5.0), (5, 2.0)):
        watch(method, [[size], [-size]], row)
    method.densifier.radius[5] = 1.0
    assert method.candidates().tolist() == [8]  # 3 is the quantile itself
    method.densifier.radius[5] = 4.0
    assert method.candidates().tolist() == [8, 5]


def test_the_axis_of_the_split_lies_across_the_boundary():
    """A large disc in front of the camera whose left half is pulled one way and the right half the other."""
    method = method_with()
    camera = method.scene.train[0].camera
    pose = torch.from_numpy(camera.T_world_camera).float()
    gaussians = method.gaussians
    gaussians.keep(torch.arange(len(gaussians)) < 1)
    gaussians["means"] = (pose[:3, 3] + 1.0 * pose[:3, 2])[None]
    gaussians["log_scales"] = torch.tensor([[0.1, 0.2, 0.15]]).log()  # the longest axis is not the one across
    gaussians["quats"] = torch.tensor([[0.9, 0.2, -0.1, 0.3]])
    gaussians["opacity_logits"] = torch.tensor([4.0])
    method.rows_changed()
    for across in ("horizontal", "vertical"):
        method._watch_anew()
        gradient = torch.ones(camera.height, camera.width, 16)
        if across == "horizontal":
            gradient[:, : camera.width // 2] = -1
        else:
            gradient[: camera.height // 2] = -1
        forward = method.engine.forward(camera)
        method.before_step(5, 0, forward, ImageGradients(torch.zeros(1), gradient))
        axis = torch.linalg.eigh(method.changes[0])[1][:, 2]
        offset = rotation_matrices(gaussians.quats)[0] @ (gaussians.log_scales[0].exp() * axis)
        seen = torch.from_numpy(camera.T_camera_world[:3, :3]).float() @ offset
        wanted, other = (seen[0], seen[1]) if across == "horizontal" else (seen[1], seen[0])
        assert abs(wanted) > 3 * abs(other)


def test_a_run_splits_within_its_shares_and_only_in_the_window():
    counts = []
    method = method_with(igd_quantile=0.5, igd_conflict=0.0, igd_round_share=0.02, igd_total_share=0.05)
    plain_densify = method.densify

    def densify(iteration):
        plain_densify(iteration)
        counts.append(len(method.gaussians))

    method.densify = densify
    Trainer(method).run()
    changed = [k + 1 for k in range(1, 20) if counts[k] != counts[k - 1]]
    assert changed and set(changed) <= {8, 12, 16}
    steps = np.diff(counts)
    assert 0 < steps.max() <= 0.02 * max(counts)
    assert max(counts) <= 1.05 * counts[3]


@pytest.mark.parametrize(("room", "before", "after"), [("reserved", 1000, 1200), ("on_top", 1200, 1440)])
def test_what_igd_adds_comes_on_top_of_the_limit_or_is_left_room_for(room, before, after):
    method = method_with(max_gaussians=1200, igd_total_share=0.2, igd_room=room)
    method.densify(1)
    assert method.densifier.limit == before
    method.densify(5)
    assert method.densifier.limit == after
    without = method_with(max_gaussians=1200, igd=False)
    without.densify(1)
    assert without.densifier.limit == 1200


def test_neighbours_are_adaptive_from_their_iteration_on():
    method = method_with()
    asked = []
    for iteration in range(1, 8):
        index = method._neighbour_index(iteration)
        plain_adaptive = index.adaptive
        index.adaptive = lambda *words, plain=plain_adaptive: asked.append(len(words[0])) or plain(*words)
        targets = index.sample(30, method.random)
        near = method.find_neighbours(iteration, index, targets)
        assert near.shape == (30, 5)
        assert (targets in near[:, 0]) or iteration >= 4
        index.adaptive = plain_adaptive
    assert asked == [30] * 4  # iterations 4, 5, 6, 7
    without = method_with(la_knn=False)
    targets = without._neighbour_index(9).sample(30, without.random)
    assert (without.find_neighbours(9, without._index, targets)[:, 0] == targets).all()


def test_the_side_may_be_that_of_the_own_object():
    """Three Gaussians in a row, the last of another object: the first two move away from it, and alone have no direction."""
    method = method_with(la_side="identity")
    gaussians = method.gaussians
    gaussians["means"][:3] = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    gaussians["identity"][:2], gaussians["identity"][2] = 1.0, -1.0
    with torch.no_grad():
        method.classifier.weight[:2] = torch.tensor([1.0, -1.0])[:, None]
        method.classifier.weight[2:] = method.classifier.bias[:] = 0
    rows = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 1, 0]])
    assert method._away_from_others(rows)[:, 0].tolist() == [-1, -1, 2]
    assert not method._away_from_others(rows[:2, :2]).any()
