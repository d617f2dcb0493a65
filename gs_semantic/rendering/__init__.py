"""Rasterisers: one interface (base.py), a readable reference in PyTorch, a fast native one, and gsplat on CUDA."""

from __future__ import annotations

import warnings

from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering.base import (
    Accumulation,
    IdRendering,
    LabelAccumulation,
    Rasterizer,
    RasterSettings,
    Rendering,
    render_batch,
)

__all__ = [
    "Accumulation",
    "IdRendering",
    "LabelAccumulation",
    "RasterSettings",
    "Rasterizer",
    "Rendering",
    "create_rasterizer",
    "render_batch",
]


def create_rasterizer(
    name: str = "auto", settings: RasterSettings | None = None, threads: int | None = None
) -> Rasterizer:
    """The back end "cpu", "cuda" or "reference"; "auto" is cpu, or reference with a warning where the library is missing.

    ``threads`` counts for cpu only. Raises InvalidRequestError for another name or without a CUDA device,
    NativeLibraryError if cpu is asked for and its library is missing, MissingExtraError if cuda is and gsplat is missing.
    """
    from gs_semantic.rendering import native

    if name == "auto":
        try:
            native.library()
            name = "cpu"
        except native.NativeLibraryError as error:
            warnings.warn(f"drawing with the slow reference rasteriser: {error}", RuntimeWarning, stacklevel=2)
            name = "reference"
    if name == "cpu":
        from gs_semantic.rendering.cpu import CpuRasterizer

        return CpuRasterizer(settings, threads)
    if name == "cuda":
        from gs_semantic.rendering.cuda import CudaRasterizer

        return CudaRasterizer(settings)
    if name == "reference":
        from gs_semantic.rendering.reference import ReferenceRasterizer

        return ReferenceRasterizer(settings)
    raise InvalidRequestError(f"rasterizer '{name}': expected auto, cpu, cuda or reference")
