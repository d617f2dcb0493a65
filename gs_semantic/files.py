"""Writing files so that nobody ever meets half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gs_semantic.errors import StorageError


def reason(error: BaseException) -> str:
    """Text of an error without the path that the caller names itself."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file for writing that takes the place of ``path`` when the block ends well, and vanishes otherwise.

    The file lies beside ``path`` while it is written. StorageError names ``path`` when the disk refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it where they are missing; StorageError names it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: the folder cannot be made: {reason(error)}") from error


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
