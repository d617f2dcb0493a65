"""Losses on images: in native code, on other devices with torch."""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache

import torch
import torch.nn.functional as F

from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering import native

_kept = threading.local()  # workspace of the last call: the next one usually has the same size
WINDOW, SIGMA_PX = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for values 0..1


def ssim_l1(
    image: torch.Tensor, target: torch.Tensor, ssim_weight: float = 0.2, *, threads: int | None = None
) -> torch.Tensor:
    """(1 - ssim_weight) mean |image - target| + ssim_weight (1 - SSIM), as in 3D Gaussian Splatting; a scalar.

    image, target float32 (H,W,C), values about 0..1. SSIM has an 11x11 Gaussian window of sigma 1.5 and zeros
    outside the image. Differentiable with respect to ``image``; the target counts as constant.
    """
    return _SsimL1.apply(image, target, ssim_weight, threads)


def ssim_l1_gradient(
    image: torch.Tensor, target: torch.Tensor, ssim_weight: float = 0.2, threads: int | None = None
) -> tuple[float | torch.Tensor, torch.Tensor]:
    """The loss of ``ssim_l1`` and its gradient (H,W,C) with respect to the image.

    On a device the loss is a scalar there: whoever wants the number waits for it.
    """
    if image.device.type != "cpu":
        return _on_any_device(image, target, ssim_weight)
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


def _on_any_device(image: torch.Tensor, target: torch.Tensor, ssim_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, a scalar, and its gradient with torch; autograd would take twice as many operations.

    With m and n the blurred images and q, s, r the blurred a^2, b^2, a b: SSIM = A B / (C D), A = 2 m n + c1,
    B = 2 (r - m n) + c2, C = m^2 + n^2 + c1, D = q + s - m^2 - n^2 + c2, whose derivatives by m, q and r are blurred back.
    """
    with torch.no_grad():
        difference = image - target
        loss = (1 - ssim_weight) * difference.abs().mean()
        grad = difference.sign_().mul_((1 - ssim_weight) / image.numel())
        if not ssim_weight:
            return loss, grad
        a, b = image.permute(2, 0, 1), target.permute(2, 0, 1)
        m, n, q, s, r = _blurred(torch.cat([a, b, a * a, b * b, a * b])).chunk(5)
        mn, squares = m * n, m * m + n * n
        top_a, top_b = 2 * mn + C1, 2 * (r - mn) + C2
        low_c, low_d = squares + C1, q + s - squares + C2
        low = 1 / (low_c * low_d)
        ssim = top_a * top_b * low
        by_q = -ssim / low_d
        by_r = 2 * top_a * low
        by_m = 2 * (n * (top_b - top_a) * low - m * (ssim / low_c + by_q))
        by_m, by_q, by_r = _blurred(torch.cat([by_m, by_q, by_r])).chunk(3)
        by_image = (by_m + 2 * a * by_q + b * by_r).permute(1, 2, 0)
        grad.add_(by_image, alpha=-ssim_weight / image.numel())
        return loss + ssim_weight * (1 - ssim.mean()), grad


def _blurred(planes: torch.Tensor) -> torch.Tensor:
    """Planes (C,H,W) under the window, zeros outside."""
    count = len(planes)
    weights = _window(planes.device, planes.dtype).expand(count, 1, WINDOW)
    rows = F.conv2d(planes[None], weights[:, :, None, :], padding=(0, WINDOW // 2), groups=count)
    return F.conv2d(rows, weights[..., None], padding=(WINDOW // 2, 0), groups=count)[0]


@lru_cache(maxsize=4)
def _window(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    offsets = torch.arange(WINDOW, device=device, dtype=dtype) - WINDOW // 2
    weights = (-offsets.square() / (2 * SIGMA_PX**2)).exp()
    return weights / weights.sum()


class _SsimL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, target, ssim_weight, threads):
        loss, grad = ssim_l1_gradient(image, target, ssim_weight, threads)
        ctx.save_for_backward(grad)
        return torch.tensor(loss, dtype=image.dtype, device=image.device)

    @staticmethod
    def backward(ctx, scale):
        (grad,) = ctx.saved_tensors
        return grad * scale, None, None, None
