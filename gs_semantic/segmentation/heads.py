"""Trained parts beside the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch.nn.functional import pad

SELDOM = 0.25  # halves of an object are told apart in fewer views than this for each mask that both answer to


def _adam(parameters: list[torch.Tensor], rate: float) -> torch.optim.Adam:
    fused = True if parameters[0].is_cuda else None  # one operation in place of dozens
    return torch.optim.Adam(parameters, lr=rate, fused=fused)


class LinearClassifier:
    """A 1x1 convolution: logits (P,classes) = features (P,channels) W^T + b, with Adam of its own."""

    def __init__(
        self,
        channels: int,
        classes: int,
        rate: float,
        random: np.random.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        bound = channels**-0.5  # as torch starts a convolution
        weight, bias = random.uniform(-bound, bound, (classes, channels)), random.uniform(-bound, bound, classes)
        self.weight = torch.from_numpy(weight.astype(np.float32)).to(device).requires_grad_()
        self.bias = torch.from_numpy(bias.astype(np.float32)).to(device).requires_grad_()
        self._adam = _adam([self.weight, self.bias], rate)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, features, self.weight.T)

    def step(self) -> None:
        """Move down the gradients that were gathered, and forget them."""
        self._adam.step()
        self._adam.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight.detach(), "bias": self.bias.detach(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.weight.copy_(state["weight"])
            self.bias.copy_(state["bias"])
        self._adam.load_state_dict(state["adam"])


class Codebook:
    """Codes (L,D), a bias-free 1x1 convolution, with Adam of its own; it can get more rows while it is trained.

    On the host, decaying: ``used`` (L,) counts in which views of late a code was matched, ``shared`` (L,L) to how many
    masks two codes answered together; its diagonal, to how many a code did at all; ``apart`` (L,L) in how many views both
    were matched, with two masks.
    """

    def __init__(
        self,
        codes: int,
        channels: int,
        rate: float,
        random: np.random.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self.channels, self._rate, self._random, self._device = channels, rate, random, device
        self._start(self._fresh(codes), torch.zeros(codes), *torch.zeros(2, codes, codes))

    def __len__(self) -> int:
        return len(self.weight)

    def _fresh(self, codes: int) -> torch.Tensor:
        bound = self.channels**-0.5
        drawn = self._random.uniform(-bound, bound, (codes, self.channels)).astype(np.float32)
        return torch.from_numpy(drawn).to(self._device)

    def _start(self, weight: torch.Tensor, used: torch.Tensor, shared: torch.Tensor, apart: torch.Tensor) -> None:
        self.weight = weight.to(self._device, copy=True).requires_grad_()
        self.used, self.shared, self.apart = (counts.to("cpu", copy=True) for counts in (used, shared, apart))
        self._adam = _adam([self.weight], self._rate)

    def grow(self, codes: int) -> None:
        """Have ``codes`` rows; the first stay as they are, with their moments, the new ones start at random."""
        more = codes - len(self)
        if more <= 0:
            return
        moments = self._adam.state_dict()
        counts = (pad(self.used, (0, more)), *(pad(pairs, (0, more) * 2) for pairs in (self.shared, self.apart)))
        self._start(torch.cat([self.weight.detach(), self._fresh(more)]), *counts)
        for values in moments["state"].values():
            for key in ("exp_avg", "exp_avg_sq"):
                values[key] = torch.cat([values[key], values[key].new_zeros(more, self.channels)])
        self._adam.load_state_dict(moments)

    @torch.no_grad()
    def put(self, codes: np.ndarray, vectors: torch.Tensor) -> None:
        """Start ``codes`` (K,) anew, as ``vectors`` (K,D)."""
        rows = torch.from_numpy(codes)
        self.used[rows] = 0
        for pairs in (self.shared, self.apart):
            pairs[rows] = 0
            pairs[:, rows] = 0
        rows = rows.to(self._device)
        self.weight[rows] = vectors
        for values in self._adam.state.values():
            for key in ("exp_avg", "exp_avg_sq"):
                values[key][rows] = 0

    def count(self, codes: np.ndarray, views: int, best: torch.Tensor | None = None) -> None:
        """A view was matched with ``codes``; a share of 1 / views of the older counts is forgotten.

        best: int64 (J,2), the code that answers to each mask and a second one that does, too, or the same one."""
        for counts in (self.used, self.shared, self.apart):
            counts *= 1 - 1 / max(2, views)
        matched = torch.from_numpy(codes)
        self.used[matched] += 1
        self.apart[matched[:, None], matched] += 1
        if best is not None:
            first, second = best.T
            one, two = torch.ones(len(best)), (first != second).float()
            self.shared.index_put_((first, first), one, accumulate=True)
            self.shared.index_put_((second, second), two, accumulate=True)
            self.shared.index_put_((first, second), two, accumulate=True)
            self.shared.index_put_((second, first), two, accumulate=True)

    def objects(self, codes: torch.Tensor, share: float) -> torch.Tensor:
        """int64 (K,): for each of ``codes`` (K,), that of its object. Codes that answer together to more than ``share`` of
        the masks of the rarer one, and are seldom matched with two masks of a view, are one object, which has the code
        that was matched most often."""
        shared = self.shared[codes][:, codes]
        alone = shared.diagonal()
        alike = shared > share * torch.minimum(alone[:, None], alone)
        alike &= self.apart[codes][:, codes] < SELDOM * shared
        count, groups = connected_components(alike.numpy(), directed=False)
        order = np.argsort(self.used[codes].numpy(), kind="stable")
        leader = np.zeros(count, np.int64)
        leader[groups[order]] = order  # the last one counts
        return codes[torch.from_numpy(leader[groups])]

    def step(self) -> None:
        """Move down the gradients that were gathered, and forget them."""
        self._adam.step()
        self._adam.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {
            "weight": self.weight.detach(),
            "used": self.used,
            "shared": self.shared,
            "apart": self.apart,
            "adam": self._adam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        none = torch.zeros(len(state["used"]), len(state["used"]))  # checkpoints of earlier versions know of no pairs
        self._start(state["weight"], state["used"], *(state.get(name, none) for name in ("shared", "apart")))
        self._adam.load_state_dict(state["adam"])
