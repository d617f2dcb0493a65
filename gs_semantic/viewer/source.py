"""Where a viewer's map comes from: snapshots of Gaussians and objects, and what may be done to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gs_semantic.errors import ConflictError, InvalidRequestError
from gs_semantic.gaussians.map_folder import load_map, save_map, stamp_of
from gs_semantic.mapping.edits import Editor
from gs_semantic.mapping.offline import MapOffline
from gs_semantic.mapping.view import MapView, pack_registry
from gs_semantic.objects.packing import ObjectView, unpack_objects
from gs_semantic.objects.registry import ObjectState
from gs_semantic.objects.splats import SPLAT, make_splats

TRIES = 3  # at a folder that others write, too


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One revision of a map. splats: records ``SPLAT`` (N,), never changed; objects: those of them that are shown, by id.
    ``name`` tells people where it comes from. confidence: uint8 (N,), how sure it is which object each splat is of, where that
    is known."""

    name: str = ""
    revision: int = 0
    frame_id: str = ""
    splats: np.ndarray = field(default_factory=lambda: np.zeros(0, SPLAT))
    objects: Mapping[int, ObjectView] = field(default_factory=dict)
    confidence: np.ndarray | None = None


class MapSource(Protocol):
    """What a viewer asks. ``rename`` comes from a thread of its own and may take its time, the rest from another and may not.
    Errors are GsSemanticErrors, whose text is shown."""

    title: str

    def newest(self) -> Snapshot:
        """The map as it is now. The same object as before while nothing has changed."""
        ...

    def earlier(self) -> Sequence[Snapshot]:
        """Revisions from before the viewer was started, oldest first."""
        ...

    def rename(self, object_id: int, name: str) -> None:
        """Give an object a name; empty: its class name counts again."""
        ...

    def select(self, object_id: int) -> None:
        """Tell others which object is looked at, 0: none."""
        ...

    def close(self) -> None: ...


class FolderSource:
    """Saved map folders: the last one is shown first, the others are earlier revisions of it. A new name is written at
    once into the folder that is shown first."""

    def __init__(self, *folders: str | Path) -> None:
        if not folders:
            raise InvalidRequestError("no map folder is given")
        self._folder = Path(folders[-1]).absolute()
        self._earlier = [_snapshot(MapOffline.open(folder), str(folder)) for folder in folders[:-1]]
        self.title = self._folder.name
        self._open()

    def _open(self) -> None:
        self._stamp = stamp_of(self._folder)
        self._map = MapOffline.open(self._folder)
        self._editor = Editor(self._map.mapper)
        self._newest = _snapshot(self._map, self.title)

    def newest(self) -> Snapshot:
        return self._newest

    def earlier(self) -> Sequence[Snapshot]:
        return self._earlier

    def rename(self, object_id: int, name: str) -> None:
        """As in ``MapSource``. What was saved there meanwhile is read first; another map is not written over."""
        for _ in range(TRIES):
            if stamp_of(self._folder) != self._stamp:
                self._open_again()
            self._editor.rename(object_id, name)
            mapper = self._map.mapper
            try:
                self._stamp = save_map(self._folder, mapper.gaussians, mapper.objects, replaces=self._stamp)
            except ConflictError:
                self._editor.undo()
                continue
            except Exception:
                self._editor.undo()
                raise
            self._newest = _snapshot(self._map, self.title)
            return
        raise ConflictError(f"{self._folder}: is saved again and again; the name was not written, try again later")

    def _open_again(self) -> None:
        map_id, there = self._map.mapper.gaussians.map_id, load_map(self._folder)[0].map_id
        if there != map_id:
            raise ConflictError(
                f"{self._folder}: another map ({there}) was saved there meanwhile; the name was not written, open the viewer again"
            )
        self._open()

    def select(self, object_id: int) -> None:
        """Nobody else looks."""

    def close(self) -> None:
        """Nothing is open."""


def _snapshot(shown: MapOffline, name: str) -> Snapshot:
    mapper = shown.mapper
    view = MapView.of(mapper.gaussians, mapper.objects, 0, pack_registry(mapper.objects))
    splats = make_splats(view, np.arange(len(mapper.gaussians)))
    objects = by_id(unpack_objects(view.objects.to_bytes()))
    votes = mapper.gaussians["vote_weight"].numpy()
    # the leader's share, with one vote of doubt: a few votes that agree are not yet certainty
    confidence = np.round(255 * votes.max(1) / (votes.sum(1) + 1)).astype(np.uint8)
    return Snapshot(name, mapper.gaussians.revision, mapper.gaussians.frame_id, splats, objects, confidence)


def by_id(objects: Sequence[ObjectView]) -> dict[int, ObjectView]:
    """Confirmed and stale objects by id."""
    return {obj.id: obj for obj in objects if obj.state in (ObjectState.CONFIRMED, ObjectState.STALE)}
