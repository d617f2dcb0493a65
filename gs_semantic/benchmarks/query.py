"""``bench query``: from the call to the decoded reply, in another process, on a large map, while mapping goes on.

The recording is mapped once, the map filled up with copies of its Gaussians far away, and loaded by a live mapper that
goes on mapping the same recording. Of the objects, as many as were asked for have a class of their own, so that one reply
lists just them; another lists all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gs_semantic.benchmarks import process
from gs_semantic.benchmarks.live import LiveSystem
from gs_semantic.benchmarks.mapping import OBJECT_GAUSSIANS, crowd
from gs_semantic.data.formats import open_sequence
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.gaussians.map_folder import save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.offline import MapOffline, map_sequence
from gs_semantic.nodes.arguments import MAPPER

MANY = 1000  # objects of the long list
FEW_CLASS, FEW = 60_000, "asked for"  # class of the short list
FRAMES = 40  # of the recording that make the map
RATE_HZ = 10.0
SPARE = 200_000  # Gaussians that mapping may add
LEAST_GAUSSIANS = OBJECT_GAUSSIANS + 2 * MANY


def make_map(sequence: Path, folder: Path, gaussians: int, objects: int) -> tuple[int, int]:
    """A map folder of so many Gaussians, with ``objects`` of the class ``FEW`` and ``MANY`` or more in all; the counts."""
    if gaussians < LEAST_GAUSSIANS or objects < 1:
        raise InvalidRequestError(f"a query bench needs {LEAST_GAUSSIANS} Gaussians or more and one object or more")
    recording = open_sequence(sequence)
    shown = MapOffline.create(recording.labels, ("steps_per_keyframe=2",))
    map_sequence(shown, recording, range(min(FRAMES, len(recording))), Damage("shuffled", 0))
    mapper = shown.mapper
    before = {obj.id for obj in mapper.objects}
    crowd(mapper.gaussians, mapper.objects, gaussians, max(MANY, objects), OBJECT_GAUSSIANS)
    added = [obj for obj in mapper.objects if obj.id not in before]
    for obj in added[:objects]:
        obj.class_scores = {FEW_CLASS: 1.0}
    labels = LabelSet({**mapper.objects.labels.names, FEW_CLASS: FEW})
    save_map(folder, mapper.gaussians, mapper.objects, labels)
    return len(mapper.gaussians), len(mapper.objects.present())


def run_query(
    sequence: Path,
    folder: Path,
    gaussians: int,
    objects: int,
    seconds: float,
    parameters: dict[str, Any],
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure for ``seconds``; ``progress`` is called every second. Keys: list_p95_ms, list_1000_p95_ms, get_p95_ms, ..."""
    path = folder / "map"
    counts = make_map(sequence, path, gaussians, objects)
    arguments = {"sequence": sequence, "rate_hz": RATE_HZ, "loop": "true", "masks": "shuffled", "load_map": path}
    limits = {"max_gaussians": counts[0] + SPARE}
    with LiveSystem(folder, arguments, {**limits, **parameters}) as live:
        recording = live.record(
            "query",
            lambda event: progress() if event["event"] == "second" else None,
            duration=seconds,
            settle=5.0,
            class_name=FEW,
            object_gaussians=OBJECT_GAUSSIANS,
        )
        peak = process.peak_rss_mb(live.pid(MAPPER))
    return {
        **recording.task,
        "gaussians": recording.status[-1]["gaussians"] if recording.status else counts[0],
        "answer_hz": recording.rate().answer_hz,
        "peak_rss_mb": peak,
        **recording.mapping_results(),
    }
