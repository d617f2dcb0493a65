"""Losses on masks whose ids mean nothing beyond their view (Unified-Lift, CVPR 2025, arXiv 2503.14029).

Features F (P,D) of pixels and ``segments`` int64 (P,), the position of each pixel's mask among those of the view, are
what all of them start from. Sums over masks are scatter-adds: no loop depends on how many there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

EPSILON = 1e-6
FILTER_TEMPERATURE = 0.1


def unit(features: torch.Tensor) -> torch.Tensor:
    """F / (|F| + 1e-6), (P,D), with no gradient through the norm: it may grow, which sharpens Eq. 2's softmax."""
    return features / (features.detach().norm(dim=1, keepdim=True) + EPSILON)


def pixels_of(segments: torch.Tensor, count: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """float32 (J,): pixels of each mask, or the sum of their ``weights`` (P,). Not ``bincount``, for which the host waits."""
    ones = torch.ones_like(segments, dtype=torch.float32) if weights is None else weights
    return torch.zeros(count, device=segments.device).index_add_(0, segments, ones)


@dataclass(frozen=True)
class MaskPixels:
    """The pixels of a view by mask: ``pixels`` int32 (P,), those of mask j from ``starts[j]`` to ``starts[j + 1]``;
    ``classes`` (J,), rising, the masks' classes in the scene."""

    pixels: np.ndarray
    starts: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray, classes: np.ndarray) -> MaskPixels:
        """classes (P,): of each pixel."""
        order = np.argsort(classes, kind="stable")
        present, counts = np.unique(classes, return_counts=True)
        return cls(pixels[order].astype(np.int32), np.concatenate([[0], np.cumsum(counts)]), present)


@dataclass(frozen=True)
class Draw:
    """Random pixels (P,) of a view, the position ``segments`` (P,) of each one's mask in ``classes`` (J,), rising classes
    of the scene; class 0 is id 0. On the host, where they are drawn, so that it knows all sizes without waiting.

    weights: float32 (P,), how many pixels each of these stands for, on average 1; None: all for one."""

    pixels: np.ndarray
    segments: np.ndarray
    classes: np.ndarray
    weights: np.ndarray | None = None

    @classmethod
    def of(cls, pixels: np.ndarray, classes: np.ndarray) -> Draw:
        """classes (P,): of each pixel, any order."""
        present = np.bincount(classes) > 0
        return cls(pixels, (np.cumsum(present) - 1)[classes], np.flatnonzero(present))

    @classmethod
    def balanced(cls, masks: MaskPixels, wanted: int, balance: float, random: np.random.Generator) -> Draw:
        """``wanted`` pixels with replacement, of a mask of n pixels as n^(1 - balance), evenly up to one; a mask that gets
        none is not among ``classes``."""
        counts = np.diff(masks.starts)
        shares = counts ** (1.0 - balance)
        shares /= shares.sum()
        ends = np.floor(np.concatenate([[0], np.cumsum(shares)]) * wanted + random.random()).astype(np.int64)
        drawn = ends[1:] - ends[:-1]
        present = np.flatnonzero(drawn)
        segments = np.repeat(np.arange(len(present)), drawn[present])
        places = masks.starts[present][segments] + (random.random(len(segments)) * counts[present][segments]).astype(
            np.int64
        )
        weights = (counts / shares)[present][segments]
        weights = (weights / weights.mean()).astype(np.float32)
        return cls(masks.pixels[places].astype(np.int64), segments, masks.classes[present], weights)

    def large_masks(self, least_pixels: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Of the masks with more than ``least_pixels`` of the pixels: positions of these in ``pixels`` (Q,), which of the
        masks each belongs to (Q,), and how many masks they are."""
        large = np.bincount(self.segments, minlength=len(self.classes)) > least_pixels
        positions = np.flatnonzero(large[self.segments])
        return positions, (np.cumsum(large) - 1)[self.segments[positions]], int(large.sum())


@dataclass(frozen=True)
class Prototypes:
    """Of the masks of a view: ``centres`` (J,D), means of unit features; ``counts`` (J,) pixels; ``spread`` (J,), detached,
    how far pixels lie from the centre: sum_u |f_u - mu_i| / (n_i ln(n_i + 10))."""

    centres: torch.Tensor
    counts: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor, segments: torch.Tensor, count: int) -> Prototypes:
        """features: unit features (P,D)."""
        counts = pixels_of(segments, count).to(features.dtype)
        sums = features.new_zeros(count, features.shape[1]).index_add(0, segments, features)
        centres = sums / counts.clamp(min=1)[:, None]
        with torch.no_grad():
            distance = (features - centres.index_select(0, segments)).norm(dim=1)
            total = torch.zeros_like(counts).index_add(0, segments, distance)
            spread = total / (counts.clamp(min=1) * (counts + 10).log())
        return cls(centres, counts, spread)


def contrastive_loss(
    features: torch.Tensor,
    segments: torch.Tensor,
    count: int,
    per_pixel: bool = False,
    balance: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Eq. 1: every pixel to the mean of its own mask, away from those of others; temperatures follow the spread.

    Of pixels of masks that are large enough (``Draw.large_masks``). Summed over pixels and divided by the masks, as the
    code does, or ``per_pixel``: the mean over pixels. ``balance``: a mask of n pixels weighs
    as n^(1 - balance), so with 1 all masks weigh the same. ``weights`` (P,): how many pixels each stands for.
    """
    rows = unit(features)
    known = Prototypes.of(rows, segments, count)
    temperature = (10 * known.spread).clamp(0.5, 1)
    similarity = rows @ (known.centres / temperature[:, None]).T
    own = similarity.gather(1, segments[:, None])[:, 0]
    terms = (similarity.exp().sum(dim=1) + EPSILON).log() - own
    if balance:
        areas = known.counts if weights is None else pixels_of(segments, count, weights)
        by_mask = areas**-balance
        shares = (by_mask * (areas.sum() / (by_mask * areas).sum())).index_select(0, segments)
        terms = terms * (shares if weights is None else shares * weights)
    elif weights is not None:
        terms = terms * weights
    return terms.mean() if per_pixel else terms.sum() / count


def norm_loss(features: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """mean_u (|F_u| - 1)^2; 1e-12 under the root keeps the gradient of a feature of zero finite."""
    terms = ((features.square().sum(dim=1) + 1e-12).sqrt() - 1).square()
    return (terms if weights is None else terms * weights).mean()


@torch.no_grad()
def confidence(features: torch.Tensor, segments: torch.Tensor, count: int) -> torch.Tensor:
    """Eq. 7: probability (P,) of a pixel's own mask among those of the view, temperature 0.1 (no more than 1)."""
    rows = unit(features)
    known = Prototypes.of(rows, segments, count)
    temperature = (FILTER_TEMPERATURE * known.spread).clamp(FILTER_TEMPERATURE, 1)
    shares = (rows @ (known.centres / temperature[:, None]).T).exp()
    return shares.gather(1, segments[:, None])[:, 0] / (shares.sum(dim=1) + EPSILON)


@torch.no_grad()
def mask_scores(
    probabilities: torch.Tensor,
    segments: torch.Tensor,
    count: int,
    area_aware: bool = True,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Eq. 5: (J,L), the probabilities (P,L) of codes summed over the pixels of each mask; ``weights`` (P,): how many
    pixels each stands for.

    Without ``area_aware`` they are divided by its pixels, as in Panoptic Lifting: a mask of ten pixels then counts like
    one of ten thousand.
    """
    weighted = probabilities if weights is None else probabilities * weights[:, None]
    total = probabilities.new_zeros(count, probabilities.shape[1]).index_add(0, segments, weighted)
    return total if area_aware else total / (pixels_of(segments, count, weights)[:, None] + 1e-4)


def assign(scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """One code for each mask and one mask for each code, of the largest sum of ``scores`` (J,L): masks and their codes.

    With more masks than codes, those left over are not among them.
    """
    return linear_sum_assignment(scores.double().cpu().numpy(), maximize=True)


def class_loss(
    codes: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    probabilities: torch.Tensor,
    kept: torch.Tensor,
) -> torch.Tensor:
    """Eq. 4: mean over the pixels ``kept``, (P,), 0 or what each counts, of CE(C F_u, target) / ln L; codes (L,D), targets int64 (P,).

    probabilities: softmax of C F, which the matching needed already; with them the codes' gradient is one product, and
    the logits, the largest array of all, are not kept. Features that require gradients get theirs, too.
    """
    return _ClassLoss.apply(codes, features, targets, probabilities, kept)


class _ClassLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, codes, features, targets, probabilities, kept):
        weights = kept / (kept.sum().clamp(min=EPSILON) * math.log(max(2, len(codes))))
        ctx.save_for_backward(codes, features, targets, probabilities, weights)
        chosen = probabilities.gather(1, targets[:, None])[:, 0]
        return -(chosen.clamp(min=1e-30).log() * weights).sum()

    @staticmethod
    def backward(ctx, gradient):
        codes, features, targets, probabilities, weights = ctx.saved_tensors
        weights = (gradient * weights)[:, None]
        by_codes = by_features = None
        if ctx.needs_input_grad[0]:
            weighted = features * weights
            by_codes = (probabilities.T @ weighted).index_add(0, targets, weighted, alpha=-1)
        if ctx.needs_input_grad[1]:
            by_features = weights * (probabilities @ codes - codes[targets])
        return by_codes, by_features, None, None, None


def concentration_loss(
    codes: torch.Tensor, features: torch.Tensor, targets: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Eq. 6: mean of |F_u / |F_u| - C_target| (L2) over the pixels ``kept``, (P,); it pulls codes to unit length."""
    distance = unit(features) - codes.index_select(0, targets)
    lengths = (distance.square().sum(dim=1) + 1e-12).sqrt()
    return (lengths * kept).sum() / kept.sum().clamp(min=EPSILON)
