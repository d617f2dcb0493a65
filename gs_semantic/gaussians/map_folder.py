"""A map as a folder: standard PLY for viewers, every attribute bit-equal beside it, and what is known of the objects.

    gaussians.ply             the five core attributes, readable by any Gaussian splatting viewer
    attributes.safetensors    all attributes and optimiser state, ``attribute/<name>`` and ``state/<name>/<key>``
    map.json                  schema, map id, frame, anchor, views, revision, objects, labels, counters, sizes and SHA-256 of the files

``SCHEMA`` rises when the meaning of map.json changes; folders of older schemas are read, and brought up to date on the way
(``_UPGRADES``). The folder is written beside its destination and swapped in when it is complete and on the disk, so the old map stays
whole whatever happens on the way.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gs_semantic.errors import ConflictError, GsSemanticError, InvalidInputError, MapFormatError, StorageError
from gs_semantic.files import reason, sync_folder
from gs_semantic.gaussians.camera import Camera
from gs_semantic.gaussians.gaussian_map import CORE, Anchor, AttributeSpec, GaussianMap
from gs_semantic.gaussians.ply import write_ply
from gs_semantic.labels import LabelSet
from gs_semantic.objects.registry import Box, MapObject, ObjectRegistry, ObjectState, Provenance

Stamp = tuple[int, int, int]  # of the index file, which is written anew each time: number, time, size
SCHEMA = 2
MOST_VIEWS = 400
PLY, TENSORS, INDEX = "gaussians.ply", "attributes.safetensors", "map.json"


def save_map(
    path: str | Path,
    gaussians: GaussianMap,
    objects: ObjectRegistry,
    labels: LabelSet | None = None,
    *,
    optimiser_state: bool = True,
    views: Iterable[Camera] | None = None,
    replaces: Stamp | None = None,
) -> Stamp:
    """Write a map folder, in place of an older one at ``path``; ``labels`` defaults to those of the registry.

    views: from where the map was seen, default those of earlier runs that it has; of many, ``MOST_VIEWS`` evenly.
    replaces: the stamp of what is to be replaced; ConflictError, and nothing written, when something else was saved there since.
    Returns the stamp of what was written.

    The arguments must not change meanwhile (give a snapshot when mapping goes on). StorageError names the path: no
    space, no permission, or something at ``path`` that is not a map and is therefore not replaced.
    """
    path = Path(path).absolute()
    _check_destination(path)
    temporary = path.with_name(f".{path.name}.saving")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # left by a save that was killed
        temporary.mkdir()
        chosen = gaussians.views if views is None else tuple(views)
        _write_content(temporary, gaussians, objects, labels or objects.labels, optimiser_state, chosen)
        sync_folder(temporary)
        written = stamp_of(temporary)
        if replaces is not None and stamp_of(path) != replaces:
            raise ConflictError(f"{path}: was saved by somebody else meanwhile and is not written over; load it again")
        _swap_in(temporary, path)
        sync_folder(path.parent)
        return written
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path}: the map was not saved: {reason(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # the unfinished new map, or the old one after the swap


def stamp_of(path: str | Path) -> Stamp:
    """Tells one saved state of a map folder from any other; zeros when there is none."""
    try:
        found = (Path(path) / INDEX).stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def load_map(path: str | Path) -> tuple[GaussianMap, ObjectRegistry]:
    """Read a map folder; attributes, optimiser state and counters are those that were saved, bit by bit.

    Objects come back with provenance RESTORED (operator's ones keep theirs). Raises MapFormatError naming the file that
    is missing, damaged or of another schema, StorageError when it cannot be read.
    """
    path = Path(path)
    if not path.exists() and _parked(path).exists():
        path = _parked(path)  # a save was killed between its two renames
    index_path, tensors_path = path / INDEX, path / TENSORS
    index = _read_index(path)
    for name in (PLY, TENSORS):
        _verify(path / name, index["files"].get(name, {}))
    try:
        tensors = load_file(tensors_path)
    except (SafetensorError, OSError) as error:
        raise MapFormatError(f"{tensors_path}: cannot be read: {reason(error)}") from error
    try:
        gaussians = _gaussians(index, tensors, tensors_path)
        objects = _objects(index)
    except GsSemanticError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise MapFormatError(f"{index_path}: does not describe a map: {error!r}") from error
    return gaussians, objects


# --- writing ----------------------------------------------------------------------------------------------------------


def _check_destination(path: Path) -> None:
    if path.is_dir():
        if not (path / INDEX).exists() and any(path.iterdir()):
            raise StorageError(f"{path}: is a folder with other things in it, not a map; choose another name")
    elif path.exists():
        raise StorageError(f"{path}: is a file, a map is a folder; choose another name")


def _write_content(
    folder: Path,
    gaussians: GaussianMap,
    objects: ObjectRegistry,
    labels: LabelSet,
    optimiser_state: bool,
    views: Sequence[Camera],
) -> None:
    tensors = {f"attribute/{name}": gaussians[name].detach().cpu().contiguous() for name in gaussians}
    states = gaussians.state_keys if optimiser_state else []
    for name, key in states:
        tensors[f"state/{name}/{key}"] = gaussians.state(name, key).detach().cpu().contiguous()
    with (folder / PLY).open("wb") as ply:
        write_ply(ply, gaussians)
    save_file(tensors, folder / TENSORS)
    index = {
        "schema": SCHEMA,
        "map_id": gaussians.map_id,
        "frame_id": gaussians.frame_id,
        "anchor": None if gaussians.anchor is None else _anchor_record(gaussians.anchor),
        "views": [_view_record(camera) for camera in views[:: -(-len(views) // MOST_VIEWS) or 1]],
        "revision": gaussians.revision,
        "sh_degree": gaussians.sh_degree,
        "gaussians": len(gaussians),
        "next_uid": gaussians.next_uid,
        "attributes": {name: _spec_record(gaussians.specs[name]) for name in gaussians},
        "state": [
            {"attribute": name, "key": key, **_spec_record(gaussians.state_specs[(name, key)])} for name, key in states
        ],
        "labels": {str(key): name for key, name in labels.names.items()},
        "objects": [_object_record(obj) for obj in objects],
        "heirs": {str(lost): kept for lost, kept in objects.heirs.items()},
        "embedding_model": objects.embedding_model,
        "next_object_id": objects.next_id,
        "next_slot": objects.slots,
        "files": {name: _file_record(folder / name) for name in (PLY, TENSORS)},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    for name in (PLY, TENSORS, INDEX):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def _spec_record(spec: AttributeSpec) -> dict[str, Any]:
    return {"shape": list(spec.shape), "dtype": str(spec.dtype).removeprefix("torch."), "fill": spec.fill}


def _file_record(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _object_record(obj: MapObject) -> dict[str, Any]:
    box = obj.box
    return {
        "id": obj.id,
        "slot": obj.slot,
        "state": obj.state.name,
        "provenance": obj.provenance.name,
        "class_scores": {str(key): score for key, score in obj.class_scores.items()},
        "name": obj.name,
        "observations": obj.observations,
        "first_seen_ns": obj.first_seen_ns,
        "last_seen_ns": obj.last_seen_ns,
        "revision": obj.revision,
        "locked": obj.locked,
        "parent": obj.parent,
        "moved": obj.moved,
        "edited": obj.edited,
        "most_gaussians": obj.most_gaussians,
        "embedding": None if obj.embedding is None else _list(obj.embedding),
        "embedding_weight": obj.embedding_weight,
        "num_gaussians": obj.num_gaussians,
        "box": None
        if box is None
        else {"centre": _list(box.centre), "size": _list(box.size), "rotation": _list(box.rotation)},
        "centroid": None if obj.centroid is None else _list(obj.centroid),
        "covariance": None if obj.covariance is None else _list(obj.covariance),
    }


def _anchor_record(anchor: Anchor) -> dict[str, Any]:
    return {"localization_map": anchor.localization_map, "frame": anchor.frame, "T_map_frame": _list(anchor.T_map_frame)}


def _view_record(camera: Camera) -> dict[str, Any]:
    intrinsics = {name: getattr(camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}
    return {**intrinsics, "T_map_camera": _list(camera.T_world_camera)}


def _list(values: np.ndarray) -> list[Any]:
    return np.asarray(values, dtype=np.float64).tolist()


def _swap_in(temporary: Path, path: Path) -> None:
    """Put the new folder in the place of the old one; afterwards ``temporary`` holds the old one, if there was one."""
    if not path.exists():
        temporary.rename(path)
        return
    if _exchange(temporary, path):
        return
    # A file system that cannot exchange: for a moment only the parked copy is there, under a name that load_map knows.
    parked = _parked(path)
    shutil.rmtree(parked, ignore_errors=True)
    path.rename(parked)
    try:
        temporary.rename(path)
    except OSError:
        parked.rename(path)
        raise
    shutil.rmtree(parked, ignore_errors=True)


def _parked(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one atomic step (Linux); False where the system or the file system cannot."""
    at_cwd, rename_exchange = -100, 2
    renameat2: Callable[..., int] | None = getattr(ctypes.CDLL(None), "renameat2", None)
    return (
        renameat2 is not None
        and renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), ctypes.c_uint(rename_exchange)) == 0
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_index(path: Path) -> dict[str, Any]:
    index_path = path / INDEX
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise MapFormatError(f"{index_path}: no such file; '{path}' is not a map folder") from None
    except OSError as error:
        raise StorageError(f"{index_path}: cannot be read: {reason(error)}") from error
    except ValueError as error:  # also what is not UTF-8
        raise MapFormatError(f"{index_path}: is not JSON: {error}") from error
    schema = index.get("schema") if isinstance(index, dict) else None
    if schema not in (SCHEMA, *_UPGRADES):
        raise MapFormatError(f"{index_path}: schema is {schema!r}, this version reads schemas up to {SCHEMA}")
    if not isinstance(index.get("files"), dict):
        raise MapFormatError(f"{index_path}: field 'files' is missing")
    try:
        while index["schema"] != SCHEMA:
            _UPGRADES[index["schema"]](index)
    except (KeyError, TypeError, AttributeError) as error:
        raise MapFormatError(f"{index_path}: does not describe a map: {error!r}") from error
    return index


def _upgrade_1(index: dict[str, Any]) -> None:
    """Schema 2 knows how objects came about and where the map is anchored."""
    index |= {"schema": 2, "anchor": None, "heirs": {}, "embedding_model": ""}
    for record in index["objects"]:
        record |= {"parent": 0, "moved": 0, "edited": 0, "most_gaussians": record["num_gaussians"]}
        record |= {"embedding": None, "embedding_weight": 0.0}


_UPGRADES: dict[int, Callable[[dict[str, Any]], None]] = {1: _upgrade_1}


def _verify(path: Path, expected: dict[str, Any]) -> None:
    try:
        found = _file_record(path)
    except FileNotFoundError:
        raise MapFormatError(f"{path}: the file is missing from the map folder") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {reason(error)}") from error
    for key, what in (("bytes", "size"), ("sha256", "checksum")):
        if found[key] != expected.get(key):
            raise MapFormatError(f"{path}: damaged: {what} is {found[key]}, {INDEX} says {expected.get(key)}")


def _gaussians(index: dict[str, Any], tensors: dict[str, torch.Tensor], path: Path) -> GaussianMap:
    gaussians = GaussianMap(int(index["sh_degree"]), index["map_id"], index["frame_id"])
    count = int(index["gaussians"])

    def rows(name: str, record: dict[str, Any]) -> torch.Tensor:
        expected = (count, *record["shape"])
        if name not in tensors:
            raise MapFormatError(f"{path}: tensor '{name}' is missing")
        if tuple(tensors[name].shape) != expected or tensors[name].dtype != getattr(torch, record["dtype"]):
            raise MapFormatError(
                f"{path}: tensor '{name}' is {tensors[name].dtype} {tuple(tensors[name].shape)}, "
                f"{INDEX} says {record['dtype']} {expected}"
            )
        return tensors[name]

    attributes = index["attributes"]
    missing = [name for name in (*CORE, "uid", "keyframe") if name not in attributes]
    if missing:
        raise MapFormatError(f"{path.with_name(INDEX)}: attributes {missing} are missing")
    values = {}
    for name, record in attributes.items():
        values[name] = rows(f"attribute/{name}", record)
        gaussians.register(name, tuple(record["shape"]), getattr(torch, record["dtype"]), record["fill"])
    gaussians.add(**values)
    for record in index["state"]:
        name, key = record["attribute"], record["key"]
        gaussians.register_state(name, key, tuple(record["shape"]), record["fill"])
        gaussians.state(name, key).copy_(rows(f"state/{name}/{key}", record))
    gaussians.continue_from(int(index["next_uid"]), int(index["revision"]))
    gaussians.views = tuple(map(_view, index.get("views", ())))  # older maps have none
    if index["anchor"] is not None:
        anchor = index["anchor"]
        pose = np.array(anchor["T_map_frame"], dtype=np.float64)
        if pose.shape != (4, 4):
            raise ValueError("anchor: T_map_frame has the wrong shape")
        gaussians.anchor = Anchor(str(anchor["localization_map"]), str(anchor["frame"]), pose)
    return gaussians


def _view(record: dict[str, Any]) -> Camera:
    fx, fy, cx, cy = (float(record[name]) for name in ("fx", "fy", "cx", "cy"))
    pose = np.array(record["T_map_camera"], dtype=np.float64)
    try:
        return Camera(int(record["width"]), int(record["height"]), fx, fy, cx, cy, pose)
    except InvalidInputError as error:
        raise ValueError(f"views: {error}") from error


def _objects(index: dict[str, Any]) -> ObjectRegistry:
    objects = ObjectRegistry(LabelSet({int(key): str(name) for key, name in index["labels"].items()}))
    for record in index["objects"]:
        obj = objects.open(object_id=int(record["id"]), slot=int(record["slot"]))
        obj.state = ObjectState[record["state"]]
        saved = Provenance[record["provenance"]]
        obj.provenance = Provenance.RESTORED if saved is Provenance.PERCEIVED else saved
        obj.class_scores = {int(key): float(score) for key, score in record["class_scores"].items()}
        obj.name, obj.locked = str(record["name"]), bool(record["locked"])
        obj.observations, obj.num_gaussians = int(record["observations"]), int(record["num_gaussians"])
        obj.first_seen_ns, obj.last_seen_ns = int(record["first_seen_ns"]), int(record["last_seen_ns"])
        obj.revision = int(record["revision"])
        obj.parent, obj.moved, obj.edited = (int(record[name]) for name in ("parent", "moved", "edited"))
        obj.most_gaussians, obj.embedding_weight = int(record["most_gaussians"]), float(record["embedding_weight"])
        obj.embedding = None if record["embedding"] is None else np.array(record["embedding"], dtype=np.float32)
        if record["box"] is not None:
            box = {key: np.array(record["box"][key], dtype=np.float64) for key in ("centre", "size", "rotation")}
            if [box[key].shape for key in box] != [(3,), (3,), (3, 3)]:
                raise ValueError(f"object {obj.id}: box has the wrong shape")
            obj.box = Box(**box)
        obj.centroid = None if record["centroid"] is None else np.array(record["centroid"], dtype=np.float64)
        obj.covariance = None if record["covariance"] is None else np.array(record["covariance"], dtype=np.float64)
    objects.heirs = {int(lost): int(kept) for lost, kept in index["heirs"].items()}
    objects.embedding_model = str(index["embedding_model"])
    objects.continue_from(int(index["next_object_id"]), int(index["next_slot"]))
    if len(objects) != len(index["objects"]):
        raise ValueError("two objects have the same slot")
    return objects
