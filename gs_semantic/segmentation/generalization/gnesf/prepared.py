"""A scene prepared for votes: what the 2D segmenter says of its views, and the map's depth in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.generalization.classifier import ImageClassifier
from gs_semantic.segmentation.generalization.gnesf.sources import SourceViews
from gs_semantic.segmentation.generalization.gnesf.visibility import visible_by_depth
from gs_semantic.segmentation.generalization.scenes import SceneView


@dataclass(frozen=True)
class PreparedViews:
    """V views of one size. scores float16 (V,K,h,w): logarithms of class probabilities, up to a constant per pixel;
    depths float16 (V,1,H,W): median depth of the map, m, 0 where it shows nothing."""

    views: Sequence[SceneView]
    sources: SourceViews
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
    ) -> PreparedViews:
        """InvalidInputError: no view, or views of several sizes."""
        if not views:
            raise InvalidInputError("no source view: labels come from posed images of the scene; give one or more")
        sources = SourceViews.of([view.camera for view in views])
        scores, depths = [], []
        for view in views:
            scores.append(classifier.scores([view.rgb]).half())
            depths.append(map_depth(gaussians, view, rasterizer))
            progress()
        return cls(views, sources, torch.cat(scores), torch.stack(depths)[:, None].half())

    def __len__(self) -> int:
        return len(self.views)

    def subset(self, index: Sequence[int]) -> PreparedViews:
        chosen = list(index)
        return PreparedViews(
            [self.views[i] for i in chosen], self.sources[chosen], self.scores[chosen], self.depths[chosen]
        )

    def images(self) -> torch.Tensor:
        """float32 (V,3,H,W), 0..1."""
        return torch.stack([view.colour() for view in self.views])

    def seen(self, points: torch.Tensor, visibility: str = "depth") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Places (V,P,2), depths z (V,P) and whether the view sees the point, bool (V,P). visibility: depth, or none:
        then every view does in whose image the point lies."""
        places, z = self.sources.project(points)
        inside = self.sources.inside(places, z)
        if visibility == "depth":
            rendered = self.sources.read(self.depths.float(), places, "nearest")[..., 0]
            inside = inside & visible_by_depth(z, rendered)
        return places, z, inside

    def opinions(self, places: torch.Tensor) -> torch.Tensor:
        """Class probabilities (V,P,K) at pixel places."""
        return self.sources.read(self.scores.float(), places).softmax(dim=-1)


@torch.no_grad()
def map_depth(gaussians: GaussianMap, view: SceneView, rasterizer: Rasterizer) -> torch.Tensor:
    """Median depth (H,W) m of the map in a view, 0 where it shows nothing."""
    depth = rasterizer.render(gaussians, view.camera, median_depth=True).median_depth
    assert depth is not None
    return depth
