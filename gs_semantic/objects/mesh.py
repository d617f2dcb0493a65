"""A triangle mesh of an object: its depth is rendered from many views and fused (TSDF, by the library Open3D)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_semantic.errors import InvalidRequestError, MissingExtraError, NothingThereError
from gs_semantic.files import atomic_write
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering.base import Rasterizer

VIEWS = 60
VIEW_PX = 320
LOWEST_DEG = -10.0  # of the default views: what stands on a floor was never seen from below
OPAQUE = 0.5  # alpha from which a pixel shows the surface
CELLS = 96  # voxels along the longest side, by default
MOST_CELLS = 400  # at 64 million voxels a volume has 2 GB
FINEST_M = 0.002
TRUNCATION = 2.5  # voxels behind a surface that a view fills
PART = 0.02  # smaller parts, as a share of the largest one's triangles, are strays
SUFFIXES = (".ply", ".glb")


@dataclass(frozen=True)
class Mesh:
    """vertices float64 (V, 3) m in the map frame, colours (V, 3) 0..1 (sRGB), triangles int32 (T, 3), seen from outside
    counter-clockwise."""

    vertices: np.ndarray
    colours: np.ndarray
    triangles: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write a .ply, in the map frame (z up), or a .glb, with y up as the format demands; whole or not at all."""
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES:
            raise InvalidRequestError(f"{path}: a mesh is written as {' or '.join(SUFFIXES)}")
        content = self._ply() if path.suffix.lower() == ".ply" else self._glb()
        with atomic_write(path) as file:
            file.write(content)

    def _ply(self) -> bytes:
        vertices = np.zeros(len(self.vertices), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
        vertices["xyz"], vertices["rgb"] = self.vertices, np.round(self.colours * 255)
        faces = np.zeros(len(self.triangles), [("count", "u1"), ("corners", "<i4", 3)])
        faces["count"], faces["corners"] = 3, self.triangles
        lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
        lines += [f"property float {name}" for name in "xyz"]
        lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
        return "\n".join(lines).encode() + vertices.tobytes() + faces.tobytes()

    def _glb(self) -> bytes:
        """glTF 2.0 in one file: a JSON chunk and a binary one with positions, colours (linear) and indices."""
        positions = (self.vertices[:, [0, 2, 1]] * [1, 1, -1]).astype("<f4")
        parts = [positions, (self.colours**2.2).astype("<f4"), self.triangles.astype("<u4").reshape(-1)]
        starts = np.cumsum([0, *(part.nbytes for part in parts)]).tolist()
        views = [
            {"buffer": 0, "byteOffset": start, "byteLength": part.nbytes}
            for start, part in zip(starts, parts, strict=False)
        ]
        bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
        vector = {"componentType": 5126, "type": "VEC3", "count": len(positions)}  # float
        accessors = [
            {"bufferView": 0, **vector, **bounds},
            {"bufferView": 1, **vector},
            {"bufferView": 2, "componentType": 5125, "type": "SCALAR", "count": len(parts[2])},  # unsigned int
        ]
        primitive = {"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2}
        head = {
            "asset": {"version": "2.0", "generator": "gs_semantic"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [primitive]}],
            "accessors": accessors,
            "bufferViews": views,
            "buffers": [{"byteLength": starts[-1]}],
        }
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 4)
        body = b"".join(part.tobytes() for part in parts)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def object_mesh(
    gaussians: GaussianMap,
    rasterizer: Rasterizer,
    cameras: Iterable[Camera] | None = None,
    voxel_m: float | None = None,
) -> Mesh:
    """Mesh of a map that holds nothing but the object (see ``edit.extract``).

    cameras: views to fuse, best those that the map was made from, for only they saw the object's outside; default views
    from all around and above, which suit an object that is known from all of its sides. voxel_m: edge of a voxel,
    default a hundredth of the object. What lies far from most of its Gaussians is cut off. Outlines are as far out as
    the Gaussians at them are large. NothingThereError when no view sees a surface.
    """
    library = open3d()
    if not len(gaussians):
        raise NothingThereError("the object has no Gaussians")
    low, high = np.quantile(gaussians.means.double().numpy(), [0.005, 0.995], axis=0)
    voxel = max(FINEST_M, float((high - low).max()) / CELLS) if voxel_m is None else voxel_m
    if not voxel > 0:
        raise InvalidRequestError(f"voxel of {voxel_m} m: expected a positive number")
    side = float((high - low).max()) + 2 * TRUNCATION * voxel
    cells = int(np.ceil(side / voxel))
    if cells > MOST_CELLS:
        raise InvalidRequestError(f"voxel of {voxel} m: too fine for {side:.2f} m; from {side / MOST_CELLS:.4f} m on")
    volume = library.pipelines.integration.UniformTSDFVolume(
        length=cells * voxel,
        resolution=cells,
        sdf_trunc=TRUNCATION * voxel,
        color_type=library.pipelines.integration.TSDFVolumeColorType.RGB8,
        origin=(low + high - cells * voxel) / 2,
    )
    for camera in around(low, high) if cameras is None else cameras:
        with torch.no_grad():
            shown = rasterizer.render(gaussians, camera, median_depth=True)
        assert shown.median_depth is not None
        depth = np.where(shown.alpha.numpy() >= OPAQUE, shown.median_depth.numpy(), 0).astype(np.float32)
        if not depth.any():
            continue
        rgb = (shown.rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        image = library.geometry.RGBDImage.create_from_color_and_depth(
            library.geometry.Image(np.ascontiguousarray(rgb)),
            library.geometry.Image(np.ascontiguousarray(depth)),
            depth_scale=1.0,
            depth_trunc=float(depth.max()) + 1.0,
            convert_rgb_to_intensity=False,
        )
        intrinsic = library.camera.PinholeCameraIntrinsic(
            camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy
        )
        volume.integrate(image, intrinsic, camera.T_camera_world)
    mesh = volume.extract_triangle_mesh()
    if not len(mesh.triangles):
        raise NothingThereError("no view shows a surface of the object: too few Gaussians, or too faint")
    cluster, count, _ = mesh.cluster_connected_triangles()
    mesh.remove_triangles_by_mask(np.asarray(count)[np.asarray(cluster)] < PART * max(count))
    mesh.remove_unreferenced_vertices()
    vertices, colours, triangles = mesh.vertices, mesh.vertex_colors, mesh.triangles
    return Mesh(np.asarray(vertices).copy(), np.asarray(colours).copy(), np.asarray(triangles).copy())


def around(low: np.ndarray, high: np.ndarray, views: int = VIEWS, size: int = VIEW_PX) -> list[Camera]:
    """Views of a box (corners (3,), m) from all around, from a little below its middle to straight above."""
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    step = np.arange(views) + 0.5
    height = np.sin(np.radians(LOWEST_DEG)) + (1 - np.sin(np.radians(LOWEST_DEG))) * step / views
    angle = np.pi * (3 - np.sqrt(5)) * step  # the golden angle spreads them evenly
    cameras = []
    for z, turn in zip(height, angle, strict=True):
        side = np.sqrt(1 - z * z)
        away = np.array([side * np.cos(turn), side * np.sin(turn), z])
        right = np.array([-np.sin(turn), np.cos(turn), 0.0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(-away, right), -away], axis=1)
        pose[:3, 3] = centre + 3.0 * radius * away
        focal = 0.5 * size * 2.7  # the box's sphere fills the image, with a little margin
        cameras.append(Camera(size, size, focal, focal, (size - 1) / 2, (size - 1) / 2, pose))
    return cameras


def open3d() -> Any:
    """The library, or MissingExtraError."""
    try:
        import open3d as library
    except ImportError as error:
        raise MissingExtraError.for_module("open3d", "geometry", "making a mesh") from error
    library.utility.set_verbosity_level(library.utility.VerbosityLevel.Error)
    return library
