"""Trained parts beside the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class LinearClassifier:
    """A 1x1 convolution: logits (P,classes) = features (P,channels) W^T + b, with Adam of its own."""

    def __init__(self, channels: int, classes: int, rate: float, random: np.random.Generator) -> None:
        bound = channels**-0.5  # as torch starts a convolution
        weight, bias = random.uniform(-bound, bound, (classes, channels)), random.uniform(-bound, bound, classes)
        self.weight = torch.from_numpy(weight.astype(np.float32)).requires_grad_()
        self.bias = torch.from_numpy(bias.astype(np.float32)).requires_grad_()
        self._adam = torch.optim.Adam([self.weight, self.bias], lr=rate)

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
