"""Collision parts: they hold the object, are closed and convex, and follow its shape."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from gs_semantic.errors import InvalidRequestError, NothingThereError
from gs_semantic.objects.convex import convex_parts, save_parts
from gs_semantic.objects.mesh import Mesh


def box_points(low: tuple[float, ...], high: tuple[float, ...], count: int = 800) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, (count, 3))


ELL = np.concatenate([box_points((0, 0, 0), (1, 0.2, 0.2)), box_points((0, 0, 0), (0.2, 1, 0.2))])


def volume(part: Mesh) -> float:
    """Of a closed surface seen from outside counter-clockwise."""
    a, b, c = (part.vertices[part.triangles[:, k]] for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def outside(part: Mesh, points: np.ndarray) -> np.ndarray:
    """(N,) m: how far points are beyond the farthest face."""
    a, b, c = (part.vertices[part.triangles[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return ((points[:, None] - a) * normal).sum(-1).max(axis=1)


def test_every_point_is_in_a_part_and_every_part_is_convex_and_closed() -> None:
    parts = convex_parts(ELL)
    assert len(parts) > 1
    assert np.min([outside(part, ELL) for part in parts], axis=0).max() < 1e-9
    for part in parts:
        assert outside(part, part.vertices).max() < 1e-9, "convex"
        edges = np.sort(part.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all(), "closed"
        assert volume(part) == pytest.approx(ConvexHull(part.vertices).volume, rel=1e-6), "seen from outside"


def test_parts_follow_a_shape_that_is_not_convex() -> None:
    whole = ConvexHull(ELL).volume
    total = sum(map(volume, convex_parts(ELL)))
    assert 0.06 < total < 0.085 and whole > 0.1, "the true volume is 0.072, that of the hull 0.136"
    assert sum(map(volume, convex_parts(ELL, 2))) < 0.75 * whole
    assert len(convex_parts(ELL, 1)) == 1 and volume(convex_parts(ELL, 1)[0]) == pytest.approx(whole)
    cube = np.stack(np.meshgrid(*[np.linspace(0, 1, 9)] * 3), axis=-1).reshape(-1, 3)
    assert len(convex_parts(cube)) == 1, "a convex thing needs no cuts"


def test_cuts_along_the_axes_of_a_turned_object() -> None:
    turn = np.array([[np.cos(0.6), -np.sin(0.6), 0], [np.sin(0.6), np.cos(0.6), 0], [0, 0, 1]])
    turned, straight = convex_parts(ELL @ turn.T, 8, turn), convex_parts(ELL)
    assert sum(map(volume, turned)) == pytest.approx(sum(map(volume, straight)), rel=0.02)


def test_flat_things_get_a_thickness() -> None:
    picture = box_points((0, 0, 0.5), (1, 0.7, 0.5))
    [part] = convex_parts(picture, 1)
    assert 0.001 < volume(part) < 0.02 and outside(part, picture).max() < 1e-9


def test_too_little_is_refused() -> None:
    with pytest.raises(NothingThereError, match="too few"):
        convex_parts(np.zeros((3, 3)))
    with pytest.raises(InvalidRequestError, match="at least one"):
        convex_parts(ELL, 0)


def test_files(tmp_path) -> None:
    parts = convex_parts(ELL)
    save_parts(tmp_path / "ell.obj", parts)
    lines = (tmp_path / "ell.obj").read_text().splitlines()
    assert sum(line.startswith("o ") for line in lines) == len(parts)
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    faces = np.array([line.split()[1:] for line in lines if line.startswith("f ")], int)
    np.testing.assert_allclose(vertices, np.concatenate([part.vertices for part in parts]), atol=1e-5)
    assert faces.min() == 1 and faces.max() == len(vertices)
    save_parts(tmp_path / "ell.glb", parts)
    data = (tmp_path / "ell.glb").read_bytes()
    magic, version, size, length = struct.unpack_from("<4sIII", data)
    head = json.loads(data[20 : 20 + length])
    assert (magic, version, size) == (b"glTF", 2, len(data))
    assert head["accessors"][0]["count"] == len(vertices) and head["accessors"][2]["count"] == faces.size
    with pytest.raises(InvalidRequestError, match="obj or .glb"):
        save_parts(tmp_path / "ell.stl", parts)
