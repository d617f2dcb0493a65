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


def feature_kl(features: torch.Tensor, points: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """mean_{m,k} KL(softmax(f_m) || softmax(f_mk)) of features (N,C) at points int64 (M,) and neighbours int64 (M,K).

    CoSegGaussians, Eq. 9. Logarithms are taken of all points once, not of every pair.
    """
    logs = features.log_softmax(dim=1)
    own = logs.index_select(0, points)
    shares = own.exp()
    others = logs.index_select(0, neighbours.reshape(-1)).reshape(*neighbours.shape, -1).mean(dim=1)
    return (shares * (own - others)).sum(dim=1).mean()


def jensen_shannon(
    logits: torch.Tensor,
    classes: torch.Tensor,
    label_weight: float | torch.Tensor = 0.5,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """mean_p w_p [pi KL(y||m) + (1 - pi) KL(q||m)] / Z with m = pi y + (1 - pi) q, pi = ``label_weight`` in (0,1).

    weights (P,): w, 1 where None. A ``label_weight`` that is a tensor is read where the logits are.

    y is one-hot of classes int64 (P,), q the softmax of logits (P,C), Z = -(1 - pi) ln(1 - pi) (CoSegGaussians, Eq. 8;
    Englesson and Azizpour, NeurIPS 2021). It lies between cross entropy (pi -> 0) and 1 - q(y) (pi -> 1) and is bounded
    by 2 at pi = 1/2, so labels that contradict the rest cost little. As y is one-hot, only q(y) is needed.
    """
    pi = torch.as_tensor(label_weight, dtype=logits.dtype, device=logits.device)
    others = 1 - pi
    log_q = logits.log_softmax(dim=1).gather(1, classes[:, None])[:, 0]
    q = log_q.exp()
    log_mixed = (pi + others * q).log()
    to_prediction = others * (q * (log_q - log_mixed) - (1 - q) * others.log())
    each = to_prediction - pi * log_mixed
    return (each if weights is None else each * weights).mean() / (-others * others.log())
