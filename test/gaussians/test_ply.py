"""Standard Gaussian splatting PLY files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_semantic.errors import MapFormatError, StorageError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import CORE
from gs_semantic.gaussians.ply import load_ply, save_ply


def random_map(count: int, degree: int) -> GaussianMap:
    generator = torch.Generator().manual_seed(count)
    gaussians = GaussianMap(degree)
    gaussians.add(**{name: torch.randn(count, *gaussians.specs[name].shape, generator=generator) for name in CORE})
    return gaussians


@pytest.mark.parametrize(("count", "degree"), [(0, 0), (1, 0), (7, 1), (100, 2), (70_000, 3)])
def test_round_trip_is_bit_equal(tmp_path, count, degree):
    gaussians = random_map(count, degree)
    save_ply(tmp_path / "map.ply", gaussians)
    back = load_ply(tmp_path / "map.ply")
    assert back.sh_degree == degree and len(back) == count
    for name in CORE:
        assert torch.equal(back[name], gaussians[name]), name
    assert [file.name for file in tmp_path.iterdir()] == ["map.ply"]


def test_layout_is_the_one_that_viewers_read(tmp_path):
    gaussians = random_map(3, 1)
    save_ply(tmp_path / "map.ply", gaussians)
    header, _, body = (tmp_path / "map.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 3"]
    rest = [f"f_rest_{i}" for i in range(9)]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert lines[3:] == [f"property float {name}" for name in names]
    row = dict(zip(names, np.frombuffer(body, "<f4").reshape(3, -1)[2], strict=True))
    assert row["f_dc_1"] == gaussians.sh[2, 0, 1]
    # coefficients of one channel follow each other: red 0..2, green 3..5, blue 6..8
    assert row["f_rest_4"] == gaussians.sh[2, 2, 1] and row["f_rest_6"] == gaussians.sh[2, 1, 2]
    assert row["rot_0"] == gaussians.quats[2, 0] and row["opacity"] == gaussians.opacity_logits[2]


def test_other_order_types_and_unknown_properties_are_read(tmp_path):
    names = ["opacity", "red", *(f"rot_{i}" for i in range(4)), *(f"scale_{i}" for i in range(3))]
    names += ["z", "y", "x", "f_dc_2", "f_dc_1", "f_dc_0"]
    kinds = {name: (">f8" if name != "red" else "u1") for name in names}
    row = np.zeros(1, np.dtype(list(kinds.items())))
    row["x"], row["y"], row["z"], row["rot_0"] = 1.5, 2.5, 3.5, 1.0
    kind_names = {">f8": "double", "u1": "uchar"}
    header = ["ply", "format binary_big_endian 1.0", "comment made by hand", "element vertex 1"]
    header += [f"property {kind_names[kind]} {name}" for name, kind in kinds.items()]
    header += ["element face 0", "property list uchar int vertex_indices", "end_header", ""]
    (tmp_path / "other.ply").write_bytes("\n".join(header).encode() + row.tobytes())
    assert load_ply(tmp_path / "other.ply").means.tolist() == [[1.5, 2.5, 3.5]]


def corrupted(tmp_path, change):
    save_ply(tmp_path / "map.ply", random_map(10, 0))
    path = tmp_path / "map.ply"
    path.write_bytes(change(path.read_bytes()))
    return path


def poison(data: bytes) -> bytes:
    header, mark, body = data.partition(b"end_header\n")
    rows = np.frombuffer(body, "<f4").reshape(10, -1).copy()
    rows[3, 10] = rows[4, 10] = np.nan  # x y z, normals, f_dc, opacity, then scale_0
    return header + mark + rows.tobytes()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data[:-1], "truncated.*announces 10 Gaussians, the file holds 9"),
        (lambda data: data[:100], "truncated.*end_header"),
        (lambda data: b"", "not a PLY"),
        (lambda data: b"\x89PNG" + data, "not a PLY"),
        (lambda data: data.replace(b"binary_little_endian", b"ascii"), "ASCII"),
        (lambda data: data.replace(b"binary_little_endian", b"morse"), "format morse"),
        (lambda data: data.replace(b"float opacity", b"float opaque"), "'opacity' is missing"),
        (lambda data: data.replace(b"float nx", b"float f_rest_0"), r"1 properties f_rest_\*"),
        (lambda data: data.replace(b"float nx", b"list uchar int nx"), "list uchar int nx"),
        (lambda data: data.replace(b"float nx", b"float ny"), "header: .*ny"),
        (lambda data: data.replace(b"element vertex 10", b"element vertex ten"), "element vertex ten"),
        (lambda data: data.replace(b"element vertex 10", b"element face 10"), "'face', expected 'vertex'"),
        (poison, "'scale_0': 2 of 10 values are NaN"),
    ],
)
def test_damage_is_named(tmp_path, change, text):
    path = corrupted(tmp_path, change)
    with pytest.raises(MapFormatError, match=text) as caught:
        load_ply(path)
    assert str(path) in str(caught.value)


def test_missing_unreadable_and_unwritable(tmp_path):
    with pytest.raises(MapFormatError, match="no such file"):
        load_ply(tmp_path / "none.ply")
    with pytest.raises(StorageError, match="cannot be read"):
        load_ply(tmp_path)
    with pytest.raises(StorageError, match="nowhere"):
        save_ply(tmp_path / "nowhere" / "map.ply", random_map(1, 0))
