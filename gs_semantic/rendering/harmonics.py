"""Real spherical harmonics with the signs of 3D Gaussian Splatting."""

from __future__ import annotations

import torch

from gs_semantic.gaussians.gaussian_map import SH_C0


def spherical_harmonics(directions: torch.Tensor, count: int) -> torch.Tensor:
    """(N,count) values at unit directions (N,3); count is 1, 4, 9 or 16 (degree 0 to 3)."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    values = [torch.full_like(x, SH_C0)]
    if count > 1:
        values += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if count > 4:
        values += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if count > 9:
        values += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(values, dim=-1)


def rotate_harmonics(sh: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Coefficients (N,count,3) of colours that turned with their Gaussians by ``rotation`` (3,3) in the world.

    The colour that was seen along a direction d is then seen along ``rotation @ d``. Each degree turns by itself: its
    matrix is what takes the functions at a few directions to those at the directions turned back.
    """
    turned = sh.clone()
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(64, 3, generator=generator, dtype=torch.float64), dim=-1)
    count = sh.shape[1]
    here = spherical_harmonics(directions, count)
    back = spherical_harmonics(directions @ rotation.double(), count)
    for degree in range(1, round(count**0.5)):
        band = slice(degree**2, (degree + 1) ** 2)
        matrix = torch.linalg.lstsq(here[:, band], back[:, band]).solution
        turned[:, band] = torch.einsum("ij,njc->nic", matrix.to(sh.dtype), sh[:, band])
    return turned
