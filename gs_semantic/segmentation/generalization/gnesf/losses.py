"""Losses on probabilities."""

from __future__ import annotations

import torch

KINDS = ("one_minus_p", "ce")


def semantic_loss(probabilities: torch.Tensor, classes: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean over points with a class. probabilities (P,K) of ids 1..K; classes int64 (P,), 0 = none.

    ce: -ln s_y (the paper's Eq. 6); one_minus_p: 1 - s_y, as the published code has it: bounded, so less drawn to wrong labels.
    """
    known = (classes > 0).to(probabilities.dtype)
    chosen = probabilities.gather(1, (classes - 1).clamp_min(0)[:, None])[:, 0]
    loss = 1 - chosen if kind == "one_minus_p" else -torch.log(chosen.clamp_min(1e-6))
    return (loss * known).sum() / known.sum().clamp_min(1)  # no row is picked out: a recorded step could not
