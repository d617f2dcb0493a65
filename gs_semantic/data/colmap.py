"""Reader of COLMAP reconstructions, text and binary (https://colmap.github.io/format.html).

The model (cameras, images and points3D, each ``.bin`` or ``.txt``) is looked for in the folder itself, then in
sparse/0, sparse and colmap/sparse/0; the photographs in images/ of the folder or of one above the model. COLMAP's
first pixel has its centre at (0.5, 0.5), ours at (0, 0); its poses are world-to-camera. The scale of a reconstruction
from photographs alone is arbitrary.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from gs_semantic.data.images import Lens, read_colour
from gs_semantic.data.sequence import FrameSequence, SparsePoints, make_camera, read_lines
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame

MODEL_FOLDERS = ("", "sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse")


@dataclass(frozen=True)
class CameraModel:
    """A camera model of COLMAP. ``focal``: parameters that are focal lengths (1 or 2), then cx and cy, then those of
    the lens, which OpenCV knows too (None: it does not)."""

    number: int
    name: str
    parameters: int
    focal: int
    fisheye: bool | None = False


MODELS = (
    CameraModel(0, "SIMPLE_PINHOLE", 3, 1),
    CameraModel(1, "PINHOLE", 4, 2),
    CameraModel(2, "SIMPLE_RADIAL", 4, 1),
    CameraModel(3, "RADIAL", 5, 1),
    CameraModel(4, "OPENCV", 8, 2),
    CameraModel(5, "OPENCV_FISHEYE", 8, 2, True),
    CameraModel(6, "FULL_OPENCV", 12, 2),
    CameraModel(7, "FOV", 5, 2, None),
    CameraModel(8, "SIMPLE_RADIAL_FISHEYE", 4, 1, True),
    CameraModel(9, "RADIAL_FISHEYE", 5, 1, True),
    CameraModel(10, "THIN_PRISM_FISHEYE", 12, 2, None),
)
MODEL_BY_NUMBER = {model.number: model for model in MODELS}
MODEL_BY_NAME = {model.name: model for model in MODELS}


@dataclass(frozen=True)
class Photograph:
    """One registered image: its pose and which camera took it."""

    name: str
    camera_id: int
    T_world_camera: np.ndarray


def find_model(folder: Path) -> Path | None:
    """The folder that holds cameras and images of a reconstruction, None when there is none."""
    for part in MODEL_FOLDERS:
        for suffix in (".bin", ".txt"):
            if (folder / part / f"cameras{suffix}").is_file() and (folder / part / f"images{suffix}").is_file():
                return folder / part
    return None


class ColmapSequence(FrameSequence):
    """The photographs of a reconstruction in the order of their names, undistorted; no depth, no masks."""

    format = "colmap"

    def __init__(self, folder: str | Path, *, images: str | Path | None = None, **options: Any) -> None:
        """``images``: folder of the photographs, when it is not where it usually is."""
        super().__init__(folder, **options)
        model = find_model(self.folder)
        if model is None:
            raise InvalidInputError(
                f"{self.folder}: no COLMAP model; expected cameras.bin and images.bin (or .txt) there or in sparse/0"
            )
        self.model = model
        self.lenses = read_cameras(model)
        self.photographs = sorted(read_images(model), key=lambda photograph: photograph.name)
        if not self.photographs:
            raise InvalidInputError(f"{model}: the reconstruction has no registered images")
        for photograph in self.photographs:
            if photograph.camera_id not in self.lenses:
                raise InvalidInputError(
                    f"{model}: image {photograph.name} has camera {photograph.camera_id}, which cameras does not list"
                )
        self.poses = np.stack([photograph.T_world_camera for photograph in self.photographs])
        self.images = Path(images) if images is not None else self._find_images()

    def _find_images(self) -> Path:
        name = self.photographs[0].name
        places = dict.fromkeys(
            place / "images" for place in (self.folder, self.model, *list(self.model.absolute().parents)[:3])
        )
        for place in places:
            if (place / name).is_file():
                return place
        raise InvalidInputError(
            f"{self.folder}: the photograph {name} of the model is not in {' nor '.join(str(p) for p in places)}"
        )

    def _camera(self, index: int) -> Camera:
        photograph = self.photographs[index]
        return self.lenses[photograph.camera_id].camera.at(photograph.T_world_camera)

    def _read(self, index: int) -> Frame:
        lens = self.lenses[self.photographs[index].camera_id]
        size = (lens.recorded.width, lens.recorded.height)
        rgb = read_colour(self.images / self.photographs[index].name, size, "the COLMAP camera")
        return Frame(self.stamp_ns(index), self._camera(index), lens.undistort(rgb))

    def sparse_points(self) -> SparsePoints | None:
        return read_points(self.model)


# --- cameras ----------------------------------------------------------------------------------------------------------


def read_cameras(folder: Path) -> dict[int, Lens]:
    """Lens by camera id of cameras.bin or cameras.txt."""
    rows = _cameras_bin(folder / "cameras.bin") if (folder / "cameras.bin").is_file() else None
    path = folder / ("cameras.txt" if rows is None else "cameras.bin")
    lenses = {}
    for camera_id, model, width, height, parameters in _cameras_txt(path) if rows is None else rows:
        where = f"{path}: camera {camera_id}"
        if model.fisheye is None:
            known = ", ".join(m.name for m in MODELS if m.fisheye is not None)
            raise InvalidInputError(f"{where}: model {model.name} is not supported; undistort it or use one of {known}")
        if len(parameters) != model.parameters:
            raise InvalidInputError(
                f"{where}: model {model.name} has {model.parameters} parameters, found {len(parameters)}"
            )
        fx, fy = parameters[0], parameters[model.focal - 1]
        cx, cy = (value - 0.5 for value in parameters[model.focal : model.focal + 2])
        coefficients = np.array(parameters[model.focal + 2 :])
        if not np.isfinite(coefficients).all():
            raise InvalidInputError(f"{where}: the lens parameters contain NaN or infinity")
        if len(coefficients) and len(coefficients) < 4:  # OpenCV wants at least four
            coefficients = np.append(coefficients, np.zeros(4 - len(coefficients)))
        lenses[camera_id] = Lens(make_camera([width, height, fx, fy, cx, cy], where), coefficients, model.fisheye)
    return lenses


CameraRow = tuple[int, CameraModel, int, int, list[float]]


def _cameras_txt(path: Path) -> Iterator[CameraRow]:
    for where, words in _words(path):
        try:
            model = MODEL_BY_NAME[words[1]]
            yield int(words[0]), model, int(words[2]), int(words[3]), [float(word) for word in words[4:]]
        except KeyError:
            raise InvalidInputError(f"{where}: unknown camera model '{words[1]}'") from None
        except (ValueError, IndexError):
            raise InvalidInputError(f"{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS...") from None


def _cameras_bin(path: Path) -> Iterator[CameraRow]:
    file = _Binary(path)
    for _ in range(file.count()):
        camera_id, number, width, height = file.unpack("<iiQQ")
        if number not in MODEL_BY_NUMBER:
            raise InvalidInputError(f"{path}: camera {camera_id}: unknown camera model number {number}")
        model = MODEL_BY_NUMBER[number]
        yield camera_id, model, width, height, list(file.unpack(f"<{model.parameters}d"))


# --- images -----------------------------------------------------------------------------------------------------------


def read_images(folder: Path) -> list[Photograph]:
    """The registered images of images.bin or images.txt."""
    path = folder / "images.bin"
    return list(_images_bin(path) if path.is_file() else _images_txt(folder / "images.txt"))


def _photograph(name: str, camera_id: int, q_wxyz: Any, translation: Any, where: str) -> Photograph:
    quaternion, t_camera_world = np.array(q_wxyz, np.float64), np.array(translation, np.float64)
    norm = np.linalg.norm(quaternion)
    if not (np.isfinite(norm) and np.isfinite(t_camera_world).all() and norm > 0.5):
        raise InvalidInputError(
            f"{where}: image {name}: the pose is not finite or its quaternion has length {norm:.3g}"
        )
    rotation = Rotation.from_quat(np.roll(quaternion, -1)).as_matrix().T
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ t_camera_world
    return Photograph(name, camera_id, pose)


def _images_txt(path: Path) -> Iterator[Photograph]:
    lines = [(n, line) for n, line in enumerate(read_lines(path), start=1) if not line.startswith("#")]
    for number, line in lines[::2]:  # every second line lists the image's points; it may be empty
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        where = f"{path}: line {number}"
        try:
            values = [float(word) for word in words[1:8]]
            name, camera_id = words[9].strip(), int(words[8])
        except (ValueError, IndexError):
            raise InvalidInputError(f"{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME") from None
        yield _photograph(name, camera_id, values[:4], values[4:], where)


def _images_bin(path: Path) -> Iterator[Photograph]:
    file = _Binary(path)
    for _ in range(file.count()):
        _, *pose, camera_id = file.unpack("<I7dI")
        name = file.text()
        (points,) = file.unpack("<Q")
        file.skip(points * 24)  # x, y, point id
        yield _photograph(name, camera_id, pose[:4], pose[4:], str(path))


# --- points -----------------------------------------------------------------------------------------------------------


def read_points(folder: Path) -> SparsePoints | None:
    """The points of points3D.bin or points3D.txt; None when there is neither."""
    if (folder / "points3D.bin").is_file():
        rows = list(_points_bin(folder / "points3D.bin"))
    elif (folder / "points3D.txt").is_file():
        rows = list(_points_txt(folder / "points3D.txt"))
    else:
        return None
    xyz = np.array([row[0] for row in rows], np.float32).reshape(-1, 3)
    rgb = np.array([row[1] for row in rows], np.uint8).reshape(-1, 3)
    return SparsePoints(xyz, rgb)


PointRow = tuple[list[float], list[int]]


def _points_txt(path: Path) -> Iterator[PointRow]:
    for where, words in _words(path):
        try:
            yield [float(word) for word in words[1:4]], [int(word) for word in words[4:7]]
        except ValueError:
            raise InvalidInputError(f"{where}: expected POINT3D_ID X Y Z R G B ERROR TRACK...") from None


def _points_bin(path: Path) -> Iterator[PointRow]:
    file = _Binary(path)
    for _ in range(file.count()):
        _, x, y, z, r, g, b, _, track = file.unpack("<Q3d3BdQ")
        file.skip(track * 8)
        yield [x, y, z], [r, g, b]


# --- files ------------------------------------------------------------------------------------------------------------


def _words(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(file and line for errors, words) of the lines that are not comments."""
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip() and not line.startswith("#"):
            yield f"{path}: line {number}", line.split()


class _Binary:
    """A little-endian file; running off its end is an InvalidInputError naming it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidInputError(f"{path}: cannot be read: {error}") from error
        self._file, self._size = BytesIO(data), len(data)

    def _truncated(self) -> InvalidInputError:
        return InvalidInputError(f"{self.path}: truncated: ends after {self._size} bytes in the middle of an entry")

    def unpack(self, layout: str) -> tuple[Any, ...]:
        data = self._file.read(struct.calcsize(layout))
        if len(data) < struct.calcsize(layout):
            raise self._truncated()
        return struct.unpack(layout, data)

    def count(self) -> int:
        return int(self.unpack("<Q")[0])

    def skip(self, size: int) -> None:
        if self._file.tell() + size > self._size:
            raise self._truncated()
        self._file.seek(size, 1)

    def text(self) -> str:
        """A text that ends with a zero byte."""
        letters = bytearray()
        while (letter := self._file.read(1)) != b"\0":
            if not letter:
                raise self._truncated()
            letters += letter
        return letters.decode("utf-8", errors="replace")
