"""The map as a stream of splats: what changed since the last chunk, in 52 bytes each (docs/interfaces.md, "Splats").

``SplatSender`` compares a map with what it has sent, ``SplatCopy`` puts the chunks together again. Neither knows ROS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.changes import CHUNK
from gs_semantic.gaussians.gaussian_map import SH_C0
from gs_semantic.mapping.view import MapView
from gs_semantic.objects.packing import HEADER, pack_block, unpack_block

MAGIC = b"GSSP"
SPLAT = np.dtype(
    [
        ("uid", "<u8"),
        ("object_id", "<u8"),
        ("position", "<f4", 3),
        ("keyframe", "<i4"),
        ("rotation", "<i2", 4),  # quaternion w x y z times 32767
        ("scale", "<f2", 3),
        ("class_id", "<u2"),
        ("rgb", "u1", 3),
        ("opacity", "u1"),
    ]
)
FIRST, LAST = 1, 2  # flags of gs_semantic/SplatChunk
ROTATION_ONE = 32767
EXAMINED = 4  # rows looked at per row that may be sent: most that the optimiser touches have hardly moved
MOST_EXAMINED = 8192
SMALL_INDEX = 50_000  # rows of a copy whose keys are sorted with every chunk
# what a viewer would not see is not sent again
MOVED_M, MOVED_SCALE = 0.001, 0.1  # the larger of the two, the second times the splat's smallest scale
GROWN, TURNED, SHADE = 0.1, 1000, 4


@dataclass(frozen=True)
class Chunk:
    """One message: ``data`` holds ``count`` splats and ``removed`` keys; ``flags`` FIRST and LAST frame a whole map."""

    sequence: int
    flags: int
    revision: int
    map_id: str
    count: int
    removed: int
    data: bytes


def make_splats(view: MapView, rows: np.ndarray) -> np.ndarray:
    """Records ``SPLAT`` of rows (M,) of a map."""
    # numpy throughout: torch's threads would wait for each other over so little
    gaussians = view.gaussians
    quats, logits, sh = (tensor.numpy()[rows] for tensor in (gaussians.quats, gaussians.opacity_logits, gaussians.sh))
    slots = gaussians["object"].numpy()[rows]
    records = np.zeros(len(rows), SPLAT)
    records["uid"] = gaussians["uid"].numpy()[rows]
    records["object_id"], records["class_id"] = view.ids[slots], view.classes[slots]
    records["position"] = gaussians.means.numpy()[rows]
    records["keyframe"] = gaussians["keyframe"].numpy()[rows]
    norm = np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12)
    records["rotation"] = np.round(quats / norm * ROTATION_ONE)
    records["scale"] = np.clip(np.exp(gaussians.log_scales.numpy()[rows]), 1e-7, 6e4)
    records["rgb"] = np.round(np.clip(sh[:, 0] * SH_C0 + 0.5, 0, 1) * 255)
    records["opacity"] = np.round(255 / (1 + np.exp(-np.clip(logits, -30, 30))))
    return records


def pack_splats(records: np.ndarray, removed: np.ndarray) -> bytes:
    """Bytes of splats ``SPLAT`` (M,) and the keys uint64 (R,) of removed ones."""
    return pack_block(MAGIC, records, removed.astype("<u8").tobytes())


def unpack_splats(data: object) -> tuple[np.ndarray, np.ndarray]:
    """Splats (M,) and removed keys (R,); InvalidInputError when the bytes are not what they should be."""
    records, tail = unpack_block(MAGIC, SPLAT, data, "splats")
    if len(tail) % 8:
        raise InvalidInputError(f"packed splats: {len(tail)} bytes of removed keys, expected 8 each")
    return records, np.frombuffer(tail, "<u8")


def map_of_splats(splats: np.ndarray) -> tuple[GaussianMap, np.ndarray]:
    """A map to draw splats ``SPLAT`` (M,) with, and the persistent ids uint64 (S,) of its slots (attribute ``object``).

    Slot 0 is no object. Only base colours are known of splats.
    """
    ids, slots = np.unique(splats["object_id"], return_inverse=True)
    if not len(ids) or ids[0]:
        ids, slots = np.concatenate([np.zeros(1, np.uint64), ids]), slots + 1
    opacity = np.clip(splats["opacity"].astype(np.float32) / 255, 1e-3, 1 - 1e-3)
    values = {
        "means": splats["position"],
        "quats": splats["rotation"].astype(np.float32) / ROTATION_ONE,
        "log_scales": np.log(np.maximum(splats["scale"].astype(np.float32), 1e-7)),
        "opacity_logits": np.log(opacity / (1 - opacity)),
        "sh": ((splats["rgb"].astype(np.float32) / 255 - 0.5) / SH_C0)[:, None],
        "object": slots.astype(np.int32),
    }
    gaussians = GaussianMap()
    gaussians.register("object", (), torch.int32)
    gaussians.add(**{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()})
    return gaussians, ids


def _differ(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Which splats (M,) changed visibly since they were sent."""
    smallest = old["scale"].astype(np.float32).min(1)
    moved = np.abs(new["position"] - old["position"]).max(1) > np.maximum(MOVED_M, MOVED_SCALE * smallest)
    scale = old["scale"].astype(np.float32)
    grown = (np.abs(new["scale"].astype(np.float32) - scale) > GROWN * scale).any(1)
    turned = (np.abs(new["rotation"].astype(np.int32) - old["rotation"]) > TURNED).any(1)
    shade = (np.abs(new["rgb"].astype(np.int16) - old["rgb"]) > SHADE).any(1)
    shade |= np.abs(new["opacity"].astype(np.int16) - old["opacity"]) > SHADE
    named = (new["object_id"] != old["object_id"]) | (new["class_id"] != old["class_id"])
    return moved | grown | turned | shade | named | (new["keyframe"] != old["keyframe"])


class SplatSender:
    """Remembers what was sent of a map, row by row, and makes chunks of what a receiver does not know yet."""

    def __init__(self) -> None:
        self._sequence = 0
        self._map: object = None  # history of the map that the rows below belong to
        self._map_id = ""
        self._revision = 0
        self._uid = np.zeros(0, np.int64)
        self._sent = np.zeros(0, SPLAT)
        self._known = np.zeros(0, bool)  # has the row been sent?
        self._dirty = np.zeros(0, bool)  # may it differ from what was sent?
        self._removed: list[np.ndarray] = []
        self._names: tuple[np.ndarray, np.ndarray] = (np.zeros(0, np.uint64), np.zeros(0, np.uint16))
        self._whole = False  # a complete sending is under way
        self._first = False  # ... and its first chunk has not been made yet

    def restart(self) -> None:
        """Send everything (again), marked by FIRST and LAST."""
        self._known[:] = False
        self._removed.clear()
        self._whole = self._first = True

    @property
    def waiting(self) -> int:
        """Rows that a receiver has not got yet, and removed ones; those that only may have changed do not count."""
        return int((~self._known).sum()) + sum(map(len, self._removed)) + self._first

    def update(self, view: MapView) -> None:
        """Take note of a newer revision of the map."""
        gaussians = view.gaussians
        if gaussians.history is not self._map or gaussians.map_id != self._map_id:
            self._map_id = gaussians.map_id
            self._uid, self._sent = np.zeros(0, np.int64), np.zeros(0, SPLAT)
            self._known, self._dirty = np.zeros(0, bool), np.zeros(0, bool)
            self.restart()
            changed = None
        else:
            changed = gaussians.changed_chunks(self._revision, core=False)
        self._take_rows(gaussians, changed)
        self._take_names(view)
        self._map, self._revision = gaussians.history, gaussians.revision

    def _take_rows(self, gaussians: GaussianMap, changed: np.ndarray | None) -> None:
        count, before = len(gaussians), len(self._uid)
        rows = np.arange(min(count, before))
        if changed is not None:
            rows = (changed[:, None].astype(np.int64) * CHUNK + np.arange(CHUNK)).ravel()
            rows = rows[rows < min(count, before)]
        uid = gaussians["uid"].numpy()
        stays = self._uid[rows] == uid[rows]
        self._dirty[rows[stays]] = True
        # the others changed places, when some were removed, or are new: what was sent of them moves along
        old_rows = np.concatenate([rows[~stays], np.arange(count, before)])
        rows = np.concatenate([rows[~stays], np.arange(before, count)])
        old_rows = old_rows[np.argsort(self._uid[old_rows], kind="stable")]
        old_uid = self._uid[old_rows]
        place = np.minimum(np.searchsorted(old_uid, uid[rows]), max(len(old_uid) - 1, 0))
        found = old_uid[place] == uid[rows] if len(old_uid) else np.zeros(len(rows), bool)
        source = old_rows[place[found]]
        sent, known = self._sent[source], self._known[source]
        gone = np.setdiff1d(old_uid[self._known[old_rows]], uid[rows])
        if len(gone):
            self._removed.append(gone)
        if count != before:
            self._uid, self._sent = _resized(self._uid, count), _resized(self._sent, count)
            self._known, self._dirty = _resized(self._known, count), _resized(self._dirty, count)
        self._uid[rows], self._known[rows], self._dirty[rows] = uid[rows], False, True
        self._sent[rows[found]], self._known[rows[found]] = sent, known

    def _take_names(self, view: MapView) -> None:
        """Rows of objects that were published, hidden or renamed are sent again."""
        ids, classes = self._names
        size = max(len(ids), len(view.ids))
        old, new = [_resized(a, size) for a in (ids, classes)], [_resized(a, size) for a in (view.ids, view.classes)]
        renamed = (old[0] != new[0]) | (old[1] != new[1])
        if renamed.any():
            self._dirty |= renamed[view.gaussians["object"].numpy()]
            self._names = (view.ids.copy(), view.classes.copy())

    def take(self, view: MapView, limit_bytes: int) -> Chunk | None:
        """The next chunk of at most so many bytes; None when there is nothing to send. ``view`` as last given to ``update``."""
        room = limit_bytes - HEADER.size
        if room < SPLAT.itemsize:
            return None
        removed = np.concatenate(self._removed) if self._removed else np.zeros(0, np.int64)
        removed, later = removed[: room // 8], removed[room // 8 :]
        limit = (room - 8 * len(removed)) // SPLAT.itemsize
        unknown = np.flatnonzero(~self._known)
        rows = unknown[-limit:] if limit else unknown[:0]  # the newest first
        if len(rows) < limit:
            rows = np.concatenate([rows, self._changed(view, limit - len(rows))])
        if not (len(rows) or len(removed) or self._first):
            return None
        self._removed = [later] if len(later) else []
        records = make_splats(view, rows)
        self._sent[rows], self._known[rows], self._dirty[rows] = records, True, False
        flags = FIRST * self._first
        if self._whole and len(unknown) <= limit and not len(later):
            flags |= LAST
            self._whole = False
        self._first = False
        self._sequence = (self._sequence + 1) % (1 << 32)
        return Chunk(
            self._sequence, flags, view.revision, self._map_id, len(rows), len(removed), pack_splats(records, removed)
        )

    def _changed(self, view: MapView, limit: int) -> np.ndarray:
        """Known rows, at most ``limit``, that differ visibly from what was sent."""
        rows = np.flatnonzero(self._dirty & self._known)[: min(EXAMINED * limit, MOST_EXAMINED)]
        differ = _differ(make_splats(view, rows), self._sent[rows])
        self._dirty[rows[~differ]] = False
        return rows[differ][:limit]


class SplatCopy:
    """A copy of a map from its stream. A chunk costs as much as it has splats, however large the map is."""

    def __init__(self) -> None:
        self.map_id = ""
        self.revision = 0
        self.complete = False  # has a whole map been received, and every chunk since?
        self._sequence = -1
        self._whole = False  # between FIRST and LAST
        self._clear()

    def _clear(self) -> None:
        self._rows = np.zeros(0, SPLAT)  # with room for more
        self._alive = np.zeros(0, bool)
        self._fresh = np.zeros(0, bool)  # sent since FIRST
        self._end = 0  # rows in use
        self._indexed = 0  # rows that the large index knows; the small one knows the others
        self._large = self._small = (np.zeros(0, np.uint64), np.zeros(0, np.int64))  # sorted keys, their rows
        self._sorted: np.ndarray | None = np.zeros(0, SPLAT)

    def __len__(self) -> int:
        return int(self._alive[: self._end].sum())

    @property
    def splats(self) -> np.ndarray:
        """``SPLAT`` (N,), sorted by ``uid``; never changed afterwards."""
        if self._sorted is None:
            rows = np.flatnonzero(self._alive[: self._end])
            rows = rows[np.argsort(self._rows["uid"][rows], kind="stable")]
            self._sorted = self._rows[rows]
        return self._sorted

    def apply(self, chunk: Chunk) -> bool:
        """Take over one chunk. False when chunks before it are missing: then ask for the whole map.

        InvalidInputError, and nothing changed, for bytes that cannot be read.
        """
        records, removed = unpack_splats(chunk.data)
        gap = self._sequence >= 0 and chunk.sequence != (self._sequence + 1) % (1 << 32)
        self._sequence = chunk.sequence
        if chunk.map_id != self.map_id:
            self._clear()
            self.map_id = chunk.map_id
            self.complete = self._whole = False
        if chunk.flags & FIRST:
            self._whole = True
            self._fresh[:] = False
        elif gap:
            self.complete = self._whole = False
        self._put(records)
        self._remove(self._find(removed))
        if chunk.flags & LAST and self._whole:
            self._remove(np.flatnonzero(~self._fresh[: self._end]))
            self.complete, self._whole = True, False
        self.revision = chunk.revision
        return self.complete or self._whole

    def _put(self, records: np.ndarray) -> None:
        if not len(records):
            return
        self._sorted = None
        rows = self._find(records["uid"])
        new = np.flatnonzero(rows < 0)
        rows[new] = self._end + np.arange(len(new))
        end = self._end + len(new)
        if end > len(self._rows):
            room = max(2 * len(self._rows), end)
            self._rows, self._alive, self._fresh = (
                _resized(array, room) for array in (self._rows, self._alive, self._fresh)
            )
        self._end = end
        self._rows[rows], self._alive[rows], self._fresh[rows] = records, True, True
        if len(new):
            self._index()

    def _remove(self, rows: np.ndarray) -> None:
        rows = rows[rows >= 0]
        if not self._alive[rows].any():
            return
        self._sorted = None
        self._alive[rows] = False
        if 2 * len(self) < self._end and self._end > SMALL_INDEX:
            kept = np.flatnonzero(self._alive[: self._end])
            rest, fresh = self._rows[kept], self._fresh[kept]
            self._clear()
            self._rows, self._fresh, self._alive = rest, fresh, np.ones(len(rest), bool)
            self._end, self._sorted = len(rest), None
            self._index()

    def _index(self) -> None:
        """Note where the newest rows are. Only now and then are all keys sorted."""
        if self._end - self._indexed > max(SMALL_INDEX, self._indexed // 8):
            self._indexed = self._end
            self._large = self._index_of(0, self._end)
        self._small = self._index_of(self._indexed, self._end)

    def _index_of(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        keys = self._rows["uid"][begin:end]
        order = np.argsort(keys, kind="stable")
        return keys[order], begin + order

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """Rows int64 of keys, -1 for those that are not there; a removed splat keeps its row in case that it comes back."""
        found = np.full(len(keys), -1, np.int64)
        for known, rows in (self._large, self._small):
            if len(known):
                place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
                hit = known[place] == keys
                found[hit] = rows[place[hit]]
        return found


def _resized(array: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros(count, array.dtype)
    kept = min(count, len(array))
    out[:kept] = array[:kept]
    return out
