"""``bench segmenter``: rate, cost and quality of a source of 2D masks, and of the map that is made of its masks.

Every frame is segmented and its masks are compared with the recorded ones. With ``mapped`` the frames, but for those
withheld, are also given to a mapper, whose map is then scored at the withheld views. ``run_live`` measures the node.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gs_semantic.benchmarks.live import LiveSystem
from gs_semantic.benchmarks.scoring import WITHHOLD_EVERY, Evaluation, score_views, withheld
from gs_semantic.benchmarks.timing import rate
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidInputError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.evaluation.masks import MaskScore
from gs_semantic.mapping.offline import MapOffline
from gs_semantic.nodes.arguments import MAPPER, SEGMENTER
from gs_semantic.segmenters.base import Segmenter

LIVE_SETTLE_S = 5.0
WARM_UP = 2  # segmentations before time is taken
MAPPED_KEYS = ("instance_miou", "instance_miou_large", "duplicate_ids_pct", "psnr_db")


def run_segmenter(
    segmenter: Segmenter,
    sequence: FrameSequence,
    mapped: bool = True,
    skip_every: int = WITHHOLD_EVERY,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """The results by key; ``progress`` is called after every frame.

    hz, core_ms: frames per second of wall time and processor time per frame (all threads), of ``segment`` alone.
    InvalidInputError for a sequence without depth where depth is needed.
    """
    if not sequence.has_depth and (mapped or segmenter.needs_depth):
        raise InvalidInputError(f"{sequence.folder}: has no depth, which the {'map' if mapped else 'segmenter'} needs")
    labelled = sequence.has_instances
    score = MaskScore(sequence.group_ids)
    shown = MapOffline.create(segmenter.labels) if mapped else None
    seconds, core_seconds, masks = [], 0.0, []
    for index in range(len(sequence)):
        frame = sequence[index]
        for _ in range(WARM_UP if index == 0 else 0):
            segmenter.segment(frame)
        core, start = time.process_time(), time.perf_counter()
        found = segmenter.segment(frame)
        seconds.append(time.perf_counter() - start)
        core_seconds += time.process_time() - core
        masks.append(len(found.masks))
        if labelled and frame.instances is not None:
            score.update(found.instances, frame.instances)
        if shown is not None and not withheld(index, skip_every):
            shown.add(replace(frame, instances=found.instances, masks=found.masks))
        progress()
    results = {
        "hz": len(seconds) / sum(seconds),
        "core_ms": core_seconds / len(seconds) * 1e3,
        "p95_ms": float(np.percentile(seconds, 95)) * 1e3,
        "frames": len(seconds),
        "masks_per_frame": float(np.mean(masks)),
        **(score.results() if labelled else {}),
    }
    if shown is not None and labelled:
        scores = score_views(shown, Evaluation.of(sequence, skip_every), Damage(), shown.confirmed_slots)
        results |= {f"mapped_{key}": scores[key] for key in MAPPED_KEYS if key in scores}
        results["mapped_objects"] = len(shown.confirmed_slots)
    return results


def run_live(
    arguments: dict[str, str],
    folder: Path,
    seconds: float,
    rate_hz: float,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """The segmenter node beside a mapper that maps its masks, while somebody listens to both.

    arguments: start arguments of ``segment`` (sequence, segmenter, model, words). Latencies run from the replay's
    publish call to the arrival of the masks. ``progress`` is called every second.
    """
    with LiveSystem(folder, {**arguments, "rate_hz": rate_hz, "loop": "true"}) as live:
        live.start((MAPPER, SEGMENTER))
        recording = live.record(
            "masks", lambda event: event["event"] == "second" and progress(), duration=seconds, settle=LIVE_SETTLE_S
        )
    came = {int(stamp): when for stamp, when in recording.task["masks"].items()}
    masks = rate(recording.published, came, recording.start_ns, recording.stop_ns)
    return {
        "live_input_hz": rate_hz,
        "live_hz": masks.answer_hz,
        "live_p50_ms": masks.latency_p50_ms,
        "live_p95_ms": masks.latency_p95_ms,
        "live_core_ms": recording.core_ms_per_frame.get(SEGMENTER, float("nan")),
        "live_answer_hz": recording.rate().answer_hz,
        "live_gaussians": recording.status[-1]["gaussians"],
    }
