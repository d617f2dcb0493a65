"""Objects, Gaussians and masks as bytes: the payloads of messages and services (docs/interfaces.md, "Packed data").

Everything is little endian. A block is a 20-byte header, ``count`` records of ``record_bytes`` each, and a tail. Fields
are only ever appended to a record: a reader takes the fields it knows and steps by ``record_bytes``.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import sh_to_rgb
from gs_semantic.labels import VOID
from gs_semantic.objects.registry import Box, MapObject, ObjectRegistry, ObjectState, Provenance

VERSION = 1
HEADER = struct.Struct("<4sHHIII")  # magic, version, record bytes, count, bytes of the tail, reserved
MAGIC_OBJECTS, MAGIC_GAUSSIANS, MAGIC_MASKS = b"GSOB", b"GSGA", b"GSMA"
ALTERNATIVES = 4  # classes told per object

OBJECT = np.dtype(
    [
        ("id", "<u8"),
        ("revision", "<u8"),
        ("first_seen_ns", "<i8"),
        ("last_seen_ns", "<i8"),
        ("slot", "<u4"),
        ("observations", "<u4"),
        ("num_gaussians", "<u4"),
        ("class_id", "<u2"),
        ("state", "u1"),
        ("provenance", "u1"),
        ("flags", "<u4"),
        ("confidence", "<f4"),
        ("centroid", "<f4", 3),
        ("covariance", "<f4", 6),  # xx xy xz yy yz zz
        ("box_centre", "<f4", 3),
        ("box_size", "<f4", 3),
        ("box_rotation", "<f4", 4),  # quaternion x y z w
        ("alternative_ids", "<u2", ALTERNATIVES),
        ("alternative_scores", "<f4", ALTERNATIVES),
        ("name_offset", "<u4"),
        ("name_bytes", "<u4"),
        ("class_name_offset", "<u4"),
        ("class_name_bytes", "<u4"),
    ]
)
GAUSSIAN = np.dtype(
    [
        ("uid", "<u8"),
        ("position", "<f4", 3),
        ("rotation", "<f4", 4),  # quaternion w x y z, as in the map
        ("scale", "<f4", 3),
        ("opacity", "<f4"),
        ("rgb", "<f4", 3),
    ]
)
MASK = np.dtype(
    [
        ("id", "<u8"),
        ("slot", "<u4"),
        ("class_id", "<u2"),
        ("confidence", "u1"),
        ("reserved", "u1"),
        ("x", "<u2"),
        ("y", "<u2"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("pixels", "<u4"),
        ("offset", "<u4"),
    ]
)
_THREE, _FOUR, _SIX = (0.0,) * 3, (0.0,) * 4, (0.0,) * 6
_UPPER = np.triu_indices(3)
_STATES = {int(state): state for state in ObjectState}
_PROVENANCES = {int(provenance): provenance for provenance in Provenance}
_PLAIN = (
    *("id", "slot", "class_id", "confidence", "observations", "num_gaussians"),
    *("first_seen_ns", "last_seen_ns", "revision"),
)
FLAG_LOCKED, FLAG_HAS_BOX, FLAG_HAS_CENTROID = 1, 2, 4


def pack_block(magic: bytes, records: np.ndarray, tail: bytes = b"") -> bytes:
    """Header, records and tail."""
    head = HEADER.pack(magic, VERSION, records.dtype.itemsize, len(records), len(tail), 0)
    return head + records.tobytes() + tail


def unpack_block(magic: bytes, dtype: np.dtype, data: object, what: str) -> tuple[np.ndarray, memoryview]:
    """Records and tail of a block, both views of ``data``."""
    view = memoryview(data).cast("B")  # type: ignore[arg-type]
    if len(view) < HEADER.size:
        raise InvalidInputError(f"packed {what}: {len(view)} bytes, the header alone has {HEADER.size}")
    found, version, size, count, tail_bytes, _ = HEADER.unpack_from(view)
    if found != magic:
        raise InvalidInputError(f"packed {what}: starts with {found!r}, expected {magic!r}")
    if size < dtype.itemsize:
        raise InvalidInputError(f"packed {what}: records of {size} bytes, version {version}; expected {dtype.itemsize}")
    start, end = HEADER.size, HEADER.size + size * count
    if len(view) != end + tail_bytes:
        raise InvalidInputError(f"packed {what}: {len(view)} bytes, the header announces {end + tail_bytes}")
    layout: Any = {
        "names": dtype.names,
        "formats": [dtype[name] for name in dtype.names or ()],
        "offsets": [dtype.fields[name][1] for name in dtype.names or ()],  # type: ignore[index]
        "itemsize": size,
    }
    known = np.dtype(layout)
    return np.frombuffer(view[start:end], dtype=known, count=count), view[end:]


# --- objects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObjectView:
    """An object as the outside sees it. Positions in the frame of the reply, metres; stamps in ns."""

    id: int
    slot: int
    class_id: int
    class_name: str
    name: str  # the operator's; empty: none given
    confidence: float
    state: ObjectState
    provenance: Provenance
    locked: bool
    observations: int
    num_gaussians: int
    first_seen_ns: int
    last_seen_ns: int
    revision: int
    centroid: np.ndarray | None  # (3,)
    covariance: np.ndarray | None  # (3,3)
    box: Box | None
    alternatives: tuple[tuple[int, float], ...]  # (class id, share of the evidence), best first

    @property
    def label(self) -> str:
        """The operator's name, otherwise the class name."""
        return self.name or self.class_name


@dataclass(frozen=True)
class PackedObjects:
    """Objects of one map revision, packed; immutable, so that any thread may answer from it."""

    records: np.ndarray  # (N,) of dtype OBJECT
    strings: bytes
    class_names: tuple[str, ...]
    operator_names: tuple[str, ...] = ()  # empty texts where none was given

    def __len__(self) -> int:
        return len(self.records)

    def to_bytes(self, index: np.ndarray | None = None) -> bytes:
        """The whole block, or that of some rows (integers or a boolean mask)."""
        return pack_block(MAGIC_OBJECTS, self.records if index is None else self.records[index], self.strings)


def pack_objects(objects: Iterable[MapObject], registry: ObjectRegistry) -> PackedObjects:
    """Objects in the given order; class names come from the registry's label set."""
    chosen = list(objects)
    strings = bytearray()
    known: dict[str, tuple[int, int]] = {}

    def place(text: str) -> tuple[int, int]:
        if text not in known:
            encoded = text.encode()
            known[text] = (len(strings), len(encoded))
            strings.extend(encoded)
        return known[text]

    rows = []
    for obj in chosen:  # a list of plain tuples: numpy takes it over in one go
        scores = sorted(obj.class_scores.items(), key=lambda item: -item[1])
        class_id = scores[0][0] if scores else VOID
        total = sum(score for _, score in scores)
        best = (scores + [(VOID, 0.0)] * ALTERNATIVES)[:ALTERNATIVES]
        shares = tuple(score / (total or 1.0) for _, score in best)
        box, covariance = obj.box, obj.covariance
        flags = FLAG_LOCKED * obj.locked | FLAG_HAS_BOX * (box is not None)
        rows.append(
            (
                *(obj.id, obj.revision, obj.first_seen_ns, obj.last_seen_ns, obj.slot, obj.observations),
                *(obj.num_gaussians, class_id, int(obj.state), int(obj.provenance)),
                flags | FLAG_HAS_CENTROID * (obj.centroid is not None),
                shares[0] if total > 0 else 0.0,
                _THREE if obj.centroid is None else tuple(obj.centroid.tolist()),
                _SIX if covariance is None else tuple(covariance[_UPPER].tolist()),
                _THREE if box is None else tuple(box.centre.tolist()),
                _THREE if box is None else tuple(box.size.tolist()),
                _FOUR,  # rotations follow in one go
                tuple(class_id for class_id, _ in best),
                shares,
                *place(obj.name),
                *place(registry.labels.object_name(class_id)),
            )
        )
    records = np.array(rows, OBJECT) if rows else np.zeros(0, OBJECT)
    boxed = [i for i, obj in enumerate(chosen) if obj.box is not None]
    if boxed:
        rotations = np.stack([chosen[i].box.rotation for i in boxed])  # type: ignore[union-attr]
        records["box_rotation"][boxed] = matrix_to_quaternion(rotations)
    names = tuple(registry.labels.object_name(obj.class_id) for obj in chosen)
    return PackedObjects(records, bytes(strings), names, tuple(obj.name for obj in chosen))


def unpack_objects(data: object) -> list[ObjectView]:
    """Objects of a packed block (bytes, array or memoryview). InvalidInputError on a block that is not whole."""
    records, tail = unpack_block(MAGIC_OBJECTS, OBJECT, data, "objects")
    strings = bytes(tail)

    @functools.cache
    def text(offset: int, length: int) -> str:
        if offset + length > len(strings):
            raise InvalidInputError(f"packed objects: a name at byte {offset}+{length} of {len(strings)}")
        return strings[offset : offset + length].decode()

    flags = records["flags"]
    boxed, placed = ((flags & FLAG_HAS_BOX) > 0).tolist(), ((flags & FLAG_HAS_CENTROID) > 0).tolist()
    rotations = np.zeros((len(records), 3, 3))
    if any(boxed):
        rotations[boxed] = quaternion_to_matrix(records["box_rotation"][boxed])
    covariances = np.zeros((len(records), 3, 3), np.float32)
    covariances[:, _UPPER[0], _UPPER[1]] = records["covariance"]
    covariances[:, _UPPER[1], _UPPER[0]] = records["covariance"]
    boxes = zip(boxed, records["box_centre"].copy(), records["box_size"].copy(), rotations, strict=True)
    scored = zip(
        records["alternative_ids"].tolist(),
        records["alternative_scores"].tolist(),
        (records["alternative_scores"] > 0).sum(1).tolist(),
        strict=True,
    )
    texts = {
        name: [text(*place) for place in zip(records[f"{name}_offset"].tolist(), records[f"{name}_bytes"].tolist(), strict=True)]
        for name in ("name", "class_name")
    }
    columns: dict[str, Iterable[Any]] = {
        **{name: records[name].tolist() for name in _PLAIN},
        **texts,
        "state": [_STATES[value] for value in records["state"].tolist()],
        "provenance": [_PROVENANCES[value] for value in records["provenance"].tolist()],
        "locked": ((flags & FLAG_LOCKED) > 0).tolist(),
        "centroid": [value if known else None for known, value in zip(placed, records["centroid"].copy(), strict=True)],
        "covariance": [value if known else None for known, value in zip(placed, covariances, strict=True)],
        "box": [Box(*values) if known else None for known, *values in boxes],
        "alternatives": [tuple(zip(ids[:n], scores[:n], strict=True)) for ids, scores, n in scored],
    }
    return [_object_view(columns, values) for values in zip(*columns.values(), strict=True)]


def _object_view(names: Iterable[str], values: Iterable[Any]) -> ObjectView:
    """The constructor of a frozen dataclass sets field by field, which takes most of the time of a long list."""
    view = object.__new__(ObjectView)
    view.__dict__.update(zip(names, values, strict=True))
    return view


# --- Gaussians ------------------------------------------------------------------------------------------------------


def pack_gaussians(gaussians: GaussianMap, rows: torch.Tensor) -> bytes:
    """The Gaussians ``rows`` (M,) of a map: 64 bytes each; scales in metres, opacity and base colour 0..1."""
    records = np.empty(len(rows), GAUSSIAN)
    with torch.no_grad():
        records["uid"] = gaussians["uid"][rows].numpy()
        records["position"] = gaussians.means[rows].numpy()
        records["rotation"] = torch.nn.functional.normalize(gaussians.quats[rows], dim=-1).numpy()
        records["scale"] = gaussians.log_scales[rows].exp().numpy()
        records["opacity"] = gaussians.opacity_logits[rows].sigmoid().numpy()
        records["rgb"] = sh_to_rgb(gaussians.sh[rows, 0]).clamp(0, 1).numpy()
    return pack_block(MAGIC_GAUSSIANS, records)


def unpack_gaussians(data: object) -> np.ndarray:
    """Structured array (M,) of dtype ``GAUSSIAN``'s fields, a view of ``data``."""
    return unpack_block(MAGIC_GAUSSIANS, GAUSSIAN, data, "Gaussians")[0]


# --- masks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskView:
    """One object's mask in an image: ``mask`` bool (height, width) lies with its corner at pixel (x, y)."""

    id: int
    slot: int
    class_id: int
    confidence: float  # mean over the mask, 0..1
    x: int
    y: int
    pixels: int
    mask: np.ndarray


def pack_masks(instance: np.ndarray, confidence: np.ndarray, ids: np.ndarray, classes: np.ndarray) -> bytes:
    """Masks of all objects in an instance image of slots (H,W) with its confidence uint8 (H,W).

    ``ids`` and ``classes`` belong to slots; slots with id 0 are left out.

    Rows of a mask's bounding box follow each other without padding, 8 pixels a byte, first pixel in the lowest bit.
    """
    windows = ndimage.find_objects(instance)
    records, chunks, offset = [], [], 0
    for slot, window in enumerate(windows, start=1):
        if window is None or not ids[slot]:
            continue
        mask = instance[window] == slot
        bits = np.packbits(mask.reshape(-1), bitorder="little").tobytes()
        pixels = int(np.count_nonzero(mask))
        mean = round(float(confidence[window][mask].mean()))
        rows, columns = window
        size = (columns.stop - columns.start, rows.stop - rows.start)
        records.append((ids[slot], slot, classes[slot], mean, 0, columns.start, rows.start, *size, pixels, offset))
        chunks.append(bits)
        offset += len(bits)
    return pack_block(MAGIC_MASKS, np.array(records, MASK), b"".join(chunks))


def unpack_masks(data: object) -> list[MaskView]:
    """Masks of a packed block."""
    records, tail = unpack_block(MAGIC_MASKS, MASK, data, "masks")
    out = []
    for r in records:
        width, height, offset = int(r["width"]), int(r["height"]), int(r["offset"])
        size = (width * height + 7) // 8
        if offset + size > len(tail):
            raise InvalidInputError(f"packed masks: a mask at byte {offset}+{size} of {len(tail)}")
        bits = np.frombuffer(tail[offset : offset + size], np.uint8)
        mask = np.unpackbits(bits, count=width * height, bitorder="little").reshape(height, width).astype(bool)
        out.append(
            MaskView(
                id=int(r["id"]),
                slot=int(r["slot"]),
                class_id=int(r["class_id"]),
                confidence=float(r["confidence"]) / 255.0,
                x=int(r["x"]),
                y=int(r["y"]),
                pixels=int(r["pixels"]),
                mask=mask,
            )
        )
    return out


# --- rotations ------------------------------------------------------------------------------------------------------


def matrix_to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternions x y z w (..., 4) of rotations (..., 3, 3)."""
    return Rotation.from_matrix(rotation).as_quat()


def quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) of quaternions x y z w (..., 4), which need not be normalised."""
    return Rotation.from_quat(quaternion).as_matrix()
