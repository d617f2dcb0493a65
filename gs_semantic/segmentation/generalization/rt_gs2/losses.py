"""What the 2D network is trained with: smoothed cross-entropy, and class centres pulled to fixed directions (CeCo)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from gs_semantic.errors import InvalidRequestError

IGNORE = -1


def simplex_frame(width: int, classes: int, seed: int = 0) -> torch.Tensor:
    """(width, classes): unit columns that all have the product -1 / (classes - 1) with each other, a simplex
    equiangular tight frame. InvalidRequestError where ``width`` is too small for it."""
    if classes < 2 or width < classes:
        raise InvalidRequestError(
            f"{classes} classes need an embedding of as many channels and at least 2, got {width}"
        )
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, classes, generator=generator, dtype=torch.float64)).Q
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return (math.sqrt(classes / (classes - 1)) * basis @ centred).float()


class CentreCollapse(nn.Module):
    """CeCo (https://arxiv.org/abs/2301.01100): the mean embedding of each class should point along its own fixed direction.

    present_only: the mean is over classes that the batch shows. Else absent ones count with ln K, a constant (RT-GS2's code).
    """

    frame: torch.Tensor

    def __init__(self, width: int, classes: int, smoothing: float = 0.0, present_only: bool = True) -> None:
        super().__init__()
        self.register_buffer("frame", simplex_frame(width, classes), persistent=False)
        self.smoothing, self.present_only = smoothing, present_only

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """embedding (B,E,h,w), labels int64 (B,H,W), ``IGNORE`` left out; a mean over the labels' pixels, as if the
        embedding were brought to their size bilinearly."""
        with torch.autocast(embedding.device.type, enabled=False):  # sums over all pixels
            centres, present = class_centres(embedding.float(), labels, self.frame.shape[1])
            each = smoothed(centres @ self.frame, self.smoothing).diagonal()
        if not self.present_only:
            return each.mean()
        return torch.where(present, each, 0.0).sum() / present.sum().clamp_min(1)


def smoothed(logits: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy (...,K) of logits (...,K) with each class as the label, of which ``smoothing`` is spread over all."""
    surprise = -logits.log_softmax(dim=-1)
    return (1 - smoothing) * surprise + smoothing * surprise.mean(dim=-1, keepdim=True)


def class_centres(embedding: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (K,E) of an embedding (B,E,h,w), enlarged bilinearly to labels (B,H,W), over each class; bool (K,) present.

    Instead of enlarging the embedding, each class's mask is brought to its size by the transpose of enlarging, which is one
    matrix a direction.
    """
    height, width = embedding.shape[2:]
    every = torch.arange(classes, device=labels.device)
    masks = (labels[:, None] == every[:, None, None]).to(embedding.dtype)
    count = masks.sum(dim=(0, 2, 3))
    if tuple(labels.shape[1:]) != (height, width):
        down, along = (
            F.interpolate(torch.eye(few, device=labels.device)[None], size=many, mode="linear", align_corners=False)[0]
            for few, many in zip((height, width), labels.shape[1:], strict=True)
        )
        masks = down @ masks @ along.T
    return torch.einsum("bkhw,behw->ke", masks, embedding) / count.clamp_min(1)[:, None], count > 0


class SegmentationLoss(nn.Module):
    """Cross-entropy with label smoothing, plus ``ceco_weight`` times CeCo (RT-GS2, sections 4.3 and B.2)."""

    def __init__(self, embedding: int, classes: int, smoothing: float = 0.15, ceco_weight: float = 0.4) -> None:
        super().__init__()
        self.smoothing, self.ceco_weight = smoothing, ceco_weight
        self.ceco = CentreCollapse(embedding, classes, smoothing) if ceco_weight else None

    def forward(self, logits: torch.Tensor, embedding: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted terms by name. logits (B,K,H,W), labels int64 (B,H,W)."""
        # written out: torch's own asks the GPU, and waits, before it starts
        surprise = -logits.float().log_softmax(dim=1)
        own = surprise.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        each = (1 - self.smoothing) * own + self.smoothing * surprise.mean(dim=1)
        known = labels != IGNORE
        terms = {"cross_entropy": torch.where(known, each, 0.0).sum() / known.sum().clamp_min(1)}
        if self.ceco is not None:
            terms["ceco"] = self.ceco_weight * self.ceco(embedding, labels)
        return terms


def depth_loss(metres: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Mean squared error in m^2 of (B,1,H,W) where depth (B,H,W) is known (finite and > 0)."""
    known = torch.isfinite(depth) & (depth > 0)
    error = torch.where(known, metres[:, 0] - depth.nan_to_num(), torch.zeros_like(depth))
    return error.square().sum() / known.sum().clamp_min(1)
