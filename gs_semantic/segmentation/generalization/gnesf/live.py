"""Votes on a map that grows: what a new view says is added for the Gaussians that it sees, and for these alone."""

from __future__ import annotations

import numpy as np
import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Frame, GaussianMap
from gs_semantic.mapping.semantics import ClassUpdate
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.generalization.gnesf.prepared import PreparedViews
from gs_semantic.segmentation.generalization.method import GaussianClasses
from gs_semantic.segmentation.generalization.methods.gnesf import Gnesf
from gs_semantic.segmentation.generalization.scenes import SceneView

AGAIN_NS = 1_000_000_000  # a Gaussian takes votes once in this time


class LiveVotes:
    """A ``SemanticSource``. Keeps ``RunningVotes`` for a map between frames, by the ``uid`` of its Gaussians: rows that
    were removed are forgotten, rows that are new begin without votes."""

    attributes: tuple[str, ...] = ()

    def __init__(self, method: Gnesf, rasterizer: Rasterizer) -> None:
        """InvalidRequestError: the method does not vote, so there is nothing to sum up."""
        if method.config.answer != "vote":
            raise InvalidRequestError(f"answer={method.config.answer}: only learned votes can be taken view by view")
        self.method, self.rasterizer = method.eval(), rasterizer
        self.labels = method.labels
        self.sums = method.empty_sums(0)
        self._uids = np.zeros(0, np.int64)
        self._voted_ns = torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def add(self, gaussians: GaussianMap, frame: Frame) -> torch.Tensor:
        """Take the votes of a frame; rows (R,) int64 of the Gaussians that changed."""
        prepared = self.method.prepare([SceneView.of(frame)], gaussians, self.rasterizer)
        return self.vote(gaussians, prepared, frame.stamp_ns)

    @torch.no_grad()
    def vote(self, gaussians: GaussianMap, view: PreparedViews, stamp_ns: int) -> torch.Tensor:
        """The same with a view whose opinions and depth are known already."""
        self._follow(gaussians)
        due = (self._voted_ns == 0) | ((stamp_ns - self._voted_ns).abs() >= AGAIN_NS)
        seen = self.method.look(gaussians["means"], view, due)
        self.sums.add_features(seen.rows, seen.described, seen.weight, seen.opinions)
        self.method.vote(self.sums, seen)
        self._voted_ns[seen.rows] = max(1, stamp_ns)
        return seen.rows

    def update(self, gaussians: GaussianMap, frame: Frame) -> ClassUpdate:
        """See ``SemanticSource``."""
        rows = self.add(gaussians, frame)
        best, index = self.method.voted(self.sums, rows).max(dim=1)
        return ClassUpdate(rows, torch.where(best > 0, index + 1, 0).to(torch.int32), best)

    def classes(self) -> GaussianClasses:
        """Of the Gaussians of the map as it was at the last frame."""
        return GaussianClasses(self.method.voted(self.sums))

    def _follow(self, gaussians: GaussianMap) -> None:
        uids = gaussians["uid"].numpy()
        if np.array_equal(uids, self._uids):
            return
        order = np.argsort(self._uids, kind="stable")
        place = np.searchsorted(self._uids, uids, sorter=order)
        place = np.minimum(place, max(0, len(order) - 1))
        known = order[place] if len(order) else np.zeros(len(uids), np.int64)
        same = self._uids[known] == uids if len(order) else np.zeros(len(uids), bool)
        kept = torch.from_numpy(np.where(same, known, -1))
        self.sums = self.sums.resized(kept)
        self._voted_ns = (
            self._voted_ns[kept.clamp_min(0)] * (kept >= 0) if len(order) else torch.zeros(len(uids), dtype=torch.int64)
        )
        self._uids = uids.copy()
