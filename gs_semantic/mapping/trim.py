"""Making a map smaller: redundant keyframes go, Gaussians are thinned out evenly, and their memory is given back."""

from __future__ import annotations

import ctypes
import math
import sys

import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.view import forget_copies

FEWEST_KEYFRAMES = 2
FAINT = 0.1  # opacity
LARGEST_GROWTH = 4.0  # of the area of a Gaussian
M_MMAP_THRESHOLD = -3  # of glibc's mallopt
LARGE_BLOCK = 1 << 20  # bytes


def bytes_per_gaussian(gaussians: GaussianMap) -> int:
    """Bytes of a row with its optimiser state, without copies."""
    specs = [*gaussians.specs.values(), *gaussians.state_specs.values()]
    return sum(torch.empty(spec.shape, dtype=spec.dtype).nbytes for spec in specs)


def bytes_per_keyframe(mapper: Mapper) -> int:
    """Mean bytes of the images of a keyframe; 0 without one."""
    kept = mapper.keyframes.frames
    images = [image for k in kept for image in (k.rgb, k.depth_mm, k.slots) if image is not None]
    return sum(image.nbytes for image in images) // len(kept) if kept else 0


def thin_out(gaussians: GaussianMap, left: int) -> int:
    """Keep ``left`` Gaussians, grown so that they cover what all did; returns how many were removed.

    Faint ones go first, then any with the same probability: by size, what is near to the camera and therefore finely
    seeded would go as a whole.
    """
    excess = len(gaussians) - left
    if excess <= 0:
        return 0
    random = torch.rand(len(gaussians), generator=torch.Generator().manual_seed(len(gaussians)))
    score = random + (gaussians.opacity_logits.sigmoid() > FAINT)
    gaussians.remove(score.topk(excess, largest=False, sorted=False).indices)
    grown = 0.5 * math.log(min((left + excess) / max(left, 1), LARGEST_GROWTH))
    with torch.no_grad():
        flat = gaussians.log_scales.argmin(1, keepdim=True)  # discs stay as thin as they are
        gaussians.log_scales.add_(grown).scatter_add_(1, flat, torch.full(flat.shape, -grown))
    gaussians.touch()
    gaussians.shrink_to_fit()
    return excess


def trim(mapper: Mapper, gaussians: int, keyframes: int) -> tuple[int, int]:
    """Keep at most so many Gaussians and keyframes; returns how many of each were dropped."""
    dropped_keyframes = 0
    while len(mapper.keyframes) > max(keyframes, FEWEST_KEYFRAMES):
        mapper.keyframes.drop_most_redundant()
        dropped_keyframes += 1
    thinned = thin_out(mapper.gaussians, gaussians)
    if thinned:
        forget_copies(mapper.gaussians)
    return thinned, dropped_keyframes


def give_back() -> None:
    """Return freed memory to the system (glibc keeps it otherwise)."""
    if sys.platform == "linux":
        trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim_heap is not None:
            trim_heap(0)


def give_back_at_once() -> None:
    """From now on, a large block of memory goes back to the system when it is freed, instead of waiting for the next use.

    Images of changing sizes, in several threads, so take some 200 MB less; getting fresh memory for each takes time.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(M_MMAP_THRESHOLD, LARGE_BLOCK)
