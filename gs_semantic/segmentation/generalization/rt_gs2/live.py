"""RT-GS2 on a map that grows: each keyframe is drawn from the map, classified, and its answer brought into the Gaussians."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gs_semantic.gaussians import Frame, GaussianMap
from gs_semantic.mapping.semantics import ClassUpdate
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.generalization.rt_gs2.scene_features import LiveFeatures

if TYPE_CHECKING:
    from gs_semantic.segmentation.generalization.methods.rt_gs2 import RtGs2

LOGITS, WEIGHT = (
    "class_logits",
    "class_weight",
)  # attributes of the map: weighed sum over keyframes, and the weights' sum
LEAST_WEIGHT = 1e-3  # pixels of a Gaussian that count as seen
MEMORY = 30.0  # pixels; what was seen more often counts as so many, so that a Gaussian can still change its class


class LiveFusion:
    """A ``SemanticSource``. What it knows of a Gaussian are attributes of the map, so that they live and go with it."""

    attributes: tuple[str, ...] = (LOGITS, WEIGHT)

    def __init__(self, method: RtGs2, rasterizer: Rasterizer) -> None:
        self.method, self.rasterizer = method.eval(), rasterizer
        self.labels = method.labels
        self.features = LiveFeatures(method.transformer, method.config.max_points)

    @torch.no_grad()
    def update(self, gaussians: GaussianMap, frame: Frame) -> ClassUpdate:
        """See ``SemanticSource``. The frame's own images are not looked at, but its camera."""
        gaussians.register(LOGITS, (self.method.class_count,))
        gaussians.register(WEIGHT, ())
        features = self.features.update(gaussians)
        logits = self.method.logits(gaussians, features, frame.camera, rasterizer=self.rasterizer)
        image = logits.permute(1, 2, 0).contiguous()
        found = self.rasterizer.accumulate(gaussians, frame.camera, image)
        rows = torch.nonzero(found.weight_sum > LEAST_WEIGHT)[:, 0]
        before = gaussians[WEIGHT][rows]
        kept = (MEMORY / before.clamp_min(1e-8)).clamp_max(1.0)
        sums = gaussians[LOGITS][rows] * kept[:, None] + found.weighted_sum[rows]
        weight = before * kept + found.weight_sum[rows]
        gaussians[LOGITS][rows], gaussians[WEIGHT][rows] = sums, weight
        gaussians.touch(rows, core=False)
        best, index = (sums / weight[:, None]).softmax(dim=1).max(dim=1)
        return ClassUpdate(rows, (index + 1).to(torch.int32), best)
