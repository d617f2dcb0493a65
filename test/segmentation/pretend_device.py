"""A device that is none: tensors that say they are on ``meta`` and compute on the CPU.

What a real device refuses is refused here, too: operations on tensors of both kinds, and ``numpy()``. So a machine without
a GPU can check that a training run keeps all it has on one device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

from gs_semantic.gaussians.gaussian_map import CORE
from gs_semantic.rendering.base import Accumulation, Rendering, SplatTensors
from gs_semantic.rendering.cpu import CpuRasterizer

DEVICE = torch.device("meta")  # the one device beside the CPU that every build of torch knows
aten = torch.ops.aten


class Elsewhere(torch.Tensor):
    """A tensor on the pretended device; ``inner`` holds its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:  # noqa: PYI034
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.inner})"


def unwrapped(value: Any) -> Any:
    return tree_map(lambda t: t.inner if isinstance(t, Elsewhere) else t, value)


def dispatch(func, args, kwargs):
    given: list[torch.Tensor] = []
    tree_map(lambda t: given.append(t) if isinstance(t, torch.Tensor) else None, (args, kwargs))
    there = [t for t in given if isinstance(t, Elsewhere)]
    here = [t for t in given if not isinstance(t, Elsewhere) and t.dim()]
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    copies = func in (aten.copy_.default, aten._to_copy.default)
    if there and here and not copies:
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {func} of {[tuple(t.shape) for t in given]}"
        )
    out = func(*unwrapped(args), **unwrapped(kwargs))
    if func is aten.copy_.default:
        return args[0]
    stays = bool(there) if wanted is None else torch.device(wanted).type == DEVICE.type
    if not stays or not (there or wanted is not None):
        return out
    known = {id(t.inner): t for t in there}
    out = tree_map(lambda t: _wrapped(t, known) if isinstance(t, torch.Tensor) else t, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if there and wanted is None else out


def _wrapped(inner: torch.Tensor, known: dict[int, Elsewhere]) -> Elsewhere:
    return known[id(inner)] if id(inner) in known else Elsewhere(inner)


class PretendedDevice(TorchDispatchMode):
    """Within it, ``device=DEVICE`` makes such tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


class PretendRasterizer:
    """Draws what is on the pretended device, by copying it."""

    name, device, skipped = "pretended", DEVICE, 0

    def __init__(self) -> None:
        self.inner = CpuRasterizer(threads=1)
        self.settings = self.inner.settings

    def render(self, gaussians, camera, features=None, **options) -> Rendering:
        parts = SplatTensors(*(self._here(getattr(gaussians, name)) for name in CORE))
        drawn = self.inner.render(parts, camera, None if features is None else self._here(features), **options)
        return Rendering(*(None if t is None else t.to(DEVICE) for t in vars(drawn).values()))

    def accumulate(self, gaussians, camera, image, count=True) -> Accumulation:
        found = self.inner.accumulate(gaussians.snapshot("cpu"), camera, self._here(image))
        return Accumulation(*(t.to(DEVICE) for t in vars(found).values()))

    @staticmethod
    def _here(values: torch.Tensor) -> torch.Tensor:
        assert values.device == DEVICE
        return values.cpu()
