"""Small scenes and comparisons for the tests of the rasterisers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import native

NAMES = ("means", "quats", "log_scales", "opacity_logits", "sh")


@dataclass(eq=False)
class Parameters:
    """What a rasteriser reads of a map, as plain tensors (for autograd)."""

    means: torch.Tensor
    quats: torch.Tensor
    log_scales: torch.Tensor
    opacity_logits: torch.Tensor
    sh: torch.Tensor

    def __len__(self) -> int:
        return len(self.means)


def random_values(count: int, seed: int = 0, sh_count: int = 1) -> dict[str, torch.Tensor]:
    """Gaussians of all shapes in a cloud before a camera at the origin."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "means": normal(count, 3) * torch.tensor([0.8, 0.6, 0.5]) + torch.tensor([0.0, 0.0, 2.5]),
        "quats": normal(count, 4),
        "log_scales": normal(count, 3) * 0.5 - 3,
        "opacity_logits": normal(count) * 1.5,
        "sh": normal(count, sh_count, 3) * 0.4,
    }


def make_map(values: dict[str, torch.Tensor]) -> GaussianMap:
    gaussians = GaussianMap(sh_degree=round(values["sh"].shape[1] ** 0.5) - 1)
    gaussians.add(**values)
    return gaussians


def small_camera(width: int = 61, height: int = 47) -> Camera:
    return Camera(width, height, 0.98 * width, 1.02 * width, 0.49 * width, 0.47 * height)


def one_gaussian(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    values = {
        "means": torch.tensor([[0.0, 0.0, 2.0]]),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "log_scales": torch.full((1, 3), -2.0),
        "opacity_logits": torch.tensor([2.0]),
        "sh": torch.full((1, 1, 3), 0.7),
    }
    return values | changes


def psnr(image: torch.Tensor, expected: torch.Tensor) -> float:
    return float(-10 * np.log10(float(((image.double() - expected.double()) ** 2).mean()) + 1e-30))


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value.double() - expected.double()).norm() / expected.double().norm())


def sparse_adam(
    param: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    steps: torch.Tensor,
    rows: torch.Tensor,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-15,
    *,
    advance: bool = True,
) -> None:
    """One step of ``native.adam_step`` on a single tensor."""
    tensor = native.AdamTensor(param, grad, exp_avg, exp_avg_sq, steps, lr, advance)
    native.adam_step([tensor], rows, beta1, beta2, eps)
