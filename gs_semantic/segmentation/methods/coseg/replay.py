"""Steps of training that are always the same on a view: on a CUDA device recorded once, then replayed as one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch

EAGER = 2  # first steps, which make what a recording must find: gradients' and optimiser's memory, loaded kernels


class ReplayedSteps:
    """Runs a step by its key; what it reads and writes must stay in the same tensors, and it must not wait for the device.

    On a CUDA device the first run of a key, after a few of any, records a CUDA graph, which the later ones replay: some 300
    launches from Python become one. On other devices every run calls the step.
    """

    def __init__(self, device: torch.device) -> None:
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._runs = 0

    def run(self, key: int, step: Callable[[], None]) -> None:
        """Take the step; ``step`` is called unless it was recorded."""
        if self._stream is None:
            step()
        elif key in self._graphs:
            self._graphs[key].replay()
        elif self._runs < EAGER:
            self._runs += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                step()
            torch.cuda.current_stream().wait_stream(self._stream)
        else:
            graph = torch.cuda.CUDAGraph()
            pool = next(iter(self._graphs.values())).pool() if self._graphs else None
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                step()
            self._graphs[key] = graph
            graph.replay()
