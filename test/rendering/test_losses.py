"""The native loss against the same formula in float64 torch, with autograd."""

from __future__ import annotations

import os

import pytest
import torch
from raster_scenes import relative_error

from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering import losses, native
from gs_semantic.rendering.losses import ssim_l1, ssim_l1_gradient


def expected_loss(image, target, weight):
    """The loss with torch's convolution, in the tensors' dtype."""
    offsets = torch.arange(-5, 6, dtype=image.dtype)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(window / window.sum(), window / window.sum())[None, None]

    def blur(x):
        return torch.nn.functional.conv2d(x.permute(2, 0, 1)[:, None], window, padding=5)[:, 0].permute(1, 2, 0)

    m, n = blur(image), blur(target)
    xx, yy, xy = blur(image**2) - m**2, blur(target**2) - n**2, blur(image * target) - m * n
    ssim = (2 * m * n + 0.01**2) * (2 * xy + 0.03**2) / ((m**2 + n**2 + 0.01**2) * (xx + yy + 0.03**2))
    return (1 - weight) * (image - target).abs().mean() + weight * (1 - ssim.mean())


def images(height, width, channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(1, channels, 5, 6, generator=generator)
    target = torch.nn.functional.interpolate(smooth, (height, width), mode="bilinear")[0].permute(1, 2, 0)
    return (target + 0.05 * torch.randn(target.shape, generator=generator)).contiguous(), target.contiguous()


@pytest.mark.parametrize(
    "size", [(48, 64, 3), (1, 1, 3), (1, 40, 1), (37, 5, 3), (70, 83, 3), (33, 16, 4), (12, 7, 40)]
)
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_loss_and_gradient(size, weight):
    image, target = images(*size)
    ours = image.clone().requires_grad_()
    loss = ssim_l1(ours, target, weight)
    (3 * loss).backward()
    exact = image.double().requires_grad_()
    expected = expected_loss(exact, target.double(), weight)
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert relative_error(ours.grad, exact.grad) < 1e-4


def test_equal_images_have_no_loss():
    image, _ = images(40, 50, 3)
    loss, grad = ssim_l1_gradient(image, image.clone())
    assert abs(loss) < 1e-6 and float(grad.abs().max()) < 1e-7


def test_the_same_for_any_number_of_threads():
    image, target = images(200, 150, 3)
    results = [ssim_l1_gradient(image, target, 0.2, threads) for threads in (1, 2, 3, 8)]
    assert len({loss for loss, _ in results}) == 1
    assert all(torch.equal(grad, results[0][1]) for _, grad in results)


def test_views_and_sizes_in_any_order():
    image, target = images(90, 120, 3)
    for height, width in ((90, 120), (20, 30), (64, 120)):
        part = (slice(90 - height, None), slice(120 - width, None))
        loss, grad = ssim_l1_gradient(image[part], target[part])
        assert loss == pytest.approx(float(expected_loss(image[part].double(), target[part].double(), 0.2)), rel=1e-5)
        assert grad.shape == (height, width, 3)


def test_asks_for_matching_images():
    image, target = images(20, 20, 3)
    with pytest.raises(InvalidRequestError, match="target: shape"):
        ssim_l1(image, target[:10])
    with pytest.raises(InvalidRequestError, match="image: dtype"):
        ssim_l1(image.double(), target)
    with pytest.raises(InvalidRequestError, match="has no pixels"):
        ssim_l1(image[:0], target[:0])
    with pytest.raises(InvalidRequestError, match=r"ssim_weight: 1\.5"):
        ssim_l1(image, target, 1.5)


def test_other_devices_have_the_same_loss_and_gradient():
    image, target = images(40, 57, 3)
    native_one, other = ssim_l1_gradient(image, target, 0.2), losses._on_any_device(image, target, 0.2)
    assert float(other[0]) == pytest.approx(native_one[0], rel=1e-5)
    assert relative_error(other[1], native_one[1]) < 1e-4


def test_as_many_threads_as_the_process_may_use():
    image, target = images(64, 64, 3)
    struct = native.SsimL1Struct(
        image=image.data_ptr(), target=target.data_ptr(), height=64, width=64, channels=3, ssim_weight=0.2
    )
    needed = native.library().gs_ssim_workspace
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert needed(struct, 0) == needed(struct, 1) < needed(struct, 2)
    finally:
        os.sched_setaffinity(0, allowed)
    assert needed(struct, 0) == needed(struct, len(allowed))
