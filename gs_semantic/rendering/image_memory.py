"""Memory of large images, used again once nobody holds the image: new pages from the system for a 640x480 image with 64
channels cost half as much as drawing it. Smaller images the C library keeps by itself."""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass

import numpy as np
import torch

LARGE_BYTES = 32 << 20  # from here on malloc maps and unmaps every block
KEPT = 2  # blocks: one with the caller, one being drawn


@dataclass
class _Block:
    memory: np.ndarray
    lease: weakref.ref[np.ndarray]  # of the view that the tensor's storage holds; dead once no tensor uses the memory


class ImageMemory:
    """Uninitialised float32 tensors on the CPU. May be shared by threads."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def empty(self, *shape: int) -> torch.Tensor:
        """As ``torch.empty``. A tensor, and whatever shares its memory, may be kept for as long as anybody likes."""
        count = math.prod(shape)
        if 4 * count < LARGE_BYTES:
            return torch.empty(shape)
        with self._lock:
            free = [block for block in self._blocks if block.lease() is None and block.memory.size == count]
            memory = free[-1].memory if free else np.empty(count, np.float32)
            lease = memory[:]
            others = [block for block in self._blocks if block.memory is not memory]
            self._blocks = [*others, _Block(memory, weakref.ref(lease))][-KEPT:]
            return torch.from_numpy(lease).view(shape)
