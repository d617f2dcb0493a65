"""Losses on images, in native code."""

from __future__ import annotations

import ctypes
import threading

import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering import native

_kept = threading.local()  # workspace of the last call: the next one usually has the same size


def ssim_l1(
    image: torch.Tensor, target: torch.Tensor, ssim_weight: float = 0.2, *, threads: int | None = None
) -> torch.Tensor:
    """(1 - ssim_weight) mean |image - target| + ssim_weight (1 - SSIM), as in 3D Gaussian Splatting; a scalar.

    image, target float32 (H,W,C) on the CPU, values about 0..1. SSIM has an 11x11 Gaussian window of sigma 1.5 and zeros
    outside the image. Differentiable with respect to ``image``; the target counts as constant.
    """
    return _SsimL1.apply(image, target, ssim_weight, threads)


def ssim_l1_gradient(
    image: torch.Tensor, target: torch.Tensor, ssim_weight: float = 0.2, threads: int | None = None
) -> tuple[float, torch.Tensor]:
    """The loss of ``ssim_l1`` and its gradient (H,W,C) with respect to the image."""
    image = native.checked("image", image, (None, None, None))
    target = native.checked("target", target, tuple(image.shape))
    if image.numel() == 0:
        raise InvalidRequestError(f"image: shape {tuple(image.shape)} has no pixels")
    if not 0 <= ssim_weight <= 1:
        raise InvalidRequestError(f"ssim_weight: {ssim_weight} is not within 0..1")
    grad = torch.empty_like(image)
    height, width, channels = image.shape
    struct = native.SsimL1Struct(
        image=image.data_ptr(),
        target=target.data_ptr(),
        grad=grad.data_ptr(),
        height=height,
        width=width,
        channels=channels,
        ssim_weight=ssim_weight,
    )
    needed = native.library().gs_ssim_workspace(struct, threads or 0)
    workspace = getattr(_kept, "workspace", None)
    if workspace is None or len(workspace) < needed:
        _kept.workspace = workspace = torch.empty(needed)
    struct.workspace = workspace.data_ptr()
    loss = ctypes.c_double()
    native.call("gs_ssim_l1", struct, loss, threads or 0)
    return loss.value, grad


class _SsimL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, target, ssim_weight, threads):
        loss, grad = ssim_l1_gradient(image, target, ssim_weight, threads)
        ctx.save_for_backward(grad)
        return torch.tensor(loss, dtype=image.dtype)

    @staticmethod
    def backward(ctx, scale):
        (grad,) = ctx.saved_tensors
        return grad * scale, None, None, None
