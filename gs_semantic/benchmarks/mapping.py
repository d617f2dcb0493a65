"""``bench map``: quality, rate and service times of the live system over real DDS.

Quality: the sequence once at 5 Hz; the map is frozen when the last answer arrives, saved, and scored from its folder at
views none of whose images or masks was given. Rate: the sequence looped at 30 Hz, then at 20 Hz, on a map of at least
200,000 Gaussians, with all label images subscribed. Services: list_objects and get_object on 300,000 Gaussians and 200
objects while mapping goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gs_semantic.benchmarks import process
from gs_semantic.benchmarks.live import LiveSystem, Recording
from gs_semantic.benchmarks.scoring import WITHHOLD_EVERY, Evaluation, score_views, withheld
from gs_semantic.data.formats import open_sequence
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.mapping.offline import MapOffline
from gs_semantic.nodes.arguments import MAPPER
from gs_semantic.objects.geometry import update_geometry
from gs_semantic.objects.registry import ObjectRegistry, ObjectState

QUALITY_HZ = 5.0
RATE_HZ = 30.0
ANSWERED_HZ = 20.0
RATE_GAUSSIANS = 200_000
SERVICE_GAUSSIANS = 300_000
SERVICE_OBJECTS = 200
SERVICE_HZ = 10.0
OBJECT_GAUSSIANS = 5_000
FAR_M = 500.0  # where the objects that only fill the list are put: never in view

# names every result file of a mapping run has (shares are fractions, other names end in their unit)
RESULT_KEYS = (
    "answer_hz",
    "answered_pct",
    "latency_p50_ms",
    "latency_p95_ms",
    "keyframes_per_s",
    "iterations_per_keyframe",
    "instance_miou",
    "instance_miou_large",
    "raw_mask_miou",
    "duplicate_ids_pct",
    "semantic_miou",
    "psnr_db",
    "gaussians",
    "peak_rss_mb",
)

Progress = Callable[[str, int], Callable[[], object]]  # (what, steps) -> function to call once per step


def silent(what: str, steps: int) -> Callable[[], object]:
    """No progress shown."""
    return lambda: None


@dataclass(frozen=True)
class Quality:
    """Outcome of the quality phase: results by key, what the client saw, the map, the folder of logs and pictures."""

    results: dict[str, Any]
    recording: Recording
    shown: MapOffline
    folder: Path


@dataclass(frozen=True)
class MapBench:
    """What is measured, and where maps and logs of the run are put.

    parameters: of the mapper. keep_map: where the map of the quality phase is put, if not into ``folder``. settle_s: before
    rate and services are measured.
    """

    sequence: Path
    folder: Path
    evaluation: Path | None = None
    masks: str = "shuffled"
    seed: int = 0
    depth_noise: bool = False
    pose_noise: bool = False
    skip_every: int = WITHHOLD_EVERY  # only without an evaluation sequence
    use_depth: bool = True  # false: colour and poses only
    parameters: dict[str, Any] = field(default_factory=dict)
    keep_map: Path | None = None
    settle_s: float = 3.0
    progress: Progress = silent

    @property
    def withhold(self) -> int:
        """Every how many frames one is withheld; 0 when other views are scored."""
        return 0 if self.evaluation else self.skip_every

    @property
    def quality_map(self) -> Path:
        return self.keep_map or self.folder / "quality_map"

    @property
    def damage(self) -> Damage:
        return Damage("none" if self.masks in ("perfect", "none") else self.masks, self.seed)  # type: ignore[arg-type]

    def views(self) -> Evaluation:
        """The views to score at: never given to the map, and without noise."""
        if self.evaluation:
            return Evaluation.of(open_sequence(self.evaluation))
        if self.skip_every < 2:
            raise InvalidRequestError(f"--skip-every {self.skip_every}: must be 2 or more without --eval")
        return Evaluation.of(open_sequence(self.sequence), self.skip_every)

    def start_arguments(self, rate_hz: float, **more: object) -> dict[str, object]:
        """Start arguments of mapper and replay."""
        switches = {"depth_noise": str(self.depth_noise).lower(), "pose_noise": str(self.pose_noise).lower()}
        recording = {"sequence": self.sequence, "masks": self.masks, "seed": self.seed, "skip_every": self.withhold}
        sensor = {} if self.use_depth else {"sensor": "mono", "send_depth": "false"}
        return {**recording, **switches, **sensor, "rate_hz": rate_hz, **more}

    # --- phases -----------------------------------------------------------------------------------------------------

    def quality(self, task: str = "once", rate_hz: float = QUALITY_HZ, **options: object) -> Quality:
        """Play once, freeze, save, score. Other tasks of the client than "once" may do more on the way."""
        views = self.views()
        indices = [i for i in range(len(open_sequence(self.sequence))) if not withheld(i, self.withhold)]
        advance = self.progress(f"mapping at {rate_hz:g} Hz", len(indices))
        with LiveSystem(self.folder / "quality", self.start_arguments(rate_hz), self.parameters) as live:
            recording = live.record(
                task,
                lambda event: advance() if event["event"] == "answer" else None,
                frames=len(indices),
                indices=",".join(map(str, indices)),
                sequence=self.sequence.absolute(),
                rate_hz=rate_hz,
                publish_log=live.publish_log,
                save=self.quality_map.absolute(),
                **options,
            )
            peak = process.peak_rss_mb(live.pid(MAPPER))
        shown = MapOffline.open(self.quality_map)
        scores = score_views(shown, views, self.damage, shown.confirmed_slots, self.progress("scoring", len(views)))
        results = {
            **scores,
            "gaussians": len(shown.mapper.gaussians),
            "objects": len(shown.mapper.objects.present()),
            "evaluation_views": len(views),
            "quality_frames": len(indices),
            "quality_frames_answered": recording.task["answers"],
            "peak_rss_mb": peak,
            **recording.mapping_results(),
            **recording.stage_results(),
            **recording.cpu_results(),
        }
        return Quality(results, recording, shown, live.folder)

    def rate(self, seconds: float) -> dict[str, Any]:
        """Answers per second and latency at 30 Hz, share answered at 20 Hz."""
        gaussians, objects = load_map(self.quality_map)
        grown = grow(gaussians, RATE_GAUSSIANS)
        dense = self.folder / "rate_map"
        save_map(dense, gaussians, objects, objects.labels)
        results: dict[str, Any] = {"rate_gaussians_start": len(gaussians), "rate_gaussians_by_splitting": grown}
        for rate_hz in (RATE_HZ, ANSWERED_HZ):
            recording, peak = self._steady(rate_hz, dense, "steady", seconds)
            seen = recording.rate()
            if rate_hz == RATE_HZ:
                results |= {
                    "answer_hz": seen.answer_hz,
                    "latency_p50_ms": seen.latency_p50_ms,
                    "latency_p95_ms": seen.latency_p95_ms,
                    "rate_gaussians_end": recording.status[-1]["gaussians"] if recording.status else None,
                    "rate_peak_rss_mb": peak,
                    **recording.mapping_results(),
                    **recording.stage_results(),
                    **recording.cpu_results(),
                }
            else:
                results |= {"answered_pct": seen.answered_pct, "latency_p95_ms_at_20_hz": seen.latency_p95_ms}
        return results

    def services(self, seconds: float) -> dict[str, Any]:
        """Times of list_objects and get_object from the call to the decoded reply, in another process."""
        crowded = self.folder / "service_map"
        gaussians, objects = load_map(self.quality_map)
        crowd(gaussians, objects, SERVICE_GAUSSIANS, SERVICE_OBJECTS, OBJECT_GAUSSIANS)
        save_map(crowded, gaussians, objects, objects.labels)
        room = {"max_gaussians": SERVICE_GAUSSIANS + 100_000}
        recording, _ = self._steady(SERVICE_HZ, crowded, "services", seconds, room, object_gaussians=OBJECT_GAUSSIANS)
        results = {f"service_{key}": value for key, value in recording.task.items()}
        results["service_gaussians"] = len(gaussians)
        results["service_keyframes_per_s"] = recording.mapping_results().get("keyframes_per_s")
        return results

    def _steady(
        self,
        rate_hz: float,
        load: Path,
        task: str,
        seconds: float,
        parameters: dict[str, Any] | None = None,
        **options: object,
    ) -> tuple[Recording, float]:
        arguments = self.start_arguments(rate_hz, loop="true", load_map=load)
        folder = self.folder / f"{task}_{rate_hz:.0f}_hz"
        with LiveSystem(folder, arguments, {**self.parameters, **(parameters or {})}) as live:
            advance = self.progress(f"{'services' if task == 'services' else 'rate'} at {rate_hz:.0f} Hz", int(seconds))
            recording = live.record(
                task,
                lambda event: advance() if event["event"] == "second" else None,
                duration=seconds,
                settle=self.settle_s,
                **options,
            )
            return recording, process.peak_rss_mb(live.pid(MAPPER))


# --- maps of a given size ------------------------------------------------------------------------------------------


def grow(gaussians: GaussianMap, least: int) -> bool:
    """Split the largest Gaussians until there are at least so many; False when there were enough."""
    if not len(gaussians):
        raise InvalidRequestError("the map is empty: nothing was mapped in the quality phase")
    grown = False
    while len(gaussians) < least:
        count = min(len(gaussians), least - len(gaussians))
        largest = gaussians.log_scales.max(1).values.topk(count).indices
        gaussians.split(largest.sort().values)
        grown = True
    return grown


def crowd(gaussians: GaussianMap, objects: ObjectRegistry, least: int, count: int, object_size: int) -> None:
    """Fill a map to ``least`` Gaussians and ``count`` confirmed objects, by copies that lie far away.

    The first of the new objects has ``object_size`` Gaussians.
    """
    missing = max(1, count - len(objects.present()))
    wanted = max(least - len(gaussians), missing + object_size)
    source = torch.arange(wanted) % len(gaussians)
    rows = gaussians.clone(source)
    gaussians.means[rows] += torch.tensor([FAR_M, 0.0, 0.0])
    sizes = np.full(missing - 1, (wanted - object_size) // max(1, missing - 1))
    stops = np.minimum(np.cumsum([object_size, *sizes]), wanted)
    table = np.zeros(wanted, np.int32)
    start = 0
    for stop in stops:
        obj = objects.open()
        obj.state, obj.class_scores, obj.observations = ObjectState.CONFIRMED, {1: 1.0}, 10
        table[start:stop] = obj.slot
        update_geometry(obj, gaussians, rows[start:stop].numpy())
        start = stop
    gaussians["object"][rows] = torch.from_numpy(table)
    gaussians["vote_object"][rows] = 0
    gaussians["vote_weight"][rows] = 0
    gaussians["vote_object"][rows, 0] = torch.from_numpy(table).to(gaussians["vote_object"].dtype)
    gaussians["vote_weight"][rows, 0] = 1
    gaussians.touch()
