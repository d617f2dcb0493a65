"""A scene prepared for votes: what the 2D segmenter says of its views, and the map's depth in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.rendering import Rasterizer, native
from gs_semantic.segmentation.generalization.classifier import ImageClassifier
from gs_semantic.segmentation.generalization.gnesf.sources import NEAR_M, SourceViews
from gs_semantic.segmentation.generalization.gnesf.visibility import TOLERANCE_M, TOLERANCE_SHARE, visible_by_depth
from gs_semantic.segmentation.generalization.scenes import SceneView


@dataclass(frozen=True)
class PreparedViews:
    """V views of one size, all tensors on one device. rgb uint8 (V,3,H,W); scores float16 (V,K,h,w): logarithms of class
    probabilities, up to a constant per pixel; depths float16 (V,1,H,W): median depth of the map, m, 0 where it shows
    nothing."""

    views: Sequence[SceneView]
    sources: SourceViews
    rgb: torch.Tensor
    scores: torch.Tensor
    depths: torch.Tensor

    @classmethod
    def of(
        cls,
        views: Sequence[SceneView],
        gaussians: GaussianMap,
        classifier: ImageClassifier,
        rasterizer: Rasterizer,
        progress: Callable[[], object] = lambda: None,
        device: torch.device | str = "cpu",
    ) -> PreparedViews:
        """On a device. InvalidInputError: no view, or views of several sizes."""
        if not views:
            raise InvalidInputError("no source view: labels come from posed images of the scene; give one or more")
        sources = SourceViews.of([view.camera for view in views])
        scores, depths = classifier.scores([view.rgb for view in views]).half(), []
        for view in views:
            depths.append(map_depth(gaussians, view, rasterizer))
            progress()
        rgb = torch.from_numpy(np.stack([view.rgb for view in views]).transpose(0, 3, 1, 2).copy())
        tensors = (rgb, scores, torch.stack(depths)[:, None].half())
        return cls(views, sources.to(device), *(tensor.to(device) for tensor in tensors))

    def __len__(self) -> int:
        return len(self.views)

    def subset(self, index: Sequence[int]) -> PreparedViews:
        chosen = list(index)
        tensors = (self.rgb[chosen], self.scores[chosen], self.depths[chosen])
        return PreparedViews([self.views[i] for i in chosen], self.sources[chosen], *tensors)

    def images(self) -> torch.Tensor:
        """float32 (V,3,H,W), 0..1."""
        return self.rgb.float() / 255

    def seen(self, points: torch.Tensor, visibility: str = "depth") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Places (V,P,2), depths z (V,P) and whether the view sees the point, bool (V,P). visibility: depth, or none:
        then every view does in whose image the point lies."""
        places, z = self.sources.project(points)
        inside = self.sources.inside(places, z)
        if visibility == "depth":
            rendered = self.sources.read(self.depths.float(), places, "nearest")[..., 0]
            inside = inside & visible_by_depth(z, rendered)
        return places, z, inside

    def rows_seen(
        self, points: torch.Tensor, visibility: str = "depth", among: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same of one view (V = 1), without what it does not see: int64 rows (R,) of the points, of those that bool
        ``among`` (P,) names; their places (1,R,2) and depths z (1,R). On a CPU in one pass."""
        by_depth = visibility == "depth"
        if not points.is_cuda and native.available():
            camera = self.sources.camera_struct(0)
            depth = self.depths[0, 0].float() if by_depth else None
            rows, places, z = native.seen_points(camera, points, depth, (TOLERANCE_M, TOLERANCE_SHARE), NEAR_M, among)
            return rows, places[None], z[None]
        places, z, seen = self.seen(points, visibility)
        rows = torch.nonzero(seen[0] if among is None else seen[0] & among)[:, 0]
        return rows, places[:, rows], z[:, rows]

    def opinions(self, places: torch.Tensor) -> torch.Tensor:
        """Class probabilities (V,P,K) at pixel places."""
        return self.sources.read(self.scores.float(), places).softmax(dim=-1)


@torch.no_grad()
def map_depth(gaussians: GaussianMap, view: SceneView, rasterizer: Rasterizer) -> torch.Tensor:
    """Median depth (H,W) m of the map in a view, 0 where it shows nothing; where the back end draws no median, the mean
    depth of pixels that are mostly covered."""
    if rasterizer.name == "cuda":
        drawn = rasterizer.render(gaussians, view.camera)
        return torch.where(drawn.alpha > 0.5, drawn.depth, 0).cpu()
    depth = rasterizer.render(gaussians, view.camera, median_depth=True).median_depth
    assert depth is not None
    return depth
