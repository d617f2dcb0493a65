"""Training of a map that goes on being mapped: on a copy of it and its keyframes, merged back by the Gaussians' keys.

``take_snapshot`` and ``merge`` are called between two steps of the mapper, the training in between by any thread. What
the mapper did meanwhile stands: Gaussians that it added are kept, those that it removed stay removed, together with
what the training made of them, and objects keep their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from gs_semantic.data.images import resized_nearest
from gs_semantic.errors import EmptyMapError, TrainingError
from gs_semantic.evaluation.boundary import ObjectMaskScore
from gs_semantic.evaluation.contingency import Contingency
from gs_semantic.files import make_folder
from gs_semantic.gaussians import GaussianMap, MaskInfo
from gs_semantic.gaussians.anchors import move_with_keyframes
from gs_semantic.gaussians.gaussian_map import CORE
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.keyframes import Keyframe
from gs_semantic.mapping.lifting import leaders
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.config import TrainingConfig, make_config, write_options
from gs_semantic.segmentation.loop import METRICS, OPTIONS
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.progress import Listener
from gs_semantic.segmentation.registry import method_class
from gs_semantic.segmentation.scene import Scene, View
from gs_semantic.segmentation.trainer import Trainer, TrainingResult

ORIGIN = "origin"  # attribute int64: key of the Gaussian of the live map that a row is, or was split or cloned from
LEAST_KEYFRAMES = 4


@dataclass(frozen=True)
class LiveSnapshot:
    """A live map at one moment. gaussians: a copy; keyframes: theirs is the pose at that moment, their slots are
    up to date. object_ids: persistent id of each slot; infos: class of each slot."""

    gaussians: GaussianMap
    keyframes: list[Keyframe]
    object_ids: dict[int, int]
    infos: dict[int, MaskInfo]
    labels: LabelSet
    max_gaussians: int


@dataclass(frozen=True)
class Merged:
    """What became of a training's Gaussians: trained ones that took their places, new ones, those that the training
    removed, those whose origin the mapper had removed meanwhile; and the Gaussians that changed their object."""

    updated: int
    added: int
    removed: int
    dropped: int
    relabelled: int


def take_snapshot(mapper: Mapper, least: int = LEAST_KEYFRAMES) -> LiveSnapshot:
    """Copy what a training needs. EmptyMapError when there is too little: ``least`` keyframes."""
    keyframes = mapper.keyframes.copies()
    if not len(mapper.gaussians) or len(keyframes) < least:
        raise EmptyMapError(
            f"the live map has {len(mapper.gaussians)} Gaussians and {len(keyframes)} keyframes; keyframes that this "
            f"needs at least: {least}; map first"
        )
    return LiveSnapshot(
        mapper.gaussians.snapshot(),
        keyframes,
        {obj.slot: obj.id for obj in mapper.objects},
        {obj.slot: MaskInfo(obj.class_id, obj.confidence) for obj in mapper.objects},
        mapper.objects.labels,
        mapper.config.max_gaussians,
    )


def live_config(snapshot: LiveSnapshot, method: str, preset: str, overrides: Mapping[str, Any]) -> TrainingConfig:
    """Options of a training of a live map: those of the preset, with what the mapper cannot have otherwise.

    Colour has the degree of the live map, and there are no more Gaussians than the mapper may have.
    """
    kind = method_class(method).Config
    values = {**overrides, "sh_degree": snapshot.gaussians.sh_degree}
    config = make_config(kind, preset, overrides=values)
    if not 0 < config.max_gaussians <= snapshot.max_gaussians:
        config = make_config(kind, preset, overrides={**values, "max_gaussians": snapshot.max_gaussians})
    return config


def live_scene(snapshot: LiveSnapshot, config: TrainingConfig, progress: Callable[[], object] = lambda: None) -> Scene:
    """The keyframes as views, every k-th held out; their ids are slots. They are scored against the masks' objects."""
    views: list[View] = []
    held_out: list[View] = []
    for position, keyframe in enumerate(snapshot.keyframes):
        view = _view(keyframe, config.width, snapshot.infos)
        held = position % config.hold_out_every == config.hold_out_every - 1
        (held_out if held else views).append(view)
        progress()
    scene = Scene(
        "the live map", views, held_out, start=snapshot.gaussians, labels=snapshot.labels, infos=dict(snapshot.infos)
    )
    # a robot that hardly moved yet still sees far: what counts as large must not depend on its way alone
    low, high = np.quantile(snapshot.gaussians.means.numpy(), (0.05, 0.95), axis=0)
    scene.extent = max(scene.extent, 0.5 * float(np.linalg.norm(high - low)))
    return scene


def _view(keyframe: Keyframe, width: int, infos: Mapping[int, MaskInfo]) -> View:
    camera, rgb, slots, ignored = keyframe.camera, keyframe.rgb, keyframe.slots, keyframe.ignored
    if 0 < width < camera.width:
        size = (width, max(1, round(camera.height * width / camera.width)))
        camera, rgb = camera.resized(*size), cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        slots = None if slots is None else resized_nearest(slots, size)
        ignored = None if ignored is None else resized_nearest(ignored.astype(np.uint8), size) > 0
    ids = None if slots is None else slots.astype(np.int32)
    if ids is not None and ignored is not None:
        ids[ignored] = 0
    ids = ids if ids is not None and ids.any() else None
    masks = {} if ids is None else {int(k): infos[int(k)] for k in np.unique(ids) if int(k) in infos}
    return View(f"keyframe {keyframe.index}", camera, rgb, ids, ids, masks, ignored)


@dataclass(frozen=True)
class LiveTraining:
    """A training of a live map. output: folder for config, checkpoints, metrics and the trained map; None: none."""

    snapshot: LiveSnapshot
    method: str
    config: TrainingConfig
    output: Path | None = None
    rasterizer: Rasterizer | None = None

    def run(
        self, listeners: Sequence[Listener] = (), cancelled: Callable[[], bool] = lambda: False
    ) -> tuple[TrainingResult, LiftingMethod]:
        """Train; ``merge`` takes the method, unless the result says that it was cancelled."""
        method = method_class(self.method)(self.config, live_scene(self.snapshot, self.config), self.rasterizer)
        method.gaussians.register(ORIGIN, (), torch.int64, -1)
        method.gaussians[ORIGIN] = method.gaussians["uid"]
        if self.output is not None:
            make_folder(self.output)
            write_options(self.output / OPTIONS, self.config)
            (self.output / METRICS).unlink(missing_ok=True)
        return Trainer(method, self.output, listeners, cancelled).run(), method


def own_miou(snapshot: LiveSnapshot, method: LiftingMethod) -> float:
    """How well the copy's own objects fit the masks of the held-out keyframes: what a training's ``miou`` is to beat."""
    masks = ObjectMaskScore()
    for view in method.scene.held_out:
        if view.ids is not None:
            shown = method.rasterizer.render_ids(snapshot.gaussians, view.camera, snapshot.gaussians["object"])
            masks.update(shown.ids.numpy(), view.ids)
    return masks.result().miou


def merge(mapper: Mapper, snapshot: LiveSnapshot, method: LiftingMethod, relabel: bool = True) -> Merged:
    """Bring what was trained into the live map, without ``relabel`` but for its objects; TrainingError when that is
    another map by now."""
    live, trained = mapper.gaussians, method.gaussians
    if live.map_id != snapshot.gaussians.map_id:
        raise TrainingError("the map was replaced while it was trained: nothing was merged")
    rows = trained.snapshot("cpu")
    move_with_keyframes(rows, _motions(mapper, snapshot))
    objects = _objects(mapper, snapshot, method)
    nothing_taught = getattr(method.config, "unlabelled", "ignore") != "ignore"
    uid, origin = rows["uid"].numpy(), rows[ORIGIN].numpy()
    known = uid < snapshot.gaussians.next_uid
    place = places(live["uid"].numpy(), origin)
    survivors, children = np.flatnonzero(known & (place >= 0)), np.flatnonzero(~known & (place >= 0))
    gone = np.setdiff1d(snapshot.gaussians["uid"].numpy(), uid[known])
    doomed = places(live["uid"].numpy(), gone)
    doomed = doomed[doomed >= 0]
    dropped = int((place < 0).sum())

    chosen = torch.from_numpy(place[survivors])
    for name in CORE:
        live[name][chosen] = rows[name][torch.from_numpy(survivors)]
    for name, key in live.state_keys:
        live.state(name, key)[chosen] = 0  # of other values than they are now
    live.touch(chosen)
    if not relabel:
        objects[:] = 0
    relabelled = _relabel(mapper, snapshot, place[survivors], objects[survivors], nothing_taught)

    room = max(0, mapper.config.max_gaussians - (len(live) - len(doomed)))
    dropped += max(0, len(children) - room)
    children = children[:room]
    new = {name: rows[name][torch.from_numpy(children)] for name in CORE}
    parents = torch.from_numpy(place[children])
    new |= {name: live[name][parents].clone() for name in live.extras if name != "uid"}
    live.remove(torch.from_numpy(doomed))
    added = live.add(**new).numpy()
    relabelled += _relabel(mapper, snapshot, added, objects[children], nothing_taught)
    mapper.objects_changed({obj.slot for obj in mapper.objects})
    return Merged(len(survivors), len(children), len(doomed), dropped, relabelled)


def places(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Position of each of ``wanted`` among the distinct ``keys``, -1 where it is none of them."""
    if not len(keys):
        return np.full(len(wanted), -1)
    order = np.argsort(keys)
    place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.where(keys[place] == wanted, place, -1)


def _motions(mapper: Mapper, snapshot: LiveSnapshot) -> dict[int, np.ndarray]:
    """How the keyframes were moved since the snapshot, 4x4 each, where they were."""
    then = {keyframe.index: keyframe.camera.T_world_camera for keyframe in snapshot.keyframes}
    found = {}
    for keyframe in mapper.keyframes.frames:
        now, before = keyframe.camera.T_world_camera, then.get(keyframe.index)
        if before is not None and not np.array_equal(now, before):
            found[keyframe.index] = now @ np.linalg.inv(before)
    return found


def _objects(mapper: Mapper, snapshot: LiveSnapshot, method: LiftingMethod) -> np.ndarray:
    """Slot (N,) of the live map that each trained Gaussian belongs to by now; 0: the training does not say."""
    classes, _ = method.gaussian_classes()
    if method.makes_ids:
        slots = _slots_of_codes(snapshot, method, classes)
    else:
        slots = method.ids[classes]
    now = {obj.id: obj.slot for obj in mapper.objects if not obj.locked}
    table = np.zeros(max([0, *snapshot.object_ids]) + 1, np.int32)
    for slot, key in snapshot.object_ids.items():
        table[slot] = now.get(key, 0)
    return table[slots]


def _slots_of_codes(snapshot: LiveSnapshot, method: LiftingMethod, classes: np.ndarray) -> np.ndarray:
    """For ids of the method's own: the object, one for each id, that most of its Gaussians had before."""
    before = snapshot.gaussians
    place = places(before["uid"].numpy(), method.gaussians[ORIGIN].cpu().numpy())
    known = place >= 0
    owner = before["object"].numpy()[place[known]]
    table = Contingency.of(classes[known], owner, ignore=(0,)).without_prediction(0)
    found = np.zeros(int(classes.max(initial=0)) + 1, np.int64)
    if table.pixels.size:
        for row, column in zip(*linear_sum_assignment(table.pixels, maximize=True), strict=True):
            if table.pixels[row, column]:
                found[table.predictions[column]] = table.truths[row]
    return found[classes]


def _relabel(
    mapper: Mapper, snapshot: LiveSnapshot, rows: np.ndarray, objects: np.ndarray, nothing_taught: bool
) -> int:
    """Let all votes of live Gaussians ``rows`` be for ``objects`` (R,), where those are not 0.

    A Gaussian that belongs to a locked object, or to one that the training could not know of, keeps its own; so does one
    without any, where the training was not told what belongs to nothing.
    """
    gaussians = mapper.gaussians
    kept = np.zeros(mapper.objects.slots, bool)
    known = set(snapshot.object_ids.values())
    for obj in mapper.objects:
        kept[obj.slot] = obj.locked or obj.id not in known
    kept[0] = not nothing_taught
    owner = gaussians["object"].numpy()[rows]
    told = (objects > 0) & ~kept[owner]
    rows, objects, owner = rows[told], objects[told], owner[told]
    table, weight = gaussians["vote_object"].numpy(), gaussians["vote_weight"].numpy()
    total = np.maximum(weight[rows].sum(axis=1), 1)
    table[rows], weight[rows] = 0, 0
    table[rows, 0], weight[rows, 0] = objects, total
    gaussians["object"].numpy()[rows] = leaders(table[rows], weight[rows])
    gaussians.touch(torch.from_numpy(rows), core=False)
    return int((owner != objects).sum())
