"""Training of maps, as a node's runs: messages of what the trainer's loop tells and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gs_semantic.action import Train
from gs_semantic.nodes.runs import Asked, Outcome, Run, Tell, in_words, known
from gs_semantic.segmentation.progress import Listener, Progress
from gs_semantic.segmentation.trainer import TrainingResult


def training_run(
    method: str, subject: str, output: str, train: Callable[[Sequence[Listener], Asked], TrainingResult]
) -> Run:
    """A run of ``train``, which takes listeners and whether it should end. subject: what is trained."""

    def work(tell: Tell, cancelled: Asked) -> Outcome:
        result = train([lambda progress: tell(feedback(progress))], cancelled)
        where = [] if result.map is None else [f"map in {result.map}"]
        if not result.metrics:
            where = ["no map, for nothing was evaluated yet"]
        return Outcome(
            Train.Result(
                cancelled=result.cancelled,
                map_path="" if result.map is None else str(result.map),
                iterations=result.iteration,
                gaussians=result.gaussians,
                minutes=result.minutes,
                metric_names=list(result.metrics),
                metric_values=list(result.metrics.values()),
            ),
            ", ".join([f"iteration {result.iteration}", *in_words(result.metrics), *where]),
            result.warnings,
        )

    return Run(f"trains {method} on {subject}", output, work)


def feedback(progress: Progress) -> Train.Feedback:
    return Train.Feedback(
        iteration=progress.iteration,
        iterations=progress.iterations,
        gaussians=progress.gaussians,
        it_per_s=progress.it_per_s,
        eta_s=progress.eta_s,
        memory_mb=progress.memory_mb,
        psnr_db=known(progress.psnr_db),
        miou=known(progress.miou),
        best_iteration=progress.best_iteration,
        loss_names=list(progress.losses),
        loss_values=list(progress.losses.values()),
    )
