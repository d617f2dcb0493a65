"""Meshes of objects whose surface is known."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gs_semantic.data.points import read_points_ply
from gs_semantic.errors import InvalidRequestError, MissingExtraError, NothingThereError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import rgb_to_sh
from gs_semantic.objects import mesh as module
from gs_semantic.objects.mesh import Mesh, around, object_mesh
from gs_semantic.rendering import create_rasterizer

RADIUS, CENTRE = 0.5, np.array([1.0, 2.0, 0.5])


def ball(count: int = 6000) -> GaussianMap:
    """A red sphere of opaque discs."""
    step = np.arange(count) + 0.5
    z, turn = 1 - 2 * step / count, np.pi * (3 - np.sqrt(5)) * step
    side = np.sqrt(1 - z * z)
    normals = np.stack([side * np.cos(turn), side * np.sin(turn), z], axis=1)
    quats = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(count)], axis=1)
    sigma = RADIUS * np.sqrt(4 * np.pi / count)
    gaussians = GaussianMap()
    gaussians.add(
        means=(CENTRE + RADIUS * normals).astype(np.float32),
        quats=quats.astype(np.float32),
        log_scales=np.log(np.tile([sigma, sigma, 0.1 * sigma], (count, 1))).astype(np.float32),
        opacity_logits=np.full(count, 3.0, np.float32),
        sh=rgb_to_sh(torch.tensor([0.8, 0.1, 0.1])).expand(count, 1, 3).numpy(),
    )
    return gaussians


def test_views_see_all_of_a_box():
    low, high = np.array([1.0, 2.0, 0.0]), np.array([1.4, 2.2, 0.9])
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
    for camera in around(low, high):
        local = (corners - camera.T_world_camera[:3, 3]) @ camera.T_world_camera[:3, :3]
        pixels = local @ camera.K.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        assert (local[:, 2] > 0).all() and (pixels > -0.5).all() and (pixels < camera.width - 0.5).all()
        assert camera.T_world_camera[2, 1] < 0.01  # upright: the image's down is not the world's up
        assert np.linalg.det(camera.T_world_camera[:3, :3]) == pytest.approx(1)


def test_a_ball_becomes_a_ball():
    pytest.importorskip("open3d")
    gaussians = ball()
    low, high = CENTRE - RADIUS, CENTRE + RADIUS
    mesh = object_mesh(gaussians, create_rasterizer(), around(low, high, 30, 160), voxel_m=0.025)
    distance = np.linalg.norm(mesh.vertices - CENTRE, axis=1)
    assert np.abs(np.median(distance) - RADIUS) < 0.015 and np.abs(distance - RADIUS).max() < 0.05
    corners = mesh.vertices[mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outside = ((corners.mean(axis=1) - CENTRE) * normals).sum(axis=1) > 0
    assert outside.mean() > 0.99
    above = corners.mean(axis=1)[:, 2] > CENTRE[2]
    area = np.linalg.norm(normals, axis=1)[above].sum() / 2
    assert area == pytest.approx(2 * np.pi * RADIUS**2, rel=0.1)
    assert np.allclose(np.median(mesh.colours, axis=0), [0.8, 0.1, 0.1], atol=0.04)


TETRAHEDRON = Mesh(
    np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]),
    np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.5]]),
    np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32),
)


def test_ply_is_as_the_format_says(tmp_path):
    TETRAHEDRON.save(tmp_path / "t.ply")
    points = read_points_ply(tmp_path / "t.ply")
    assert np.allclose(points.xyz, TETRAHEDRON.vertices)
    assert points.rgb.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]]
    assert (tmp_path / "t.ply").read_bytes().endswith(b"\x03" + np.array([1, 2, 3], "<i4").tobytes())
    with pytest.raises(InvalidRequestError, match="t.obj: a mesh is written as .ply or .glb"):
        TETRAHEDRON.save(tmp_path / "t.obj")
    assert [path.name for path in tmp_path.iterdir()] == ["t.ply"]


def test_glb_is_as_the_format_says(tmp_path):
    TETRAHEDRON.save(tmp_path / "t.glb")
    data = (tmp_path / "t.glb").read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON") and size % 4 == 0
    head, body = json.loads(data[20 : 20 + size]), data[20 + size + 8 :]
    assert struct.unpack("<I4s", data[20 + size : 28 + size]) == (len(body), b"BIN\0")

    def array(accessor: int, dtype: str, width: int) -> np.ndarray:
        found = head["accessors"][accessor]
        view = head["bufferViews"][found["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        return np.frombuffer(body, dtype, found["count"] * width, view["byteOffset"]).reshape(-1, width)

    primitive = head["meshes"][0]["primitives"][0]
    positions = array(primitive["attributes"]["POSITION"], "<f4", 3)
    assert np.allclose(positions, TETRAHEDRON.vertices[:, [0, 2, 1]] * [1, 1, -1])  # y up
    assert positions.max(axis=0).tolist() == head["accessors"][0]["max"] == [1.0, 3.0, 0.0]
    assert np.allclose(array(primitive["attributes"]["COLOR_0"], "<f4", 3)[:3], np.eye(3))
    indices = array(primitive["indices"], "<u4", 1).reshape(-1, 3)
    assert np.array_equal(indices, TETRAHEDRON.triangles)
    volume = np.einsum(
        "ti,ti->", positions[indices[:, 0]], np.cross(positions[indices[:, 1]], positions[indices[:, 2]])
    )
    assert volume / 6 == pytest.approx(1.0)  # turned, not mirrored: faces still look outwards


def test_the_command_makes_a_mesh_of_an_object(tmp_path, capsys):
    pytest.importorskip("open3d")
    sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
    from small_map import write_map

    from gs_semantic.cli import main

    folder = write_map(tmp_path / "map", 20_000)
    words = ["edit", "mesh", str(folder), str(tmp_path / "thing.ply"), "--object", "1", "--voxel", "0.02"]
    assert main(words) == 0
    assert "triangles" in capsys.readouterr().out and (tmp_path / "thing.ply").stat().st_size > 1000


def test_nothing_to_see_is_said():
    pytest.importorskip("open3d")
    faint = ball(200)
    faint["opacity_logits"] = torch.full((200,), -6.0)
    with pytest.raises(NothingThereError, match="no view shows a surface"):
        object_mesh(faint, create_rasterizer(), voxel_m=0.05)
    with pytest.raises(NothingThereError, match="has no Gaussians"):
        object_mesh(GaussianMap(), create_rasterizer())
    with pytest.raises(InvalidRequestError, match="voxel of -1 m"):
        object_mesh(faint, create_rasterizer(), voxel_m=-1)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(
        MissingExtraError, match=r"making a mesh needs .*'open3d': pip install 'gs_semantic\[geometry\]'"
    ):
        module.open3d()
