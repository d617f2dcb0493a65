"""Training over many scenes with Lightning Fabric: one process, or several that ``torchrun`` starts.

Every process draws its own batches; gradients are averaged over processes. The first one writes checkpoints, evaluates
and reports. A run that is resumed goes on with the same batches as if it had never stopped.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gs_semantic.data.room_writer import INDEX, VIEWS, list_rooms
from gs_semantic.data.rooms import room_labels
from gs_semantic.errors import InvalidInputError, InvalidRequestError, MissingExtraError, TrainingError
from gs_semantic.files import make_folder
from gs_semantic.labels import LabelSet
from gs_semantic.segmentation.config import make_config, write_options
from gs_semantic.segmentation.generalization.checkpoints import read_learner, restore_learner, save_learner
from gs_semantic.segmentation.generalization.config import GeneralizationConfig
from gs_semantic.segmentation.generalization.method import SceneLearner
from gs_semantic.segmentation.generalization.registry import learner_class
from gs_semantic.segmentation.generalization.scenes import LearningScene, open_scenes
from gs_semantic.segmentation.graphs import GraphedStep
from gs_semantic.segmentation.loop import BEST, CHECKPOINT, METRICS, OPTIONS, LoopState, link_checkpoint, out_of_memory
from gs_semantic.segmentation.progress import Clock, Listener, MetricsFile, Progress, memory_mb

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class LearningResult:
    """metrics: of the best evaluation. checkpoint: the best one; None when nothing was evaluated yet."""

    method: str
    stage: str
    iteration: int
    cancelled: bool
    metrics: dict[str, float]
    minutes: float
    checkpoint: Path | None


def make_fabric(config: GeneralizationConfig) -> Fabric:
    """Fabric for this process, as ``torchrun`` has started it, or alone. MissingExtraError without the library."""
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError as error:
        raise MissingExtraError.for_module("lightning_fabric", "train", "learning from many scenes") from error
    world = int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = torch.cuda.is_available() if config.accelerator == "auto" else config.accelerator == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise InvalidRequestError("accelerator=cuda: there is no GPU that torch can use; choose accelerator=cpu")
    precision = config.precision if config.precision != "auto" else ("bf16-mixed" if on_gpu else "32-true")
    several = DDPStrategy(process_group_backend="nccl" if on_gpu else "gloo", find_unused_parameters=True)
    return Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        strategy=several if world > 1 else "auto",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", world)) if world > 1 else 1,
        num_nodes=max(1, world // int(os.environ.get("LOCAL_WORLD_SIZE", world))) if world > 1 else 1,
        precision=precision,  # type: ignore[arg-type]
    )


class MultiSceneTrainer:
    """Trains a stage of a learner to its last iteration. Its folder holds config.yaml, checkpoint.pt, best.pt and
    metrics.jsonl.

    cancelled: asked in every iteration and between views of an evaluation. state: of a run that goes on.
    """

    def __init__(
        self,
        learner: SceneLearner,
        train: Sequence[LearningScene],
        validation: Sequence[LearningScene],
        output: Path,
        listeners: Sequence[Listener] = (),
        cancelled: Callable[[], bool] = lambda: False,
        state: dict[str, Any] | None = None,
        fabric: Fabric | None = None,
    ) -> None:
        if not train or not validation:
            raise InvalidInputError("learning needs scenes to train on and others to choose the best checkpoint at")
        self.learner, self.config = learner, learner.config
        self.train_scenes, self.validation, self.output = list(train), list(validation), output
        self.cancelled = cancelled
        self.fabric = fabric or make_fabric(self.config)
        self.fabric.launch()
        learner.begin(learner.stage)
        groups = learner.parameter_groups()
        if not any(list(group["params"]) for group in groups):
            raise InvalidRequestError(f"method '{learner.name}', stage '{learner.stage}': nothing of it can be trained")
        graphed = self._graphed()
        learner.to(self.fabric.device)  # before the optimiser looks where they are
        fused = (
            self.fabric.device.type == "cuda" and self.config.precision != "16-mixed"
        )  # scaled ones cannot be clipped
        self._kernels: dict[str, Any] = {"capturable": graphed, "fused": fused or None}
        optimizer = torch.optim.AdamW(groups, lr=self.config.lr, weight_decay=self.config.weight_decay, **self._kernels)
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self.module, self.optimizer = self.fabric.setup(learner, optimizer)
        if graphed:
            self._tensor_rates()
        self._graph = GraphedStep(learner, optimizer, self.config.clip, self._autocast()) if graphed else None
        self.random = np.random.default_rng((self.config.seed, self.fabric.global_rank))
        self.loop = LoopState()
        self._begun = 0.0  # when it would have begun if it had never stopped
        self.listeners: list[Listener] = []
        if self.first:
            make_folder(output)
            self.listeners = [*listeners, MetricsFile(output / METRICS)]
        if state is not None:
            self._restore(state)
        else:
            torch.manual_seed(self.config.seed + self.fabric.global_rank)

    @property
    def first(self) -> bool:
        """Is this the process that writes and reports?"""
        return self.fabric.global_rank == 0

    def _graphed(self) -> bool:
        """Are steps recorded? InvalidRequestError: that was asked for and cannot be."""
        config, fabric = self.config, self.fabric
        possible = fabric.device.type == "cuda" and fabric.world_size == 1 and config.precision != "16-mixed"
        if config.graphs == "on" and not possible:
            raise InvalidRequestError(
                "graphs=on: needs a GPU, one process, and precision bf16-mixed or 32-true; leave it at auto"
            )
        return possible and (config.graphs == "on" or config.graphs == "auto" and self.learner.one_shape)

    def _autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.config.precision in ("auto", "bf16-mixed") else None

    def _tensor_rates(self) -> None:
        """Learning rates where a recorded step reads them."""
        for group in self.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32).to(self.fabric.device)

    def run(self) -> LearningResult:
        """Train. TrainingError says where it stopped and what is kept."""
        try:
            return self._run()
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory at iteration {self.loop.iteration + 1}: lower width or what a batch holds; "
                f"{self.loop.kept(self.output)}"
            ) from error

    def _run(self) -> LearningResult:
        loop, config = self.loop, self.config
        clock = Clock(config.iterations)
        clock.start(loop.iteration)
        self._begun = time.perf_counter() - loop.seconds
        sums: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
        stopped = False
        self.module.train()
        last = loop.iteration >= config.iterations or self._time_share() >= 1
        while not last and not (stopped := self._stopped()):
            loop.iteration += 1
            for name, value in self._step().items():
                sums[name].append(value)
            last = loop.iteration == config.iterations or self._time_share() >= 1
            if loop.iteration % config.report_every == 0 or last:
                self._report(sums, *clock.read(loop.iteration))
            if loop.iteration % config.evaluate_every == 0 or last:
                begun = time.perf_counter()
                loop.seconds = begun - self._begun
                finished = self._evaluate()
                clock.pause(time.perf_counter() - begun)
                if not finished:
                    stopped = True
                    break
        loop.seconds = time.perf_counter() - self._begun
        if stopped and loop.iteration:
            self._save(CHECKPOINT)
        has_best = loop.best_iteration > 0
        return LearningResult(
            self.learner.name,
            self.learner.stage,
            loop.iteration,
            stopped,
            dict(loop.best_metrics),
            loop.seconds / 60,
            self.output / BEST if has_best else None,
        )

    def _time_share(self) -> float:
        """Of the minutes that the run may take, the same in all processes; 0 without a limit."""
        if not self.config.minutes:
            return 0.0
        share = (time.perf_counter() - self._begun) / (60 * self.config.minutes)
        return float(self.fabric.broadcast(share)) if self.fabric.world_size > 1 else share

    def _step(self) -> dict[str, torch.Tensor]:
        share = self._rate_share(self.loop.iteration)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(peak * share)
            else:
                group["lr"] = peak * share
        batch = self.fabric.to_device(self.learner.sample(self.train_scenes, self.random))
        if self._graph is not None:
            losses = self._graph(batch)
            self._check(losses)
            return losses
        losses = self.module(batch)
        self._check(losses)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad()
        self.fabric.backward(total)
        if self.config.clip:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False)
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _check(self, losses: Mapping[str, torch.Tensor]) -> None:
        """TrainingError: they are not finite."""
        if self.fabric.device.type != "cpu" and self.loop.iteration % self.config.report_every:
            return  # a GPU is asked only now and then, as it would have to finish first
        total = torch.stack([value.detach() for value in losses.values()]).sum()
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {total.item()} at iteration {self.loop.iteration}: lower lr, or use precision=32-true; "
                f"{self.loop.kept(self.output)}"
            )

    def _rate_share(self, iteration: int) -> float:
        """Of the largest learning rate: linear over the warm-up, then ((last - i) / (last - warm-up))^decay, or the share
        of the time that is left, if that is less, in the place of the fraction."""
        warmup, last = self.config.warmup, self.config.iterations
        if iteration <= warmup:
            return iteration / max(1, warmup)
        left = (last - iteration + 1) / max(1, last - warmup)
        return float(max(0.0, min(1.0, left, 1 - self._time_share())) ** self.config.decay)

    def _stopped(self) -> bool:
        """Does the first process want to end? All have to agree."""
        wish = self.cancelled()
        return bool(self.fabric.broadcast(wish)) if self.fabric.world_size > 1 else wish

    def _report(self, sums: defaultdict[str, list[torch.Tensor]], rate: float, left: float) -> None:
        loop = self.loop
        progress = Progress(
            loop.iteration,
            self.config.iterations,
            {name: float(torch.stack(values).mean()) for name, values in sums.items()},
            0,
            rate,
            left,
            memory_mb(),
            miou=loop.metrics.get("miou"),
            best_iteration=loop.best_iteration,
        )
        sums.clear()
        for listener in self.listeners:
            listener(progress)

    def _evaluate(self) -> bool:
        """Score, write checkpoints; False when cancelled meanwhile."""
        loop, finished = self.loop, True
        if self.first:
            self.module.eval()
            with torch.no_grad():
                metrics = self.learner.evaluate(self.validation, self.config.evaluate_views, self.cancelled)
            self.module.train()
            finished = not self.cancelled()
            if finished:
                loop.metrics = metrics
                if metrics["score"] > loop.best:
                    loop.take_best(metrics["score"], metrics)
        if self.fabric.world_size > 1:
            loop_state, finished = self.fabric.broadcast((asdict(loop), finished))
            self.loop = loop = LoopState(**loop_state)
        if finished:
            self._save(CHECKPOINT)
            if self.first and loop.best_iteration == loop.iteration:
                link_checkpoint(self.output / CHECKPOINT, self.output / BEST)
        return bool(finished)

    # --- state ------------------------------------------------------------------------------------------------------

    def _save(self, name: str) -> None:
        """Write the learner and the state of every process."""
        states = [self._random_state()]
        if self.fabric.world_size > 1:
            gathered: list[Any] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(gathered, states[0])
            states = gathered
        if self.first:
            training = {
                "loop": asdict(self.loop),
                "optimizer": self.optimizer.state_dict(),
                "random": states,
            }
            save_learner(self.output / name, self.learner, training)
        self.fabric.barrier()

    def _random_state(self) -> dict[str, Any]:
        return {"numpy": self.random.bit_generator.state, "torch": torch.get_rng_state()}

    def _restore(self, state: dict[str, Any]) -> None:
        if len(state["random"]) != self.fabric.world_size:
            raise InvalidRequestError(
                f"{self.output}: was trained by {len(state['random'])} processes, not {self.fabric.world_size}; "
                "resume with as many"
            )
        self.loop = LoopState(**state["loop"])
        saved = state["optimizer"]  # perhaps of another device
        groups = [{**group, "lr": float(group["lr"])} | self._kernels for group in saved["param_groups"]]
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
        if self._graph is not None:
            self._tensor_rates()
        own = state["random"][self.fabric.global_rank]
        self.random.bit_generator.state = own["numpy"]
        torch.set_rng_state(own["torch"])


@dataclass(frozen=True)
class LearningJob:
    """Everything that a run is made of. rooms: folders of ``make-rooms`` (their training rooms, and the
    validation rooms of the first), or scenes to train on, with ``validation``. stage: empty: the first. start: checkpoint whose weights are taken first."""

    method: str
    rooms: tuple[Path, ...]
    output: Path
    validation: tuple[Path, ...] = ()
    stage: str = ""
    preset: str = "standard"
    options_file: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    start: Path | None = None
    resume: bool = False

    def config(self) -> GeneralizationConfig:
        """Its options, checked; InvalidRequestError for a stage that the method has not."""
        kind = learner_class(self.method)
        if self.stage and self.stage not in kind.stages:
            raise InvalidRequestError(f"stage '{self.stage}': {self.method} has {', '.join(kind.stages)}")
        stage = kind.stage_presets.get(self.stage, {}).get(self.preset, {})
        return make_config(kind.Config, self.preset, self.options_file, self.overrides, stage)

    def folders(self) -> tuple[list[Path], list[Path]]:
        """Scenes to train on, and to validate at."""
        train = _expanded(self.rooms, "train")
        if self.validation:
            return train, _expanded(self.validation, "validation")
        if not (self.rooms[0] / INDEX).is_file() and len(self.rooms) > 1:
            raise InvalidRequestError("several scenes to train on: say which to validate at")
        return train, list_rooms(self.rooms[0], "validation")


def _expanded(paths: Sequence[Path], split: str) -> list[Path]:
    """Folders of rooms replaced by their rooms of a split; single scenes stay."""
    found: list[Path] = []
    for path in paths:
        rooms = (path / INDEX).is_file() or not (path / VIEWS).is_dir() and (path / split).is_dir()
        found += list_rooms(path, split) if rooms or not path.is_dir() else [path]
    return found


def learn(
    job: LearningJob,
    listeners: Sequence[Listener] = (),
    cancelled: Callable[[], bool] = lambda: False,
    labels: LabelSet | None = None,
) -> LearningResult:
    """Run a job. labels: classes to learn, by default those of the rooms made in code."""
    return _trainer(job, listeners, cancelled, labels or room_labels()).run()


def _trainer(
    job: LearningJob, listeners: Sequence[Listener], cancelled: Callable[[], bool], labels: LabelSet
) -> MultiSceneTrainer:
    kind = learner_class(job.method)
    state = None
    if job.resume:
        content = read_learner(job.output / CHECKPOINT)
        if content["method"] != job.method or (job.stage and content["stage"] != job.stage):
            raise InvalidRequestError(
                f"{job.output}: was trained with method '{content['method']}', stage '{content['stage']}', not "
                f"'{job.method}', '{job.stage or kind.stages[0]}'"
            )
        learner, state = restore_learner(content, job.output / CHECKPOINT), content["training"]
        if state is None:
            raise InvalidInputError(f"{job.output / CHECKPOINT}: has weights alone; a run cannot go on from it")
        config = learner.config
    else:
        config = job.config()
        torch.manual_seed(config.seed)
        if job.start is not None:
            learner = _started(job, config)
        else:
            learner = kind(config, labels)
            learner.initialise()
        learner.begin(job.stage or kind.stages[0])
    train, validation = (open_scenes(folders, learner.labels, config.width) for folders in job.folders())
    trainer = MultiSceneTrainer(learner, train, validation, job.output, listeners, cancelled, state)
    if trainer.first and not job.resume:
        write_options(job.output / OPTIONS, config)
        (job.output / METRICS).unlink(missing_ok=True)
    return trainer


def _started(job: LearningJob, config: GeneralizationConfig) -> SceneLearner:
    """A learner with the weights of another run, and the options of this one."""
    assert job.start is not None
    content = read_learner(job.start)
    if content["method"] != job.method:
        raise InvalidRequestError(f"{job.start}: is of method '{content['method']}', not '{job.method}'")
    return restore_learner(content, job.start, asdict(config))
