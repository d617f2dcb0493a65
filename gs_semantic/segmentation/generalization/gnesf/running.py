"""Votes summed up view by view: a new frame changes only the Gaussians that it sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gs_semantic.segmentation.generalization.gnesf.voting import Pooled


@dataclass
class RunningVotes:
    """Per Gaussian: weight (N,), first and second (N,F), the weighted sums of features and of their squares; opinion
    (N,K) and views (N,), the plain sum of opinions and their number; numerator (N,K) and denominator (N,) of Eq. 4.
    """

    weight: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    opinion: torch.Tensor
    views: torch.Tensor
    numerator: torch.Tensor
    denominator: torch.Tensor

    @classmethod
    def empty(cls, count: int, features: int, classes: int, device: torch.device | str = "cpu") -> RunningVotes:
        wide, narrow = torch.zeros(count, features, device=device), torch.zeros(count, classes, device=device)
        line = torch.zeros(count, device=device)
        return cls(line, wide, wide.clone(), narrow, line.clone(), narrow.clone(), line.clone())

    def __len__(self) -> int:
        return len(self.weight)

    def resized(self, kept: torch.Tensor) -> RunningVotes:
        """Rows ``kept`` int64 (M,) of these, -1 for a Gaussian that is new."""
        old = kept >= 0
        rows = kept.clamp_min(0)

        def take(values: torch.Tensor) -> torch.Tensor:
            if not len(values):
                return values.new_zeros((len(kept), *values.shape[1:]))
            return values[rows] * old.reshape(-1, *[1] * (values.dim() - 1))

        return RunningVotes(*(take(getattr(self, name)) for name in self.__dataclass_fields__))

    def add_features(
        self, rows: torch.Tensor, described: torch.Tensor, weight: torch.Tensor, opinions: torch.Tensor
    ) -> None:
        """What a view says of the Gaussians ``rows`` (R,) that it sees, each once: features (R,F), their weight (R,),
        opinions (R,K)."""
        weighted = weight[:, None] * described
        _add(self.weight, rows, weight)
        _add(self.first, rows, weighted)
        _add(self.second, rows, weighted.mul_(described))
        _add(self.opinion, rows, opinions)
        self.views[rows] += 1

    def pooled(self, rows: torch.Tensor) -> Pooled:
        """Weighted mean and variance of features (R,F) over the views so far."""
        total = self.weight[rows, None] + 1e-8
        mean = self.first.index_select(0, rows) / total
        variance = self.second.index_select(0, rows).div_(total).addcmul_(mean, mean, value=-1).clamp_min_(0)
        return Pooled(mean, variance)

    def mean_opinion(self, rows: torch.Tensor) -> torch.Tensor:
        """(R,K): the uniform vote."""
        return self.opinion.index_select(0, rows).div_(self.views[rows, None].clamp_min(1))

    def add_votes(self, rows: torch.Tensor, logits: torch.Tensor, opinions: torch.Tensor) -> None:
        weight = torch.exp(logits)
        _add(self.numerator, rows, weight[:, None] * opinions)
        _add(self.denominator, rows, weight)

    def result(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """(N,K) averages, of all or of ``rows``; rows of Gaussians that no view has seen are 0."""
        chosen = slice(None) if rows is None else rows
        return self.numerator[chosen] / self.denominator[chosen, None].clamp_min(1e-12)


def _add(sums: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> None:
    """sums[rows] += values, where no row comes twice: twice as fast as index_add_ on a CPU."""
    sums.index_copy_(0, rows, sums.index_select(0, rows).add_(values))
