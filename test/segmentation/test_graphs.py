"""Recorded optimisation steps: what they compute is what steps without a graph do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gs_semantic.data.rooms import room_labels
from gs_semantic.errors import InvalidRequestError
from gs_semantic.segmentation.generalization.methods.segformer import SegformerConfig, SegformerLearner
from gs_semantic.segmentation.generalization.trainer import MultiSceneTrainer
from gs_semantic.segmentation.graphs import GraphedStep, captured


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, batch):
        wrong = self.layer(batch["x"]) - batch["more"][0]
        return {"square": wrong.square().mean(), "weight": 0.1 * self.layer.weight.square().sum()}


def batches(sizes, device="cpu"):
    torch.manual_seed(1)
    return [{"x": torch.randn(n, 3, device=device), "more": [torch.randn(n, 2, device=device)]} for n in sizes]


def plain(module, optimizer, batch):
    optimizer.zero_grad()
    losses = module(batch)
    sum(losses.values()).backward()
    nn.utils.clip_grad_norm_(module.parameters(), 0.5)
    optimizer.step()
    return losses


def agree(device, record, kernels):
    module = Line().to(device)
    other = copy.deepcopy(module)
    first, second = (torch.optim.AdamW(m.parameters(), lr=0.05, **kernels) for m in (module, other))
    step = GraphedStep(module, first, clip=0.5, record=record)
    for batch in batches([8] * 6 + [5, 8, 8], device):
        got, wanted = step(batch), plain(other, second, batch)
        for name in wanted:
            assert torch.allclose(got[name], wanted[name], atol=1e-6) and not got[name].requires_grad
    for ours, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_replayed_step_is_the_step_of_the_new_batch():
    recorded = []

    def record(step):  # a graph's recording runs nothing
        recorded.append(step)
        return step

    agree("cpu", record, {})
    assert len(recorded) == 1  # the batch of another size did not need a second one


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_is_the_step_without_a_graph():
    agree("cuda", captured, {"fused": True, "capturable": True})


def test_training_goes_on_when_recording_fails(caplog):
    def fails(step):
        raise RuntimeError("operation not permitted when stream is capturing")

    agree("cpu", fails, {})
    assert len([r for r in caplog.records if "goes on without" in r.getMessage()]) == 1


def test_graphs_need_a_gpu(tmp_path):
    learner = SegformerLearner(SegformerConfig(graphs="on", accelerator="cpu"), room_labels())
    with pytest.raises(InvalidRequestError, match="graphs=on: needs a GPU"):
        MultiSceneTrainer(learner, [object()], [object()], tmp_path / "out")
