"""Bindings of the plane sweep (native/src/kernels/sweep.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gs_semantic.rendering import native

MAX_PLANES = 256


class SweepSourceStruct(ctypes.Structure):
    _fields_ = [
        ("descriptors", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("M", ctypes.c_float * 12),
    ]


class SweepStruct(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("reference", "intensity", "regions", "sources")),
        *(
            (name, ctypes.c_int32)
            for name in (
                *("reference_width", "reference_height", "step", "width", "height"),
                *("source_count", "planes", "small_step", "large_step", "edge"),
            )
        ),
        *((name, ctypes.c_float) for name in ("inverse_far", "inverse_step")),
        *((name, ctypes.c_void_p) for name in ("inverse_depth", "margin", "cost")),
    ]


@dataclass(frozen=True)
class SweepResult:
    """inverse_depth float32 (h, w) 1/m; margin float32 (h, w): cost per path by which the best rival is worse;
    cost uint8 (h, w): of the chosen hypothesis in the two best sources, 0 .. 64."""

    inverse_depth: np.ndarray
    margin: np.ndarray
    cost: np.ndarray


def census(image: np.ndarray, step: int, threshold: int, threads: int | None = None) -> np.ndarray:
    """Descriptors uint32 (H, W) of an image uint8 (H, W): 16 neighbours up to 3 ``step`` away, brighter or darker by
    more than ``threshold`` grey levels."""
    image = np.ascontiguousarray(image, np.uint8)
    height, width = image.shape
    out = np.empty((height, width), np.uint32)
    native.call("gs_census", image.ctypes.data, width, height, step, threshold, out.ctypes.data, threads or 0)
    return out


class PlaneSweep:
    """Keeps the memory of the cost volume from call to call. Not for use by two threads at once."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self._scratch = native.Handle("gs_sweep_create", "gs_sweep_destroy")

    def run(
        self,
        reference: np.ndarray,
        intensity: np.ndarray,
        sources: Sequence[tuple[np.ndarray, np.ndarray]],
        planes: int,
        inverse_far: float,
        inverse_step: float,
        small_step: int,
        large_step: int,
        edge: int,
        regions: np.ndarray | None = None,
    ) -> SweepResult:
        """Inverse depth of every pixel of ``intensity`` uint8 (h, w) among inverse_far + i * inverse_step.

        reference: its descriptors (H, W), looked at in every (H // h)-th row and column. sources: descriptors and the
        matrix (3, 4) that maps (x, y, 1, inverse depth), x and y of ``intensity``, to a homogeneous pixel of them.
        small_step, large_step, edge, regions int32 (h, w): see native/src/types.h. InvalidRequestError for settings
        that the kernel cannot hold.
        """
        height, width = intensity.shape
        step = reference.shape[0] // height
        structs = (SweepSourceStruct * len(sources))()
        for struct, (descriptors, matrix) in zip(structs, sources, strict=True):
            struct.descriptors = descriptors.ctypes.data
            struct.height, struct.width = descriptors.shape
            struct.M = (ctypes.c_float * 12)(*np.asarray(matrix, np.float32).ravel())
        result = SweepResult(
            inverse_depth=np.empty((height, width), np.float32),
            margin=np.empty((height, width), np.float32),
            cost=np.empty((height, width), np.uint8),
        )
        struct = SweepStruct(
            reference=reference.ctypes.data,
            intensity=intensity.ctypes.data,
            regions=None if regions is None else regions.ctypes.data,
            sources=ctypes.cast(structs, ctypes.c_void_p),
            reference_width=reference.shape[1],
            reference_height=reference.shape[0],
            step=step,
            width=width,
            height=height,
            source_count=len(sources),
            planes=planes,
            small_step=small_step,
            large_step=large_step,
            edge=edge,
            inverse_far=inverse_far,
            inverse_step=inverse_step,
            inverse_depth=result.inverse_depth.ctypes.data,
            margin=result.margin.ctypes.data,
            cost=result.cost.ctypes.data,
        )
        native.call("gs_sweep_run", self._scratch.pointer, ctypes.byref(struct), self.threads or 0)
        return result
