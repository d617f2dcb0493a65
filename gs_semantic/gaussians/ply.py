"""Standard 3D Gaussian Splatting PLY files, as every viewer reads them.

One vertex per Gaussian: x y z, nx ny nz (zero), f_dc_0..2, f_rest_* (channel by channel), opacity (logit), scale_0..2
(logarithm), rot_0..3 (w x y z), all float32, binary little endian. Extra attributes do not go into the PLY.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from gs_semantic.errors import MapFormatError, StorageError
from gs_semantic.files import atomic_write, reason
from gs_semantic.gaussians.gaussian_map import GaussianMap

TYPES = {  # names of PLY: those of C and those with a size
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
BYTE_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">"}
MAX_HEADER = 1 << 16
REST_TO_DEGREE = {3 * ((degree + 1) ** 2 - 1): degree for degree in range(5)}
CHUNK = 1 << 16  # rows written at a time, so that saving needs little memory beside the map


def save_ply(path: str | Path, gaussians: GaussianMap) -> None:
    """Write the five core attributes of a map, whole or not at all; StorageError names the file."""
    with atomic_write(path) as file:
        write_ply(file, gaussians)


def write_ply(file: BinaryIO, gaussians: GaussianMap) -> None:
    """Write the five core attributes to an open file."""
    rest = gaussians.sh.shape[1] * 3 - 3
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    lines += [*(f"property float {name}" for name in names), "end_header", ""]
    file.write("\n".join(lines).encode("ascii"))
    for start in range(0, len(gaussians), CHUNK):
        rows = slice(start, start + CHUNK)
        means, sh = gaussians.means[rows], gaussians.sh[rows]
        columns = (
            means,
            torch.zeros_like(means),
            sh[:, 0],
            sh[:, 1:].transpose(1, 2).reshape(len(sh), rest),
            gaussians.opacity_logits[rows, None],
            gaussians.log_scales[rows],
            gaussians.quats[rows],
        )
        file.write(torch.cat(columns, dim=1).detach().cpu().numpy().astype("<f4", copy=False).tobytes())


def load_ply(path: str | Path, frame_id: str = "map") -> GaussianMap:
    """Read a standard PLY into a new map; properties beyond the standard ones are passed over.

    Raises MapFormatError naming the file and the property or count that is wrong, StorageError when it cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            dtype, count = _read_header(path, file)
            data = file.read(dtype.itemsize * count)
    except FileNotFoundError:
        raise MapFormatError(f"{path}: no such file") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {reason(error)}") from error
    if len(data) < dtype.itemsize * count:
        raise MapFormatError(
            f"{path}: truncated: the header announces {count} Gaussians, the file holds {len(data) // dtype.itemsize}"
        )
    vertices = np.frombuffer(data, dtype=dtype, count=count)
    rest_names = sorted((n for n in dtype.names or () if re.fullmatch(r"f_rest_\d+", n)), key=lambda n: int(n[7:]))
    if len(rest_names) not in REST_TO_DEGREE:
        raise MapFormatError(f"{path}: {len(rest_names)} properties f_rest_*; expected one of {[*REST_TO_DEGREE]}")

    def columns(*names: str) -> torch.Tensor:
        result = np.empty((count, len(names)), np.float32)
        for i, name in enumerate(names):
            if name not in (dtype.names or ()):
                raise MapFormatError(f"{path}: property '{name}' is missing; this is not a Gaussian splatting PLY")
            result[:, i] = vertices[name]
            broken = count - int(np.isfinite(result[:, i]).sum())
            if broken:
                raise MapFormatError(f"{path}: property '{name}': {broken} of {count} values are NaN or infinite")
        return torch.from_numpy(result)

    degree = REST_TO_DEGREE[len(rest_names)]
    dc = columns("f_dc_0", "f_dc_1", "f_dc_2")
    rest = columns(*(f"f_rest_{i}" for i in range(len(rest_names))))
    gaussians = GaussianMap(degree, frame_id=frame_id)
    gaussians.add(
        means=columns("x", "y", "z"),
        quats=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales=columns("scale_0", "scale_1", "scale_2"),
        opacity_logits=columns("opacity")[:, 0],
        sh=torch.cat([dc[:, None], rest.reshape(count, 3, len(rest_names) // 3).transpose(1, 2)], dim=1),
    )
    return gaussians


def _read_header(path: Path, file: BinaryIO) -> tuple[np.dtype, int]:
    """Row type and number of the vertices; the file is left at the first row."""
    lines: list[str] = []
    while not lines or lines[-1] != "end_header":
        line = file.readline(MAX_HEADER)
        lines.append(line.decode("latin-1").strip())
        if lines[0] != "ply":
            raise MapFormatError(f"{path}: is not a PLY file (it does not begin with 'ply')")
        if not line or file.tell() > MAX_HEADER:
            raise MapFormatError(f"{path}: truncated: the header has no end_header")
    order, count, fields, in_vertex = "", -1, list[tuple[str, str]](), False
    for words in (line.split() for line in lines):
        try:
            if words[:1] == ["format"]:
                if words[1] == "ascii":
                    raise MapFormatError(f"{path}: ASCII PLY is not supported; convert it to binary_little_endian")
                order = BYTE_ORDER[words[1]]
            elif words[:1] == ["element"]:
                if count < 0 and words[1] != "vertex":
                    raise MapFormatError(f"{path}: the first element is '{words[1]}', expected 'vertex'")
                in_vertex = count < 0
                count = max(0, int(words[2])) if in_vertex else count
            elif words[:1] == ["property"] and in_vertex:
                fields.append((words[2], order + TYPES[words[1]]))
        except (IndexError, KeyError, ValueError):
            raise MapFormatError(f"{path}: header line not understood: '{' '.join(words)}'") from None
    if count < 0 or not order or not fields:
        raise MapFormatError(f"{path}: the header lacks a format, an element vertex or its properties")
    try:
        return np.dtype(fields), count
    except ValueError as error:  # a name given twice
        raise MapFormatError(f"{path}: header: {error}") from None
