"""The scenes that are learned from: views with class images, further views between those, and a map of Gaussians."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gs_semantic.data.formats import open_sequence
from gs_semantic.data.room_writer import NOVEL, VIEWS
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Camera, Frame, GaussianMap
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.offline import MapOffline, map_sequence, mapper_config
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.segmentation.generalization.classes import ClassMap

MAP = "map"
HOLD_OUT_EVERY = 8  # of a sequence without novel views
MAP_PARAMS = ("steps_per_keyframe=10",)


@dataclass(frozen=True)
class SceneView:
    """One posed image. rgb uint8 (H,W,3); depth float32 (H,W) metres, 0 = none, or None; classes int16 (H,W) of the
    learner's label set, 0 = void, or None without labels."""

    name: str
    camera: Camera
    rgb: np.ndarray
    depth: np.ndarray | None = None
    classes: np.ndarray | None = None

    @classmethod
    def of(cls, frame: Frame, name: str = "view", classes: np.ndarray | None = None) -> SceneView:
        depth = None if frame.depth is None else np.where(np.isfinite(frame.depth), frame.depth, 0).astype(np.float32)
        return cls(name, frame.camera, frame.rgb, depth, classes)

    def colour(self) -> torch.Tensor:
        """float32 (3,H,W), 0..1."""
        return torch.from_numpy(np.ascontiguousarray(self.rgb.transpose(2, 0, 1))).float() / 255


class LearningScene:
    """Views to look from and novel ones to predict, read once and kept; ``gaussians`` is the map of the views.

    ``folder``: a room (views/ and novel/), or a recorded sequence of any format, whose every eighth view is novel.
    labels: those of the learner; classes of the recording are translated by name (``ClassMap``). max_width: wider images
    are scaled down (0: none). The map is made by the mapper from the views alone, and kept in ``map_folder`` (default:
    beside the views; None keeps none). InvalidInputError names what is missing.
    """

    def __init__(
        self,
        folder: str | Path,
        labels: LabelSet,
        *,
        max_width: int = 0,
        map_folder: Path | None | str = "beside",
        mapping: Callable[[int], object] = lambda index: None,
    ) -> None:
        """mapping: called with the number of every frame that is mapped; what it raises ends that."""
        self.folder, self.labels = Path(folder), labels
        self.name = self.folder.name
        room = (self.folder / VIEWS).is_dir()
        self._sequence = open_sequence(self.folder / VIEWS if room else self.folder, max_width=max_width)
        self.class_map = ClassMap.between(self._sequence.labels, labels, str(self._sequence.folder))
        every = range(len(self._sequence))
        if room and (self.folder / NOVEL).is_dir():
            novel = open_sequence(self.folder / NOVEL, max_width=max_width)
            self._indices, held = list(every), [(novel, index) for index in range(len(novel))]
        else:
            held_out = list(self._sequence.test_indices) or [
                i for i in every if i % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
            ]
            self._indices = [index for index in every if index not in set(held_out)]
            held = [(self._sequence, index) for index in held_out]
        self._held, self._mapping = held, mapping
        if len(self._indices) < 2:
            raise InvalidInputError(f"{self.folder}: {len(self._indices)} view to look from; at least 2 are needed")
        self._map_folder = (self.folder / MAP if room else None) if map_folder == "beside" else map_folder
        self._views: list[SceneView] | None = None
        self._novel: list[SceneView] | None = None
        self._gaussians: GaussianMap | None = None

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def views(self) -> list[SceneView]:
        if self._views is None:
            self._views = [self._read(self._sequence, index) for index in self._indices]
        return self._views

    @property
    def novel(self) -> list[SceneView]:
        """Views that the map was not made of."""
        if self._novel is None:
            self._novel = [self._read(sequence, index) for sequence, index in self._held]
        return self._novel

    @property
    def labelled(self) -> bool:
        return self._sequence.has_semantic or self._sequence.has_instances

    @property
    def gaussians(self) -> GaussianMap:
        """The map, read or made when it is first asked for."""
        if self._gaussians is None:
            folder = Path(self._map_folder) if self._map_folder is not None else None
            if folder is not None and folder.is_dir():
                self._gaussians = load_map(folder)[0]
            else:
                self._gaussians = make_map(self._sequence, self._indices, folder, progress=self._mapping)
        return self._gaussians

    def forget(self) -> None:
        """Give the memory of images and map back; they are read again when asked for."""
        self._views = self._novel = self._gaussians = None

    def _read(self, sequence: FrameSequence, index: int) -> SceneView:
        frame, classes = sequence[index], sequence.semantic(index)
        if classes is None and frame.instances is not None:
            classes = np.zeros(frame.instances.shape, np.int32)
            for key, info in frame.masks.items():
                classes[frame.instances == key] = info.class_id
        translated = None if classes is None else self.class_map(classes)
        return SceneView.of(frame, f"{sequence.folder} frame {index}", translated)


def make_map(
    sequence: FrameSequence,
    indices: Sequence[int],
    folder: Path | None,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda index: None,
) -> GaussianMap:
    """The mapper's map of some frames, without masks; kept in ``folder``, if there is one. threads: None: all."""
    config = mapper_config(MAP_PARAMS)
    shown = MapOffline(Mapper(config, CpuRasterizer(config.raster_settings, threads), labels=sequence.labels))
    map_sequence(shown, sequence, indices, None, progress)
    if folder is not None:
        save_map(folder, shown.mapper.gaussians, shown.mapper.objects, sequence.labels, optimiser_state=False)
    return shown.mapper.gaussians


def make_maps(rooms: Sequence[Path], jobs: int = 1, progress: Callable[[], object] = lambda: None) -> None:
    """The maps of rooms, kept beside their views; those that are there already are left. jobs: processes."""
    if jobs == 1:
        for room in rooms:
            _map_room(room, None)
            progress()
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(_map_room, rooms, itertools.repeat(1)):
            progress()


def _map_room(room: Path, threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    if not (room / MAP).is_dir():
        views = open_sequence(room / VIEWS)
        make_map(views, range(len(views)), room / MAP, threads)


def open_scenes(
    folders: Sequence[Path], labels: LabelSet, max_width: int = 0, progress: Callable[[], object] = lambda: None
) -> list[LearningScene]:
    """Scenes by folder; InvalidInputError for one without labels."""
    scenes = []
    for folder in folders:
        scene = LearningScene(folder, labels, max_width=max_width)
        if not scene.labelled:
            raise InvalidInputError(f"{folder}: has no labels (semantic/ or instance/); learning needs them")
        scenes.append(scene)
        progress()
    return scenes
