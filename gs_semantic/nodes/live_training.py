"""Training of the mapper's own map while it is mapped: ``~/train`` of the mapper node, and its plain services."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gs_semantic.action import Train
from gs_semantic.errors import InvalidRequestError
from gs_semantic.nodes.runs import Asked, Run, RunServer, absolute
from gs_semantic.nodes.training import training_run
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.segmentation.config import make_config, parse_overrides
from gs_semantic.segmentation.live import LiveTraining, live_config, merge, own_miou, take_snapshot
from gs_semantic.segmentation.progress import Listener
from gs_semantic.segmentation.registry import method_class
from gs_semantic.segmentation.trainer import TrainingResult

if TYPE_CHECKING:
    from gs_semantic.nodes.mapper_node import MapperNode

SUBJECT = "the live map"
PRESET = "quick"  # a map that is being used should be better soon
THREADS = 1  # of the rasteriser: the other cores answer and map


class LiveTrainer(RunServer):
    """Runs on a copy of the map, in a thread that gives way to answers and to mapping; merged by the mapping thread."""

    def __init__(self, node: MapperNode) -> None:
        self._mapper = node
        super().__init__(
            node, Train, "training", self._prepare, self._goal_of_parameters, node.parameters.train_niceness
        )

    def _goal_of_parameters(self) -> Train.Goal:
        p = self._mapper.parameters
        options = [pair.strip() for pair in p.train_options.split(",") if pair.strip()]
        return Train.Goal(method=p.train_method, output=p.train_output, preset=p.train_preset, options=options)

    def _prepare(self, goal: Train.Goal) -> Run:
        if goal.sequence or goal.evaluation or goal.resume:
            raise InvalidRequestError(
                "sequence, evaluation and resume: this node trains the map that it holds; send recordings to the trainer"
            )
        method, preset, overrides = goal.method, goal.preset or PRESET, parse_overrides(goal.options)
        make_config(method_class(method).Config, preset, overrides=overrides)  # mistakes must not end the run under way
        output = absolute(goal.output) if goal.output else None

        def train(listeners: Sequence[Listener], cancelled: Asked) -> TrainingResult:
            return self._train(method, preset, overrides, output, listeners, cancelled)

        return training_run(method, SUBJECT, str(output or SUBJECT), train)

    def _train(
        self,
        method: str,
        preset: str,
        overrides: dict[str, Any],
        output: Path | None,
        listeners: Sequence[Listener],
        cancelled: Asked,
    ) -> TrainingResult:
        node = self._mapper
        snapshot = node.while_mapping_waits(lambda: take_snapshot(node.mapper))
        config = live_config(snapshot, method, preset, overrides)
        training = LiveTraining(snapshot, method, config, output, CpuRasterizer(threads=THREADS))
        result, trained = training.run(listeners, cancelled)
        if not result.cancelled:
            before, after = own_miou(snapshot, trained), result.metrics.get("miou", math.nan)
            better = not after < before  # no numbers without ids, or without masks in held-out keyframes
            merged = node.while_mapping_waits(lambda: merge(node.mapper, snapshot, trained, better))
            if not better:
                node.get_logger().info(
                    f"objects stay as they were: they fit the masks of held-out keyframes better (mIoU {before:.3f}) than "
                    f"those that were trained ({after:.3f}); train longer"
                )
            node.get_logger().info(
                f"merged into the live map: {merged.updated} Gaussians trained, {merged.added} new, {merged.removed} "
                f"removed, {merged.dropped} dropped as the mapper had removed them, {merged.relabelled} with another object"
            )
        return result
