"""Trained parts beside the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


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

    On the host, (L,), decaying: ``used`` counts in which views of late a code was matched, ``seen`` in which it answered
    to a mask, whether or not that was matched with it.
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
        self._start(self._fresh(codes), torch.zeros(codes), torch.zeros(codes))

    def __len__(self) -> int:
        return len(self.weight)

    def _fresh(self, codes: int) -> torch.Tensor:
        bound = self.channels**-0.5
        drawn = self._random.uniform(-bound, bound, (codes, self.channels)).astype(np.float32)
        return torch.from_numpy(drawn).to(self._device)

    def _start(self, weight: torch.Tensor, used: torch.Tensor, seen: torch.Tensor) -> None:
        self.weight = weight.to(self._device, copy=True).requires_grad_()
        self.used, self.seen = used.to("cpu", copy=True), seen.to("cpu", copy=True)
        self._adam = _adam([self.weight], self._rate)

    def grow(self, codes: int) -> None:
        """Have ``codes`` rows; the first stay as they are, with their moments, the new ones start at random."""
        more = codes - len(self)
        if more <= 0:
            return
        moments = self._adam.state_dict()
        none = self.used.new_zeros(more)
        self._start(
            torch.cat([self.weight.detach(), self._fresh(more)]),
            torch.cat([self.used, none]),
            torch.cat([self.seen, none]),
        )
        for values in moments["state"].values():
            for key in ("exp_avg", "exp_avg_sq"):
                values[key] = torch.cat([values[key], values[key].new_zeros(more, self.channels)])
        self._adam.load_state_dict(moments)

    def count(self, codes: np.ndarray, views: int, seen: np.ndarray | None = None) -> None:
        """A view was matched with ``codes``, and ``seen`` answered in it (None: the same); a share of 1 / views of the
        older counts is forgotten."""
        for counts, which in ((self.used, codes), (self.seen, codes if seen is None else seen)):
            counts *= 1 - 1 / max(2, views)
            counts[torch.from_numpy(which)] += 1

    def step(self) -> None:
        """Move down the gradients that were gathered, and forget them."""
        self._adam.step()
        self._adam.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight.detach(), "used": self.used, "seen": self.seen, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start(state["weight"], state["used"], state.get("seen", torch.zeros_like(state["used"])))
        self._adam.load_state_dict(state["adam"])
