"""``bench identity``: do objects keep their ids when things are moved and taken away?

A room of many objects is walked through twice; in between, some objects are moved, some taken away, some brought. Masks
have new ids in every frame. The truth is known to the pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gs_semantic.data.procedural import SPACING_M, ChangingSequence, ObjectScene
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.evaluation.identity import IdentityScore, ghosts
from gs_semantic.mapping.offline import MapOffline

SHARE = 0.15  # of the objects each that are moved, taken away, and brought
SIZE = (320, 240)


def change(scene: ObjectScene, seed: int) -> tuple[ObjectScene, ObjectScene, dict[str, list[int]]]:
    """The scene before and after, and the ids that were moved, removed and added.

    What is brought was away before; what is moved takes a free cell of the floor beside the others.
    """
    count = len(scene.objects)
    rng = np.random.default_rng((seed, count))
    each = max(1, round(SHARE * count))
    chosen = (1 + rng.permutation(count)[: 3 * each]).tolist()
    moved, removed, added = (sorted(chosen[i * each : (i + 1) * each]) for i in range(3))
    before = scene.changed(removed=added)
    reach = max(float(np.abs(shape.centre[:2]).max()) for shape in scene.objects) + SPACING_M
    places = {}
    for number, key in enumerate(moved):
        side = -reach + (2 * reach) * (number + 0.5) / len(moved)
        places[key] = (np.array([side, reach]), float(rng.uniform(0.5, 2.5)))
    return before, before.changed(places, removed, added), {"moved": moved, "removed": removed, "added": added}


def make_sequence(
    objects: int, frames: int, seed: int, size: tuple[int, int] = SIZE, **options: Any
) -> tuple[ChangingSequence, dict[str, list[int]]]:
    """A walk of ``frames`` before the change and one after it; the ids that changed."""
    if objects < 8 or frames < 8:
        raise InvalidRequestError("an identity bench needs 8 objects or more and 8 frames or more per walk")
    before, after, changes = change(ObjectScene.make(objects, seed), seed)
    cameras = before.cameras(frames, size) + before.cameras(frames, size, 0.5)
    return ChangingSequence({0: before, frames: after}, cameras, **options), changes


def run_identity(
    objects: int, frames: int, seed: int, params: tuple[str, ...] = (), progress: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Map the sequence and score it after every frame; ``progress`` is called after each."""
    return follow(*make_sequence(objects, frames, seed), seed, params, progress)


def follow(
    sequence: ChangingSequence,
    changes: dict[str, list[int]],
    seed: int,
    params: tuple[str, ...] = (),
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """The same with a sequence of ``make_sequence``."""
    frames = len(sequence) // 2
    shown = MapOffline.create(sequence.labels, params)
    score, damage = IdentityScore(), Damage("shuffled", seed)
    first: dict[int, int] = {}
    for index in range(len(sequence)):
        frame = sequence[index]
        assert frame.instances is not None
        instances, masks = damage.apply(frame.instances, frame.masks, index)
        shown.add(type(frame)(frame.stamp_ns, frame.camera, frame.rgb, frame.depth, instances, masks))
        answer = shown.render_labels(frame.camera)
        ids = np.zeros(shown.mapper.objects.slots, np.int64)
        for obj in shown.mapper.objects.present():
            ids[obj.slot] = obj.id
        score.update(ids[answer.instance], frame.instances)
        if index == frames - 1:
            first = dict(score.identities)
        progress()
    shown.mapper.finish()
    registry = shown.mapper.objects
    last, scene = score.identities, sequence.scene_at(len(sequence) - 1)
    there = {obj.id for obj in registry.present()}
    kept = [key for key in changes["moved"] if key in first and last.get(key) == first[key]]
    gone = [key for key in changes["removed"] if first.get(key) not in there]
    untouched = set(first) - set(changes["moved"]) - set(changes["removed"])
    haunting = ghosts(registry.present(), {key: (shape.centre, shape.radius) for key, shape in scene.present.items()})
    return {
        **score.results(),
        "ghosts": len(haunting),
        "moved": len(changes["moved"]),
        "moved_kept_id": len(kept),
        "removed": len(changes["removed"]),
        "removed_found": len(gone),
        "untouched": len(untouched),
        "untouched_kept_id": sum(last[key] == first[key] for key in untouched),
        "objects": len(there),
        "true_objects": len(scene.present),
        "frames": len(sequence),
    }
