"""``bench association``: ways to find the object of a mask, while a map grows, on damaged masks.

A recording is mapped without ROS. After every keyframe the map is asked which object it shows at each true instance in
view; at quarters of the way it is scored at views of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gs_semantic.benchmarks.scoring import Evaluation
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.evaluation.contingency import Contingency
from gs_semantic.evaluation.damage import Damage
from gs_semantic.evaluation.instances import InstanceResult, InstanceScore
from gs_semantic.mapping.offline import MapOffline

WAYS = ("overlap", "codebook")
QUARTERS = 4
VISIBLE_PX = 100  # an instance that shows less in a frame is not asked for


@dataclass
class IdentityWatch:
    """Counts how often the object shown at a true instance is another one than the last time, and how many it had."""

    switches: int = 0
    looks: int = 0
    _last: dict[int, int] = field(default_factory=dict)
    _all: dict[int, Counter[int]] = field(default_factory=dict)

    def update(self, shown: np.ndarray, truth: np.ndarray) -> None:
        """Persistent ids (H,W) that a map shows, 0 = none, and true ids."""
        table = Contingency.of(shown, truth, ignore=(0,))
        objects = table.without_prediction(0)
        if not objects.pixels.size:
            return
        for instance, pixels, row in zip(table.truths.tolist(), table.truth_pixels, objects.pixels, strict=True):
            if pixels < VISIBLE_PX or 2 * row.max() < pixels:  # mostly unknown, or nobody's in particular
                continue
            key = int(objects.predictions[row.argmax()])
            self.looks += 1
            self.switches += self._last.get(instance, key) != key
            self._last[instance] = key
            self._all.setdefault(instance, Counter())[key] += 1

    @property
    def ids_per_instance(self) -> float:
        """How many objects an instance was shown as, over all looks; 1 is perfect."""
        return float(np.mean([len(keys) for keys in self._all.values()])) if self._all else float("nan")


def compare_associations(
    sequence: FrameSequence,
    evaluation: FrameSequence,
    masks: Sequence[str] = ("shuffled", "damaged"),
    seed: int = 0,
    ways: Sequence[str] = WAYS,
    every: int = 1,
    params: Sequence[str] = (),
    progress: Callable[[str, int], Callable[[], object]] = lambda what, steps: lambda: None,
) -> dict[str, float]:
    """<masks>_<way>_...: id_switches_pct (of looks at an instance), ids_per_instance, duplicates_pct, miou_quarter_1 to 4 at
    all views of ``evaluation`` after each quarter of the way, lift_ms (core time of lifting a keyframe's masks).

    every: only each k-th frame is mapped.
    """
    results = {}
    indices = range(0, len(sequence), every)
    for kind in masks:
        damage = Damage(kind, seed)  # type: ignore[arg-type]
        for way in ways:
            shown = MapOffline.create(sequence.labels, [*params, f"association={way}"])
            watch, lifting, keyframes = IdentityWatch(), 0.0, 0
            advance = progress(f"{kind} masks by {way}", len(indices))
            marks = {int(m): q for q, m in enumerate(np.linspace(0, len(indices), QUARTERS + 1)[1:], 1)}
            name = f"{kind}_{way}"
            for position, index in enumerate(indices):
                frame = sequence[index]
                truth = frame.instances
                assert truth is not None
                instances, infos = damage.apply(truth, frame.masks, index)
                events = shown.add(replace(frame, instances=instances, masks=infos))
                if any(event.keyframe for event in events):
                    keyframes += 1
                    lifting += sum(event.timings_ms.get("lift", 0.0) for event in events)
                    watch.update(_ids(shown, shown.render_labels(frame.camera).instance), truth)
                if position + 1 in marks:
                    score = _score(shown, Evaluation.of(evaluation), sequence.group_ids)
                    results[f"{name}_miou_quarter_{marks[position + 1]}"] = score.miou
                    results[f"{name}_duplicates_pct"] = score.duplicates_pct
                advance()
            results[f"{name}_id_switches_pct"] = 100 * watch.switches / max(1, watch.looks)
            results[f"{name}_ids_per_instance"] = watch.ids_per_instance
            results[f"{name}_lift_ms"] = lifting / max(1, keyframes)
    return results


def _ids(shown: MapOffline, slots: np.ndarray) -> np.ndarray:
    """Persistent ids in place of slots: a slot may be given to another object."""
    table = np.zeros(shown.mapper.objects.slots, np.int64)
    for obj in shown.mapper.objects:
        table[obj.slot] = obj.id
    return table[slots]


def _score(shown: MapOffline, views: Evaluation, ignored: Collection[int]) -> InstanceResult:
    score = InstanceScore(ignored)
    for view in views:
        assert view.frame.instances is not None
        score.update(shown.render_labels(view.frame.camera).instance, view.frame.instances)
    return score.result(duplicate_ids=set(shown.confirmed_slots))
