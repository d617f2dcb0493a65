"""The voting network: how much the opinion of each view counts at a point.

Forms: "ray" and "depth" are those of the two published code bases (view synthesis; 3D segmentation), "gaussian" is the
one for Gaussian centres, which can be computed view by view. In all of them every view's own features are set beside
mean and variance over the views, and the weights of the views are a softmax.
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from gs_semantic.rendering import native

DIFFERENCES = {"z": 1, "distance": 1, "vector": 3, "ray": 4}
LARGEST = 12.0  # of a vote's logit in the form that sums exponentials without a maximum


class Elu(nn.Module):
    """nn.ELU, by exponentials that are vectorised where no gradient is wanted: twice as fast on a CPU, within 1e-7."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad or x.is_cuda:
            return F.elu(x)
        return x.clamp(max=0).exp_().sub_(1).add_(x.clamp(min=0))


class Mlp(nn.Sequential):
    """Linear layers with ELU between them. Where no gradient is wanted a CPU computes them in one pass."""

    def layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weights and biases."""
        return [(module.weight, module.bias) for module in self if isinstance(module, nn.Linear)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = self.layers()
        widest = max(max(weight.shape) for weight, _ in layers)
        wanted = torch.is_grad_enabled() or x.is_cuda or x.dtype != torch.float32 or widest > native.MLP_WIDEST
        if wanted or not native.available():
            found: torch.Tensor = super().forward(x)
            return found
        flat = native.mlp(x.reshape(-1, x.shape[-1]), layers, last=not isinstance(self[-1], nn.Linear))
        return flat.reshape(*x.shape[:-1], flat.shape[-1])


def mlp(*sizes: int, last: bool = False) -> Mlp:
    """Linear layers with ELU between them, and after the last one if ``last``; Kaiming weights, no biases at first."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if last or i < len(sizes) - 2:
            layers.append(Elu())
    return Mlp(*layers)


@dataclass(frozen=True)
class Pooled:
    """Weighted mean and variance of features over views, (P,F) each."""

    mean: torch.Tensor
    variance: torch.Tensor


def pooled(features: torch.Tensor, weights: torch.Tensor) -> Pooled:
    """Of features (V,P,F) with weights (V,P) that sum to 1 over views, or to 0 where nothing sees the point."""
    mean = (weights[..., None] * features).sum(dim=0)
    variance = (weights[..., None] * (features - mean) ** 2).sum(dim=0)
    return Pooled(mean, variance)


@dataclass(frozen=True)
class Votes:
    """logits (V,P), very low where the view does not see the point; hidden (V,P,32); seen (V,P), 0..1."""

    logits: torch.Tensor
    hidden: torch.Tensor
    seen: torch.Tensor


class VotingNetwork(nn.Module):
    """features: channels F of a view's own features (colour and CNN); volume: channels of the geometry's feature at a
    point; cues: further inputs of the vote by view. difference: of view and point, see ``DIFFERENCES``."""

    def __init__(self, features: int, form: str, difference: str, volume: int = 0, cues: int = 0) -> None:
        super().__init__()
        self.form = form
        width = DIFFERENCES[difference]
        self.approach = mlp(width, 16, features, last=True)
        self.sharpness = nn.Parameter(torch.tensor(0.2))
        self.base = mlp(volume + 3 * features, 64, 32, last=True)
        self.residual = mlp(32, 32, 33, last=True)
        self.seen = mlp(32, 32, 1)
        self.vote = mlp(32 + 1 + width + cues, 16, 8, 1)
        self.straight = nn.Linear(cues, 1, bias=False) if cues else None
        if self.straight is not None:
            nn.init.zeros_(self.straight.weight)
        if form == "gaussian":  # begin with the uniform vote, which is good already
            nn.init.zeros_(self.vote[-1].weight)  # type: ignore[arg-type]

    def pool_weights(self, nearness: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(V,P) weights for mean and variance: exp(|s| nearness), which is -z or cosine - 1; less the smallest of all
        views in the published forms; 0 for views that do not see the point, then normalised."""
        weights = torch.exp(self.sharpness.abs() * nearness)
        if self.form != "gaussian":
            weights = weights - weights.min(dim=0, keepdim=True).values
        weights = weights * valid
        return weights / (weights.sum(dim=0, keepdim=True) + 1e-8)

    def described(self, features: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
        """Features (V,P,F) with what the difference (V,P,D) adds to them."""
        added: torch.Tensor = features + self.approach(difference)
        return added

    def forward(
        self,
        described: torch.Tensor,
        known: Pooled,
        weights: torch.Tensor,
        difference: torch.Tensor,
        valid: torch.Tensor,
        volume: torch.Tensor | None = None,
        cues: torch.Tensor | None = None,
    ) -> Votes:
        """Votes of the views at points. described (V,P,F), known: mean and variance, weights (V,P) they were made with,
        difference (V,P,D), valid bool (V,P), volume (P,M), cues (V,P,C)."""
        views = len(described)
        shared = [known.mean, known.variance] if volume is None else [volume, known.mean, known.variance]
        together = [part[None].expand(views, -1, -1) for part in shared]
        x = self.base(torch.cat([*together, described], dim=-1))
        more = self.residual(x if self.form == "gaussian" else x * weights[..., None])
        seen = torch.sigmoid(more[..., 32:]) * valid[..., None]
        x = x + more[..., :32]
        seen = torch.sigmoid(self.seen(x * seen)) * valid[..., None]
        inputs = [x, seen, difference] if cues is None else [x, seen, difference, cues]
        logits = self.vote(torch.cat(inputs, dim=-1))[..., 0]
        if self.straight is not None and cues is not None:
            logits = logits + self.straight(cues)[..., 0]
        if self.form == "gaussian":
            logits = LARGEST * torch.tanh(logits / LARGEST)
        return Votes(logits.masked_fill(~valid, -6e4), x, seen[..., 0])


class _ViewVotes(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("described", "difference", "cues", "total", "first", "second", "rows")),
        *((name, ctypes.c_void_p) for name in ("base", "residual", "seen", "vote", "straight", "logits")),
        ("count", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("features", "differences", "cue_count")),
        ("largest", ctypes.c_float),
    ]


def view_votes(
    network: VotingNetwork,
    sums: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rows: torch.Tensor,
    described: torch.Tensor,
    difference: torch.Tensor,
    cues: torch.Tensor | None,
) -> torch.Tensor:
    """Logits (R,) of one view at the Gaussians ``rows`` int64 (R,), by a network of form "gaussian", on a CPU in one pass:
    what ``forward`` says with all of them valid, within float error. sums: of weights (N,), of features and of their
    squares (N,F), see ``RunningVotes``. described (R,F), difference (R,D), cues (R,C)."""
    count, features = described.shape
    total, first, second = sums
    gaussians = len(total)
    inputs = {
        "described": native.checked("described", described, (count, features)),
        "difference": native.checked("difference", difference, (count, None)),
        "cues": None if cues is None else native.checked("cues", cues, (count, None)),
        "total": native.checked("total", total, (gaussians,)),
        "first": native.checked("first", first, (gaussians, features)),
        "second": native.checked("second", second, (gaussians, features)),
        "rows": native.checked("rows", rows, (count,), torch.int64),
        "straight": None if network.straight is None else network.straight.weight.detach().reshape(-1),
        "logits": torch.empty(count),
    }
    for name in ("base", "residual", "seen", "vote"):
        inputs[name] = native.packed(getattr(network, name).layers())
    struct = _ViewVotes(
        count=count, features=features, differences=difference.shape[1], cue_count=0 if cues is None else cues.shape[1],
        largest=LARGEST, **{name: native.pointer(tensor) for name, tensor in inputs.items()},
    )  # fmt: skip
    native.call("gs_view_votes", ctypes.byref(struct), 0)
    logits = inputs["logits"]
    assert logits is not None
    return logits


def soft_vote(logits: torch.Tensor, opinions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(P,K) of opinions (V,P,K), weighted by a softmax of the logits (V,P) over views; 0 where no view is valid.

    The paper's Eq. 4: s(x) = sum_i S_i(x) exp(v_i) / sum_j exp(v_j).
    """
    weights = torch.softmax(logits.masked_fill(~valid, -6e4).float(), dim=0) * valid
    return (weights[..., None] * opinions).sum(dim=0)
