"""Alignment of two frames, the pose graph, what moves with a keyframe, and noisy poses through the whole mapper."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scene import camera, frame, shuffled

from gs_semantic.data.noise import SensorNoise
from gs_semantic.gaussians import Camera, Frame, GaussianMap
from gs_semantic.gaussians.anchors import move_with_keyframes
from gs_semantic.mapping import pose_graph
from gs_semantic.mapping.alignment import Motion, align, exponential, logarithm, make_pyramid
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.depth_noise import inverse_depth_noise, smooth_depth
from gs_semantic.mapping.keyframes import make_keyframe
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.pose_graph import PoseGraph
from gs_semantic.mapping.pose_refinement import PoseRefiner

NOISE = SensorNoise(depth_sigma=0.0015, holes=0.05, pose_m=0.01, pose_deg=0.5, seed=3)
STEP = 0.14


def seen(number: int) -> Frame:
    return frame(camera(STEP * number, width=320, height=240), 10**8 * number)


def pyramid(source: Frame):
    assert source.depth is not None
    return make_pyramid(source.camera, source.rgb, source.depth)


def error(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Distance (m) and angle (deg) between two poses."""
    off = logarithm(np.linalg.inv(a) @ b)
    return float(np.linalg.norm(off[:3])), float(np.degrees(np.linalg.norm(off[3:])))


def test_logarithm_undoes_exponential():
    delta = np.array([0.1, -0.2, 0.3, 0.02, 0.5, -0.1])
    assert logarithm(exponential(delta)) == pytest.approx(delta)


@pytest.mark.parametrize("number", range(4))
def test_alignment_recovers_the_motion_between_noisy_frames(number):
    a, b = (NOISE.apply(seen(n), n) for n in (number, number + 1))
    truth = seen(number).camera.T_camera_world @ seen(number + 1).camera.T_world_camera
    guess = a.camera.T_camera_world @ b.camera.T_world_camera
    motion = align(pyramid(b), pyramid(a), guess)
    assert motion is not None and motion.overlap > 0.5
    metres, degrees = error(truth, motion.T_ref_src)
    assert metres < 0.006 and degrees < 0.15
    before = error(truth, guess)
    assert metres < 0.5 * before[0] or degrees < 0.5 * before[1]
    assert np.linalg.eigvalsh(motion.information).min() > 0


def test_views_of_different_places_are_not_aligned():
    away = seen(0).camera.T_world_camera.copy()
    away[:3, :3] = away[:3, :3] @ cv2.Rodrigues(np.array([0.0, 2.5, 0.0]))[0]
    other = frame(seen(0).camera.at(away))
    assert align(pyramid(other), pyramid(seen(0)), seen(0).camera.T_camera_world @ away) is None


def test_a_frame_without_depth_is_not_aligned():
    blind = replace(seen(1), depth=np.zeros((240, 320), np.float32))
    assert align(pyramid(blind), pyramid(seen(0)), np.eye(4)) is None


def test_the_pose_graph_averages_given_poses_along_exact_edges():
    rng = np.random.default_rng(0)
    truth = [exponential(np.array([0.1 * k, 0, 0, 0, 0.05 * k, 0])) for k in range(40)]
    graph = PoseGraph()
    for k, pose in enumerate(truth):
        given = pose @ exponential(np.concatenate([rng.normal(0, 0.01, 3), rng.normal(0, 0.01, 3)]))
        graph.add(given, given)
        if k:
            graph.connect(k - 1, k, Motion(np.linalg.inv(truth[k - 1]) @ pose, np.eye(6) * 1e10, 1.0))
    graph.solve(0.01, 0.01)
    before = np.mean([error(t, g) for t, g in zip(truth, graph.given.values(), strict=True)], axis=0)
    after = np.mean([error(t, g) for t, g in zip(truth, graph.poses.values(), strict=True)], axis=0)
    assert (after < 0.4 * before).all(), (before, after)
    steps = [error(np.linalg.inv(graph.poses[k - 1]) @ graph.poses[k], np.linalg.inv(truth[k - 1]) @ truth[k])[0] for k in range(1, 40)]
    assert max(steps) < 1e-4, "what the edges say exactly holds exactly"


def test_one_wrong_given_pose_does_not_bend_the_graph():
    graph = PoseGraph()
    for k in range(20):
        given = exponential(np.array([0.1 * k, 0.5 if k == 10 else 0, 0, 0, 0, 0]))
        graph.add(given, given)
        if k:
            graph.connect(k - 1, k, Motion(exponential(np.array([0.1, 0, 0, 0, 0, 0])), np.eye(6) * 1e8, 1.0))
    graph.solve(0.01, 0.01)
    assert abs(graph.poses[10][1, 3]) < 0.03 and abs(graph.poses[0][1, 3]) < 0.03


def test_a_long_graph_keeps_its_window_and_what_is_needed(monkeypatch: pytest.MonkeyPatch):
    """Forgetting old nodes bounds the memory and changes no pose."""
    monkeypatch.setattr(pose_graph, "WINDOW", 10)
    poses, sizes = [], []
    for forgetful in (False, True):
        rng, graph = np.random.default_rng(0), PoseGraph()
        for k in range(40):
            given = exponential(np.array([0.1 * k, 0, 0, 0, 0, 0]) + rng.normal(0, 0.01, 6))
            graph.add(given, given)
            for other in {k - 1, 3} if k % 15 == 14 else {k - 1}:  # now and then the place of node 3 is seen again
                if other >= 0:
                    motion = exponential(np.array([0.1 * (k - other), 0, 0, 0, 0, 0]))
                    graph.connect(other, k, Motion(motion, np.eye(6) * 1e8, 1.0))
            if forgetful:
                graph.forget({3})
            graph.solve(0.01, 0.01)
        poses.append(np.stack([graph.poses[k] for k in (3, *range(30, 40))]))
        sizes.append((len(graph.poses), len(graph.given)))
    np.testing.assert_allclose(poses[0], poses[1], atol=1e-9)
    assert sizes[0] == (40, 40) and sizes[1][0] <= 12 and sizes[1][1] == 10


def refined(frames: list[Frame]) -> tuple[PoseRefiner, list[np.ndarray]]:
    refiner, kept = PoseRefiner(), []
    for index, each in enumerate(frames):
        result = refiner.add(index, each.camera, each.rgb, each.depth, kept)
        for keyframe in kept:
            if keyframe.index in result.moves:
                keyframe.camera = keyframe.camera.at(result.moves[keyframe.index] @ keyframe.camera.T_world_camera)
        at = replace(each, camera=each.camera.at(result.T_world_camera))
        kept.append(make_keyframe(index, at, None, MapperConfig()))
    return refiner, [keyframe.camera.T_world_camera for keyframe in kept]


def test_noisy_poses_are_found_out_and_corrected():
    frames = [NOISE.apply(seen(n), n) for n in range(14)]
    refiner, poses = refined(frames)
    assert refiner.noisy
    sigma_m, sigma_rad = refiner.noise
    assert 0.002 < sigma_m < 0.02 and 0.1 < np.degrees(sigma_rad) < 0.6
    truth = [seen(n).camera.T_world_camera for n in range(14)]
    given = np.median([error(t, f.camera.T_world_camera) for t, f in zip(truth, frames, strict=True)], axis=0)
    after = np.median([error(t, p) for t, p in zip(truth, poses, strict=True)], axis=0)
    assert after[1] < 0.5 * given[1] and after[0] < given[0]


def test_good_poses_are_left_alone():
    frames = [seen(n) for n in range(14)]
    refiner, poses = refined(frames)
    assert not refiner.noisy
    for each, pose in zip(frames, poses, strict=True):
        assert (pose == each.camera.T_world_camera).all()


def test_gaussians_move_with_their_keyframe_and_no_other():
    rng = np.random.default_rng(1)
    gaussians = GaussianMap()
    quats = rng.standard_normal((6, 4)).astype(np.float32)
    gaussians.add(
        means=rng.standard_normal((6, 3)).astype(np.float32),
        quats=quats / np.linalg.norm(quats, axis=1, keepdims=True),
        log_scales=np.zeros((6, 3), np.float32),
        opacity_logits=np.zeros(6, np.float32),
        sh=np.zeros((6, 1, 3), np.float32),
        keyframe=np.array([-1, 0, 1, 1, 2, 5], np.int32),
    )
    before, turns = gaussians.means.clone(), gaussians.quats.clone()
    motion = exponential(np.array([0.1, 0.2, -0.1, 0.3, -0.2, 0.1]))
    revision = gaussians.revision
    rows = move_with_keyframes(gaussians, {1: motion, 9: np.eye(4)})
    assert rows.tolist() == [2, 3] and gaussians.revision > revision
    others = [0, 1, 4, 5]
    assert torch.equal(gaussians.means[others], before[others]) and torch.equal(gaussians.quats[others], turns[others])
    expected = before[rows].numpy() @ motion[:3, :3].T + motion[:3, 3]
    assert np.allclose(gaussians.means[rows].numpy(), expected, atol=1e-6)
    for row in rows:
        assert np.allclose(matrix(gaussians.quats[row]), motion[:3, :3] @ matrix(turns[row]), atol=1e-6)


def matrix(wxyz: torch.Tensor) -> np.ndarray:
    w, x, y, z = (float(value) for value in wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_the_noise_of_a_depth_image_is_measured_and_smoothed_and_steps_stay():
    source = seen(0)
    assert source.depth is not None
    assert inverse_depth_noise(1 / source.depth) < 1e-5
    assert smooth_depth(source.depth) is source.depth
    noisy = SensorNoise(depth_sigma=0.0015, holes=0.05, pose_m=0, pose_deg=0).apply(source, 0).depth
    assert noisy is not None
    inverse = np.divide(1.0, noisy, out=np.zeros_like(noisy), where=noisy > 0)
    assert inverse_depth_noise(inverse) == pytest.approx(0.0015, rel=0.1)
    smooth = smooth_depth(noisy)
    assert ((smooth > 0) == (noisy > 0)).all(), "no depth is invented"
    known = noisy > 0
    assert np.abs(smooth - source.depth)[known].mean() < 0.6 * np.abs(noisy - source.depth)[known].mean()
    step = np.abs(np.diff(source.depth, axis=1)) > 0.3
    kept = np.abs(np.diff(smooth, axis=1)) > 0.2
    both = known[:, 1:] & known[:, :-1]
    assert kept[step & both].mean() > 0.98


def test_the_mapper_says_so_and_maps_noisy_poses_nearly_as_well():
    def wrong_share(mapper: Mapper, view: Camera) -> float:
        truth, answer = frame(view), mapper.render_labels(view)
        share = 0
        for instance in np.unique(truth.instances):
            inside = truth.instances == instance
            share += int(inside.sum() - np.bincount(answer.instance[inside]).max())
        return share / truth.instances.size

    wrong, warnings = {}, []
    for refine in (True, False):
        mapper = Mapper(MapperConfig(refine_poses=refine, steps_per_keyframe=4))
        for number in range(14):
            mapper.step(NOISE.apply(shuffled(seen(number), number), number), answer=False)
            while mapper.pending:
                warnings += mapper.step(None).warnings
        wrong[refine] = wrong_share(mapper, camera(STEP * 5.5, width=320, height=240))
    assert wrong[True] < 0.6 * wrong[False], wrong
    assert any("realigned" in text and "mm" in text for text in warnings)


def test_what_was_mapped_before_loading_never_moves(tmp_path):
    mapper = Mapper(MapperConfig(steps_per_keyframe=1))
    for number in range(3):
        mapper.step(seen(number), answer=False)
        mapper.finish()
    mapper.load(mapper.gaussians, mapper.objects)
    old = int(mapper.gaussians["keyframe"].max())
    mapper.step(seen(4), answer=False)
    mapper.finish()
    assert int(mapper.gaussians["keyframe"].max()) in (old, old + 1)
    assert mapper.keyframes.frames[0].index == old + 1, "numbers are not given twice"
