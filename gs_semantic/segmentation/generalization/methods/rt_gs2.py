"""RT-GS2 as a method that generalises: what is trained in which stage, and how a scene nobody labelled gets classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.evaluation.depth import DepthErrors, depth_errors
from gs_semantic.evaluation.segmentation import ClassScore
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.semantics import SemanticSource
from gs_semantic.rendering import Rasterizer, create_rasterizer
from gs_semantic.rendering.base import SplatTensors
from gs_semantic.segmentation.config import option
from gs_semantic.segmentation.generalization.config import GeneralizationConfig
from gs_semantic.segmentation.generalization.images import ImageChanges, LabelledImages, each_scene
from gs_semantic.segmentation.generalization.method import (
    Batch,
    GaussianClasses,
    GeneralizableSegmenter,
    ParameterGroups,
)
from gs_semantic.segmentation.generalization.registry import register
from gs_semantic.segmentation.generalization.rt_gs2.augmentation import (
    AugmentationConfig,
    Samples,
    augment,
    plan_changes,
)
from gs_semantic.segmentation.generalization.rt_gs2.contrastive import (
    ContrastiveConfig,
    ContrastiveScene,
    draw_pair,
    point_info_nce,
)
from gs_semantic.segmentation.generalization.rt_gs2.live import LiveFusion
from gs_semantic.segmentation.generalization.rt_gs2.losses import IGNORE, SegmentationLoss, depth_loss
from gs_semantic.segmentation.generalization.rt_gs2.network import INPUTS, FusionNetwork, NetworkConfig, averaged
from gs_semantic.segmentation.generalization.rt_gs2.point_transformer import PointTransformer, PointTransformerConfig
from gs_semantic.segmentation.generalization.rt_gs2.rendering import ViewImages, draw_view, on_device
from gs_semantic.segmentation.generalization.rt_gs2.scene_features import MAX_POINTS, scene_features
from gs_semantic.segmentation.generalization.rt_gs2.view_fusion import ViewFusion
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView
from gs_semantic.segmenters.weights import Weights

FEATURES, IMAGE, CLASSES, FINE_TUNE, DEPTH = "features", "image", "classes", "fine_tune", "depth"
TRIES = 20  # pairs of views that are drawn until one has enough in common
VALIDATION_PAIRS = 3  # of every scene
LARGEST_DEPTH_M = 10.0
TYPICAL_DEPTH_M = 2.5  # in rooms


@dataclass(frozen=True)
class RtGs2Config(GeneralizationConfig):
    """Sizes and losses. Learning rates of the paper are for pretrained encoders and batches of 4 to 8."""

    size: str = option(
        "paper", "paper: Point Transformer V3, ConvNeXt-T and MiT-B0; small: two CPU cores", choices=("paper", "small")
    )
    inputs: str = option(
        "both", "what the 2D network sees: both, or image or features alone, to compare", choices=INPUTS
    )
    image_weights: str = option("", "folder or Hub name of a pretrained ConvNeXt of this size; empty: from scratch")
    batch: int = option(4, "views of one iteration", low=1)
    max_points: int = option(MAX_POINTS, "Gaussians in one pass of the point transformer", low=1000)
    rasterizer: str = option("auto", "back end", choices=("auto", "cpu", "cuda", "reference"))
    cache_gb: float = option(2.0, "memory for drawn views of training, where it trains; others are drawn again", low=0)

    # stage features
    features_lr: float = option(1e-3, "learning rate of the point transformer", low=0)
    features_weight_decay: float = option(1e-5, "its decay of weights", low=0)
    pairs: int = option(4096, "Gaussians per pair of views that are told apart", low=16)
    temperature: float = option(0.07, "of the contrastive loss", low=1e-3)
    voxel_m: float = option(0.07, "one Gaussian per cube of this side; the published code runs 0.05", low=1e-3)
    normalise: bool = option(False, "compare unit vectors, as PointContrast does")
    scale_log: str = option(
        "add", "how a change of size reaches log scales; multiply: as the published code", choices=("add", "multiply")
    )

    # stages image, classes, fine_tune, depth
    smoothing: float = option(
        0.15, "share of the label that is spread over all classes; none in fine_tune", low=0, high=0.9
    )
    ceco: float = option(0.4, "weight of the class-centre loss; 0: none", low=0)
    augment: bool = option(True, "change images at random while training")
    loss_stride: int = option(1, "the loss looks at one pixel in squares of so many pixels a side", low=1)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"size": "small", "lr": 2e-3, "normalise": True, "pairs": 1024, "loss_stride": 2},
        "standard": {"size": "small", "lr": 1e-3, "normalise": True, "pairs": 2048, "loss_stride": 2, "batch": 16},
        "paper": {"lr": 1e-4},
    }  # fmt: skip


@dataclass(frozen=True)
class _Drawn:
    """A view as the 2D network sees it, in as few bytes as will do: rgb uint8 (3,H,W); features uint8 (C,h,w) of steps
    from lowest to highest (C,2); class ids uint8 (H,W); depth float16 (H,W) m or None."""

    rgb: torch.Tensor
    steps: torch.Tensor
    range: torch.Tensor
    labels: torch.Tensor
    depth: torch.Tensor | None

    @classmethod
    def of(
        cls, images: ViewImages, labels: np.ndarray, depth: np.ndarray | None, device: torch.device, stride: int
    ) -> _Drawn:
        """stride: features are averaged over squares of so many pixels."""
        features = averaged(images.features.to(device), stride)[0]
        low, high = features.amin(dim=(1, 2)), features.amax(dim=(1, 2))
        steps = (features - low[:, None, None]) * (255 / (high - low).clamp_min(1e-9))[:, None, None]
        return cls(
            (images.rgb[0].to(device) * 255).round().to(torch.uint8),
            steps.round().to(torch.uint8),
            torch.stack([low, high], dim=1),
            torch.from_numpy(labels.astype(np.uint8)).to(device),
            None if depth is None else torch.from_numpy(depth).to(device, torch.half),
        )

    @property
    def bytes(self) -> int:
        images = (self.rgb, self.steps, self.range, self.labels, self.depth)
        return sum(image.numel() * image.element_size() for image in images if image is not None)

    @staticmethod
    def stacked(views: Sequence[_Drawn], depth: bool = False) -> Batch:
        """Several, as they are kept, by name; with their depth where it is learned."""
        names = ("rgb", "steps", "range", "labels", *(("depth",) if depth else ()))
        return {name: torch.stack([getattr(view, name) for view in views]) for name in names}

    @staticmethod
    def inputs(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Of several: colour float32 (B,3,H,W), 0..1, and features (B,C,h,w)."""
        low, high = batch["range"][:, :, :, None, None].unbind(dim=2)
        return batch["rgb"].float() / 255, low + batch["steps"].float() * ((high - low) / 255)


@register
class RtGs2(GeneralizableSegmenter):
    """Stages: ``features`` trains the point transformer without labels; ``image`` an encoder of images on photographs, from
    which the others start, instead of pretrained weights; ``classes`` the 2D network on labels of many scenes;
    ``fine_tune`` goes on with those of one; ``depth`` trains a network of its own on the same features."""

    name = "rt_gs2"
    summary = "3D features of Gaussians, drawn into the view and joined with colour by a 2D network"
    Config = RtGs2Config
    stages = (FEATURES, IMAGE, CLASSES, FINE_TUNE, DEPTH)
    stage_presets: ClassVar[
        Mapping[str, Mapping[str, Mapping[str, Any]]]
    ] = {  # the paper's lengths: of Replica, and, a quarter, of ScanNet
        FINE_TUNE: {
            "quick": {"iterations": 1000, "warmup": 0},
            "standard": {"iterations": 5000, "warmup": 0},
            "paper": {"iterations": 20_000, "warmup": 0},
        }
    }

    def __init__(self, config: RtGs2Config, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.config: RtGs2Config = config
        small = config.size == "small"
        self.transformer = PointTransformer(PointTransformerConfig.small() if small else PointTransformerConfig())
        self.networks = nn.ModuleDict()
        self._loss: SegmentationLoss | None = None
        self._rasterizer: tuple[str, Rasterizer] | None = None
        self._features: WeakKeyDictionary[LearningScene, torch.Tensor] = WeakKeyDictionary()
        self._contrastive: WeakKeyDictionary[LearningScene, ContrastiveScene | None] = WeakKeyDictionary()
        self._maps: WeakKeyDictionary[LearningScene, GaussianMap | SplatTensors] = WeakKeyDictionary()
        self._views: WeakKeyDictionary[LearningScene, dict[int, _Drawn]] = WeakKeyDictionary()
        self._kept_bytes = 0
        self._read: tuple[int, ...] = ()
        self._photographs: tuple[tuple[int, ...], LabelledImages] | None = None

    # --- parts ------------------------------------------------------------------------------------------------------

    def begin(self, stage: str) -> None:
        super().begin(stage)
        part = self._part(stage)
        self.one_shape = part != FEATURES  # pairs of views have another number of Gaussians each time
        if part != FEATURES:
            self._network(part)
        if part not in (FEATURES, IMAGE) and IMAGE in self.networks:
            del self.networks[IMAGE]  # it was where the others begin
        self.transformer.requires_grad_(part == FEATURES)
        for name, network in self.networks.items():
            network.requires_grad_(name == part)
        self._features.clear()
        self._views.clear()
        self._kept_bytes = 0
        if part in (IMAGE, CLASSES):
            smoothing = 0.0 if stage == FINE_TUNE else self.config.smoothing
            network = self._network(part)
            self._loss = SegmentationLoss(network.config.embedding, self.class_count, smoothing, self.config.ceco)

    @staticmethod
    def _part(stage: str) -> str:
        """The network that a stage trains."""
        return CLASSES if stage == FINE_TUNE else stage

    def _network(self, part: str) -> FusionNetwork:
        if part not in self.networks:
            outputs = 1 if part == DEPTH else self.class_count
            inputs = "image" if part == IMAGE else self.config.inputs
            small = self.config.size == "small"
            form = NetworkConfig.small(outputs, inputs) if small else NetworkConfig(outputs, inputs)
            weights = Weights(self.config.image_weights) if self.config.image_weights else None
            made = FusionNetwork(form, weights)
            if part != IMAGE and IMAGE in self.networks:
                self._start_from_photographs(made, part)
            if part == DEPTH:  # begin with a likely answer, in front of the camera
                nn.init.constant_(made.decoder.classify.bias, TYPICAL_DEPTH_M)  # type: ignore[arg-type]
            self.networks[part] = made
        network = self.networks[part]
        assert isinstance(network, FusionNetwork)
        return network

    def _start_from_photographs(self, network: FusionNetwork, part: str) -> None:
        """The encoder of stage ``image`` is where a network's own begins; so is the decoder, where it fits."""
        learned = self._network(IMAGE)
        if network.image is not None:
            assert learned.image is not None
            network.image.load_state_dict(learned.image.state_dict())
        if part == CLASSES and network.stages is None:
            network.decoder.load_state_dict(learned.decoder.state_dict())

    def train(self, mode: bool = True) -> RtGs2:
        """What the stage does not train stays as it is, the running means of its norms among it."""
        super().train(mode)
        if mode:
            part = self._part(self.stage)
            self.transformer.train(part == FEATURES)
            for name, network in self.networks.items():
                network.train(name == part)
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Networks that the state has, and no others, exist afterwards."""
        for part in (IMAGE, CLASSES, DEPTH):
            if any(name.startswith(f"networks.{part}.") for name in state_dict):
                self._network(part)
            elif part in self.networks:
                del self.networks[part]
        return super().load_state_dict(state_dict, strict, assign)

    def parameter_groups(self) -> ParameterGroups:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        group: dict[str, Any] = {"params": parameters}
        if self.stage == FEATURES:
            group |= {"lr": self.config.features_lr, "weight_decay": self.config.features_weight_decay}
        return [group]

    @property
    def rasterizer(self) -> Rasterizer:
        """What draws; ``auto``: gsplat, if it is there, while the network is on a GPU."""
        name = self.config.rasterizer
        if name == "auto" and self.device.type == "cuda" and find_spec("gsplat") is not None:
            name = "cuda"
        if self._rasterizer is None or self._rasterizer[0] != name:
            self._rasterizer = name, create_rasterizer(name)
        return self._rasterizer[1]

    @property
    def _contrast(self) -> ContrastiveConfig:
        config = self.config
        return ContrastiveConfig(config.pairs, config.temperature, config.voxel_m, config.normalise, config.scale_log)

    # --- learning ---------------------------------------------------------------------------------------------------

    def sample(self, scenes: Sequence[LearningScene], random: np.random.Generator) -> Batch:
        if self.stage == IMAGE:
            return {"parts": self._photos(scenes).plan(self.config.batch, random, ImageChanges())}
        key = tuple(id(scene) for scene in scenes)
        if self._read != key:  # several scenes at once, while they are new
            self._read = key
            for _ in each_scene(scenes, lambda scene: (scene.views, scene.novel, scene.gaussians)):
                pass
        if self.stage == FEATURES:
            return self._draw_pair(scenes, random)
        drawn = []
        for _ in range(self.config.batch):
            scene = scenes[int(random.integers(len(scenes)))]
            views = len(scene.views) + (0 if self.stage == FINE_TUNE else len(scene.novel))
            drawn.append(self._drawn(scene, int(random.integers(views))))
        batch = _Drawn.stacked(drawn, depth=self.stage == DEPTH)
        augmentation = self._augmentation()
        if augmentation:
            height, width = drawn[0].labels.shape
            batch["plan"] = plan_changes(len(drawn), (height, width), random, augmentation)
        return batch

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.stage == FEATURES:
            first, second = (
                self.transformer(batch[f"xyz{side}"], batch[f"inputs{side}"])[batch["common"][:, side]]
                for side in (0, 1)
            )
            return {"contrast": point_info_nce(first, second, self.config.temperature, self.config.normalise)}
        stride = self.config.loss_stride
        if self.stage == IMAGE:
            assert self._photographs is not None
            rgb, classes = self._photographs[1].parts(batch["parts"], stride)
            features, target = None, classes + IGNORE
        else:
            samples = self._samples(batch)
            rgb, features = samples.rgb, samples.features
            chosen = samples.labels if samples.depth is None else samples.depth
            target = chosen[:, ::stride, ::stride]
        out = self._network(self._part(self.stage))(rgb, features, target.shape[1:])
        if self.stage == DEPTH:
            return {"depth": depth_loss(out.logits, target)}
        assert self._loss is not None
        return self._loss.to(out.logits.device)(out.logits, out.embedding, target)

    def _samples(self, batch: Batch) -> Samples:
        """Views to learn from, changed at random: part of the step, so that a GPU that records it does that, too."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # 16 bit cannot tell pixels apart
            depth = batch["depth"].float() if "depth" in batch else None
            labels = batch["labels"].long() + IGNORE
            samples = Samples(*_Drawn.inputs(batch), labels, depth)
            return augment(samples, batch["plan"]) if "plan" in batch else samples

    def evaluate(
        self, scenes: Sequence[LearningScene], views: int = 0, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        if self.stage == FEATURES:
            return self._evaluate_features(scenes, stop)
        score, errors = ClassScore(), list[DepthErrors]()
        for scene in scenes:
            step = max(1, len(scene.novel) // views) if views else 1
            for number in range(0, len(scene.novel), step)[: views or None]:
                if stop():
                    return {"score": 0.0}
                view = scene.novel[number]
                if (view.depth if self.stage == DEPTH else view.classes) is None:
                    continue
                if self.stage == IMAGE:
                    logits = self._answer(IMAGE, view.colour()[None], None)
                else:
                    logits = self.view_logits(scene, len(scene.views) + number)
                if self.stage == DEPTH:
                    assert view.depth is not None
                    errors.append(depth_errors(logits[0].numpy(), view.depth, LARGEST_DEPTH_M))
                else:
                    assert view.classes is not None
                    score.update(logits.argmax(dim=0).numpy() + 1, view.classes.astype(np.int64))
        if self.stage == DEPTH:
            return mean_depth_errors(errors)
        result = score.result()
        return {
            "score": result.miou,
            "miou": result.miou,
            "mean_accuracy": result.mean_accuracy,
            "accuracy": result.accuracy,
        }

    def _evaluate_features(self, scenes: Sequence[LearningScene], stop: Callable[[], bool]) -> dict[str, float]:
        """The loss at pairs of views that are the same in every evaluation. score = 1 at a loss of 0, 0 at infinity."""
        losses = []
        for index, scene in enumerate(scenes):
            contrastive = self._contrastive_scene(scene)
            if contrastive is None:
                continue
            generator = torch.Generator().manual_seed(index)
            for pair in contrastive.pairs[:: max(1, len(contrastive.pairs) // VALIDATION_PAIRS)][:VALIDATION_PAIRS]:
                if stop():
                    return {"score": 0.0}
                drawn = draw_pair(contrastive, pair, generator, self._contrast)
                if drawn is not None:
                    losses.append(float(self(self._pair_batch(drawn))["contrast"]))
        if not losses:
            raise InvalidInputError("no pair of validation views has enough in common to compare features")
        loss = float(np.mean(losses))
        return {"score": math.exp(-loss), "contrast": loss}

    def _draw_pair(self, scenes: Sequence[LearningScene], random: np.random.Generator) -> Batch:
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        for _ in range(TRIES):
            scene = self._contrastive_scene(scenes[int(random.integers(len(scenes)))])
            if scene is None:
                continue
            drawn = draw_pair(scene, scene.pairs[int(random.integers(len(scene.pairs)))], generator, self._contrast)
            if drawn is not None:
                return self._pair_batch(drawn)
        raise InvalidInputError(f"{TRIES} pairs of views have next to nothing in common; check poses and voxel_m")

    @staticmethod
    def _pair_batch(pair: Any) -> Batch:
        batch = {"common": pair.common}
        for side, view in enumerate(pair.views):
            batch |= {f"xyz{side}": view.xyz, f"inputs{side}": view.features}
        return batch

    def _contrastive_scene(self, scene: LearningScene) -> ContrastiveScene | None:
        """None for a scene of which no two views have enough in common."""
        if scene not in self._contrastive:
            cameras = [view.camera for view in scene.views + scene.novel]
            try:
                self._contrastive[scene] = ContrastiveScene.of(scene.gaussians, cameras, self._contrast, self.device)
            except InvalidInputError:
                self._contrastive[scene] = None
        return self._contrastive[scene]

    def _photos(self, scenes: Sequence[LearningScene]) -> LabelledImages:
        """All images of the scenes that are learned from, kept."""
        key = tuple(id(scene) for scene in scenes)
        if self._photographs is None or self._photographs[0] != key:
            self._photographs = key, LabelledImages.of(scenes, self.device)
        return self._photographs[1]

    def _augmentation(self) -> AugmentationConfig | None:
        if not self.config.augment:
            return None
        if self.stage == FINE_TUNE:
            return AugmentationConfig.fine_tuning()
        # a change of perspective has no depth image of its own
        return AugmentationConfig(perspective=0.0) if self.stage == DEPTH else AugmentationConfig()

    @torch.no_grad()
    def _drawn(self, scene: LearningScene, number: int) -> _Drawn:
        """The view ``number`` of a scene, novel ones counted on, drawn from its map; kept while there is room."""
        known = self._views.setdefault(scene, {})
        if number in known:
            return known[number]
        view = (scene.views + scene.novel)[number]
        if self.stage == DEPTH and view.depth is None:
            raise InvalidInputError(f"{view.name}: has no depth to learn from")
        if self.stage != DEPTH and view.classes is None:
            raise InvalidInputError(f"{view.name}: has no classes to learn from")
        images = draw_view(self.rasterizer, self._map(scene), self.scene_features(scene), view.camera)
        classes = np.zeros(images.covered.shape) if view.classes is None else view.classes
        stride = self._network(self._part(self.stage)).config.feature_stride
        drawn = _Drawn.of(images, classes, view.depth, self.device, stride)
        if self._kept_bytes + drawn.bytes <= self.config.cache_gb * 1e9:
            known[number] = drawn
            self._kept_bytes += drawn.bytes
        return drawn

    def share_views(self, other: RtGs2) -> None:
        """Look at what another has drawn, if it drew the same: with the same point transformer, and as finely."""
        own, theirs = self.transformer.state_dict(), other.transformer.state_dict()
        if self.device == other.device and all(torch.equal(value, theirs[name]) for name, value in own.items()):
            self._features, self._maps, self._views = other._features, other._maps, other._views
            self._kept_bytes = other._kept_bytes

    def view_logits(self, scene: LearningScene, number: int) -> torch.Tensor:
        """The answer of the stage's network to a view of a scene, novel ones counted on: (K,H,W) on the CPU."""
        return self._answer(self._part(self.stage), *_Drawn.inputs(_Drawn.stacked([self._drawn(scene, number)])))

    def image_logits(self, image: np.ndarray) -> torch.Tensor:
        """What the network of stage ``image`` says of an image uint8 (H,W,3): (K,H,W) on the CPU."""
        colour = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255
        return self._answer(IMAGE, colour, None)

    def _map(self, scene: LearningScene) -> GaussianMap | SplatTensors:
        """The scene's map, where it is drawn."""
        if self.rasterizer.name != "cuda":
            return scene.gaussians
        if scene not in self._maps:
            self._maps[scene] = on_device(scene.gaussians, self.device)
        return self._maps[scene]

    # --- answers ----------------------------------------------------------------------------------------------------

    def scene_features(self, scene: LearningScene) -> torch.Tensor:
        """Features (N,32) of a scene that is learned from, kept while its weights stay."""
        if scene not in self._features:
            found = self.features(scene.gaussians)
            self._features[scene] = found.to(self.device) if self.rasterizer.name == "cuda" else found
        return self._features[scene]

    def features(self, gaussians: GaussianMap) -> torch.Tensor:
        """View-independent features float32 (N,32) of all Gaussians; once a scene. (N,1) of zeros where the network does
        not look at them."""
        if self.config.inputs == "image":
            return torch.zeros(len(gaussians), 1)
        return scene_features(self.transformer, gaussians, self.config.max_points)

    @torch.no_grad()
    def logits(
        self,
        gaussians: GaussianMap,
        features: torch.Tensor,
        camera: Camera,
        part: str = CLASSES,
        rasterizer: Rasterizer | None = None,
    ) -> torch.Tensor:
        """One view's answer, on the CPU: logits (K,H,W) of classes 1..K, or with ``part`` depth metres (1,H,W).

        InvalidRequestError: that part was not trained.
        """
        if part not in self.networks:
            raise InvalidRequestError(
                f"the checkpoint has no network for {part}; train one: gs-semantic generalize train rt_gs2 --stage {part}"
            )
        images = draw_view(rasterizer or self.rasterizer, gaussians, features, camera)
        return self._answer(part, images.rgb, images.features)

    @torch.no_grad()
    def _answer(self, part: str, rgb: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """(K,H,W) on the CPU."""
        network = self.networks[part].eval()
        features = None if features is None else features.to(self.device)
        found: torch.Tensor = network(rgb.to(self.device), features).logits[0].float().cpu()
        return found

    def per_view(
        self, gaussians: GaussianMap, features: torch.Tensor, cameras: Sequence[Camera], rasterizer: Rasterizer
    ) -> Iterator[tuple[Camera, torch.Tensor]]:
        """Every camera with its logits."""
        for camera in cameras:
            yield camera, self.logits(gaussians, features, camera, rasterizer=rasterizer)

    @torch.no_grad()
    def segment(
        self,
        gaussians: GaussianMap,
        views: Sequence[SceneView],
        rasterizer: Rasterizer,
        progress: Callable[[], object] = lambda: None,
    ) -> GaussianClasses:
        """The answers of many views brought back into the Gaussians. Only the views' cameras are looked at: what the
        network sees is drawn from the map."""
        if not views:
            raise InvalidInputError("no view to look from; at least one camera is needed")
        features = self.features(gaussians)
        fusion = ViewFusion(rasterizer, gaussians)
        for view in views:
            fusion.add(view.camera, self.logits(gaussians, features, view.camera, rasterizer=rasterizer))
            progress()
        if not bool(fusion.seen.any()):
            raise InvalidInputError(
                f"none of {len(views)} views sees any Gaussian; map and poses do not belong together"
            )
        probabilities = fusion.logits.softmax(dim=1)
        probabilities[~fusion.seen] = 0
        return GaussianClasses(probabilities)

    def live(self, rasterizer: Rasterizer) -> SemanticSource:
        """InvalidRequestError: the checkpoint has no network for classes."""
        if CLASSES not in self.networks:
            raise InvalidRequestError("the checkpoint has no network for classes; train stage classes first")
        return LiveFusion(self, rasterizer)


def mean_depth_errors(errors: Sequence[DepthErrors]) -> dict[str, float]:
    """The eight depth metrics, each the mean over views in which anything was predicted; score rises as the error falls
    and as more pixels have a prediction, and is 0 where nothing has."""
    if not errors:
        raise InvalidInputError("no view has depth to compare with")
    seen = [error for error in errors if not math.isnan(error.rmse)]
    rows = [(error.abs_rel, error.abs_diff, error.sq_rel, error.rmse, *error.delta) for error in seen]
    means = np.mean(rows, axis=0).tolist() if rows else [math.nan] * 7
    names = ("abs_rel", "abs_diff_m", "sq_rel_m", "rmse_m", "delta1", "delta2", "delta3")
    values = dict(zip(names, means, strict=True))
    completeness = float(np.nanmean([error.completeness for error in errors]))
    score = completeness / (1 + values["rmse_m"]) if seen else 0.0
    return {"score": score, **values, "completeness": completeness}
