"""The 2D network made ready to answer frame after frame of one size."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gs_semantic.segmentation.generalization.rt_gs2.network import FusionNetwork

WARM_UP = 3  # runs before a graph is captured


class Inference(nn.Module):
    """``ready(rgb, features)``: logits (K,H,W) of one view, (1,3,H,W) and (1,C,H,W), where the network is.

    On a GPU it computes in bfloat16, as in training, and replays a captured graph: hundreds of small kernels are started
    at once. The result is overwritten by the next call.
    """

    def __init__(self, network: FusionNetwork) -> None:
        super().__init__()
        self.on_gpu = next(network.parameters()).is_cuda
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        if self.on_gpu:
            self.network = self.network.to(torch.bfloat16)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[torch.Tensor, torch.Tensor] | None = None
        self._logits = torch.empty(0)

    @torch.inference_mode()
    def forward(self, rgb: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        if not self.on_gpu:
            found: torch.Tensor = self.network(rgb, features).logits[0]
            return found
        if self._inputs is None or self._inputs[0].shape != rgb.shape or self._inputs[1].shape != features.shape:
            self._capture(rgb, features)
        assert self._inputs is not None and self._graph is not None
        self._inputs[0].copy_(rgb)
        self._inputs[1].copy_(features)
        self._graph.replay()
        return self._logits

    def _capture(self, rgb: torch.Tensor, features: torch.Tensor) -> None:
        self._inputs = (rgb.to("cuda", torch.bfloat16).clone(), features.to("cuda", torch.bfloat16).clone())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.network(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self.network(*self._inputs).logits[0]
