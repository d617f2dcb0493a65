"""Projection and colours are those of gsplat's own PyTorch functions, which need no GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from raster_scenes import make_map, psnr, random_values

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.reference import ReferenceRasterizer

gsplat = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed", exc_type=ImportError)

COUNT = 1500


def off_centre_camera() -> Camera:
    """Turned, moved, and with a principal point far from the middle of the image."""
    angle = 0.3
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = [-0.6, 0.1, -0.3]
    return Camera(97, 71, 80.0, 74.0, 55.2, 29.7, pose)


def project(gaussians: GaussianMap, camera: Camera) -> list[torch.Tensor]:
    """By gsplat: radii (N,2) px, centres (N,2) px, depths (N,) m, conics (N,3) as xx, xy, yy."""
    quats = torch.nn.functional.normalize(gaussians.quats.double(), dim=1)
    covariances, _ = gsplat._quat_scale_to_covar_preci(quats, gaussians.log_scales.double().exp(), compute_preci=False)
    # gsplat's first pixel has its centre at (0.5, 0.5)
    intrinsics = [[camera.fx, 0, camera.cx + 0.5], [0, camera.fy, camera.cy + 0.5], [0, 0, 1]]
    view = torch.as_tensor(camera.T_camera_world).double()[None], torch.tensor(intrinsics, dtype=torch.float64)[None]
    projected = gsplat._fully_fused_projection(gaussians.means.double(), covariances, *view, camera.width, camera.height)
    return [values[0] for values in projected[:4]]


def colours(gaussians: GaussianMap, camera: Camera, degree: int) -> torch.Tensor:
    directions = gaussians.means.double() - torch.as_tensor(np.linalg.inv(camera.T_camera_world)[:3, 3])
    return (gsplat._spherical_harmonics(degree, directions, gaussians.sh.double()) + 0.5).clamp_min(0)


def test_projection() -> None:
    gaussians, camera = make_map(random_values(COUNT)), off_centre_camera()
    ours = ReferenceRasterizer(dtype=torch.float64)._project(gaussians, camera)
    rows = ours.rows
    assert len(rows) > COUNT // 4
    radii, centres, depths, conics = (values[rows] for values in project(gaussians, camera))
    assert (radii > 0).all()  # what we draw, gsplat draws
    torch.testing.assert_close(ours.centre, centres, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(ours.depth, depths, rtol=1e-9, atol=1e-9)
    for (row, column), wanted in zip(((0, 0), (0, 1), (1, 1)), conics.T, strict=True):
        torch.testing.assert_close(ours.conic[:, row, column], wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics(degree: int) -> None:
    gaussians, camera = make_map(random_values(COUNT, sh_count=(degree + 1) ** 2)), off_centre_camera()
    ours = ReferenceRasterizer(dtype=torch.float64)._colors(gaussians, camera)
    torch.testing.assert_close(ours, colours(gaussians, camera, degree), rtol=1e-6, atol=1e-6)


def test_an_image_blended_from_gsplats_projection() -> None:
    """The native kernels from parameters to image, against gsplat's projection and colours blended pixel by pixel."""
    gaussians, camera = make_map(random_values(200, sh_count=4)), off_centre_camera()
    radii, centres, depths, conics = project(gaussians, camera)
    values, opacity = colours(gaussians, camera, 1), torch.sigmoid(gaussians.opacity_logits.double())
    y, x = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    image = torch.zeros(camera.height, camera.width, 3, dtype=torch.float64)
    remaining = torch.ones(camera.height, camera.width, dtype=torch.float64)
    drawn = torch.nonzero((radii > 0).all(dim=1))[:, 0]
    for row in drawn[torch.argsort(depths[drawn])]:
        dx, dy = x - centres[row, 0], y - centres[row, 1]
        xx, xy, yy = conics[row]
        alpha = (opacity[row] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)).clamp_max(0.999)
        alpha = torch.where((alpha >= 1 / 255) & (remaining * (1 - alpha) > 1e-4), alpha, 0)
        image += (remaining * alpha)[..., None] * values[row]
        remaining = remaining * (1 - alpha)
    ours = CpuRasterizer().render(gaussians, camera)
    assert float(ours.alpha.mean()) > 0.05
    assert psnr(ours.rgb, image) >= 60  # we also cut a Gaussian off at 3.33 standard deviations
