"""Coloured point clouds in PLY files, text and binary, as reconstructions bring them along."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gs_semantic.data.sequence import SparsePoints
from gs_semantic.errors import InvalidInputError
from gs_semantic.files import reason
from gs_semantic.gaussians.ply import BYTE_ORDER, TYPES

COLUMNS = ("x", "y", "z", "red", "green", "blue")
GREY = 128  # of points without colour


def read_points_ply(path: Path) -> SparsePoints:
    """Vertices with x y z and, if there, red green blue; InvalidInputError names the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {reason(error)}") from error
    head, end, body = data.partition(b"end_header")
    if not data.startswith(b"ply") or not end:
        raise InvalidInputError(f"{path}: is not a PLY file with a header from 'ply' to 'end_header'")
    body = body[body.index(b"\n") + 1 :] if b"\n" in body else b""
    order, count, fields = "", -1, list[tuple[str, str]]()
    for words in (line.split() for line in head.decode("latin-1").splitlines()):
        try:
            if words[:1] == ["format"]:
                order = words[1]
            elif words[:1] == ["element"]:
                if count >= 0:
                    break  # faces and what else follows
                if words[1] != "vertex":
                    raise InvalidInputError(f"{path}: the first element is '{words[1]}', expected 'vertex'")
                count = int(words[2])
            elif words[:1] == ["property"] and count >= 0:
                fields.append((words[2], BYTE_ORDER.get(order, "<") + TYPES[words[1]]))
        except (IndexError, KeyError, ValueError):
            raise InvalidInputError(f"{path}: header line not understood: '{' '.join(words)}'") from None
    names = [name for name, _ in fields]
    if count < 0 or not {"x", "y", "z"} <= set(names):
        raise InvalidInputError(f"{path}: expected an element vertex with the properties x, y and z")
    vertices = _vertices(path, body, order, count, fields)
    xyz = np.stack([vertices[name].astype(np.float32) for name in COLUMNS[:3]], axis=1)
    if not np.isfinite(xyz).all():
        raise InvalidInputError(f"{path}: contains NaN or infinite coordinates")
    rgb = np.full((count, 3), GREY, np.uint8)
    if set(COLUMNS[3:]) <= set(names):
        colours = np.stack([vertices[name] for name in COLUMNS[3:]], axis=1)
        rgb = (colours * 255 if dict(fields)["red"][1] == "f" else colours).astype(np.uint8)
    return SparsePoints(xyz, rgb)


def _vertices(path: Path, body: bytes, order: str, count: int, fields: list[tuple[str, str]]) -> np.ndarray:
    dtype = np.dtype(fields)
    if order in BYTE_ORDER:
        if len(body) < count * dtype.itemsize:
            raise InvalidInputError(
                f"{path}: truncated: the header announces {count} points, the file holds {len(body) // dtype.itemsize}"
            )
        return np.frombuffer(body, dtype, count)
    if order != "ascii":
        raise InvalidInputError(f"{path}: unknown format '{order}'")
    lines = body.decode("latin-1").splitlines()[:count]
    try:
        rows = [tuple(float(word) for word in line.split()[: len(fields)]) for line in lines]
        if len(rows) < count:
            raise InvalidInputError(
                f"{path}: truncated: the header announces {count} points, the file holds {len(rows)}"
            )
        return np.array(rows, dtype)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{path}: a point is not understood: {error}") from None
