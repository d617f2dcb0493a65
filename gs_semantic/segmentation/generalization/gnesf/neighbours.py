"""Votes of neighbours: what views say is wrong region by region, and shape and colour show where regions end.

Not in the paper. The soft vote over views (Eq. 4) goes on over places: a Gaussian's answer is the weighted mean of what
views say of Gaussians around it, in logarithms. The weights see how alike two Gaussians are and how sure views are of
them, but no class: a vote, which cannot know which classes rooms are full of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import nn

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import sh_to_rgb
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.generalization.gnesf.prepared import map_depth
from gs_semantic.segmentation.generalization.gnesf.sources import SourceViews
from gs_semantic.segmentation.generalization.gnesf.surface import draw
from gs_semantic.segmentation.generalization.gnesf.visibility import visible_by_depth
from gs_semantic.segmentation.generalization.gnesf.voting import mlp
from gs_semantic.segmentation.generalization.scenes import SceneView

POOL, SPARSE = 40_000, 5  # Gaussians that can be neighbours at most; far ones are looked for among every fifth of them
NEAR, FAR = 16, 32
REACH_M, OFF_PLANE_M, TURN, COLOUR = 0.1, 0.03, 0.1, 0.1  # differences that count as one
LARGEST = 20.0
ALIKE = (0.1, 0.1, 0.0, 1.0, 1.0, 0.0)  # what each difference counts before anything is learned
ABOUT = 5
NEVER = -6e4  # logit of the weight of a Gaussian that no view has seen
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Surroundings:
    """Who is near whom. points, normals, colours float32 (N,3): m, unit length up to sign, 0..1; index int32 (N,k): every
    Gaussian's neighbours, itself the first."""

    points: torch.Tensor
    normals: torch.Tensor
    colours: torch.Tensor
    index: torch.Tensor

    @classmethod
    def of(cls, gaussians: GaussianMap) -> Surroundings:
        """Of a map; kept as long as the map stays as it is, because to find neighbours takes longer than to vote."""
        kept = _kept.get(gaussians)
        if kept is None or kept[0] != gaussians.revision:
            found = cls.among(gaussians["means"], sh_to_rgb(gaussians["sh"][:, 0]).clamp(0, 1))
            kept = _kept[gaussians] = (gaussians.revision, found)
        return kept[1]

    @classmethod
    @torch.no_grad()
    def among(cls, points: torch.Tensor, colours: torch.Tensor) -> Surroundings:
        """Of points (N,3) m with colours (N,3): the nearest of a random part of them, and further ones of a fifth of that.
        Normals are those of the planes through the nearest ones. A point that is nowhere (not finite) is alone."""
        somewhere = points.isfinite().all(dim=1)
        points = points.nan_to_num(0, 0, 0)
        places = points.numpy()
        pool = np.random.default_rng(0).permutation(len(places))[:POOL].astype(np.int32)
        found = [np.arange(len(places), dtype=np.int32)[:, None]]
        for part, count in ((pool, NEAR), (pool[::SPARSE], FAR)):
            if count := min(count, len(part)):
                tree, workers = cKDTree(places[part]), torch.get_num_threads()
                found.append(part[tree.query(places, k=np.arange(1, count + 1), workers=workers)[1]])
        normals = np.zeros_like(places)
        if len(places):
            way = places[found[1]] - places[found[1]].mean(axis=1, keepdims=True)
            spread = np.einsum("nki,nkj->nij", way, way, dtype=np.float64)
            normals = np.linalg.eigh(spread)[1][:, :, 0].astype(np.float32)
        index = torch.from_numpy(np.concatenate(found, axis=1))
        index = torch.where(somewhere[:, None], index, index[:, :1])
        return cls(points, torch.from_numpy(normals), colours.nan_to_num(), index)

    def __len__(self) -> int:
        return len(self.points)

    def around(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Neighbours int64 (R,k) of Gaussians ``rows`` (R,), and how they differ (R,k,6): distance, distance from either's
        plane, normals, colour: mean and largest channel."""
        near = self.index[rows].long()
        way = self.points[near] - self.points[rows, None]
        normal, theirs = self.normals[rows, None], self.normals[near]
        colour = (self.colours[near] - self.colours[rows, None]).abs() / COLOUR
        differences = [
            way.norm(dim=-1) / REACH_M,
            (way * normal).sum(-1).abs() / OFF_PLANE_M,
            (way * theirs).sum(-1).abs() / OFF_PLANE_M,
            (1 - (theirs * normal).sum(-1).abs()) / TURN,
            colour.mean(dim=-1),
            colour.amax(dim=-1),
        ]
        return near, torch.stack(differences, dim=-1).clamp(max=LARGEST)


_kept: WeakKeyDictionary[GaussianMap, tuple[int, Surroundings]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Near:
    """R Gaussians and their k neighbours, each the first of its own: logs (R,k,K) and chances (R,k,K), what views say as
    logarithms of class probabilities and as such; unsure (R,k): entropy, 0..4; views (R,k): how many; differences (R,k,6)."""

    logs: torch.Tensor
    chances: torch.Tensor
    unsure: torch.Tensor
    views: torch.Tensor
    differences: torch.Tensor

    def to(self, device: torch.device | str) -> Near:
        return Near(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class SceneVotes:
    """What the views of a scene say of its N Gaussians, on the CPU: logs, chances float32 (N,K) and unsure, views (N,), see
    ``Near``."""

    logs: torch.Tensor
    chances: torch.Tensor
    unsure: torch.Tensor
    views: torch.Tensor
    surroundings: Surroundings

    @classmethod
    def of(cls, logs: torch.Tensor, views: torch.Tensor, surroundings: Surroundings) -> SceneVotes:
        """logs (N,K): of probabilities, up to a constant by Gaussian."""
        logs = logs.float().log_softmax(dim=-1)
        chances = logs.exp()
        unsure = -4 * (chances * logs).sum(dim=-1) / float(np.log(logs.shape[-1]))
        return cls(logs, chances, unsure, views, surroundings)

    def __len__(self) -> int:
        return len(self.logs)

    def near(self, rows: torch.Tensor) -> Near:
        """Of Gaussians ``rows`` int64 (R,)."""
        index, differences = self.surroundings.around(rows)
        return Near(self.logs[index], self.chances[index], self.unsure[index], self.views[index], differences)


@dataclass(frozen=True)
class LabelledVotes:
    """votes; Gaussians ``rows`` int64 (R,) with classes int64 (R,) and the running sum of the chance that each is drawn."""

    votes: SceneVotes
    rows: torch.Tensor
    classes: torch.Tensor
    chance: np.ndarray

    def draw(self, count: int, random: np.random.Generator) -> dict[str, torch.Tensor]:
        """The parts of ``Near`` by name, and classes."""
        drawn = torch.from_numpy(draw(self.chance, count, random))
        return vars(self.votes.near(self.rows[drawn])) | {"classes": self.classes[drawn]}


@torch.no_grad()
def shown_classes(
    gaussians: GaussianMap, views: Sequence[SceneView], rasterizer: Rasterizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussians int64 (R,) that labelled views show, and their classes int64 (R,): what the nearest view says.
    InvalidInputError, with the name of the first view: none is shown."""
    first = next((view.name for view in views), "no view")
    views = [view for view in views if view.classes is not None]
    if not views:
        raise InvalidInputError(f"{first}: neither it nor another novel view of its scene has classes to learn from")
    sources = SourceViews.of([view.camera for view in views])
    places, z = sources.project(gaussians["means"])
    drawn = torch.stack([map_depth(gaussians, view, rasterizer) for view in views])[:, None]
    labels = torch.from_numpy(
        np.stack([view.classes for view in views if view.classes is not None]).astype(np.float32)
    )[:, None]
    valid = sources.inside(places, z) & visible_by_depth(z, sources.read(drawn, places, "nearest")[..., 0])
    found = sources.read(labels, places, "nearest")[..., 0].long() * valid
    nearest = z.masked_fill(found == 0, float("inf")).argmin(dim=0, keepdim=True)
    classes = found.gather(0, nearest)[0]
    rows = torch.nonzero(classes)[:, 0]
    if not len(rows):
        raise InvalidInputError(
            f"{first}: none of the {len(views)} labelled views of its scene shows any of the {len(gaussians):,} Gaussians of the "
            "map beside it; map the scene again"
        )
    return rows, classes[rows]


class NeighbourNetwork(nn.Module):
    """How much each neighbour counts. Begins as a bilateral filter (``ALIKE``); what is learned is added to that."""

    def __init__(self) -> None:
        super().__init__()
        self.alike = nn.Parameter(-torch.tensor(ALIKE))
        self.own = nn.Parameter(torch.zeros(()))  # of the Gaussian itself, beside its neighbours
        self.weigh = mlp(len(ALIKE) + ABOUT, 16, 1)
        self.sharpness = nn.Parameter(torch.zeros(()))  # of the answer; the likeliest class does not depend on it
        nn.init.zeros_(self.weigh[-1].weight)  # type: ignore[arg-type]

    def forward(self, near: Near) -> torch.Tensor:
        """Logarithms of class probabilities (R,K)."""
        many = near.views.clamp_min(0.5).log()
        about = [
            2 * torch.einsum("rk,rnk->rn", near.chances[:, 0], near.chances),  # are they of one mind?
            near.unsure,
            near.unsure[:, :1].expand_as(near.unsure),
            many,
            many[:, :1].expand_as(many),
        ]
        both = torch.cat([near.differences, torch.stack(about, dim=-1)], dim=-1)
        logits = (near.differences * self.alike).sum(-1) + self.weigh(both)[..., 0]
        logits = torch.cat([logits[:, :1] + self.own, logits[:, 1:]], dim=1)
        weight = logits.masked_fill(near.views == 0, NEVER).softmax(dim=1)
        return (self.sharpness.exp() * torch.einsum("rn,rnk->rk", weight, near.logs)).log_softmax(dim=-1)

    @torch.no_grad()
    def answers(self, votes: SceneVotes) -> torch.Tensor:
        """Class probabilities (N,K) of all Gaussians; 0 where neither they nor a neighbour has been seen."""
        device = self.alike.device
        found = torch.zeros_like(votes.logs)
        known = (votes.views[votes.surroundings.index.long()] > 0).any(dim=1)
        for rows in torch.nonzero(known)[:, 0].split(ROWS_AT_ONCE):
            found[rows] = self(votes.near(rows).to(device)).exp().cpu()
        return found
