"""Losses on identities: pixels against id images, and Gaussians against their neighbours (Gaussian Grouping, 2024)."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import cross_entropy

EPSILON = 1e-10  # added to probabilities before their logarithm


def identity_cross_entropy(logits: torch.Tensor, classes: torch.Tensor, normaliser: int = 256) -> torch.Tensor:
    """mean_p CE(logits (P,C), classes int64 (P,)) / ln(normaliser); uniform logits of C = normaliser classes give 1."""
    return cross_entropy(logits, classes) / math.log(max(2, normaliser))


def neighbour_kl(points: torch.Tensor, neighbours: torch.Tensor, normaliser: int = 256) -> torch.Tensor:
    """mean_{m,k} sum_c P_mc (ln P_mc - ln Q_mkc) / normaliser of probabilities P (M,C) and Q (M,K,C).

    A point that counts among its own neighbours adds a term of zero to the mean.
    """
    logarithms = (points + EPSILON).log().unsqueeze(1) - (neighbours + EPSILON).log()
    return (points.unsqueeze(1) * logarithms).sum(dim=-1).mean() / normaliser
