"""Tracked ids for recorded masks: the online mapper associates the masks of all frames with its objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidInputError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.evaluation.instances import by_largest_overlap
from gs_semantic.gaussians import MaskInfo
from gs_semantic.mapping.mapper import Mapper


@dataclass(frozen=True)
class TrackedIds:
    """One id image int32 (H,W) per frame, 0 = unlabelled, and the class of each id."""

    images: list[np.ndarray]
    infos: dict[int, MaskInfo]


def track_ids(
    sequence: FrameSequence, indices: Sequence[int], damage: Damage, progress: Callable[[], object] = lambda: None
) -> TrackedIds:
    """Map the frames, then give each mask the object of the finished map that it overlaps most.

    The outlines stay those of the masks; only their ids become the same in all views, as a video tracker's would be.
    """
    if not sequence.has_instances:
        raise InvalidInputError(f"{sequence.folder}: has no masks to track; give ids=recorded for colour alone")
    mapper = Mapper(labels=sequence.labels)
    for index in indices:
        frame = sequence[index]
        assert frame.instances is not None
        instances, masks = damage.apply(frame.instances, frame.masks, index)
        mapper.step(replace(frame, instances=instances, masks=masks), answer=False)
        while mapper.pending:
            mapper.step(None)
        progress()
    mapper.finish()
    images = []
    for index in indices:
        frame = sequence[index]
        assert frame.instances is not None
        instances, _ = damage.apply(frame.instances, frame.masks, index)
        images.append(by_largest_overlap(instances, mapper.render_labels(frame.camera).instance))
        progress()
    infos = {obj.slot: MaskInfo(obj.class_id, obj.confidence) for obj in mapper.objects}
    return TrackedIds(images, infos)
