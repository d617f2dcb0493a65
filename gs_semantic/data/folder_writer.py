"""Writing a sequence as a folder of images in our own format (gs_semantic.data.sequence)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidInputError, StorageError
from gs_semantic.files import make_folder, reason, sync_folder
from gs_semantic.gaussians import Camera, Frame

JPEG_QUALITY = 95
DEPTH_UNIT_M = 0.001


def write_folder(
    sequence: FrameSequence,
    path: str | Path,
    indices: Iterable[int] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Write frames; the folder appears under its name when it is complete.

    StorageError names the folder: it is there already, or the disk refuses. InvalidInputError when the frames have
    several cameras, which the format cannot hold.
    """
    path = Path(path).absolute()
    if path.exists():
        raise StorageError(f"{path}: is there already; choose another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make_folder(temporary)
        poses: list[np.ndarray] = []
        camera: Camera | None = None
        for number, index in enumerate(range(len(sequence)) if indices is None else indices):
            frame = sequence[index]
            camera = camera or frame.camera
            if _intrinsics(frame.camera) != _intrinsics(camera):
                raise InvalidInputError(
                    f"{sequence.folder}: frame {index} has another camera than the first one; a folder holds one camera"
                )
            poses.append(frame.camera.T_world_camera)
            _write_images(temporary, number, frame, sequence.semantic(index))
            progress()
        if camera is None:
            raise InvalidInputError(f"{sequence.folder}: no frame is left to be written")
        lines = (" ".join(repr(float(value)) for value in pose.ravel()) for pose in poses)
        (temporary / "traj.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _write_json(temporary / "intrinsics.json", {**_intrinsics(camera), "depth_scale_to_m": DEPTH_UNIT_M})
        if sequence.has_instances or sequence.has_semantic:
            _write_json(temporary / "labels.json", _labels(sequence))
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: the sequence was not written: {reason(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _intrinsics(camera: Camera) -> dict[str, float]:
    return {name: getattr(camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}


def _labels(sequence: FrameSequence) -> dict[str, object]:
    return {
        "classes": {str(key): name for key, name in sequence.labels.names.items()},
        "instances": [
            {"id": key, "name": record.name, "class_id": record.class_id, "group": record.group}
            for key, record in sequence.instances.items()
        ],
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_images(folder: Path, number: int, frame: Frame, semantic: np.ndarray | None) -> None:
    images: list[tuple[str, np.ndarray]] = []
    if frame.depth is not None:
        units = np.round(np.where(np.isfinite(frame.depth), frame.depth, 0) / DEPTH_UNIT_M)
        images.append(("depth", np.where(units <= 65535, units, 0).astype(np.uint16)))
    instances = frame.instances
    if instances is not None:
        images.append(("instance", instances.astype(np.uint16)))
        if semantic is None:  # the classes of the masks, which the format keeps per pixel or per recorded object
            semantic = np.zeros_like(instances)
            for key, info in frame.masks.items():
                semantic[instances == key] = info.class_id
    if semantic is not None:
        images.append(("semantic", semantic.astype(np.uint16)))
    for kind, pixels in images:
        (folder / kind).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{number:06d}.png")
    (folder / "rgb").mkdir(exist_ok=True)
    Image.fromarray(frame.rgb).save(folder / "rgb" / f"{number:06d}.jpg", quality=JPEG_QUALITY, subsampling=0)
