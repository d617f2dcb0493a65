"""Copies of a map for readers in other threads, made in memory that is used again."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from gs_semantic.gaussians.changes import CHUNK, ChangeRecord
from gs_semantic.gaussians.gaussian_map import GaussianMap

KEPT = 2  # copies whose memory waits for the next one
PATCHED_PART = 0.4  # above, copying all rows costs less than picking the changed ones


class CopyPool:
    """Makes reading copies of maps.

    A copy holds still while the map goes on. Its tensors are valid as long as somebody holds the copy; afterwards their
    memory serves the next copy, which then takes over only the rows that changed in between.
    """

    def __init__(self) -> None:
        self._free: list[_Memory] = []

    def copy(self, gaussians: GaussianMap, names: Iterable[str] = ()) -> GaussianMap:
        """The rows of ``gaussians`` with its core attributes and those of ``names`` that it has."""
        copy = GaussianMap(gaussians.sh_degree, gaussians.map_id, gaussians.frame_id)
        wanted = [name for name in dict.fromkeys((*copy, *names)) if name in gaussians]
        for name in wanted:
            spec = gaussians.specs[name]
            copy.register(name, spec.shape, spec.dtype, spec.fill)
        source = {name: gaussians._buffers[name].detach() for name in wanted}
        memory = self._take(source, len(gaussians))
        changed = None
        if memory.changes is not None and memory.changes.history is gaussians.history:
            changed = gaussians.changed_chunks(memory.revision, core=False)
        whole = changed is None or len(changed) * CHUNK > PATCHED_PART * len(gaussians)
        for name, buffer in memory.buffers.items():
            if whole or len(source[name]) % CHUNK or len(buffer) % CHUNK:
                buffer[: len(gaussians)] = source[name][: len(gaussians)]
            elif changed is not None and len(changed):
                shape, index = (-1, CHUNK, *buffer.shape[1:]), torch.from_numpy(changed).long()
                buffer.view(shape).index_copy_(0, index, source[name].view(shape).index_select(0, index))
        copy._take_over(gaussians, memory.buffers)
        memory.changes, memory.revision = copy._changes, copy.revision
        weakref.finalize(copy, self._recycle, memory).atexit = False
        return copy

    def _take(self, source: dict[str, torch.Tensor], count: int) -> _Memory:
        """Memory of an earlier copy, or fresh one."""
        memory = self._free.pop() if self._free else None
        if memory is not None and all(
            name in memory.buffers
            and len(memory.buffers[name]) >= count
            and (memory.buffers[name].shape[1:], memory.buffers[name].dtype) == (tensor.shape[1:], tensor.dtype)
            for name, tensor in source.items()
        ):
            memory.buffers = {name: memory.buffers[name] for name in source}
            return memory
        return _Memory({name: torch.empty_like(tensor) for name, tensor in source.items()})

    def _recycle(self, memory: _Memory) -> None:
        if len(self._free) < KEPT:
            self._free.append(memory)


@dataclass
class _Memory:
    """Buffers of a copy, and which rows of which map they hold."""

    buffers: dict[str, torch.Tensor]
    changes: ChangeRecord | None = None
    revision: int = 0
