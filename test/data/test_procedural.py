"""Scenes made in code: rays meet the bodies where the bodies begin, and the same seed makes the same scene."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.cli import EXIT_ERROR, main
from gs_semantic.data import procedural, shapes
from gs_semantic.data.formats import open_sequence
from gs_semantic.data.procedural import KINDS, ObjectScene, ProceduralSequence
from gs_semantic.data.shapes import Shape
from gs_semantic.errors import InvalidRequestError

STEP = 1e-6


def hit(shape: Shape, eye: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances along rays (M, 3), normals, and places in units of the half extents; nonsense for rays that miss."""
    turn = shape.rotation / shape.half
    local = shapes._Rays(tuple((eye - shape.centre) @ turn), tuple((rays @ turn).T))
    distance = shapes._distance(shape, local)
    return distance, *shapes._surface(shape, local, np.where(np.isfinite(distance), distance, 0.0))


def within(kind: str, points: np.ndarray) -> np.ndarray:
    """Whether points (..., 3) are in the unit body, by its definition."""
    x, y, z = np.moveaxis(points, -1, 0)
    around, between = np.hypot(x, y), np.abs(z) <= 1
    return {
        "box": (np.abs(points) <= 1).all(axis=-1),
        "ball": (points**2).sum(axis=-1) <= 1,
        "can": (around <= 1) & between,
        "cone": (around <= (1 - z) / 2) & between,
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_rays_meet_bodies_where_they_begin(kind):
    rng = np.random.default_rng(0)
    half, centre = np.array([0.3, 0.5, 0.4]), np.array([1.0, -2.0, 0.5])
    shape = Shape(kind, centre, half, 0.7, np.zeros((2, 3)), np.zeros(3))
    hits = 0
    for eye in (
        centre + [2.0, 0.3, 0.9],
        centre + [-0.2, 0.1, 3.0],
        centre + [0.1, -1.5, -0.1],
        centre - [0.2, 0.1, 2.0],
    ):
        rays = centre + rng.uniform(-0.7, 0.7, (500, 3)) - eye
        distance, normal, local = hit(shape, eye, rays)

        def unit(t, eye=eye, rays=rays):
            return (eye + t[:, None] * rays - centre) @ shape.rotation / half

        met = np.isfinite(distance)
        hits += met.sum()
        t = np.where(met, distance, 0)
        assert within(kind, unit(t + STEP))[met].all() and not within(kind, unit(t - STEP))[met].any()
        assert np.allclose(unit(t)[met], local[met])
        assert ((normal * rays).sum(axis=-1)[met] < 0).all()  # towards the eye
        assert np.allclose(np.linalg.norm(normal[met], axis=-1), 1)
        for sample in np.linspace(0, 3, 200):  # and rays that miss meet nothing anywhere
            assert not within(kind, unit(np.full(500, sample)) * (1 + 1e-9))[~met].any()
    assert 400 < hits < 1900


def test_normals_are_those_of_the_surface():
    """Two points of a surface next to each other lie across its normal."""
    rng = np.random.default_rng(1)
    for kind in KINDS:
        shape = Shape(kind, np.zeros(3), np.array([0.3, 0.5, 0.4]), 0.3, np.zeros((2, 3)), np.zeros(3))
        eye = np.array([2.0, -1.0, 1.5])
        rays = rng.uniform(-0.25, 0.25, (300, 3)) - eye
        near = rays + rng.normal(0, 1e-5, rays.shape)
        first, normal, _ = hit(shape, eye, rays)
        second, other, _ = hit(shape, eye, near)
        same = np.isfinite(first) & np.isfinite(second) & ((normal * other).sum(axis=-1) > 0.999)
        step = second[same, None] * near[same] - first[same, None] * rays[same]
        assert same.sum() > 100
        assert np.abs((step * normal[same]).sum(axis=-1)).max() < 1e-3 * np.linalg.norm(step, axis=-1).max()


def test_windows_leave_nothing_out(monkeypatch):
    scene = ObjectScene.make(9, seed=2)
    close = scene.cameras(7, (80, 60))[3]
    inside = close.at(close.T_world_camera.copy())
    inside.T_world_camera[:3, 3] = scene.objects[0].centre + [0.15, 0.1, 0.2]  # among the objects
    for camera in (close, inside):
        expected = scene.cast(camera)
        with monkeypatch.context() as patch:
            patch.setattr(shapes, "_window", lambda shape, camera: np.s_[:, :])
            for ours, whole in zip(expected, scene.cast(camera), strict=True):
                assert np.array_equal(ours, whole)


@pytest.mark.parametrize("count", [1, 2, 25, 500])
def test_objects_stand_on_the_floor_and_do_not_touch(count):
    scene = ObjectScene.make(count)
    assert len(scene.objects) == count
    centres = np.array([shape.centre for shape in scene.objects])
    halves = np.array([shape.half for shape in scene.objects])
    assert np.allclose(centres[:, 2], halves[:, 2])
    gaps = np.linalg.norm(centres[:, None, :2] - centres[None, :, :2], axis=-1)
    reach = np.hypot(halves[:, 0], halves[:, 1])
    assert (gaps > 0.9 * (reach[:, None] + reach[None]))[~np.eye(count, dtype=bool)].all()


def test_every_object_is_seen_and_the_room_is_closed():
    scene = ObjectScene.make(25, seed=1)
    sequence = ProceduralSequence(scene, scene.cameras(8, (160, 120)))
    seen = set[int]()
    for index in range(len(sequence)):
        frame, semantic = sequence[index], sequence.semantic(index)
        seen |= set(np.unique(frame.instances).tolist())
        assert np.isfinite(frame.depth).all() and (frame.depth > 0).all()
        assert frame.rgb.std() > 20  # there is something to see
        assert ((semantic == procedural.BACKGROUND) == (frame.instances == 0)).all()
        points = frame.camera.unproject(frame.depth)
        for key in np.unique(frame.instances[frame.instances > 0]).tolist():
            shape = scene.objects[key - 1]
            local = (points[frame.instances == key] - shape.centre) @ shape.rotation / shape.half
            assert np.abs(local).max() < 1 + 1e-3
            assert frame.masks[key].class_id == KINDS[shape.kind]
    assert seen == set(range(26))


def test_make_objects_writes_the_same_scene_again(tmp_path):
    words = ["--count", "9", "--views", "3", "--test-views", "2", "--size", "80x60"]
    for name, seed in (("a", "4"), ("b", "4"), ("c", "5")):
        assert main(["data", "make-objects", str(tmp_path / name), *words, "--seed", seed]) == 0
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 2 * 3 + (3 + 2) * 4
    same = [(tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files]
    other = [(tmp_path / "a" / file).read_bytes() == (tmp_path / "c" / file).read_bytes() for file in files]
    assert all(same) and not all(other)
    train, test = open_sequence(tmp_path / "a/train"), open_sequence(tmp_path / "a/test")
    assert (len(train), len(test)) == (3, 2) and train.has_instances and train.has_depth and train.has_semantic
    assert train.labels.name(KINDS["ball"]) == "ball"
    assert np.abs(train.poses[:, None] - test.poses[None]).max(axis=(2, 3)).min() > 0.01  # other views


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--count", "0"), "0 objects: expected 1 to"),
        (("--views", "0"), "expected a number from 1 on"),
        (("--size", "big"), "--size big: expected"),
    ],
)
def test_wrong_numbers_are_refused(tmp_path, capsys, words, text):
    assert main(["data", "make-objects", str(tmp_path / "out"), *words]) == EXIT_ERROR
    assert text in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(InvalidRequestError, match="70000 objects"):
        ObjectScene.make(70_000)
