"""Writing many rooms (``rooms.py``) as recorded sequences: in parallel, and going on where an earlier run stopped.

FOLDER/rooms.json                    what all rooms have in common
FOLDER/<split>/room_<seed>/views     the walk that maps the room
FOLDER/<split>/room_<seed>/novel     views between those, for training and scores
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from gs_semantic.data.folder_writer import write_folder
from gs_semantic.data.noise import CameraLook, Filters, SensorNoise
from gs_semantic.data.procedural import ProceduralSequence
from gs_semantic.data.rooms import SPLITS, TEST_SEEDS, VALIDATION_SEEDS, Room
from gs_semantic.data.sequence import FrameFilter, read_json
from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.files import atomic_write, make_folder

SCHEMA = 1
INDEX, VIEWS, NOVEL = "rooms.json", "views", "novel"


@dataclass(frozen=True)
class RoomFormat:
    """What the rooms of a folder have in common. views, novel: frames of each. look, depth_noise: does the camera change
    colours (``CameraLook``); has depth noise and holes (``SensorNoise``, poses stay exact)?"""

    width: int = 160
    height: int = 120
    views: int = 40
    novel: int = 10
    look: bool = True
    depth_noise: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 8 or self.views < 2 or self.novel < 1:
            raise InvalidRequestError(
                f"rooms of {self.views} + {self.novel} views of {self.width}x{self.height}: expected 2 views or more, "
                "1 novel view or more, and 8 pixels or more each way"
            )


def room_folder(folder: Path, split: str, seed: int) -> Path:
    return folder / split / f"room_{seed:06d}"


def seeds_of(split: str, count: int, train_from: int = 0) -> list[int]:
    """Seeds of the first ``count`` rooms of a split, of train from a seed on; those of test and validation begin with the
    published lists."""
    if split not in SPLITS:
        raise InvalidRequestError(f"split '{split}': expected one of {', '.join(SPLITS)}")
    first = {"train": (train_from,), "validation": VALIDATION_SEEDS, "test": TEST_SEEDS}[split][0]
    return list(range(first, first + count))


def list_rooms(folder: str | Path, split: str) -> list[Path]:
    """The finished rooms of a split, by seed. InvalidInputError: there is none."""
    folder = Path(folder)
    found = sorted(
        room for room in (folder / split).glob("room_*") if (room / VIEWS).is_dir() and (room / NOVEL).is_dir()
    )
    if not found:
        raise InvalidInputError(f"{folder / split}: has no rooms; make some: gs-semantic data make-rooms {folder}")
    return found


def room_width(folder: str | Path) -> int:
    """Width of the images of a folder of rooms, px."""
    return int(read_json(Path(folder) / INDEX)["width"])


def write_room(folder: Path, split: str, seed: int, form: RoomFormat) -> None:
    """Write what is missing of a room."""
    room = Room.make(seed, split)
    target = room_folder(folder, split, seed)
    make_folder(target)
    size = (form.width, form.height)
    for part, (name, count, phase) in enumerate(((VIEWS, form.views, 0.0), (NOVEL, form.novel, 0.5))):
        if (target / name).is_dir():
            continue
        key = (seed * len(SPLITS) + SPLITS.index(split)) * 2 + part
        changes: list[FrameFilter] = [CameraLook(seed=key)] if form.look else []
        if form.depth_noise:
            changes.append(SensorNoise(pose_m=0.0, pose_deg=0.0, seed=key))
        cameras = room.cameras(count, size, phase)
        write_folder(ProceduralSequence(room, cameras, noise=Filters(changes)), target / name)


def write_rooms(
    folder: str | Path,
    rooms: Iterable[tuple[str, int]],
    form: RoomFormat,
    jobs: int = 1,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Write rooms, given as (split, seed), each whole or not at all; rooms that are there already are left.

    jobs: processes. InvalidInputError: the folder holds rooms of another form.
    """
    folder = Path(folder)
    _claim(folder, form)
    wanted = list(rooms)
    if jobs < 1:
        raise InvalidRequestError(f"{jobs} processes: expected 1 or more")
    if jobs == 1 or len(wanted) < 2:
        for split, seed in wanted:
            write_room(folder, split, seed, form)
            progress()
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(write_room, folder, split, seed, form) for split, seed in wanted]
        try:
            for done in as_completed(waiting):
                done.result()
                progress()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _claim(folder: Path, form: RoomFormat) -> None:
    path, content = folder / INDEX, {"schema": SCHEMA, **asdict(form)}
    make_folder(folder)
    if path.exists():
        known = read_json(path)
        if known != content:
            raise InvalidInputError(
                f"{path}: the folder holds rooms made with {known}, not {content}; choose another name"
            )
        return
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
