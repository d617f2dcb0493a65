"""GNeSF on Gaussians: the vote is taken at Gaussian centres, and the winners are splatted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.evaluation.segmentation import ClassScore
from gs_semantic.gaussians import GaussianMap
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.semantics import SemanticSource
from gs_semantic.rendering import Rasterizer, create_rasterizer, native
from gs_semantic.segmentation.config import FULL_RUN, option
from gs_semantic.segmentation.generalization import checkpoints
from gs_semantic.segmentation.generalization.classifier import ImageClassifier
from gs_semantic.segmentation.generalization.config import GeneralizationConfig
from gs_semantic.segmentation.generalization.gnesf import losses
from gs_semantic.segmentation.generalization.gnesf.features import ResUNet, SmallUNet
from gs_semantic.segmentation.generalization.gnesf.neighbours import (
    LabelledVotes,
    Near,
    NeighbourNetwork,
    SceneVotes,
    Surroundings,
    shown_classes,
)
from gs_semantic.segmentation.generalization.gnesf.prepared import PreparedViews, map_depth
from gs_semantic.segmentation.generalization.gnesf.running import RunningVotes
from gs_semantic.segmentation.generalization.gnesf.surface import LabelledSurface, running_chance
from gs_semantic.segmentation.generalization.gnesf.voting import (
    Votes,
    VotingNetwork,
    mlp,
    pooled,
    soft_vote,
    view_votes,
)
from gs_semantic.segmentation.generalization.method import (
    Batch,
    GaussianClasses,
    GeneralizableSegmenter,
    ParameterGroups,
    splat,
)
from gs_semantic.segmentation.generalization.methods.segformer import SegformerConfig, SegformerLearner
from gs_semantic.segmentation.generalization.registry import register
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView

VOTES, NEIGHBOURS = "train", "neighbours"  # stages
CUES = 5
LEAST = 1e-4  # probability whose logarithm is taken
PLACES_AT_ONCE = 65_536  # Gaussians whose votes are computed together


@dataclass(frozen=True)
class GnesfConfig(GeneralizationConfig):
    """Votes, batches and the 2D segmenter that they are about."""

    segmenter: str = option("", "checkpoint of the 2D segmenter (gs-semantic train2d) to start with")
    segmenter_stride: int = option(4, "stride of that segmenter", choices=(2, 4))
    segmenter_decoder: int = option(128, "channels of its decoder", low=8)
    answer: str = option(
        "vote", "vote: learned votes; uniform: every view counts the same; direct: no votes, classes from features",
        choices=("vote", "uniform", "direct"),
    )  # fmt: skip
    difference: str = option("distance", "what of view and point the vote sees", choices=("z", "distance", "vector"))
    visibility: str = option("depth", "views vote where the map's depth agrees, or wherever it is in the image",
                             choices=("depth", "none"))  # fmt: skip
    cues: bool = option(True, "votes also see how sure, central, near and of one mind with the others a view is")
    backbone: str = option("small", "CNN of the source views: small, or the published ResNet-34 U-Net",
                           choices=("small", "resunet"))  # fmt: skip
    blend: str = option("mean", "opinions are averaged (Eq. 4), or their logarithms, so that one view can rule a class out",
                        choices=("mean", "log"))  # fmt: skip
    channels: int = option(16, "of the source views' features (backbone=small)", low=1)
    neighbours: str = option(
        "none", "a Gaussian's vote looks at those around it (not in the paper): alike: those that look alike count, nothing "
        "is learned; learned: how much each counts, in stage neighbours",
        choices=("none", "alike", "learned"),
    )  # fmt: skip
    rooms: int = option(1, "novel views, of rooms drawn at random, that one iteration learns from", low=1)
    views: int = option(8, "source views in training", low=2)
    points: int = option(768, "surface points of a novel view in one iteration", low=1)
    loss: str = option("one_minus_p", "loss on the voted probabilities", choices=losses.KINDS)
    balance: float = option(0.5, "points are drawn by their class's share of the image to the power of minus this", low=0,
                            high=1)  # fmt: skip

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"iterations": 600},
        "standard": {"iterations": 4000},
        "paper": {"iterations": 30_000},
    }


@register
class Gnesf(GeneralizableSegmenter):
    """See the module. Sums of votes are kept per Gaussian (``RunningVotes``), so views may come one by one."""

    name = "gnesf"
    summary = "learned votes over what a 2D segmenter says in the views that see a Gaussian"
    Config = GnesfConfig
    stages: ClassVar[tuple[str, ...]] = (VOTES, NEIGHBOURS)
    stage_presets: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
        NEIGHBOURS: {
            preset: {"neighbours": "learned", "points": 3000, "lr": 4e-3, "weight_decay": 0.02, "decay": 1.0, "loss": "ce",
                     "iterations": count, "evaluate_every": FULL_RUN, "evaluate_views": 0}  # once, at the end
            for preset, count in (("quick", 200), ("standard", 800), ("paper", 2000))
        }
    }  # fmt: skip
    one_shape = True

    def __init__(self, config: GnesfConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.config: GnesfConfig = config
        self.classifier = SegformerLearner(
            SegformerConfig(stride=config.segmenter_stride, decoder=config.segmenter_decoder), labels
        )
        self.classifier.requires_grad_(False)
        self._instead: list[ImageClassifier] = []  # in a list, because it is no part of this network
        small = config.backbone == "small"
        self.features: SmallUNet | ResUNet = SmallUNet(config.channels) if small else ResUNet()
        self.width = 3 + self.features.channels
        self.voting = VotingNetwork(self.width, "gaussian", config.difference, cues=CUES if config.cues else 0)
        self.head = mlp(65, 64, 64, self.class_count) if config.answer == "direct" else None
        looks = config.neighbours != "none" and config.answer != "direct"
        self.neighbours = NeighbourNetwork() if looks else None
        self._voted: WeakKeyDictionary[LearningScene, LabelledVotes] = WeakKeyDictionary()
        self._prepared: WeakKeyDictionary[LearningScene, PreparedViews] = WeakKeyDictionary()
        self._surfaces: WeakKeyDictionary[LearningScene, list[LabelledSurface]] = WeakKeyDictionary()
        self._rasterizer: Rasterizer | None = None

    def initialise(self) -> None:
        if not self.config.segmenter:
            raise InvalidRequestError("option 'segmenter': say which 2D segmenter to vote over, segmenter=OUT/best.pt")
        path = Path(self.config.segmenter)
        learned = checkpoints.load_learner(path)
        if not isinstance(learned, SegformerLearner):
            raise InvalidRequestError(f"{path}: is of method '{learned.name}'; expected one of train2d")
        if learned.labels != self.labels:
            raise InvalidInputError(
                f"{path}: has other classes than the rooms: {', '.join(learned.labels.names.values())}; the rooms have "
                f"{', '.join(self.labels.names.values())}"
            )
        try:
            self.classifier.load_state_dict(learned.state_dict())
        except RuntimeError as error:
            raise InvalidRequestError(
                f"{path}: has another shape; set segmenter_stride={learned.config.stride} "
                f"segmenter_decoder={learned.config.decoder}"
            ) from error

    def train(self, mode: bool = True) -> Gnesf:
        super().train(mode)
        self.classifier.eval()  # it is frozen, dropout too
        return self

    @property
    def _learns_neighbours(self) -> bool:
        return self.config.neighbours == "learned"

    def begin(self, stage: str) -> None:
        super().begin(stage)
        self._voted.clear()  # what votes say may have been learned meanwhile
        self.one_shape = stage != NEIGHBOURS  # maps of few Gaussians have fewer neighbours

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """What was learned of neighbours is left out when it is not asked for, and begins anew when it is not there."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith("neighbours.")}
        taken = {name: value for name, value in state_dict.items() if not name.startswith("neighbours.")}
        if self._learns_neighbours:
            own |= {name: state_dict[name] for name in own if name in state_dict}
        return super().load_state_dict(taken | own, strict, assign)

    def parameter_groups(self) -> ParameterGroups:
        if self.stage == NEIGHBOURS:
            if self.neighbours is None or not self._learns_neighbours:
                raise InvalidRequestError(
                    "stage neighbours: needs neighbours=learned, and votes (answer=vote or uniform)"
                )
            return [{"params": list(self.neighbours.parameters())}]
        kept = ("classifier.", "neighbours.")
        return [{"params": [p for name, p in self.named_parameters() if not name.startswith(kept)]}]

    def use_classifier(self, classifier: ImageClassifier) -> None:
        """Vote over what another 2D segmenter says. InvalidInputError: it has other classes."""
        if classifier.labels != self.labels:
            raise InvalidInputError(
                f"the 2D segmenter has the classes {', '.join(classifier.labels.names.values())}; votes were learned for "
                f"{', '.join(self.labels.names.values())}"
            )
        self._instead = [classifier]
        self._prepared.clear()
        self._voted.clear()

    @property
    def opinions(self) -> ImageClassifier:
        """The 2D segmenter that is voted over."""
        return self._instead[0] if self._instead else self.classifier

    @property
    def rasterizer(self) -> Rasterizer:
        if self._rasterizer is None:
            self._rasterizer = create_rasterizer("auto")
        return self._rasterizer

    # --- learning ---------------------------------------------------------------------------------------------------

    def prepared(self, scene: LearningScene) -> PreparedViews:
        """The scene's views, with what the 2D segmenter says of them; kept."""
        if scene not in self._prepared:
            self._prepared[scene] = self.prepare(scene.views, scene.gaussians, self.rasterizer)
        return self._prepared[scene]

    def surfaces(self, scene: LearningScene) -> list[LabelledSurface]:
        """What the scene's novel views show of its map; kept."""
        if scene not in self._surfaces:
            self._surfaces[scene] = [
                LabelledSurface.of(
                    view,
                    map_depth(scene.gaussians, view, self.rasterizer).numpy(),
                    self.config.balance,
                    self.device,
                )
                for view in scene.novel
            ]
        return self._surfaces[scene]

    def prepare(
        self,
        views: Sequence[SceneView],
        gaussians: GaussianMap,
        rasterizer: Rasterizer,
        progress: Callable[[], object] = lambda: None,
    ) -> PreparedViews:
        """Views of a map with what the 2D segmenter says of them, where the network is. InvalidInputError: no view, or
        views of several sizes."""
        return PreparedViews.of(views, gaussians, self.opinions, rasterizer, progress, self.device)

    @torch.no_grad()
    def sample(self, scenes: Sequence[LearningScene], random: np.random.Generator) -> Batch:
        """``rooms`` novel views; see ``_sample_view``. In stage neighbours, Gaussians that they show, of one scene."""
        if self.stage == NEIGHBOURS:
            scene = scenes[int(random.integers(len(scenes)))]
            return self.scene_votes(scene).draw(self.config.points, random)
        return {"rooms": [self._sample_view(scenes, random) for _ in range(self.config.rooms)]}

    def _sample_view(self, scenes: Sequence[LearningScene], random: np.random.Generator) -> dict[str, torch.Tensor]:
        """Surface points that a novel view of a scene shows, and views that see some of them: two or more of ``views``;
        the others are there, so that all batches have one shape, but see nothing."""
        for _ in range(100):
            scene = scenes[int(random.integers(len(scenes)))]
            whole, surfaces = self.prepared(scene), self.surfaces(scene)
            surface = surfaces[int(random.integers(len(surfaces)))]
            if not len(surface):
                continue
            points, classes = surface.draw(self.config.points, random)
            places, z, valid = whole.seen(points, self.config.visibility)
            seeing = valid.sum(dim=1).cpu().numpy()
            best = np.argsort(-seeing, kind="stable")[: 2 * self.config.views]
            best = best[seeing[best] > 0]
            if len(best) < 2:
                continue
            most = self.config.views
            chosen = random.permutation(best)[:most]
            count = min(len(chosen), int(random.integers(2, most + 1)))
            rows = np.resize(chosen, most).tolist()
            views = whole.subset(rows)
            places, z, valid = places[rows], z[rows], valid[rows]
            valid[count:] = False
            images = views.images()
            return {
                "images": images,
                "opinions": views.opinions(places),
                "rgb": views.sources.read(images, places),
                "grid": places,
                "size": torch.tensor(views.sources.size, device=places.device),
                "difference": self._difference(points, views.sources.centres, views.sources.rotation, z),
                "z": z,
                "valid": valid,
                "classes": classes,
            }
        raise InvalidInputError(
            "in 100 novel views no point with a class is seen by two others; the rooms need more views"
        )

    @torch.no_grad()
    def scene_votes(self, scene: LearningScene) -> LabelledVotes:
        """What views say of a scene's Gaussians, with the classes of those that novel views show; kept, because the
        stage does not change it. What was read of the scene for it is forgotten."""
        if scene not in self._voted:
            gaussians = scene.gaussians
            prepared = self.prepare(scene.views, gaussians, self.rasterizer)
            votes = self._scene_votes(gaussians, self._summed(gaussians, prepared)[0])
            rows, classes = shown_classes(gaussians, scene.novel, self.rasterizer)
            self._voted[scene] = LabelledVotes(
                votes, rows, classes, running_chance(classes.numpy(), self.config.balance)
            )
            scene.forget()
        return self._voted[scene]

    def _scene_votes(self, gaussians: GaussianMap, sums: RunningVotes) -> SceneVotes:
        found = sums.result().cpu()
        logs = found if self.config.blend == "log" else found.clamp_min(LEAST).log()
        return SceneVotes.of(logs, sums.views.cpu(), Surroundings.of(gaussians))

    def _difference(
        self, points: torch.Tensor, centres: torch.Tensor, rotation: torch.Tensor, z: torch.Tensor
    ) -> torch.Tensor:
        """(V,P,D): depth, distance, or displacement in the camera's axes (m)."""
        way = points[None] - centres[:, None]
        if self.config.difference == "z":
            return z[..., None]
        if self.config.difference == "distance":
            return way.norm(dim=-1, keepdim=True)
        return torch.einsum("vij,vpj->vpi", rotation, way)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.stage == NEIGHBOURS and self.neighbours is not None:
            answer = self.neighbours(Near(**{part: batch[part] for part in Near.__dataclass_fields__})).exp()
            return {"semantic": losses.semantic_loss(answer, batch["classes"], self.config.loss)}
        found = self.features(torch.cat([view["images"] for view in batch["rooms"]])).float()
        parts = found.chunk(len(batch["rooms"]))
        terms = [self._loss(view, part) for view, part in zip(batch["rooms"], parts, strict=True)]
        return {"semantic": torch.stack(terms).mean()}

    def _loss(self, batch: dict[str, torch.Tensor], found: torch.Tensor) -> torch.Tensor:
        """Of the points of one novel view; found (V,C,h,w): features of its source views."""
        valid, opinions, z = batch["valid"], batch["opinions"], batch["z"]
        grid = (batch["grid"] + 0.5) / batch["size"] * 2 - 1
        read = torch.nn.functional.grid_sample(found, grid[:, None], align_corners=False)
        own = torch.cat([batch["rgb"], read[:, :, 0].transpose(1, 2)], dim=-1)
        described = self.voting.described(own, batch["difference"])
        weights = self.voting.pool_weights(-z, valid)
        known = pooled(described, weights)
        mean = (opinions * valid[..., None]).sum(0) / valid.sum(0).clamp_min(1)[:, None]
        cues = self._cues(opinions, mean, batch["grid"], z, batch["size"])
        votes = self.voting(described, known, weights, batch["difference"], valid, None, cues)
        if self.head is not None:
            answer = self._direct_of(votes, valid).softmax(dim=-1)
        else:
            answer = self.answered(votes.logits, opinions, valid)
        classes = torch.where(valid.any(dim=0), batch["classes"], 0)
        return losses.semantic_loss(answer, classes, self.config.loss)

    def answered(self, logits: torch.Tensor, opinions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Class probabilities (P,K) of votes (V,P) on opinions (V,P,K)."""
        blended = soft_vote(logits, self._blended(opinions), valid)
        return blended.softmax(dim=-1) * valid.any(dim=0)[:, None] if self.config.blend == "log" else blended

    def _blended(self, opinions: torch.Tensor) -> torch.Tensor:
        """What is averaged over views."""
        return opinions.clamp_min(LEAST).log() if self.config.blend == "log" else opinions

    def _cues(
        self, opinions: torch.Tensor, mean: torch.Tensor, places: torch.Tensor, z: torch.Tensor, size: torch.Tensor
    ) -> torch.Tensor | None:
        """(..., 5) of opinions (..., K), each of a spread of about 1: log odds of the likeliest class, entropy, agreement
        with the mean opinion, how far from the image's border, and nearness (depth z, m)."""
        if not self.config.cues:
            return None
        best = opinions.amax(-1).clamp(0.01, 0.99)
        entropy = -(opinions * torch.log(opinions.clamp_min(1e-6))).sum(-1) / np.log(opinions.shape[-1])
        central = 1 - ((places + 0.5) / size * 2 - 1).abs().amax(dim=-1)
        agreement = (opinions * mean).sum(-1)
        return torch.stack([torch.log(best / (1 - best)), 4 * entropy, 4 * agreement, 2 * central, 2 - z], dim=-1)

    def _direct_of(self, votes: Votes, valid: torch.Tensor) -> torch.Tensor:
        """Class logits (P,K) from mean and variance over views of the network's inner features: no votes."""
        assert self.head is not None
        weight = votes.seen * valid + 1e-6 * valid
        weight = weight / weight.sum(0).clamp_min(1e-8)
        both = pooled(votes.hidden, weight)
        found: torch.Tensor = self.head(
            torch.cat([both.mean, both.variance, (votes.seen.sum(0) / valid.sum(0).clamp_min(1))[:, None]], dim=-1)
        )
        return found

    @torch.no_grad()
    def evaluate(
        self, scenes: Sequence[LearningScene], views: int = 0, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        score = ClassScore()
        for scene in scenes:
            if stop():
                return {"score": 0.0}
            if self.stage == NEIGHBOURS and self.neighbours is not None:
                known = GaussianClasses(self.neighbours.answers(self.scene_votes(scene).votes))
            else:
                known = self.classes_of(scene.gaussians, self.prepared(scene))
            for view in scene.novel if not views else scene.novel[:: max(1, len(scene.novel) // views)][:views]:
                if view.classes is not None:
                    shown = splat(scene.gaussians, known, view.camera, self.rasterizer)
                    score.update(shown.classes, view.classes.astype(np.int64))
        result = score.result()
        return {
            "score": result.miou,
            "miou": result.miou,
            "mean_accuracy": result.mean_accuracy,
            "accuracy": result.accuracy,
        }

    # --- use --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def segment(
        self,
        gaussians: GaussianMap,
        views: Sequence[SceneView],
        rasterizer: Rasterizer,
        progress: Callable[[], object] = lambda: None,
    ) -> GaussianClasses:
        self.eval()
        prepared = self.prepare(views, gaussians, rasterizer, progress)
        known = self.classes_of(gaussians, prepared)
        if not known.probabilities.any():
            raise InvalidInputError(
                f"none of the {len(views)} views sees any of the {len(gaussians):,} Gaussians; poses and map do not belong "
                "together (camera-to-world, OpenCV axes, metres, in the map's frame)"
            )
        return known

    def live(self, rasterizer: Rasterizer) -> SemanticSource:
        from gs_semantic.segmentation.generalization.gnesf.live import LiveVotes

        return LiveVotes(self, rasterizer)

    @torch.no_grad()
    def classes_of(self, gaussians: GaussianMap, prepared: PreparedViews) -> GaussianClasses:
        """The vote of all views on all Gaussians, and of their neighbours where ``neighbours`` says so."""
        sums, looked = self._summed(gaussians, prepared)
        if self.config.answer == "direct":
            return self._direct_classes(sums, looked)
        if self.neighbours is not None:
            return GaussianClasses(self.neighbours.answers(self._scene_votes(gaussians, sums)))
        return GaussianClasses(self.voted(sums).cpu())

    def _summed(self, gaussians: GaussianMap, prepared: PreparedViews) -> tuple[RunningVotes, list[Seen]]:
        """Features of every view first, then votes with the mean of all; no votes for direct regression."""
        sums = self.empty_sums(len(gaussians))
        means = gaussians["means"].to(prepared.rgb.device)
        looked = [self.look(means, prepared.subset([i])) for i in range(len(prepared))]
        for seen in looked:
            sums.add_features(seen.rows, seen.described, seen.weight, seen.opinions)
        if self.config.answer != "direct":
            for seen in looked:
                self.vote(sums, seen)
        return sums, looked

    def voted(self, sums: RunningVotes, rows: torch.Tensor | None = None) -> torch.Tensor:
        """(N,K) probabilities, of all or of ``rows``; 0 for Gaussians that no view has seen."""
        found = sums.result(rows)
        if self.config.blend != "log":
            return found
        return found.softmax(dim=-1) * (found < 0).any(dim=-1, keepdim=True)

    def empty_sums(self, count: int) -> RunningVotes:
        return RunningVotes.empty(count, self.width, self.class_count, self.device)

    def look(self, means: torch.Tensor, view: PreparedViews, among: torch.Tensor | None = None) -> Seen:
        """What one view says of the Gaussians that it sees, of all or of those that bool ``among`` (N,) names."""
        rows, places, z = view.rows_seen(means, self.config.visibility, among)
        images = view.images()
        own = torch.cat([view.sources.read(images, places), view.sources.read(self.features(images), places)], dim=-1)
        difference = self._difference(means[rows], view.sources.centres, view.sources.rotation, z)
        described = self.voting.described(own, difference)[0]
        weight = torch.exp(self.voting.sharpness.abs() * -z[0])
        return Seen(
            rows, described, weight, view.opinions(places)[0], difference[0], places[0], z[0], view.sources.size
        )

    def vote(self, sums: RunningVotes, seen: Seen) -> None:
        """Add the votes of a view, whose features are in the sums already."""
        size = torch.tensor(seen.size, device=seen.rows.device)
        for start in range(0, len(seen.rows), PLACES_AT_ONCE):
            part = slice(start, start + PLACES_AT_ONCE)
            opinions = self._blended(seen.opinions[part])
            if self.config.answer == "uniform":
                logits = torch.zeros(len(opinions), device=opinions.device)
            else:
                logits = self._logits(sums, seen, part, size)
            sums.add_votes(seen.rows[part], logits, opinions)

    def _logits(self, sums: RunningVotes, seen: Seen, part: slice, size: torch.Tensor) -> torch.Tensor:
        """(R,) of ``_votes``, without what is used on the way."""
        if (
            torch.is_grad_enabled()
            or sums.first.is_cuda
            or 3 * self.width > native.MLP_WIDEST
            or not native.available()
        ):
            return self._votes(sums, seen, part, size).logits[0]
        rows, opinions = seen.rows[part], seen.opinions[part]
        cues = self._cues(opinions, sums.mean_opinion(rows), seen.places[part], seen.z[part], size)
        of_all = (sums.weight, sums.first, sums.second)
        return view_votes(self.voting, of_all, rows, seen.described[part], seen.difference[part], cues)

    def _votes(self, sums: RunningVotes, seen: Seen, part: slice, size: torch.Tensor) -> Votes:
        rows, opinions = seen.rows[part], seen.opinions[part]
        cues = self._cues(opinions, sums.mean_opinion(rows), seen.places[part], seen.z[part], size)
        valid = torch.ones(1, len(rows), dtype=torch.bool, device=rows.device)
        votes: Votes = self.voting(
            seen.described[part][None],
            sums.pooled(rows),
            seen.weight[part][None],
            seen.difference[part][None],
            valid,
            None,
            None if cues is None else cues[None],
        )
        return votes

    def _direct_classes(self, sums: RunningVotes, looked: Sequence[Seen]) -> GaussianClasses:
        """Mean and variance of inner features over views, summed up view by view, through the head."""
        assert self.head is not None
        count = len(sums)
        inner = RunningVotes.empty(count, 32, 1, self.device)
        for seen in looked:
            votes = self._votes(sums, seen, slice(None), torch.tensor(seen.size, device=self.device))
            weight = votes.seen[0] + 1e-6
            inner.add_features(seen.rows, votes.hidden[0], weight, votes.seen[0][:, None])
        rows = torch.nonzero(inner.views > 0)[:, 0]
        both = inner.pooled(rows)
        found = torch.zeros(count, self.class_count, device=self.device)
        inputs = torch.cat([both.mean, both.variance, inner.mean_opinion(rows)], dim=-1)
        found[rows] = self.head(inputs).softmax(dim=-1)
        return GaussianClasses(found.cpu())


@dataclass(frozen=True)
class Seen:
    """Of the R Gaussians ``rows`` that a view sees: described (R,F), weight (R,), opinions (R,K), difference (R,D), places
    (R,2) px in an image of ``size``, depth z (R,) m."""

    rows: torch.Tensor
    described: torch.Tensor
    weight: torch.Tensor
    opinions: torch.Tensor
    difference: torch.Tensor
    places: torch.Tensor
    z: torch.Tensor
    size: tuple[int, int]
