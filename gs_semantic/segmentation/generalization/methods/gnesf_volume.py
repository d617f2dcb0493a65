"""GNeSF as it was published: votes at samples along rays, a feature volume, semantics by volume rendering.

The two published code bases differ; ``form`` says which one the vote follows, ``volume_input`` and ``difference`` choose
between the paper's and the code's inputs. Geometry is a grid of signed distances fused from the views' depth images, in
the place of a learned one (``geometry=sdf``), or a density that is learned with the votes (``geometry=density``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.evaluation.segmentation import ClassScore
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.semantics import SemanticSource
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.config import option
from gs_semantic.segmentation.generalization.gnesf import losses
from gs_semantic.segmentation.generalization.gnesf.features import ResUNet, SmallUNet
from gs_semantic.segmentation.generalization.gnesf.prepared import PreparedViews
from gs_semantic.segmentation.generalization.gnesf.rays import density_weights, even_depths, ray_points, sdf_weights
from gs_semantic.segmentation.generalization.gnesf.sources import SourceViews
from gs_semantic.segmentation.generalization.gnesf.visibility import visible_by_depth, visible_by_sdf
from gs_semantic.segmentation.generalization.gnesf.volume import (
    DensityHead,
    GeometryNetwork,
    Grid,
    fuse_sdf,
    mean_and_depth,
    mean_and_variance,
)
from gs_semantic.segmentation.generalization.gnesf.voting import DIFFERENCES, VotingNetwork, mlp, pooled, soft_vote
from gs_semantic.segmentation.generalization.method import Batch, GaussianClasses
from gs_semantic.segmentation.generalization.methods.gnesf import VOTES, Gnesf, GnesfConfig
from gs_semantic.segmentation.generalization.registry import register
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView

VOLUME = 24  # channels of the geometry's feature
SDF_TRUNCATION_VOXELS = 3.0
EVALUATED_STEP = 4  # every so many pixels each way are rendered for scores
POINTS_AT_ONCE = 2048


@dataclass(frozen=True)
class GnesfVolumeConfig(GnesfConfig):
    """The published forms."""

    form: str = option(
        "depth", "vote of the code for 3D segmentation (depth), or for view synthesis (ray)", choices=("depth", "ray")
    )
    geometry: str = option(
        "sdf", "what weighs samples: signed distances, or a learned density", choices=("sdf", "density")
    )
    difference: str = option(
        "z", "depth (code, 3D), displacement (paper), directions (code, view synthesis)", choices=("z", "distance", "vector", "ray")
    )  # fmt: skip
    volume_input: str = option(
        "variance", "3D network over mean and variance (paper), over mean and depth (code), or none",
        choices=("variance", "mean_depth", "none"),
    )  # fmt: skip
    visibility: str = option(
        "sdf", "views vote where signed distances, or the recorded depth, say that they see the sample, or all do",
        choices=("sdf", "depth", "none"),
    )  # fmt: skip
    cues: bool = option(False, "not in the published forms")
    neighbours: str = option("none", "not in the published forms", choices=("none",))
    voxels: int = option(64, "of the longest side of the grid", low=8)
    rays: int = option(128, "of one iteration", low=1)
    samples: int = option(64, "places along a ray", low=2)
    kept: int = option(8, "of these, those with the largest weights are voted on (geometry=sdf)", low=1)
    near: float = option(0.1, "first place along a ray, m", low=0.01)
    far: float = option(7.0, "last place along a ray, m", low=0.1)
    colour_weight: float = option(1.0, "of the loss on rendered colour", low=0)
    semantic_weight: float = option(0.8, "of the loss on rendered classes", low=0)


@dataclass(frozen=True)
class SceneGrid:
    """Signed distances (1,X,Y,Z) m of a scene."""

    grid: Grid
    sdf: torch.Tensor

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """(P,) of points (P,3)."""
        return self.grid.read(self.sdf, points)[:, 0]

    @classmethod
    def of(cls, views: Sequence[SceneView], prepared: PreparedViews, voxels: int) -> SceneGrid:
        """InvalidInputError: no view has depth."""
        clouds, depths = [], []
        for view in views:
            depth = view.depth if view.depth is not None else np.zeros(view.rgb.shape[:2], np.float32)
            points = view.camera.unproject(depth)[::4, ::4].reshape(-1, 3)
            clouds.append(points[np.isfinite(points).all(axis=1)])
            depths.append(torch.from_numpy(depth))
        cloud = torch.from_numpy(np.concatenate(clouds))
        if not len(cloud):
            raise InvalidInputError("none of the source views has depth; a grid of signed distances needs it")
        grid = Grid.around(cloud, voxels)
        truncation = SDF_TRUNCATION_VOXELS * grid.voxel
        measured = torch.stack(depths)[:, None].to(prepared.rgb.device)
        return cls(grid, fuse_sdf(prepared.sources, measured, grid, truncation))


@register
class GnesfVolume(Gnesf):
    """See the module. Labels Gaussians as 3D points, and shows views by volume rendering."""

    name = "gnesf_volume"
    summary = "learned votes at samples of rays, as published: feature volume, signed distances, volume rendering"
    Config = GnesfVolumeConfig
    stages: ClassVar[tuple[str, ...]] = (VOTES,)
    stage_presets: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}
    one_shape = False  # grids differ

    def __init__(self, config: GnesfVolumeConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.config: GnesfVolumeConfig = config
        self.features = ResUNet() if config.backbone == "resunet" else SmallUNet(config.channels)
        self.width = 3 + self.features.channels
        channels = {"variance": 2 * self.width, "mean_depth": self.width + 1, "none": 0}[config.volume_input]
        volume = VOLUME if channels else 0
        self.geometry = GeometryNetwork(channels, VOLUME) if channels else None
        self.voting = VotingNetwork(self.width, config.form, config.difference, volume)
        inputs = 32 + 1 + DIFFERENCES[config.difference]
        self.colour = (
            mlp(inputs, 16, 8, 1) if config.form == "depth" else None
        )  # views blend colour by votes of its own
        self.density = DensityHead() if config.geometry == "density" else None
        self._grids: WeakKeyDictionary[LearningScene, SceneGrid] = WeakKeyDictionary()

    def live(self, rasterizer: Rasterizer) -> SemanticSource:
        return super(Gnesf, self).live(rasterizer)  # it needs all views at once

    def scene_grid(self, scene: LearningScene) -> SceneGrid:
        if scene not in self._grids:
            self._grids[scene] = SceneGrid.of(scene.views, self.prepared(scene), self.config.voxels)
        return self._grids[scene]

    # --- one batch of rays ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, scenes: Sequence[LearningScene], random: np.random.Generator) -> Batch:
        for _ in range(100):
            scene = scenes[int(random.integers(len(scenes)))]
            view = scene.novel[int(random.integers(len(scene.novel)))]
            if view.classes is None:
                raise InvalidInputError(f"{view.name}: has no classes to learn from")
            pixels = self._pixels(view, random)
            prepared, field = self.prepared(scene), self.scene_grid(scene)
            points, weights = self._places(field, view.camera, pixels)
            flat = points.reshape(-1, 3)
            seeing = (self._seen(prepared, field, flat)[2] * (weights.reshape(-1) > 0.01)).sum(dim=1).cpu().numpy()
            best = np.argsort(-seeing, kind="stable")[: 2 * self.config.views]
            best = best[seeing[best] > 0]
            if len(best) < 2:
                continue
            count = min(len(best), int(random.integers(2, self.config.views + 1)))
            views = prepared.subset(random.choice(best, count, replace=False).tolist())
            batch = self._looked(views, field, flat, view.camera)
            columns, rows = pixels[:, 0], pixels[:, 1]
            return batch | {
                "weights": weights,
                "classes": torch.from_numpy(view.classes[rows, columns].astype(np.int64)),
                "target": torch.from_numpy(view.rgb[rows, columns]).float() / 255,
            }
        raise InvalidInputError(
            "in 100 novel views no ray meets anything that two views see; the rooms need more views"
        )

    def _pixels(self, view: SceneView, random: np.random.Generator) -> np.ndarray:
        """(R,2) u, v of random pixels with a class, drawn by their class's share (``balance``)."""
        assert view.classes is not None
        classes = view.classes.ravel().astype(np.int64)
        rows = np.flatnonzero(classes)
        counts = np.bincount(classes[rows], minlength=self.class_count + 1).astype(np.float64)
        chance = counts[classes[rows]] ** -self.config.balance
        rows = random.choice(rows, min(len(rows), self.config.rays), replace=False, p=chance / chance.sum())
        return np.stack([rows % view.camera.width, rows // view.camera.width], axis=1)

    def _places(self, field: SceneGrid, camera: Camera, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample points (R,S,3) and their weights (R,S); with signed distances, those with the largest weights alone."""
        config = self.config
        depths = even_depths(len(pixels), config.samples, config.near, config.far, config.geometry == "density")
        points, depths = ray_points(camera, pixels, depths).to(field.sdf.device), depths.to(field.sdf.device)
        if config.geometry == "density":
            return points, torch.ones(points.shape[:2], device=points.device)
        weights = sdf_weights(field(points.reshape(-1, 3)).reshape(depths.shape), depths)
        best = weights.topk(min(config.kept, config.samples), dim=1).indices
        kept = weights.gather(1, best)
        kept = kept / (kept.sum(dim=1, keepdim=True) + 1e-8)
        return points.gather(1, best[..., None].expand(-1, -1, 3)), kept

    def _seen(
        self, views: PreparedViews, field: SceneGrid, points: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        places, z = views.sources.project(points)
        valid = views.sources.inside(places, z)
        if self.config.visibility == "sdf":
            valid = valid & visible_by_sdf(field, points, views.sources.centres)
        elif self.config.visibility == "depth":
            rendered = views.sources.read(views.depths.float(), places, "nearest")[..., 0]
            valid = valid & visible_by_depth(z, rendered)
        return places, z, valid

    def _looked(
        self, views: PreparedViews, field: SceneGrid, points: torch.Tensor, target: Camera | None
    ) -> dict[str, Any]:
        """What source views say at points (P,3); target: the camera whose rays they lie on, where there is one."""
        places, z, valid = self._seen(views, field, points)
        if self.config.difference == "ray":
            eye = None if target is None else torch.from_numpy(target.T_world_camera[:3, 3]).to(points)
            origin = points.mean(dim=0) if eye is None else eye
            difference = ray_difference(points, views.sources.centres, origin)
        else:
            difference = self._difference(points, views.sources.centres, views.sources.rotation, z)
        nearness = difference[..., 3] - 1 if self.config.form == "ray" and self.config.difference == "ray" else -z
        return {
            "images": views.images(),
            "sources": _parts(views),
            "size": torch.tensor(views.sources.size),
            "points": points,
            "places": places,
            "valid": valid,
            "difference": difference,
            "nearness": nearness,
            "opinions": views.opinions(places),
            "low": field.grid.low,
            "grid": torch.tensor([*field.grid.shape, field.grid.voxel]),
        }

    def _answers(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Class probabilities (P,K) and colours (P,3) of points, and densities (R,S) where they are learned."""
        sources = _sources(batch)
        images, valid = batch["images"], batch["valid"]
        maps = self.features(images)
        colour = sources.read(images, batch["places"])
        own = torch.cat([colour, sources.read(maps, batch["places"])], dim=-1)
        volume = self._volume(sources, images, maps, batch)
        described = self.voting.described(own, batch["difference"])
        weights = self.voting.pool_weights(batch["nearness"], valid)
        votes = self.voting(described, pooled(described, weights), weights, batch["difference"], valid, volume)
        answer = self.answered(votes.logits, batch["opinions"], valid)
        logits = votes.logits
        if self.colour is not None:
            logits = self.colour(torch.cat([votes.hidden, votes.seen[..., None], batch["difference"]], dim=-1))[..., 0]
        blended = soft_vote(logits, colour, valid)
        density = None
        if self.density is not None:
            density = self.density(votes.hidden, votes.seen, valid, self.config.samples)
        return answer, blended, density

    def _volume(
        self, sources: SourceViews, images: torch.Tensor, maps: torch.Tensor, batch: dict[str, Any]
    ) -> torch.Tensor | None:
        """M at the points (P,24): the 3D network over the volume of the source views' features."""
        if self.geometry is None:
            return None
        x, y, z, voxel = batch["grid"].tolist()
        grid = Grid(batch["low"].cpu(), voxel, (int(x), int(y), int(z)))
        small = torch.nn.functional.interpolate(images, size=maps.shape[-2:], mode="bilinear", align_corners=False)
        both = torch.cat([small, maps], dim=1)
        make = mean_and_variance if self.config.volume_input == "variance" else mean_and_depth
        return grid.read(self.geometry(make(sources, both, grid)), batch["points"])

    def _rendered(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Class probabilities (R,K) and colours (R,3) of rays."""
        answer, colour, density = self._answers(batch)
        weights = batch["weights"] if density is None else density_weights(density)
        rays, samples = weights.shape
        return (
            (weights[..., None] * answer.reshape(rays, samples, -1)).sum(dim=1),
            (weights[..., None] * colour.reshape(rays, samples, 3)).sum(dim=1),
        )

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        answer, colour = self._rendered(batch)
        # rays that hardly any view says something of teach nothing
        said = (batch["weights"] * batch["valid"].any(dim=0).reshape(batch["weights"].shape)).sum(dim=1) > 0.5
        semantic = losses.semantic_loss(answer, torch.where(said, batch["classes"], 0), self.config.loss)
        error = (colour - batch["target"]).abs()[said]
        return {
            "semantic": self.config.semantic_weight * semantic,
            "colour": self.config.colour_weight * (error.mean() if len(error) else colour.sum() * 0.0),
        }

    # --- use --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def render(
        self, views: PreparedViews, field: SceneGrid, camera: Camera, step: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Volume-rendered classes int32 and confidence float32, both (ceil(H/step), ceil(W/step))."""
        v, u = np.mgrid[0 : camera.height : step, 0 : camera.width : step]
        pixels = np.stack([u.ravel(), v.ravel()], axis=1)
        found = torch.zeros(len(pixels), self.class_count)
        rays = max(1, POINTS_AT_ONCE // (self.config.kept if self.config.geometry == "sdf" else self.config.samples))
        for start in range(0, len(pixels), rays):
            part = slice(start, start + rays)
            points, weights = self._places(field, camera, pixels[part])
            flat = points.reshape(-1, 3)
            chosen = self._nearest(views, field, flat)
            if chosen is None:
                continue
            found[part] = self._rendered(self._looked(chosen, field, flat, camera) | {"weights": weights})[0].cpu()
        best, index = found.max(dim=1)
        classes = torch.where(best > 1e-3, index + 1, 0).to(torch.int32)
        return classes.numpy().reshape(u.shape), best.numpy().reshape(u.shape)

    def _nearest(self, views: PreparedViews, field: SceneGrid, points: torch.Tensor) -> PreparedViews | None:
        """The source views that see most of some points; None when none does."""
        seeing = self._seen(views, field, points)[2].sum(dim=1)
        best = torch.argsort(seeing, descending=True, stable=True)[: self.config.views]
        best = best[seeing[best] > 0]
        return views.subset(best.tolist()) if len(best) else None

    @torch.no_grad()
    def evaluate(
        self, scenes: Sequence[LearningScene], views: int = 0, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        score = ClassScore()
        for scene in scenes:
            prepared, field = self.prepared(scene), self.scene_grid(scene)
            for view in scene.novel if not views else scene.novel[:: max(1, len(scene.novel) // views)][:views]:
                if stop():
                    return {"score": 0.0}
                if view.classes is not None:
                    classes, _ = self.render(prepared, field, view.camera, EVALUATED_STEP)
                    score.update(classes, view.classes[::EVALUATED_STEP, ::EVALUATED_STEP].astype(np.int64))
        result = score.result()
        return {
            "score": result.miou,
            "miou": result.miou,
            "mean_accuracy": result.mean_accuracy,
            "accuracy": result.accuracy,
        }

    @torch.no_grad()
    def classes_of(self, gaussians: GaussianMap, prepared: PreparedViews) -> GaussianClasses:
        """3D segmentation of the Gaussians' centres."""
        field = SceneGrid.of(prepared.views, prepared, self.config.voxels)
        means = gaussians["means"].to(prepared.rgb.device)
        found = torch.zeros(len(means), self.class_count)
        if self.density is not None:  # its attention runs along rays; points have none
            density, self.density = self.density, None
            try:
                return self._points(means, prepared, field, found)
            finally:
                self.density = density
        return self._points(means, prepared, field, found)

    def _points(
        self, means: torch.Tensor, prepared: PreparedViews, field: SceneGrid, found: torch.Tensor
    ) -> GaussianClasses:
        order = torch.argsort(means[:, 0])  # neighbours are seen by the same views
        for rows in order.split(POINTS_AT_ONCE):
            chosen = self._nearest(prepared, field, means[rows])
            if chosen is not None:
                found[rows.cpu()] = self._answers(self._looked(chosen, field, means[rows], None))[0].cpu()
        return GaussianClasses(found)


def ray_difference(points: torch.Tensor, centres: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """(V,P,4): unit difference of the directions in which a target camera at ``origin`` (3,) and each view look at a
    point, and the cosine between them."""
    ours = torch.nn.functional.normalize(points - origin, dim=-1)[None]
    theirs = torch.nn.functional.normalize(points[None] - centres[:, None], dim=-1)
    apart = torch.nn.functional.normalize(ours - theirs, dim=-1)
    return torch.cat([apart, (ours * theirs).sum(dim=-1, keepdim=True)], dim=-1)


def _parts(views: PreparedViews) -> dict[str, torch.Tensor]:
    names = ("focal", "principal", "rotation", "translation", "centres")
    return {name: getattr(views.sources, name) for name in names}


def _sources(batch: Mapping[str, Any]) -> SourceViews:
    width, height = batch["size"].tolist()
    return SourceViews((width, height), **batch["sources"])
