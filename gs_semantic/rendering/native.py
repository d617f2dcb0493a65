"""Bindings of the native kernels (native/src/api.h) through ctypes, which releases the GIL during every call."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import gs_semantic
from gs_semantic.errors import GsSemanticError, InvalidRequestError

ABI_VERSION = 5
LIBRARY = "libgs_semantic_native.so"
BUILD_COMMAND = "cmake -S native -B build/native -G Ninja && cmake --build build/native"

_float_p = ctypes.c_void_p
_int_p = ctypes.c_void_p
_i32, _i64, _f32 = ctypes.c_int32, ctypes.c_int64, ctypes.c_float


class NativeLibraryError(GsSemanticError, ImportError):
    """The native library is missing or cannot be used; the text says how to build it."""


class CameraStruct(ctypes.Structure):
    _fields_ = [
        ("R", _f32 * 9),
        ("t", _f32 * 3),
        ("fx", _f32),
        ("fy", _f32),
        ("cx", _f32),
        ("cy", _f32),
        ("width", _i32),
        ("height", _i32),
    ]


class SettingsStruct(ctypes.Structure):
    _fields_ = [
        (name, _f32) for name in ("near", "far", "eps2d", "alpha_min", "alpha_max", "transmittance_min", "extent_sigma")
    ]


class ParametersStruct(ctypes.Structure):
    _fields_ = [
        *((name, _float_p) for name in ("means", "quats", "log_scales", "opacity_logits", "sh")),
        ("count", _i64),
        ("sh_count", _i32),
    ]


class ImagesStruct(ctypes.Structure):
    """Also the layout of the images' gradients, which have no median depth."""

    _fields_ = [(name, _float_p) for name in ("rgb", "depth", "alpha", "features", "median_depth")]


class GradientsStruct(ctypes.Structure):
    _fields_ = [
        (name, _float_p)
        for name in (
            "means",
            "quats",
            "log_scales",
            "opacity_logits",
            "sh",
            "features",
            "means2d_norm",
            "radii",
            "pose",
        )
    ]


class ResidualStruct(ctypes.Structure):
    _fields_ = [
        *(
            (name, _float_p)
            for name in (
                *("rgb", "depth", "alpha", "features", "target_rgb", "target_depth", "codes", "slots"),
                *("grad_rgb", "grad_depth", "grad_features"),
            )
        ),
        *((name, _i64) for name in ("pixels", "code_count")),
        ("channels", _i32),
        *(
            (name, _f32)
            for name in ("colour_scale", "depth_scale", "near", "near_per_m2", "depth_weight", "feature_weight")
        ),
    ]


class WindowLossStruct(ctypes.Structure):
    _fields_ = [
        *((name, _float_p) for name in ("rgb", "depth", "features", "codes", "slots")),
        ("code_count", _i64),
        *((name, _i32) for name in ("channels", "features_move_geometry")),
        *(
            (name, _f32)
            for name in ("colour_scale", "depth_scale", "near", "near_per_m2", "depth_weight", "feature_weight")
        ),
    ]


class FeatureLossStruct(ctypes.Structure):
    _fields_ = [("target", _float_p), ("channels", _i32), ("scale", _f32)]


class PhotometricLossStruct(ctypes.Structure):
    _fields_ = [
        *((name, _float_p) for name in ("rgb", "depth", "background")),
        *((name, _f32) for name in ("ssim_weight", "depth_weight")),
    ]


class AdamStateStruct(ctypes.Structure):
    _fields_ = [
        *((name, _float_p) for name in ("means", "quats", "log_scales", "opacity_logits", "sh", "rows")),
        *((name, _float_p) for name in ("features", "feature_moments", "changed", "moved")),
        *(
            (f"lr_{name}", _f32)
            for name in ("means", "quats", "log_scales", "opacity_logits", "sh", "sh_rest", "features")
        ),
        *((name, _f32) for name in ("beta1", "beta2", "eps")),
    ]


class SsimL1Struct(ctypes.Structure):
    _fields_ = [
        *((name, _float_p) for name in ("image", "target", "grad", "workspace")),
        *((name, _i32) for name in ("height", "width", "channels")),
        ("ssim_weight", _f32),
    ]


class AdamTensorStruct(ctypes.Structure):
    _fields_ = [
        *((name, _float_p) for name in ("param", "grad", "exp_avg", "exp_avg_sq", "steps")),
        ("width", _i64),
        ("lr", _f32),
        ("advance", _i32),
    ]


_handle = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, Sequence[Any]]] = {
    "gs_abi_version": (_i32, []),
    "gs_isa": (ctypes.c_char_p, []),
    "gs_thread_count": (_i32, [_i32]),
    "gs_error_text": (ctypes.c_char_p, [_i32]),
    "gs_scene_create": (_handle, []),
    "gs_scene_destroy": (None, [_handle]),
    "gs_scene_pack": (_i32, [_handle, ctypes.POINTER(ParametersStruct), _f32, _i32]),
    "gs_scene_repack": (_i32, [_handle, ctypes.POINTER(ParametersStruct), _f32, _int_p, _i64, _i32]),
    "gs_scene_invalid": (_i64, [_handle]),
    "gs_view_create": (_handle, []),
    "gs_view_destroy": (None, [_handle]),
    "gs_view_open": (
        _i32,
        [_handle, _handle, ctypes.POINTER(CameraStruct), ctypes.POINTER(SettingsStruct), _i32, _i32],
    ),
    "gs_view_visible_count": (_i64, [_handle]),
    "gs_view_visible": (None, [_handle, _int_p]),
    "gs_view_radii": (None, [_handle, _float_p]),
    "gs_view_times": (None, [_handle, ctypes.c_double * 3]),
    "gs_view_evaluations": (_i64, [_handle]),
    "gs_view_render": (
        _i32,
        [_handle, ctypes.POINTER(ParametersStruct), _float_p, _i32, _float_p, ctypes.POINTER(ImagesStruct), _i32],
    ),
    "gs_view_ids": (_i32, [_handle, _int_p, _f32, _int_p, _float_p, _float_p, _i32]),
    "gs_view_accumulate": (_i32, [_handle, _float_p, _i32, _float_p, _float_p, _int_p, _i32]),
    "gs_view_accumulate_labels": (_i32, [_handle, _int_p, _int_p, _float_p, _float_p, _i32]),
    "gs_view_backward": (
        _i32,
        [
            *(_handle, ctypes.POINTER(ParametersStruct), _float_p, _i32, _float_p, ctypes.POINTER(ImagesStruct)),
            *(ctypes.POINTER(ImagesStruct), _i32, ctypes.POINTER(GradientsStruct), _i32),
        ],
    ),
    "gs_view_step": (
        _i32,
        [
            *(_handle, ctypes.POINTER(ParametersStruct), ctypes.POINTER(WindowLossStruct)),
            *(ctypes.POINTER(AdamStateStruct), _float_p, ctypes.POINTER(ctypes.c_double), _i32),
        ],
    ),
    "gs_view_step_images": (
        _i32,
        [
            *(_handle, ctypes.POINTER(ParametersStruct), _float_p, _i32, _float_p, ctypes.POINTER(ImagesStruct)),
            *(ctypes.POINTER(ImagesStruct), _i32, ctypes.POINTER(AdamStateStruct), *[_float_p] * 3, _i32),
        ],
    ),
    "gs_view_step_photometric": (
        _i32,
        [
            *(_handle, ctypes.POINTER(ParametersStruct), ctypes.POINTER(PhotometricLossStruct)),
            *(ctypes.POINTER(AdamStateStruct), _float_p, _float_p),
            *(ctypes.POINTER(ctypes.c_double), ctypes.c_double * 3, _i32),
        ],
    ),
    "gs_view_step_features": (
        _i32,
        [
            *(_handle, ctypes.POINTER(FeatureLossStruct), ctypes.POINTER(AdamStateStruct), _float_p, _i64),
            *(ctypes.POINTER(ctypes.c_double), _i32),
        ],
    ),
    "gs_view_kept_bytes": (_i64, [_handle]),
    "gs_view_forget": (None, [_handle]),
    "gs_calibrate": (ctypes.c_double, [ctypes.c_double, _i32]),
    "gs_residual": (_i32, [ctypes.POINTER(ResidualStruct), ctypes.POINTER(ctypes.c_double), _i32]),
    "gs_add_votes": (_i32, [_int_p, _int_p, _int_p, _int_p, _int_p, _int_p, _i64, _i32]),
    "gs_seen_points": (
        _i32,
        [
            *(ctypes.POINTER(CameraStruct), _float_p, _int_p, _i64, _float_p, _f32, _f32, _f32),
            *(_int_p, _float_p, _float_p, _int_p, _i32),
        ],
    ),
    "gs_ssim_workspace": (_i64, [ctypes.POINTER(SsimL1Struct), _i32]),
    "gs_ssim_l1": (_i32, [ctypes.POINTER(SsimL1Struct), ctypes.POINTER(ctypes.c_double), _i32]),
    "gs_adam_step": (_i32, [ctypes.POINTER(AdamTensorStruct), _i32, _int_p, _i64, _f32, _f32, _f32, _i32]),
    "gs_census": (_i32, [_int_p, _i32, _i32, _i32, _i32, _int_p, _i32]),
    "gs_sweep_create": (_handle, []),
    "gs_sweep_destroy": (None, [_handle]),
    "gs_sweep_run": (_i32, [_handle, ctypes.c_void_p, _i32]),
    "gs_nearest_discs": (_i32, [ctypes.c_void_p, _float_p, _i64, _f32, _int_p, _float_p, _i32]),
    "gs_tsdf_fuse": (_i32, [ctypes.c_void_p, _i32]),
    "gs_view_votes": (_i32, [ctypes.c_void_p, _i32]),
    "gs_mlp": (_i32, [_float_p, _i64, _int_p, _i32, _float_p, _i32, _float_p, _i32]),
}


def library_candidates() -> list[Path]:
    """Where the library is looked for, in order."""
    forced = os.environ.get("GS_SEMANTIC_NATIVE_LIB")
    if forced:
        return [Path(forced)]
    packages = [Path(path) for path in gs_semantic.__path__]
    return [path / "lib" / LIBRARY for path in packages] + [path.parent / "build/native" / LIBRARY for path in packages]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The loaded library. Raises NativeLibraryError if there is none, or if it does not fit this package or machine."""
    candidates = library_candidates()
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        places = ", ".join(str(candidate) for candidate in candidates)
        raise NativeLibraryError(f"no {LIBRARY} at {places}; in the source tree run: {BUILD_COMMAND}")
    try:
        lib = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(f"{path} cannot be used ({error}); build it again: {BUILD_COMMAND}") from error
    if lib.gs_abi_version() != ABI_VERSION:
        raise NativeLibraryError(f"{path} is of another version of gs_semantic; build it again: {BUILD_COMMAND}")
    if lib.gs_isa() is None:
        raise NativeLibraryError(lib.gs_error_text(4).decode())
    return lib


def available() -> bool:
    """Whether the native library can be used here."""
    try:
        library()
    except NativeLibraryError:
        return False
    return True


def isa() -> str:
    """The instruction set in use: scalar, avx2, avx512 or neon."""
    return library().gs_isa().decode()


def thread_count(threads: int | None) -> int:
    """How many threads a call with this setting uses (None: one per hardware thread)."""
    return library().gs_thread_count(threads or 0)


def call(name: str, *arguments: Any) -> None:
    """Call a function that returns an error code; raises InvalidRequestError or MemoryError with the library's text."""
    error = getattr(library(), name)(*arguments)
    if error:
        text = library().gs_error_text(error).decode()
        raise MemoryError(f"{name}: {text}") if error == 1 else InvalidRequestError(f"{name}: {text}")


def pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def checked(
    name: str, tensor: torch.Tensor, shape: tuple[int | None, ...], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """The tensor, contiguous and detached; raises InvalidRequestError unless it is on the CPU with this shape and dtype.

    None in ``shape`` matches any size.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InvalidRequestError(f"{name}: expected a torch tensor, got {type(tensor).__name__}")
    if tensor.device.type != "cpu":
        raise InvalidRequestError(f"{name}: is on device '{tensor.device}', the cpu back end needs a CPU tensor")
    if tensor.dtype != dtype:
        raise InvalidRequestError(f"{name}: dtype is {tensor.dtype}, expected {dtype}")
    fits = tensor.dim() == len(shape) and all(
        want in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = tuple("any" if size is None else size for size in shape)
        raise InvalidRequestError(f"{name}: shape is {tuple(tensor.shape)}, expected {wanted}")
    return tensor.detach().contiguous()


class Handle:
    """Owns one object of the library."""

    def __init__(self, create: str, destroy: str) -> None:
        self._destroy: Callable[[int], None] = getattr(library(), destroy)
        self.pointer: int = getattr(library(), create)()
        if not self.pointer:
            raise MemoryError(f"{create}: out of memory")

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self._destroy(self.pointer)


@dataclass(frozen=True)
class AdamTensor:
    """A tensor of a sparse Adam step: param (N, ...), its exp_avg and exp_avg_sq, steps float32 (N,), all changed in place.

    grad (rows, ...) is for the rows of the step. ``advance`` first adds one to the steps of the rows: true for one of the
    tensors that share the counts.
    """

    param: torch.Tensor
    grad: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    steps: torch.Tensor
    lr: float
    advance: bool = True


def adam_step(
    tensors: Sequence[AdamTensor],
    rows: torch.Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-15,
    *,
    threads: int | None = None,
) -> None:
    """One Adam step on some rows of several tensors, with bias correction by each row's own step count.

    rows int64, each at most once; tensors that share ``steps`` should follow each other.
    """
    rows = checked("rows", rows, (None,), torch.int64)
    structs = (AdamTensorStruct * len(tensors))()
    grads = []  # keeps copies alive during the call
    least = None
    for struct, tensor in zip(structs, tensors, strict=True):
        shape = tuple(tensor.param.shape)
        for name in ("param", "exp_avg", "exp_avg_sq", "steps"):
            changed = getattr(tensor, name)
            checked(name, changed, shape if name != "steps" else shape[:1])
            if not changed.is_contiguous():
                raise InvalidRequestError(f"{name}: must be contiguous, as it is changed in place")
            setattr(struct, name, changed.data_ptr())
        grads.append(checked("grad", tensor.grad, (len(rows), *shape[1:])))
        struct.grad, struct.width = grads[-1].data_ptr(), math.prod(shape[1:])
        struct.lr, struct.advance = tensor.lr, int(tensor.advance)
        least = shape[0] if least is None else min(least, shape[0])
    if len(rows) == 0 or least is None:
        return
    low, high = (int(limit) for limit in torch.aminmax(rows))
    if low < 0 or high >= least:
        raise InvalidRequestError(f"rows: {low}..{high} is outside 0..{least - 1}")
    call("gs_adam_step", structs, len(tensors), rows.data_ptr(), len(rows), beta1, beta2, eps, threads or 0)
    for tensor in tensors:
        for changed in (tensor.param, tensor.exp_avg, tensor.exp_avg_sq, tensor.steps):
            torch.autograd.graph.increment_version(changed)


def add_votes(
    objects: torch.Tensor,
    weights: torch.Tensor,
    leaders: torch.Tensor,
    rows: torch.Tensor,
    voted: torch.Tensor,
    given: torch.Tensor,
    *,
    threads: int | None = None,
) -> None:
    """One vote for each of the distinct ``rows`` (int64) of the tables objects int32, weights float32 (N, 4), in place.

    voted int32 and given float32, one per row: the object and how much it counts. leaders int32 (N,) are updated.
    """
    size = len(objects)
    for name, table, shape, dtype in (
        ("objects", objects, (None, 4), torch.int32),
        ("weights", weights, (size, 4), torch.float32),
        ("leaders", leaders, (size,), torch.int32),
    ):
        checked(name, table, shape, dtype)
        if not table.is_contiguous():
            raise InvalidRequestError(f"{name}: must be contiguous, as it is changed in place")
    rows = checked("rows", rows, (None,), torch.int64)
    voted = checked("voted", voted, (len(rows),), torch.int32)
    given = checked("given", given, (len(rows),), torch.float32)
    if len(rows) == 0:
        return
    low, high = (int(limit) for limit in torch.aminmax(rows))
    if low < 0 or high >= size:
        raise InvalidRequestError(f"rows: {low}..{high} is outside 0..{size - 1}")
    tables = (objects.data_ptr(), weights.data_ptr(), leaders.data_ptr())
    call("gs_add_votes", *tables, rows.data_ptr(), voted.data_ptr(), given.data_ptr(), len(rows), threads or 0)


def seen_points(
    camera: CameraStruct,
    points: torch.Tensor,
    depth: torch.Tensor | None,
    tolerance: tuple[float, float],
    near: float,
    among: torch.Tensor | None = None,
    *,
    threads: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows int64 (R,) of points (N,3) that a camera sees, their pixel places (R,2) (centres at integers) and depths (R,) m.

    depth (H,W) m, 0 where nothing is: seen is what differs from it by ``tolerance`` (m, share of the depth) at most; None:
    whatever lies in the image. among: bool (N,), of these alone.
    """
    points = checked("points", points, (None, 3))
    count = len(points)
    if depth is not None:
        depth = checked("depth", depth, (camera.height, camera.width))
    if among is not None:
        among = checked("among", among, (count,), torch.bool)
    rows, places, z = torch.empty(count, dtype=torch.int64), torch.empty(count, 2), torch.empty(count)
    found = ctypes.c_int64(0)
    call(
        "gs_seen_points",
        *(ctypes.byref(camera), points.data_ptr(), pointer(among), count, pointer(depth), *tolerance, near),
        *(rows.data_ptr(), places.data_ptr(), z.data_ptr(), ctypes.byref(found), threads or 0),
    )
    return rows[: found.value], places[: found.value], z[: found.value]


MLP_WIDEST = 256


def packed(layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Weights and biases of dense layers one after the other, as the kernels read them."""
    return torch.cat([part.detach().reshape(-1) for layer in layers for part in layer])


def mlp(
    x: torch.Tensor,
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
    last: bool = False,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """Dense layers (weight (out, in), bias (out,)) with ELU between them, and after the last one if ``last``: (R, out) of
    x (R, in). No gradient; no width above ``MLP_WIDEST``."""
    widths = [layers[0][0].shape[1], *(len(bias) for _, bias in layers)]
    x = checked("x", x, (None, widths[0]))
    for before, after, (weight, bias) in zip(widths, widths[1:], layers, strict=False):
        checked("weight", weight, (after, before))
        checked("bias", bias, (after,))
    weights = packed(layers)
    out = torch.empty(len(x), widths[-1])
    shape = (ctypes.c_int32 * len(widths))(*widths)
    call(
        "gs_mlp", x.data_ptr(), len(x), shape, len(layers), weights.data_ptr(), int(last), out.data_ptr(), threads or 0
    )
    return out
