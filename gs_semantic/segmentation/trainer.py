"""The training loop: views without replacement, reports, evaluations, checkpoints; it can be cancelled and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gs_semantic.data.formats import open_sequence
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidRequestError, TrainingError
from gs_semantic.files import make_folder
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.checkpoints import read_checkpoint, restore_method, save_checkpoint
from gs_semantic.segmentation.config import TrainingConfig, make_config, write_options
from gs_semantic.segmentation.loop import BEST, CHECKPOINT, METRICS, OPTIONS, LoopState, link_checkpoint, out_of_memory
from gs_semantic.segmentation.method import LiftingMethod, TrainingCancelled
from gs_semantic.segmentation.outputs import write_map
from gs_semantic.segmentation.progress import Clock, Listener, LossLog, MetricsFile, Progress, memory_mb
from gs_semantic.segmentation.registry import method_class
from gs_semantic.segmentation.scene import Scene, make_scene
from gs_semantic.segmentation.scoring import score_views

MAP = "map"  # in the run's folder


@dataclass(frozen=True)
class TrainingResult:
    """metrics: those of ``score_views`` at held-out views, of the last evaluation or, when cancelled, of the best."""

    method: str
    iteration: int
    cancelled: bool
    metrics: dict[str, float]
    gaussians: int
    minutes: float
    map: Path | None
    warnings: tuple[str, ...] = ()  # what the views lack


@dataclass
class SceneLoop(LoopState):
    order: list[int] = field(default_factory=list)  # views of this round that are still to come


class Trainer:
    """Runs a method to its last iteration. ``output``: folder for checkpoints, map and metrics; None keeps nothing.

    cancelled: asked in every iteration and between any two views of an evaluation; when it says yes, ``run`` returns at
    once, and what the best evaluation so far left is what counts.
    """

    def __init__(
        self,
        method: LiftingMethod,
        output: Path | None = None,
        listeners: Sequence[Listener] = (),
        cancelled: Callable[[], bool] = lambda: False,
        loop: SceneLoop | None = None,
    ) -> None:
        self.method, self.config, self.output = method, method.config, output
        self.listeners, self.cancelled = list(listeners), cancelled
        method.cancelled = cancelled
        self.loop = loop or SceneLoop()
        if output is not None:
            make_folder(output)
            self.listeners.append(MetricsFile(output / METRICS))

    @classmethod
    def resume(
        cls,
        output: Path,
        scene: Scene,
        listeners: Sequence[Listener] = (),
        cancelled: Callable[[], bool] = lambda: False,
        rasterizer: Rasterizer | None = None,
    ) -> Trainer:
        """Go on from the last checkpoint in ``output``."""
        content = read_checkpoint(output / CHECKPOINT)
        method = restore_method(content, scene, rasterizer)
        return cls(method, output, listeners, cancelled, SceneLoop(**content["loop"]))

    def run(self) -> TrainingResult:
        """Train. TrainingError says what stopped it, and which checkpoint is the last good one."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.method.torch_threads or threads)
        try:
            return self._run()
        except TrainingError as error:
            raise TrainingError(f"{error}; {self.loop.kept(self.output)}") from error
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory at iteration {self.loop.iteration + 1} with {len(self.method.gaussians):,} Gaussians: "
                f"lower max_gaussians, width or identity_pixels; {self.loop.kept(self.output)}"
            ) from error
        finally:
            torch.set_num_threads(threads)

    def _run(self) -> TrainingResult:
        loop, config = self.loop, self.config
        clock = Clock(config.iterations)
        clock.start(loop.iteration)
        before, started = loop.seconds, time.perf_counter()
        losses, views = LossLog(), self.method.scene.train
        stopped = False
        while loop.iteration < config.iterations and not (stopped := self.cancelled()):
            iteration, view = loop.iteration + 1, self._next_view()
            try:
                terms = self.method.step(iteration, view)
            except TrainingCancelled:
                loop.order.append(view)
                stopped = True
                break
            losses.add(iteration, views[view].name, terms)
            loop.iteration = iteration
            last = iteration == config.iterations
            if iteration % config.report_every == 0 or last:
                rate, left = clock.read(iteration)
                self._report(losses, rate, left)
            if iteration % config.evaluate_every == 0 or last:
                losses.check()  # before anything is kept
                begun = time.perf_counter()
                loop.seconds = before + begun - started
                stopped = not self._evaluate(last)
                clock.pause(time.perf_counter() - begun)
                if stopped:
                    break
        loop.seconds = before + time.perf_counter() - started
        if stopped and not loop.best_iteration and self.output is not None and loop.iteration:
            save_checkpoint(self.output / CHECKPOINT, self.method, vars(loop))  # there is no other yet
        has_map = self.output is not None and (self.output / MAP).is_dir()
        return TrainingResult(
            self.method.name,
            loop.iteration,
            stopped,
            dict(loop.best_metrics if stopped else loop.metrics),
            len(self.method.gaussians),
            loop.seconds / 60,
            self.output / MAP if has_map and self.output is not None else None,
            tuple(self.method.warnings),
        )

    def _next_view(self) -> int:
        if not self.loop.order:
            self.loop.order = self.method.random.permutation(len(self.method.scene.train)).tolist()
        return self.loop.order.pop()

    def _report(self, losses: LossLog, rate: float, left: float) -> None:
        loop = self.loop
        progress = Progress(
            loop.iteration,
            self.config.iterations,
            losses.means(),
            len(self.method.gaussians),
            rate,
            left,
            memory_mb(),
            loop.metrics.get("psnr_db"),
            loop.metrics.get("miou"),
            loop.best_iteration,
        )
        for listener in self.listeners:
            listener(progress)

    def _evaluate(self, last: bool) -> bool:
        """Score, checkpoint, keep the best; False when cancelled meanwhile."""
        loop, scene = self.loop, self.method.scene
        views = scene.held_out
        if self.config.evaluate_views and not last:
            views = views[:: max(1, len(views) // self.config.evaluate_views)]
        try:
            metrics = score_views(self.method, views, stop=self.cancelled)
        except TrainingCancelled:
            return False
        if self.cancelled():
            return False
        loop.metrics = metrics
        score = metrics.get("miou", metrics.get("psnr_db", 0.0))
        first_with_ids = "miou" in metrics and "miou" not in loop.best_metrics  # a score of another kind
        better = score > loop.best or not loop.best_iteration or first_with_ids
        if better:
            loop.take_best(score, metrics)
        if self.output is None:
            return True
        save_checkpoint(self.output / CHECKPOINT, self.method, vars(loop))
        if better:
            link_checkpoint(self.output / CHECKPOINT, self.output / BEST)
        if better or last:
            write_map(self.output / MAP, self.method)
        return True


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a training run is made of. evaluation: sequence to score at; without, views are held out."""

    method: str
    sequence: Path
    output: Path
    preset: str = "standard"
    options_file: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Path | None = None
    resume: bool = False

    def config(self) -> TrainingConfig:
        """Its options, checked."""
        return make_config(method_class(self.method).Config, self.preset, self.options_file, self.overrides)

    def scene(self, config: TrainingConfig, progress: Callable[[], object] = lambda: None) -> Scene:
        evaluation: FrameSequence | None = None
        if self.evaluation is not None:
            evaluation = open_sequence(self.evaluation, max_width=config.width)
        return make_scene(open_sequence(self.sequence, max_width=config.width), config, evaluation, progress)


class _CancelledWhileReading(Exception):
    pass


def train(
    job: TrainingJob, listeners: Sequence[Listener] = (), cancelled: Callable[[], bool] = lambda: False
) -> TrainingResult:
    """Run a job; its folder holds config.yaml, checkpoint.pt, best.pt, metrics.jsonl and the map."""

    def reading() -> None:
        if cancelled():
            raise _CancelledWhileReading

    try:
        return _trainer(job, listeners, cancelled, reading).run()
    except _CancelledWhileReading:
        return TrainingResult(job.method, 0, True, {}, 0, 0.0, None)


def _trainer(
    job: TrainingJob, listeners: Sequence[Listener], cancelled: Callable[[], bool], reading: Callable[[], object]
) -> Trainer:
    """The trainer of a job, new or resumed; ``reading`` is called for every frame that is read."""
    kind = method_class(job.method)
    if job.resume:
        content = read_checkpoint(job.output / CHECKPOINT)
        if content["method"] != job.method:
            raise InvalidRequestError(
                f"{job.output}: was trained with method '{content['method']}', not '{job.method}'"
            )
        config = make_config(kind.Config, "paper", overrides=content["config"])
        return Trainer.resume(job.output, job.scene(config, reading), listeners, cancelled)
    config = job.config()
    method = kind(config, job.scene(config, reading))
    make_folder(job.output)
    write_options(job.output / OPTIONS, config)
    (job.output / METRICS).unlink(missing_ok=True)
    return Trainer(method, job.output, listeners, cancelled)
