"""Splitting Gaussians in two without changing where their mass lies."""

from __future__ import annotations

import math

import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import rotation_matrices

SHRINK = 1.6


def child_offset(shrink: float = SHRINK) -> float:
    """How far a child's centre is from its parent's, in standard deviations of the parent along the axis of the split.

    A child has 1/shrink of the parent's deviation s there; s'^2 + offset^2 = s^2, so that both children together have
    the parent's second moment: 0.7806 s for 1.6.
    """
    return math.sqrt(1 - 1 / shrink**2)


def split_across(
    gaussians: GaussianMap,
    rows: torch.Tensor,
    axes: torch.Tensor,
    shrink: float = SHRINK,
    other_shrink: float = 1.0,
    thin_opacity: bool = False,
) -> torch.Tensor:
    """Replace each of ``rows`` by two children at both sides of a plane; returns their rows, which are the last ones.

    axes (R,3): unit vectors in the parents' own frame with all deviations scaled to 1, so that (1,0,0) is the axis of
    the first scale. The children lie at +- offset along it and are narrower by ``shrink`` along it alone; together they
    have the mean and the covariance of the parent. other_shrink: makes the other axes narrower, too (1.6 is 3D Gaussian
    Splatting's way). thin_opacity: 1 - sqrt(1 - opacity) instead of a copy, so that both in a row hide as much as the
    parent. Everything else is copied; optimiser state starts from zero.
    """
    parent = {name: gaussians[name][rows].clone() for name in gaussians.specs if name != "uid"}
    scales, rotation = parent["log_scales"].exp(), rotation_matrices(parent["quats"])
    offset = child_offset(shrink) * torch.einsum("nij,nj->ni", rotation, scales * axes)
    log_scales, quats = parent["log_scales"].clone(), parent["quats"].clone()
    along = axes.abs().amax(dim=1) > 1 - 1e-6  # an axis of the parent: its rotation stays
    own = torch.nonzero(along)[:, 0]
    narrow = torch.full_like(log_scales[own], -math.log(other_shrink))
    narrow[torch.arange(len(own), device=axes.device), axes[own].abs().argmax(dim=1)] = -math.log(shrink)
    log_scales[own] += narrow
    turned = torch.nonzero(~along)[:, 0]
    if len(turned):
        v = axes[turned].double()
        kept = torch.eye(3, dtype=torch.float64, device=v.device) / other_shrink**2
        kept = kept - (1 / other_shrink**2 - 1 / shrink**2) * v[:, :, None] * v[:, None, :]
        spread = rotation[turned].double() * scales[turned].double()[:, None, :]
        variances, vectors = torch.linalg.eigh(spread @ kept @ spread.transpose(1, 2))
        vectors = vectors * torch.where(torch.linalg.det(vectors) < 0, -1.0, 1.0)[:, None, None]
        log_scales[turned] = (0.5 * variances.clamp(min=1e-20).log()).float()
        quats[turned] = quaternions(vectors).float()
    opacity = parent["opacity_logits"]
    if thin_opacity:
        opacity = torch.logit(1 - (1 - torch.sigmoid(opacity)).clamp(min=1e-6).sqrt())
    children = {name: values.repeat_interleave(2, dim=0) for name, values in parent.items()}
    signs = offset.new_tensor([1.0, -1.0]).repeat(len(rows))[:, None]
    children["means"] = children["means"] + signs * offset.repeat_interleave(2, dim=0)
    children["log_scales"] = log_scales.repeat_interleave(2, dim=0)
    children["quats"] = quats.repeat_interleave(2, dim=0)
    children["opacity_logits"] = opacity.repeat_interleave(2, dim=0)
    kept_rows = torch.ones(len(gaussians), dtype=torch.bool, device=gaussians.device)
    kept_rows[rows] = False
    gaussians.keep(kept_rows)
    return gaussians.add(**children)


def quaternions(rotations: torch.Tensor) -> torch.Tensor:
    """Unit wxyz quaternions (N,4) of rotation matrices (N,3,3)."""
    from scipy.spatial.transform import Rotation

    xyzw = torch.from_numpy(Rotation.from_matrix(rotations.cpu().numpy()).as_quat())
    return xyzw[:, [3, 0, 1, 2]].to(rotations.device)
