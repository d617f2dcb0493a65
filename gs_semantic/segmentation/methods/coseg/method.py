"""CoSegGaussians (Dou et al., arXiv 2401.05925): build the map, freeze it, learn one small decoder of identities.

2D features are unprojected onto the Gaussians in closed form, spatial features come from a frozen encoder of their
centres; a decoder over both, shared by all Gaussians, is trained through splatted identities by a loss that noisy labels
bend little. No code was published: docs/training.md lists what the paper leaves open, each an option here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import Rasterizer
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.cuda import CudaRasterizer
from gs_semantic.rendering.step import StepRates
from gs_semantic.segmentation.config import TrainingConfig, option
from gs_semantic.segmentation.graphs import ReplayedSteps
from gs_semantic.segmentation.losses import feature_kl, jensen_shannon
from gs_semantic.segmentation.method import LiftingMethod, Prediction
from gs_semantic.segmentation.methods.coseg.decoder import REGULARISED, Decoder
from gs_semantic.segmentation.methods.coseg.encoder import SpatialEncoder
from gs_semantic.segmentation.methods.coseg.field import FeatureLifting, LiftingSettings, SegmentationField, ViewCloud
from gs_semantic.segmentation.progress import LossTerms
from gs_semantic.segmentation.registry import register
from gs_semantic.segmentation.unprojection import Projection
from gs_semantic.segmenters.features import dense_features
from gs_semantic.share import share_path

LEAST_LABEL_WEIGHT = 1e-3
COVERED_ALPHA = 0.5  # pixels with less show nothing to label
TERMS = ("pixels", "neighbours")  # of the loss
IDENTITY = "coseg_identity"  # attribute of the map; the live mapper has an ``identity`` of its own
ENCODER = ("weights", "spatial_encoder.safetensors")


@dataclass(frozen=True)
class CosegConfig(TrainingConfig):
    """Options of CoSegGaussians; "(open)" where the paper does not say."""

    segment_for: int = option(
        6000, "last iterations: identities alone, everything else frozen; with initial=map all may be", low=1,
        schedule=True,
    )  # fmt: skip
    features: str = option(
        "descriptor", "2D features: without weights, or of a DINO / DINOv2 model", choices=("descriptor", "dino")
    )
    features_model: str = option("", "folder or name of that model; empty: DINO ViT-S/8 (open)")
    feature_dims: int = option(64, "principal components of each of the four scales", low=1)
    feature_scale: float = option(0.5, "size at which features are unprojected, share of the image's (open)", low=0.01,
                                  high=1)  # fmt: skip
    unproject_norm: str = option(
        "weight_sum", "features are divided by weights, or by covered pixels as Eq. 5 is printed",
        choices=("weight_sum", "pixel_count"),
    )  # fmt: skip
    attendance: float = option(
        1e-6, "share of all pixels of all views below which a Gaussian is removed (open)", low=0, high=1
    )
    image_features: bool = option(True, "use 2D features")
    spatial_features: bool = option(True, "use spatial features")
    encoder: str = option("", "file of the spatial encoder; empty: the one of this package")
    scales: int = option(4, "scales of the decoder: all four, or the most local one alone", choices=(4, 1))
    identity_dims: int = option(32, "channels of the identity that is stored and splatted", low=1)
    loss: str = option("js", "pixel loss: Jensen-Shannon, or cross entropy", choices=("js", "ce"))
    label_weight: float = option(
        0.5, "weight of the label in the Jensen-Shannon loss, pi_rl (open)", low=1e-3, high=0.999
    )
    label_weight_rises: float = option(
        0.5,
        "share of the second stage in which label_weight rises from 0, which is cross entropy (open)",
        low=0,
        high=1,
    )
    pixel_weight: float = option(0.8, "weight of the pixel loss", low=0)
    regularise_weight: float = option(0.2, "weight of the divergence between neighbours in space", low=0)
    regularise_points: int = option(1000, "random points of each scale that it is taken at (open)", low=1)
    regularise_divisor: str = option(
        "neighbours", "it is divided by points and neighbours, or by points and Gaussians as Eq. 9 is printed",
        choices=("neighbours", "gaussians"),
    )  # fmt: skip
    neighbours: int = option(5, "neighbours of each (open)", low=1, high=15)
    area_power: float = option(
        0.0, "at first a pixel counts by the area of its label in the view to minus this; 0: as printed, all alike", low=0,
        high=1,
    )  # fmt: skip
    area_power_end: float = option(0.0, "the same at the end; in between linear", low=0, high=1)
    identity_pixels: int = option(0, "random pixels of a view for the pixel loss; 0: all", low=0)
    unlabelled: str = option(
        "ignore", "pixels with id 0 are left out, or a class of their own", choices=("ignore", "class")
    )
    lr_decoder: float = option(1e-3, "learning rate of the decoder", low=0)
    lr_decoder_end: float = option(1.0, "the same at the end, as a share; in between log-linear", low=1e-6, high=1)

    presets: ClassVar = {
        # In images small masks are a few pixels in a thousand: with all pixels alike, they are learned last, if at all.
        "quick": {
            "identity_pixels": 8192, "segment_for": 15_000, "lr_decoder": 1e-2, "lr_decoder_end": 0.1,
            "area_power": 0.7, "area_power_end": 0.2,
        },
        "standard": {
            "identity_pixels": 16_384, "lr_decoder": 5e-3, "lr_decoder_end": 0.1, "area_power": 0.7, "area_power_end": 0.2,
        },
        "paper": {"iterations": 36_000},
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.image_features or self.spatial_features):
            raise InvalidRequestError("image_features and spatial_features are both false: identities of what?")
        if self.segment_for > self.iterations:
            raise InvalidRequestError(f"segment_for={self.segment_for}: is more than iterations={self.iterations}")


@dataclass(frozen=True)
class _TrainingView:
    """Frozen parts of a training view.

    cloud: its Gaussians. splat: images (H,W,C) of values (n,C) on them, differentiable. pixels, classes int64 (P,): which
    labelled pixels they cover, and with what label. log_areas float32 (P,): of the label's area in this view; None where
    it does not matter.
    """

    cloud: ViewCloud
    splat: Callable[[torch.Tensor], torch.Tensor]
    pixels: torch.Tensor
    classes: torch.Tensor
    log_areas: torch.Tensor | None


@register
class CoSegGaussians(LiftingMethod):
    """Iterations up to ``building`` are 3D Gaussian Splatting; after them only ``field.decoder`` changes."""

    name = "coseg"
    summary = "CoSegGaussians: unprojected features, one decoder for all Gaussians, made for noisy labels"
    Config = CosegConfig
    needs_ids = True
    torch_threads = None  # the decoder is torch's work
    config: CosegConfig

    def prepare(self) -> None:
        config = self.config
        self.building = config.iterations - config.segment_for
        self.lifting = lifting_of(config)
        self.gaussians.register(IDENTITY, (config.identity_dims,))
        self.field: SegmentationField | None = None
        self.features: tuple[torch.Tensor, ...] | None = None  # float16 (N,D) by scale
        self.pruned = 0
        self._views: dict[int, _TrainingView | None] = {}
        self._stale = False

    # --- stages -------------------------------------------------------------------------------------------------------

    def step(self, iteration: int, index: int) -> LossTerms:
        if iteration <= self.building:
            return super().step(iteration, index)
        if self.field is None:
            self._freeze()
        return self._segment(iteration, index)

    def rates(self, iteration: int) -> StepRates:
        """Positions come to rest when building ends, not at the last iteration."""
        return super().rates(round(iteration * self.config.iterations / max(1, self.building)))

    def _freeze(self) -> None:
        """End of the building: lift features, remove what is hardly seen, make the field."""
        config = self.config
        if config.image_features:
            random = np.random.default_rng(
                (config.seed, self.building)
            )  # its own: this may be cancelled and done again
            self.lifting.fit([view.rgb for view in self.scene.train], random, self.go_on)
            features, lifted = self.lifting.lift(self.gaussians, self.rasterizer, self._images())
            kept = lifted.attended(config.attendance)
            if not kept.any():
                raise InvalidRequestError(f"attendance={config.attendance}: no Gaussian is seen so much; lower it")
            self.pruned = int((~kept).sum())
            self.gaussians.keep(kept)
            self.features = tuple(scale[kept] for scale in features)
        self.field = self._make_field(int(self.random.integers(2**31)))

    def _images(self) -> Iterator[tuple[Camera, np.ndarray]]:
        for view in self.scene.train:
            self.go_on()
            yield view.camera, view.rgb

    def _make_field(self, seed: int) -> SegmentationField:
        config = self.config
        channels = self.lifting.channels if config.image_features else []
        encoder = load_encoder(config) if config.spatial_features else None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            decoder = Decoder(
                channels, encoder is not None, config.scales, config.identity_dims, self.scene.class_count
            )
        decoder.to(self.device)
        if encoder is not None:
            encoder.to(self.device)
        drawn = len(REGULARISED) * config.regularise_points + config.identity_pixels
        self._inputs = torch.zeros(3 + drawn, device=self.device)
        self._draws = self._inputs[3:]
        self._losses = torch.zeros(2, device=self.device)  # of TERMS
        self._steps = ReplayedSteps(self.device)
        self._adam = torch.optim.Adam(decoder.parameters(), **self._adam_options())
        self._views.clear()
        self._stale = True
        return SegmentationField(decoder, encoder, channels, config.scales)

    def _adam_options(self) -> dict[str, Any]:
        kind = self.device.type
        return {"lr": self._inputs[1], "fused": kind in ("cpu", "cuda") or None, "capturable": kind == "cuda"}

    # --- segmentation -------------------------------------------------------------------------------------------------

    def _segment(self, iteration: int, index: int) -> LossTerms:
        """One step of the decoder on a view; views that show no Gaussian or no label take none."""
        view = self._view(index)
        if view is None or not len(view.pixels):
            return {}
        self._inputs.copy_(self.on_device(self._drawn_inputs(iteration)))
        self._steps.run(index, lambda: self._descend(view))
        self._stale = True
        if self.device.type != "cpu":  # the host does not wait
            return dict(zip(TERMS, self._losses.clone().unbind(), strict=True))
        losses = dict(zip(TERMS, self._losses.tolist(), strict=True))
        self._check(losses, iteration, self.scene.train[index].name)
        return losses

    def _drawn_inputs(self, iteration: int) -> np.ndarray:
        """What differs between two steps on a view, as numbers: pi_rl, the learning rate, the power of areas, and uniform
        draws of points of both regularised scales and of pixels."""
        config = self.config
        done = (iteration - self.building) / max(1, config.segment_for)
        # A bounded loss has hardly a gradient where a class is improbable, so rare ones would never be learned from random
        # logits: it starts as cross entropy, its limit.
        rise = min(1.0, done / max(config.label_weight_rises, 1e-9))
        weight = max(LEAST_LABEL_WEIGHT, config.label_weight * rise)
        rate = config.lr_decoder * config.lr_decoder_end**done
        power = config.area_power + (config.area_power_end - config.area_power) * done
        draws = self.random.random(len(self._draws), np.float32)
        return np.concatenate([np.array([weight, rate, power], np.float32), draws])

    def _descend(self, view: _TrainingView) -> None:
        """Losses of a view, their gradients, the step; nothing here waits for the device."""
        config, field = self.config, self.field
        assert field is not None
        identities, fused = field.decode(view.cloud, self.features)
        pixels, classes, weights = view.pixels, view.classes, None
        if view.log_areas is not None:
            weights = (-self._inputs[2] * view.log_areas).exp()
            weights = weights / weights.mean()
        if 0 < config.identity_pixels < len(pixels):
            chosen = _positions(self._draws[len(REGULARISED) * config.regularise_points :], len(pixels))
            pixels, classes = pixels.index_select(0, chosen), classes.index_select(0, chosen)
            weights = None if weights is None else weights.index_select(0, chosen)
        image = view.splat(identities)
        logits = field.decoder.logits(image.reshape(-1, image.shape[-1]).index_select(0, pixels))
        pixel_loss = config.pixel_weight * self._pixel_loss(logits, classes, weights)
        losses = torch.stack(
            [pixel_loss, *(config.regularise_weight * term for term in self._smoothness(view.cloud, fused))]
        )
        losses.sum().backward()
        self._adam.step()
        self._adam.zero_grad()
        values = losses.detach()
        self._losses.copy_(torch.stack([values[0], values[1:].sum()]))

    def _pixel_loss(self, logits: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        if self.config.loss == "js":
            return jensen_shannon(logits, classes, self._inputs[0], weights)
        each = -logits.log_softmax(dim=1).gather(1, classes[:, None])[:, 0]
        return (each if weights is None else each * weights).mean()

    def _smoothness(self, cloud: ViewCloud, fused: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        """Eq. 9: fused features of the two most global scales, as distributions, are alike among neighbours. A term each."""
        config, terms = self.config, list[torch.Tensor]()
        draws = self._draws.split(config.regularise_points)
        for drawn, scale in zip(draws, REGULARISED, strict=False) if config.regularise_weight else ():
            if scale not in fused or len(fused[scale]) < 2:
                continue
            near = cloud.neighbours[scale - 1]
            chosen = _positions(drawn, len(near))
            loss = feature_kl(fused[scale], chosen, near.index_select(0, chosen)[:, 1 : config.neighbours + 1])
            if config.regularise_divisor == "gaussians":
                loss = loss * config.neighbours / len(self.gaussians)
            terms.append(loss)
        return terms

    def _view(self, index: int) -> _TrainingView | None:
        """Frozen parts of a training view, made at the first use; None where it shows no Gaussian or has no labels."""
        if index not in self._views:
            assert self.field is not None
            self.go_on()
            camera = self.scene.train[index].camera
            random = np.random.default_rng((self.config.seed, index))  # the same after resuming
            cloud = self.field.cloud(self.gaussians, self.rasterizer, camera, random)
            self._views[index] = None if cloud is None else self._training_view(index, camera, cloud)
        return self._views[index]

    def _training_view(self, index: int, camera: Camera, cloud: ViewCloud) -> _TrainingView:
        config, classes = self.config, self.scene.classes(index, self.device)
        splat = splatting(self.rasterizer, self.gaussians, camera, cloud.rows)
        if classes is None:
            nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
            return _TrainingView(cloud, splat, nothing, nothing, None)
        counted = self.rasterizer.render(self.gaussians, camera).alpha.reshape(-1) >= COVERED_ALPHA
        if config.unlabelled == "ignore":
            counted &= classes > 0
        pixels = torch.nonzero(counted)[:, 0]
        shown, log_areas = classes[pixels], None
        if config.area_power or config.area_power_end:
            areas = torch.bincount(shown, minlength=self.scene.class_count)
            log_areas = areas.float().log().index_select(0, shown)
        return _TrainingView(cloud, splat, pixels, shown, log_areas)

    # --- answers ------------------------------------------------------------------------------------------------------

    def class_logits(self, features: torch.Tensor) -> torch.Tensor | None:
        if self.field is None:
            return None
        logits = self.field.decoder.logits(features)
        if self.config.unlabelled == "ignore":
            logits[:, 0] = -torch.inf  # never trained
        return logits

    def predict(self, camera: Camera) -> Prediction:
        self.store_identities()
        return super().predict(camera)

    def gaussian_classes(self) -> tuple[np.ndarray, np.ndarray]:
        self.store_identities()
        return super().gaussian_classes()

    @property
    def answer_feature(self) -> str | None:
        return None if self.field is None else IDENTITY

    def store_identities(self) -> None:
        """Write what the decoder says into the map, if it learned something since the last time."""
        if self.field is None or not self._stale:
            return
        views = (self._view(index) for index in range(len(self.scene.train)))
        clouds = (None if view is None else view.cloud for view in views)
        self.gaussians[IDENTITY] = self.field.identities(self.gaussians, self.features, clouds)[0]
        self._stale = False

    def parameters(self) -> dict[str, int]:
        """Learnable numbers by part of the decoder, and those of the frozen encoder."""
        if self.field is None:
            return {}
        frozen = self.field.encoder
        known = {} if frozen is None else {"frozen_encoder": sum(p.numel() for p in frozen.parameters())}
        return self.field.decoder.parameters_by_part() | known

    def lifted_features(self) -> torch.Tensor | None:
        return None if self.features is None else torch.cat(self.features, dim=1)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        own: dict[str, Any] = {"begun": self.field is not None, "pruned": self.pruned}
        if self.field is not None:
            bases = [{"mean": known.mean, "basis": known.basis} for known in self.lifting.projections]
            own |= {
                "decoder": self.field.decoder.state_dict(),
                "adam": self._adam.state_dict(),
                "projections": bases,
                "features": None if self.features is None else list(self.features),
            }
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.pruned = state["pruned"]
        if state["begun"]:
            self.lifting.projections = tuple(Projection(**known) for known in state["projections"])
            features = state["features"]
            self.features = None if features is None else tuple(scale.to(self.device) for scale in features)
            self.field = self._make_field(0)
            self.field.decoder.load_state_dict(state["decoder"])
            self._adam.load_state_dict(state["adam"])
            for group in self._adam.param_groups:  # as this device wants them, whichever the run began on
                group.update(self._adam_options())


def lifting_of(config: CosegConfig) -> FeatureLifting:
    """The lifting of 2D features that the options ask for; its principal components are still to be found."""
    settings = LiftingSettings(config.feature_dims, config.unproject_norm, config.feature_scale)  # type: ignore[arg-type]
    return FeatureLifting(dense_features(config.features, config.features_model), settings)


def load_encoder(config: CosegConfig) -> SpatialEncoder:
    """The frozen encoder that the options name."""
    return SpatialEncoder.load(Path(config.encoder).expanduser() if config.encoder else share_path(*ENCODER))


def splatting(
    rasterizer: Rasterizer, gaussians: GaussianMap, camera: Camera, rows: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Makes images (H,W,C) of values (n,C) on the Gaussians ``rows`` int64 (n,), 0 on all others; differentiable in them.

    With geometry frozen, the transpose pass is all of the gradient. Valid until the map changes.
    """
    count = len(gaussians)
    if isinstance(rasterizer, CpuRasterizer):
        return lambda values: _Splat.apply(values, rows, count, rasterizer.open(gaussians, camera))
    if isinstance(rasterizer, CudaRasterizer):
        blend = rasterizer.open(gaussians, camera)
    else:

        def blend(values: torch.Tensor) -> torch.Tensor:
            shown = rasterizer.render(gaussians, camera, values, feature_grad_to_geometry=False).features
            assert shown is not None
            return shown

    return lambda values: blend(values.new_zeros(count, values.shape[1]).index_copy(0, rows, values))


def _positions(draws: torch.Tensor, count: int) -> torch.Tensor:
    """int64: positions below ``count`` of uniform draws, with replacement."""
    return (draws * count).long().clamp_(max=count - 1)


class _Splat(torch.autograd.Function):
    """Both passes over a view that is projected, binned and sorted once."""

    @staticmethod
    def forward(ctx, values, rows, count, view):
        ctx.rows, ctx.view = rows, view
        image = view.render(values.new_zeros(count, values.shape[1]).index_copy_(0, rows, values)).features
        return image.contiguous()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.view.accumulate(gradient.contiguous()).weighted_sum.index_select(0, ctx.rows), None, None, None
