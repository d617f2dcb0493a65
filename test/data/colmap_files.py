"""The little scene written as COLMAP reconstructions."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from blobs import COLOURS, FRAMES, HEIGHT, WIDTH, Blobs
from PIL import Image
from scipy.spatial.transform import Rotation

from gs_semantic.gaussians import Camera


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 97, "subsampling": 0} if path.suffix == ".jpg" else {}))


COLMAP_PARAMETERS: dict[str, tuple[int, list[float]]] = {
    "SIMPLE_PINHOLE": (0, [129.0, 80.5, 59.0]),
    "PINHOLE": (1, [130.0, 128.0, 80.5, 59.0]),
    "SIMPLE_RADIAL": (2, [129.0, 80.5, 59.0, 0.08]),
    "RADIAL": (3, [129.0, 80.5, 59.0, -0.1, 0.02]),
    "OPENCV": (4, [130.0, 128.0, 80.5, 59.0, 0.1, -0.05, 0.003, -0.002]),
    "OPENCV_FISHEYE": (5, [130.0, 128.0, 80.5, 59.0, 0.05, -0.02, 0.01, 0.0]),
    "FULL_OPENCV": (6, [130.0, 128.0, 80.5, 59.0, 0.1, -0.05, 0.003, -0.002, 0.01, 0.02, 0.0, 0.0]),
    "SIMPLE_RADIAL_FISHEYE": (8, [129.0, 80.5, 59.0, 0.05]),
    "RADIAL_FISHEYE": (9, [129.0, 80.5, 59.0, 0.05, -0.02]),
}


def blobs_of(model: str) -> Blobs:
    """The scene as a COLMAP camera model shows it."""
    values = COLMAP_PARAMETERS[model][1]
    one_focal = "SIMPLE" in model or "RADIAL" in model
    fx, fy = (values[0], values[0]) if one_focal else values[:2]
    lens = values[3 if one_focal else 4 :]
    coefficients = np.array(lens + [0.0] * (4 - len(lens)) if lens else [])
    return Blobs(coefficients, "FISHEYE" in model, Camera(WIDTH, HEIGHT, fx, fy, 80.0, 58.5))


def write_colmap(folder: Path, binary: bool, model: str = "PINHOLE", sparse: str = "sparse/0") -> Blobs:
    blobs = blobs_of(model)
    number, parameters = COLMAP_PARAMETERS[model]
    target = folder / sparse
    target.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in reversed(range(FRAMES)):  # COLMAP's order is that of its own numbers
        save(folder / "images" / f"shot_{i}.jpg", blobs.image(i))
        T_camera_world = np.linalg.inv(blobs.poses[i])
        q = np.roll(Rotation.from_matrix(T_camera_world[:3, :3]).as_quat(), 1)
        rows.append((10 + i, *q, *T_camera_world[:3, 3], 7, f"shot_{i}.jpg"))
    points = list(zip(blobs.points, COLOURS, strict=True))
    if binary:
        camera = struct.pack("<QiiQQ", 1, 7, number, WIDTH, HEIGHT) + struct.pack(f"<{len(parameters)}d", *parameters)
        (target / "cameras.bin").write_bytes(camera)
        images = struct.pack("<Q", len(rows))
        for row in rows:
            images += struct.pack("<I7dI", *row[:9]) + row[9].encode() + b"\0"
            images += struct.pack("<Q", 2) + struct.pack("<ddqddq", 1.5, 2.5, 3, 4.5, 5.5, -1)
        (target / "images.bin").write_bytes(images)
        cloud = struct.pack("<Q", len(points))
        for i, (xyz, rgb) in enumerate(points):
            cloud += struct.pack("<Q3d3BdQ", i, *xyz, *rgb, 0.5, 1) + struct.pack("<ii", 10, 0)
        (target / "points3D.bin").write_bytes(cloud)
        return blobs
    (target / "cameras.txt").write_text(
        f"# a comment\n7 {model} {WIDTH} {HEIGHT} {' '.join(repr(float(v)) for v in parameters)}\n"
    )
    lines = ["# two lines per image"]
    for row in rows:
        lines += [" ".join(repr(float(v)) if isinstance(v, float) else str(v) for v in row), "1.5 2.5 3 4.5 5.5 -1"]
    lines[2] = ""  # an image without points has an empty line
    (target / "images.txt").write_text("\n".join(lines) + "\n")
    text = [
        f"{i} {xyz[0]} {xyz[1]} {xyz[2]} {rgb[0]} {rgb[1]} {rgb[2]} 0.5 10 0" for i, (xyz, rgb) in enumerate(points)
    ]
    (target / "points3D.txt").write_text("# points\n" + "\n".join(text) + "\n")
    return blobs
