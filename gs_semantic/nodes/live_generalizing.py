"""Labelling the mapper's own map while it is mapped: ``~/generalize`` of the mapper node, and its plain services."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gs_semantic.action import Generalize
from gs_semantic.errors import InvalidRequestError
from gs_semantic.nodes.runs import Asked, Outcome, Run, RunServer, Tell
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.segmentation.config import parse_overrides

if TYPE_CHECKING:
    from gs_semantic.nodes.mapper_node import MapperNode

APPLY_OPTIONS = ("views", "width")
THREADS = 1  # of the rasteriser: the other cores answer and map
UNUSED = ("sequence", "map", "output", "rooms", "validation", "stage", "preset", "resume")


class LiveGeneralizer(RunServer):
    """Runs on a copy of the map, in a thread that gives way to answers and to mapping; merged by the mapping thread.

    Afterwards the same checkpoint labels what keyframes without masks show, as with the parameter ``semantics``.
    """

    def __init__(self, node: MapperNode) -> None:
        self._mapper = node
        super().__init__(
            node, Generalize, "generalizing", self._prepare, self._goal_of_parameters, node.parameters.train_niceness
        )

    def _goal_of_parameters(self) -> Generalize.Goal:
        return Generalize.Goal(checkpoint=self._mapper.parameters.generalize_checkpoint)

    def _prepare(self, goal: Generalize.Goal) -> Run:
        from gs_semantic.segmentation.generalization.checkpoints import shipped  # torch networks: only when used

        unused = [name for name in UNUSED if getattr(goal, name)] + ["task"] * (goal.task not in ("", "apply"))
        if unused:
            raise InvalidRequestError(
                f"{', '.join(unused)}: this node labels the map that it holds; send recordings and rooms to the generalizer"
            )
        if not (goal.checkpoint or goal.method):
            raise InvalidRequestError("checkpoint: is empty; name one, or a method that comes with one (gnesf, rt_gs2)")
        checkpoint = shipped(Path(goal.checkpoint or goal.method).expanduser()).absolute()

        options = apply_options(goal.options)

        def work(tell: Tell, cancelled: Asked) -> Outcome:
            return self._label(checkpoint, options, tell, cancelled)

        return Run(f"labels the live map by {checkpoint}", "", work)

    def _label(self, checkpoint: Path, options: dict[str, int], tell: Tell, cancelled: Asked) -> Outcome:
        from gs_semantic.mapping.semantics import InLabels
        from gs_semantic.segmentation.generalization.apply import live_source
        from gs_semantic.segmentation.generalization.live import LEAST_KEYFRAMES, classes_of, merge_classes
        from gs_semantic.segmentation.live import take_snapshot

        node, started = self._mapper, time.monotonic()
        learned = live_source(checkpoint, CpuRasterizer(node.config.raster_settings, THREADS))
        snapshot = node.while_mapping_waits(lambda: take_snapshot(node.mapper, LEAST_KEYFRAMES))
        source = InLabels(learned, snapshot.labels)

        def advance(done: int, total: int) -> None:
            tell(Generalize.Feedback(iteration=done, iterations=total, miou=math.nan))

        found = classes_of(snapshot, source, progress=advance, cancelled=cancelled, **options)
        if found is None:
            result = Generalize.Result(cancelled=True)
            return Outcome(result, labelled(result))

        def merge() -> int:
            count = merge_classes(node.mapper, snapshot, source, found)
            node.use_labels(node.mapper.objects.labels)
            return count

        count, total = node.while_mapping_waits(merge), len(snapshot.gaussians)
        result = Generalize.Result(
            iterations=self.feedback.iteration,
            gaussians=total,
            labelled_share=count / total,
            minutes=(time.monotonic() - started) / 60,
        )
        return Outcome(result, labelled(result))


def apply_options(pairs: Sequence[str]) -> dict[str, int]:
    """Options of an application by name; InvalidRequestError for others."""
    values = parse_overrides(pairs)
    for name, value in values.items():
        if name not in APPLY_OPTIONS or not isinstance(value, int) or value < 0:
            raise InvalidRequestError(f"option '{name}={value}': expected whole numbers of {', '.join(APPLY_OPTIONS)}")
    return values


def labelled(result: Generalize.Result) -> str:
    """What came of an application, in words."""
    if result.cancelled:
        return "nothing was changed"
    return f"{result.labelled_share:.0%} of {result.gaussians} Gaussians have a class"
