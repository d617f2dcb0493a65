"""Labelling a map that goes on being mapped: on a copy of it and its keyframes, merged back by the Gaussians' keys.

``segmentation.live.take_snapshot`` and ``merge_classes`` are called between two steps of the mapper, ``classes_of`` in
between by any thread.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch

from gs_semantic.data.images import resized_nearest
from gs_semantic.errors import TrainingError
from gs_semantic.gaussians import Frame
from gs_semantic.mapping.keyframes import Keyframe
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.semantics import ClassUpdate, SemanticSource, name_objects, take_classes
from gs_semantic.segmentation.live import LiveSnapshot, places

LEAST_KEYFRAMES = 1
VIEWS, WIDTH = 40, 320  # as a rule: a map that is being used should be labelled soon
APART_NS = 1_000_000_000  # between keyframes as a source hears of them: far enough that each counts on its own


def classes_of(
    snapshot: LiveSnapshot,
    source: SemanticSource,
    views: int = VIEWS,
    width: int = WIDTH,
    progress: Callable[[int, int], object] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> ClassUpdate | None:
    """Show a source keyframes, at most ``views`` spread evenly (0: all), scaled down to ``width`` px (0: no); what it says
    of the rows of ``snapshot.gaussians`` then. None: it was cancelled."""
    gaussians, keyframes = snapshot.gaussians, snapshot.keyframes
    if 0 < views < len(keyframes):
        keyframes = [keyframes[i] for i in np.linspace(0, len(keyframes) - 1, views).round().astype(int)]
    for name in source.attributes:  # of another source, or from an earlier run
        gaussians.unregister(name)
    classes = torch.zeros(len(gaussians), dtype=torch.int32)
    probability = torch.zeros(len(gaussians))
    for number, keyframe in enumerate(keyframes, start=1):
        if cancelled():
            return None
        update = source.update(gaussians, _frame(keyframe, number * APART_NS, width))
        classes[update.rows], probability[update.rows] = update.classes, update.probability
        progress(number, len(keyframes))
    rows = torch.nonzero(classes)[:, 0]
    return ClassUpdate(rows, classes[rows], probability[rows])


def _frame(keyframe: Keyframe, stamp_ns: int, width: int) -> Frame:
    camera, rgb = keyframe.camera, keyframe.rgb
    depth = None if keyframe.depth_mm is None else keyframe.depth_mm * np.float32(1e-3)
    if 0 < width < camera.width:
        size = (width, max(1, round(camera.height * width / camera.width)))
        camera, rgb = camera.resized(*size), cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        depth = None if depth is None else resized_nearest(depth, size)
    return Frame(stamp_ns, camera, rgb, depth)


def merge_classes(mapper: Mapper, snapshot: LiveSnapshot, source: SemanticSource, known: ClassUpdate) -> int:
    """Bring classes of the copy's rows into the live map, and let ``source`` label what keyframes without masks show from
    now on. How many Gaussians have got a class, their own or that of their object.

    Objects keep their Gaussians; those without a class get that of most of them. TrainingError: it is another map by now.
    """
    live, copy = mapper.gaussians, snapshot.gaussians
    if live.map_id != copy.map_id:
        raise TrainingError("the map was replaced while it was labelled: nothing was merged")
    place = places(copy["uid"].numpy(), live["uid"].numpy())  # row of the copy, for each live one
    there = torch.from_numpy(np.flatnonzero(place >= 0))
    origin = torch.from_numpy(place)[there]
    for name in source.attributes:
        spec = copy.specs[name]
        live.unregister(name)
        live.register(name, spec.shape, spec.dtype, spec.fill)
        live[name][there] = copy[name][origin]
    classes = torch.zeros(len(copy), dtype=torch.int32)
    probability = torch.zeros(len(copy))
    classes[known.rows], probability[known.rows] = known.classes, known.probability
    said = classes[origin] > 0
    update = ClassUpdate(there[said], classes[origin][said], probability[origin][said])
    changed = take_classes(live, mapper.objects, update, source.labels)
    changed |= name_objects(live, mapper.objects, update)
    live.touch(there, core=False)
    mapper.objects_changed(changed)
    source.rasterizer, mapper.semantics = mapper.rasterizer, source
    return len(update.rows)
