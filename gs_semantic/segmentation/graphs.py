"""Steps of training recorded once as CUDA graphs, then replayed: one launch instead of hundreds or thousands of small ones.

Small networks leave a GPU waiting for the processor that starts their kernels. A graph needs tensors of one shape, and a
step that never asks the GPU for a value. ``ReplayedSteps`` records any steps, told apart by a key; ``GraphedStep`` the
optimisation step of batches that differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)
Losses = dict[str, torch.Tensor]
Step = Callable[[], None]
WARM_UP = 3  # steps before recording: they make gradients' and the optimiser's memory, and choose kernels


def captured(step: Step, pool: Any = None) -> Step:
    """``step`` recorded, not run; what replays it. pool: memory of another graph to share; only one of them may run at a
    time. RuntimeError: something in it cannot be recorded."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        step()
    return graph.replay


def beside(device: torch.device, step: Step) -> None:
    """Take a step on a stream beside the current one, as recording will; on a CPU as it is."""
    if device.type != "cuda":
        step()
        return
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream(device).wait_stream(side)


class ReplayedSteps:
    """Runs steps by their keys; what they read and write must stay in the same tensors.

    On a CUDA device the first run of a key, after a few of any, records a graph, which the later ones replay. On other
    devices every run calls the step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._replays: dict[int, Step] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._done = 0

    def run(self, key: int, step: Step) -> None:
        """Take the step; ``step`` is called unless it was recorded."""
        self._done += 1
        if self._device.type != "cuda" or self._done <= WARM_UP:
            beside(self._device, step)
            return
        if key not in self._replays:
            self._replays[key] = captured(step, self._pool)
        self._replays[key]()


class GraphedStep:
    """Forward, backward, clipping and the optimiser's step of batches, which may be nested dicts, lists and tuples.

    The graph reads its batch from tensors of its own, into which every batch of the first one's shapes is copied; batches
    of other shapes, and all of them if recording fails, are stepped without a graph. optimizer: on a GPU made with
    ``capturable=True``, and learning rates that are tensors. clip: largest norm of the gradient; 0: no limit. autocast:
    number format of mixed precision; None: as the weights are. record: makes a replay of a step.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip: float = 0.0,
        autocast: torch.dtype | None = None,
        record: Callable[[Step], Step] = captured,
    ) -> None:
        self.module, self.optimizer, self.clip, self.autocast = module, optimizer, clip, autocast
        self._record: Callable[[Step], Step] | None = record
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._device = self._parameters[0].device
        self._shape: Any = None
        self._batch: Any = None
        self._replay: Step | None = None
        self._recorded: Losses = {}  # of the graph: a replay writes these tensors again
        self._done = 0

    def __call__(self, batch: Any) -> Losses:
        """Loss terms before the step, without gradient."""
        self._done += 1
        if self._record is None or self._done <= WARM_UP:
            losses: Losses = {}
            beside(self._device, lambda: losses.update(self._step(batch)))
        else:
            if self._replay is None:
                self._capture(batch)
            if self._replay is not None and _shape(batch) == self._shape:
                for own, given in zip(_tensors(self._batch), _tensors(batch), strict=True):
                    own.copy_(given, non_blocking=True)
                self._replay()
                losses = self._recorded
            else:
                losses = self._step(batch)
        return {name: value.clone() for name, value in losses.items()}

    def _capture(self, batch: Any) -> None:
        assert self._record is not None
        self._shape, self._batch = _shape(batch), _copied(batch)
        try:
            self._replay = self._record(lambda: self._recorded.update(self._step(self._batch)))
        except RuntimeError as error:
            log.warning("the step cannot be recorded as a CUDA graph, training goes on without: %s", error)
            self._record = self._batch = None
            self.optimizer.zero_grad(set_to_none=True)

    def _step(self, batch: Any) -> Losses:
        # gradients are forgotten, not zeroed, so that the graph's backward pass writes, and does not add
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            self._device.type, self.autocast, enabled=self.autocast is not None, cache_enabled=False
        ):  # a cache of converted weights would outlive the graph's memory
            losses = self.module(batch)
        torch.stack(list(losses.values())).sum().backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self._parameters, self.clip, error_if_nonfinite=False)
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, dict | list | tuple):
        for part in batch.values() if isinstance(batch, dict) else batch:
            yield from _tensors(part)


def _shape(batch: Any) -> Any:
    """What two batches have in common that one graph can take."""
    if isinstance(batch, torch.Tensor):
        return batch.dtype, tuple(batch.shape)
    if isinstance(batch, dict):
        return tuple((key, _shape(part)) for key, part in batch.items())
    if isinstance(batch, list | tuple):
        return tuple(_shape(part) for part in batch)
    return batch


def _copied(batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.clone()
    if isinstance(batch, dict):
        return {key: _copied(part) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(_copied(part) for part in batch)
    return batch
