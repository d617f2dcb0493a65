"""One optimisation step of what a view sees, in one native pass: no images, no gradients, no lists of rows in between."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass

import numpy as np
import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.changes import CHUNK
from gs_semantic.rendering import native
from gs_semantic.rendering.base import Rendering
from gs_semantic.rendering.cpu import RasterView
from gs_semantic.rendering.residual import LossSettings

MAX_FEATURES = 16
ATTRIBUTES = ("means", "quats", "log_scales", "opacity_logits", "sh")


@dataclass(frozen=True)
class StepTarget:
    """What the view should look like. rgb float32 (H,W,3), NaN where any colour is right; depth float32 (H,W) m, 0 = none, or None.

    With features: slots int64 (H,W), 0 = none, and codes float32 (S,C), the features that a slot's pixels should show.
    """

    rgb: torch.Tensor
    depth: torch.Tensor | None = None
    slots: torch.Tensor | None = None
    codes: torch.Tensor | None = None


@dataclass(frozen=True)
class StepRates:
    """Learning rates of Adam, and its constants. sh_rest: of the SH coefficients after the first; None: as ``sh``."""

    means: float
    quats: float
    log_scales: float
    opacity_logits: float
    sh: float
    features: float = 0.0
    sh_rest: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-15


@dataclass(frozen=True)
class StepResult:
    """Mean absolute colour error before the step; pose (6,): gradient as in ``VisibleGradients``, where asked for."""

    colour_error: float
    pose: torch.Tensor | None


def register_adam(gaussians: GaussianMap, features: str | None = None) -> None:
    """Give a map the optimiser state that ``optimise`` needs: one row per Gaussian for geometry and colour together.

    A row: first moments of mean, quat, log_scale, opacity logit and first SH coefficient, steps taken, steps taken by the
    features; second moments in the same order after 16 floats; then both moments of the further SH coefficients.
    """
    coefficients = gaussians.specs["sh"].shape[0]
    gaussians.register_state("means", "adam", (32 + 6 * (coefficients - 1),))
    if features is not None:
        channels = gaussians.specs[features].shape[0]
        if channels > MAX_FEATURES:
            raise InvalidRequestError(f"{features}: has {channels} channels, one step takes {MAX_FEATURES} at most")
        gaussians.register_state(features, "adam", (2, channels))


def optimise(
    view: RasterView,
    gaussians: GaussianMap,
    target: StepTarget,
    loss: LossSettings,
    rates: StepRates,
    *,
    features: str | None = None,
    features_move_geometry: bool = True,
    pose: bool = False,
) -> StepResult:
    """Compare the view of a map with its target and move what it drew by Adam; the map is touched, the view is used up.

    The loss is that of ``image_gradients``, summed over pixels; ``features`` names an attribute of up to 16 channels that
    takes part where the target has slots. Raises InvalidRequestError, moving nothing, for a slot without a code.
    """
    move = _Move(gaussians, rates, features)
    values = None if features is None else gaussians[features]
    result = _run(view, target, loss, values, features_move_geometry, move.state, pose)
    move.finish()
    return result


@dataclass(frozen=True)
class ViewStatistics:
    """What densification wants to know, row i for Gaussian ``view.visible[i]``, as in ``VisibleGradients``."""

    means2d_norm: torch.Tensor
    radii: torch.Tensor


def optimise_from_gradients(
    view: RasterView,
    gaussians: GaussianMap,
    rendering: Rendering,
    rates: StepRates,
    grad_rgb: torch.Tensor | None = None,
    grad_depth: torch.Tensor | None = None,
    grad_alpha: torch.Tensor | None = None,
    grad_features: torch.Tensor | None = None,
    *,
    features: str | None = None,
    features_move_geometry: bool = True,
    background: torch.Tensor | None = None,
    dense: bool = True,
) -> ViewStatistics:
    """``RasterView.backward`` and Adam in one: from gradients of a view's images to moved Gaussians, with any loss.

    ``dense``: every Gaussian takes a step, as with Adam of torch; without, only those that were drawn do.
    """
    move = _Move(gaussians, rates, features, dense)
    count = view.visible_count
    result = ViewStatistics(torch.empty(count), torch.empty(count))
    view.step_images(
        move.state,
        rendering,
        (grad_rgb, grad_depth, grad_alpha, grad_features),
        None if features is None else gaussians[features],
        features_move_geometry,
        background,
        (None, result.means2d_norm, result.radii),
    )
    move.finish()
    return result


@dataclass(frozen=True)
class PhotometricTarget:
    """What a whole view should look like. rgb float32 (H,W,3); depth float32 (H,W) m, 0 = none, or None."""

    rgb: torch.Tensor
    depth: torch.Tensor | None = None


@dataclass(frozen=True)
class PhotometricResult:
    """loss: before the step. times_ms: render, loss, backward_and_adam."""

    loss: float
    statistics: ViewStatistics
    times_ms: dict[str, float]


def optimise_photometric(
    view: RasterView,
    gaussians: GaussianMap,
    target: PhotometricTarget,
    rates: StepRates,
    *,
    ssim_weight: float = 0.2,
    depth_weight: float = 0.0,
    background: torch.Tensor | None = None,
    dense: bool = True,
) -> PhotometricResult:
    """A training step of 3D Gaussian Splatting in one native call: render, compare, go backward, and move by Adam.

    Loss: ``losses.ssim_l1`` of colour + depth_weight * mean |depth - target depth|, pixels without a target depth as 0.
    ``dense`` as in ``optimise_from_gradients``, which takes any other loss. The view is used up.
    """
    if not 0 <= ssim_weight <= 1:
        raise InvalidRequestError(f"ssim_weight: {ssim_weight} is not within 0..1")
    height, width = view.camera.height, view.camera.width
    rgb = native.checked("target rgb", target.rgb, (height, width, 3))
    depth = None if target.depth is None else native.checked("target depth", target.depth, (height, width))
    background = None if background is None else native.checked("background", background, (3,))
    loss = native.PhotometricLossStruct(
        *map(native.pointer, (rgb, depth, background)), ssim_weight=ssim_weight, depth_weight=depth_weight
    )
    move = _Move(gaussians, rates, None, dense)
    count = view.visible_count
    statistics = ViewStatistics(torch.empty(count), torch.empty(count))
    value, times = ctypes.c_double(), (ctypes.c_double * 3)()
    view.step_photometric(loss, move.state, statistics.means2d_norm, statistics.radii, value, times)
    move.finish()
    return PhotometricResult(value.value, statistics, dict(zip(("render", "loss", "backward_and_adam"), times, strict=True)))


class _Move:
    """The parameters of a map that a step changes in place, and their state, for the native side."""

    def __init__(self, gaussians: GaussianMap, rates: StepRates, features: str | None, dense: bool = False) -> None:
        self._gaussians = gaussians
        self._changed = np.zeros(-(-len(gaussians) // CHUNK), np.uint8)
        self._moved = np.zeros(len(gaussians), np.uint8) if dense else None
        self._tensors = [gaussians[name] for name in ATTRIBUTES]
        self.state = state = native.AdamStateStruct(changed=self._changed.ctypes.data)
        if self._moved is not None:
            state.moved = self._moved.ctypes.data
        for name, tensor in zip(ATTRIBUTES, self._tensors, strict=True):
            setattr(state, name, tensor.data_ptr())
            setattr(state, f"lr_{name}", getattr(rates, name))
        state.lr_sh_rest = rates.sh if rates.sh_rest is None else rates.sh_rest
        state.rows = gaussians.state("means", "adam").data_ptr()
        if features is not None:
            self._tensors.append(gaussians[features])
            state.features, state.lr_features = self._tensors[-1].data_ptr(), rates.features
            state.feature_moments = gaussians.state(features, "adam").data_ptr()
        state.beta1, state.beta2, state.eps = rates.beta1, rates.beta2, rates.eps

    def finish(self) -> None:
        """Note what changed."""
        for tensor in self._tensors:
            torch.autograd.graph.increment_version(tensor)
        self._gaussians.touch(torch.from_numpy(np.nonzero(self._changed)[0] * CHUNK))


def pose_gradient(view: RasterView, target: StepTarget, loss: LossSettings) -> StepResult:
    """The gradient of the loss with respect to the camera alone; nothing moves."""
    return _run(view, target, loss, None, True, None, True)


class FeatureOptimiser:
    """Adam on features (N,C), C <= 16, of a map whose geometry stays; only what a view drew moves, by its own step count.

    A view can be kept open and used again and again: what it projected and sorted does not depend on features. Within
    ``keep_mb`` megabytes over all views, the weights of what a view draws are kept, too (about 60 MB for 640x480), so that
    its third step and later ones are faster; results are the same to the last bit.
    """

    def __init__(
        self,
        features: torch.Tensor,
        rate: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-15,
        *,
        keep_mb: float = 0.0,
    ) -> None:
        self.features = features  # changed in place
        if features.dim() != 2 or features.dtype != torch.float32 or not features.is_contiguous():
            raise InvalidRequestError("features: expected a contiguous float32 tensor (N,C), as it is changed in place")
        count, channels = features.shape
        if not 1 <= channels <= MAX_FEATURES:
            raise InvalidRequestError(f"features: has {channels} channels, one step takes 1 to {MAX_FEATURES}")
        self._keep_bytes = int(keep_mb * 1e6)
        self._kept: weakref.WeakKeyDictionary[RasterView, int] = weakref.WeakKeyDictionary()
        self.moments, self.steps = torch.zeros(count, 2, channels), torch.zeros(count)
        self._state = native.AdamStateStruct(
            features=features.data_ptr(),
            feature_moments=self.moments.data_ptr(),
            lr_features=rate,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
        )

    @property
    def kept_mb(self) -> float:
        """What the views that it stepped keep."""
        return sum(self._kept.values()) / 1e6

    def step(self, view: RasterView, target: torch.Tensor) -> float:
        """One step towards a target (H,W,C), values that are NaN left out; returns the mean squared difference before."""
        height, width = view.camera.height, view.camera.width
        count, channels = self.features.shape
        if view.count != count:
            raise InvalidRequestError(f"view: is of a map with {view.count} Gaussians, the features have {count} rows")
        target = native.checked("target", target, (height, width, channels))
        values = max(1, height * width * channels)
        loss = native.FeatureLossStruct(target.data_ptr(), channels, 2 / values)
        total = ctypes.c_double()
        others = sum(size for other, size in self._kept.items() if other is not view)
        kept = view.step_features(loss, self._state, self.steps, self._keep_bytes - others, total)
        if kept:
            self._kept[view] = kept
        torch.autograd.graph.increment_version(self.features)
        return total.value / values


def _run(
    view: RasterView,
    target: StepTarget,
    loss: LossSettings,
    features: torch.Tensor | None,
    features_move_geometry: bool,
    state: native.AdamStateStruct | None,
    pose: bool,
) -> StepResult:
    height, width = view.camera.height, view.camera.width
    struct = native.WindowLossStruct(
        colour_scale=1 / loss.colour_knee,
        depth_scale=1 / loss.depth_knee_m,
        near=loss.depth_near_m,
        near_per_m2=loss.depth_near_per_m2,
        depth_weight=loss.depth_weight,
        feature_weight=loss.feature_weight,
        features_move_geometry=int(features_move_geometry),
    )
    used = {"rgb": native.checked("target rgb", target.rgb, (height, width, 3))}
    if target.depth is not None:
        used["depth"] = native.checked("target depth", target.depth, (height, width))
    codes = 0
    if features is not None and target.slots is not None and target.codes is not None:
        used["features"] = native.checked("features", features, (None, None))
        used["slots"] = native.checked("slots", target.slots, (height, width), torch.int64)
        struct.channels, codes = features.shape[1], len(target.codes)
        used["codes"] = native.checked("codes", target.codes, (codes, struct.channels))
        struct.code_count = codes
    for name, tensor in used.items():
        setattr(struct, name, tensor.data_ptr())
    twist = torch.empty(6) if pose else None
    total = ctypes.c_double()
    try:
        view.step(struct, state, twist, total)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"slots: some are outside 0..{codes - 1}, the rows of codes") from error
    return StepResult(total.value / max(1, 3 * height * width), twist)
