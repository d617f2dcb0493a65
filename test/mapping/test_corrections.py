"""Corrected keyframe poses: what was mapped with a wrong pose moves to where it belongs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scene import camera, frame
from scipy.spatial.transform import Rotation

from gs_semantic.errors import InvalidRequestError
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.corrections import motions
from gs_semantic.mapping.mapper import Mapper

STEP, NANOSECONDS = 0.14, 10**8


def shift(metres: float, degrees: float = 0.0) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    motion[0, 3] = metres
    return motion


def mapped(wrong: np.ndarray, count: int = 6) -> tuple[Mapper, dict[int, np.ndarray]]:
    """A walk whose poses are all displaced by ``wrong``, as before a loop is closed; the true poses by stamp."""
    mapper = Mapper(MapperConfig(steps_per_keyframe=4, refine_poses=False))
    truth = {}
    for number in range(count):
        seen = frame(camera(STEP * number), NANOSECONDS * (number + 1))
        truth[seen.stamp_ns] = seen.camera.T_world_camera
        mapper.step(replace(seen, camera=seen.camera.at(wrong @ seen.camera.T_world_camera)), answer=False)
        mapper.finish()
    return mapper, truth


def error(mapper: Mapper, view: float = 2.5 * STEP) -> float:
    """Share of pixels whose class is wrong."""
    truth = frame(camera(view))
    classes = np.array([0, 1, 2, 2, 3])[truth.instances]
    return float((mapper.render_labels(truth.camera).semantic != classes).mean())


def test_after_half_a_metre_of_loop_closure_the_labels_are_where_they_belong() -> None:
    clean, _ = mapped(np.eye(4))
    mapper, truth = mapped(shift(0.5, 4.0))
    ids = {obj.id for obj in mapper.objects.present()}
    boxes = {obj.id: obj.box.centre for obj in mapper.objects.present()}
    assert error(mapper) > 0.1
    keyframes, rows = mapper.correct_poses(truth)
    assert keyframes == 6 and rows == len(mapper.gaussians)
    mapper.finish()
    assert error(mapper) <= 1.1 * error(clean) + 0.005
    assert {obj.id for obj in mapper.objects.present()} == ids
    back = np.linalg.inv(shift(0.5, 4.0))
    for obj in mapper.objects.present():
        np.testing.assert_allclose(obj.box.centre, back[:3, :3] @ boxes[obj.id] + back[:3, 3], atol=0.08)


def test_motions_in_between_are_interpolated() -> None:
    trail = {number: (number * 10, shift(float(number))) for number in range(5)}
    poses = {10: shift(1.0), 30: shift(3.4)}
    found = motions(trail, poses)
    np.testing.assert_allclose([found[k][0, 3] for k in range(5)], [0, 0, 0.2, 0.4, 0.4], atol=1e-9)
    turned = motions(trail, {10: shift(1.0), 30: shift(3.0, 20.0)})[2]
    np.testing.assert_allclose(turned[:3, :3], shift(0, 10.0)[:3, :3], atol=1e-9)
    np.testing.assert_allclose(turned @ [2, 0, 0, 1], [2, 0, 0, 1], atol=1e-9)


def test_what_cannot_be_used_is_refused() -> None:
    trail = {0: (10, np.eye(4))}
    with pytest.raises(InvalidRequestError, match="no pose"):
        motions(trail, {})
    with pytest.raises(InvalidRequestError, match="not that of a keyframe; the nearest"):
        motions(trail, {11: np.eye(4)})
    with pytest.raises(InvalidRequestError, match="rigid"):
        motions(trail, {10: np.full((4, 4), np.nan)})
