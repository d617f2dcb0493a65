"""One optimisation step of a whole map: forward, backward from image gradients, Adam.

``NativeEngine`` lets the native rasteriser do all of it; ``AutogradEngine`` works with any back end. Both keep Adam's
state in the map, so that it follows the Gaussians through clone, split and prune.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.gaussians.gaussian_map import CORE
from gs_semantic.rendering.base import Rasterizer, Rendering, SplatTensors, world_to_camera
from gs_semantic.rendering.cpu import CpuRasterizer, RasterView
from gs_semantic.rendering.step import ATTRIBUTES, StepRates, optimise_from_gradients, register_adam

FEATURE_STEPS = 15  # where a row of ``register_adam`` counts the steps of the features
OPACITY = 10  # where it has the opacity's first moment; the second one is 16 further on
SECOND = 16
FIXED = 32  # floats of a row before the further SH coefficients
NEAR_M = 0.01
TILE_SIZE = 32  # larger tiles than for answers: fewer sums per Gaussian to add up


@dataclass(frozen=True)
class ImageGradients:
    """Gradients of the loss with respect to the images: rgb (H,W,3), features (H,W,C) or None.

    rows int64 (R,), and values (R,C): further gradients on the features of these Gaussians. ``NativeEngine`` wants each
    row once, ``AutogradEngine`` adds up.
    """

    rgb: torch.Tensor
    features: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    values: torch.Tensor | None = None


@dataclass(frozen=True)
class StepStatistics:
    """Of the Gaussians ``rows`` int64 (V,) in view: length of the gradient of the projected centre, per pixel; radius, px.

    features (V,C), where asked for: their gradients that came through the image. Where listing the rows in view would
    make the host wait, ``rows`` are all, ``in_view`` (N,) is 1 for those in view, else 0, as everything of the others.
    """

    rows: torch.Tensor | slice
    means2d_norm: torch.Tensor
    radii: torch.Tensor
    features: torch.Tensor | None = None
    in_view: torch.Tensor | float = 1.0


@dataclass
class Pass:
    """A view that was rendered and not yet used for a step."""

    rendering: Rendering
    camera: Camera
    view: RasterView | None = None
    leaves: dict[str, torch.Tensor] = field(default_factory=dict)


class Engine(Protocol):
    """How a map is rendered for a step and moved by it."""

    def forward(self, camera: Camera, with_features: bool = True) -> Pass: ...

    def step(
        self, forward: Pass, gradients: ImageGradients, rates: StepRates, want_features: bool = False
    ) -> StepStatistics: ...

    def forget_opacity(self) -> None:
        """Set the moments of all opacities to zero."""
        ...

    def mean_direction(self, rows: torch.Tensor) -> torch.Tensor:
        """(R,3): running mean of the gradient of these Gaussians' centres (Adam's first moment)."""
        ...

    def raise_sh_degree(self, degree: int) -> None: ...


@dataclass
class EngineSettings:
    """features: the attribute that is rendered as features, or none. dense: Gaussians out of view take a step, too."""

    features: str | None = None
    features_move_geometry: bool = True
    dense: bool = True


def make_engine(gaussians: GaussianMap, rasterizer: Rasterizer, settings: EngineSettings) -> Engine:
    """The native engine for the native rasteriser, else the one by autograd."""
    kind = NativeEngine if isinstance(rasterizer, CpuRasterizer) else AutogradEngine
    return kind(gaussians, rasterizer, settings)  # type: ignore[arg-type]


class NativeEngine:
    """Forward, backward and Adam in native code, no gradients in between."""

    def __init__(self, gaussians: GaussianMap, rasterizer: CpuRasterizer, settings: EngineSettings) -> None:
        self.gaussians, self.rasterizer, self.settings = gaussians, rasterizer, settings
        register_adam(gaussians, settings.features)

    def forward(self, camera: Camera, with_features: bool = True) -> Pass:
        name = self.settings.features if with_features else None
        view = self.rasterizer.open(self.gaussians, camera, tile_size=TILE_SIZE)
        return Pass(view.render(None if name is None else self.gaussians[name]), camera, view)

    def step(
        self, forward: Pass, gradients: ImageGradients, rates: StepRates, want_features: bool = False
    ) -> StepStatistics:
        view = forward.view
        assert view is not None
        name = self.settings.features if gradients.features is not None else None
        before = self._features_of(view.visible) if name and want_features else None
        kept = self._features_of(gradients.rows) if name and gradients.rows is not None else None
        visible = view.visible
        statistics = optimise_from_gradients(
            view,
            self.gaussians,
            forward.rendering,
            rates,
            gradients.rgb,
            grad_features=gradients.features,
            features=name,
            features_move_geometry=self.settings.features_move_geometry,
            dense=self.settings.dense,
        )
        through_image = None
        if before is not None:
            through_image = self._gradient_since(visible, before, rates.beta1)
        if kept is not None:
            assert gradients.rows is not None and gradients.values is not None
            self._add(gradients.rows, gradients.values, kept, rates)
        return StepStatistics(visible, statistics.means2d_norm, statistics.radii, through_image)

    # The native step has no room for gradients that do not come through an image. Where there are some, a Gaussian's
    # features are taken back to what they were and take the step with the sum of both, which Adam's moments reveal.

    def _features_of(self, rows: torch.Tensor) -> _FeatureState:
        assert self.settings.features is not None
        state = self.gaussians.state(self.settings.features, "adam")
        steps = self.gaussians.state("means", "adam")[:, FEATURE_STEPS]
        return _FeatureState(self.gaussians[self.settings.features][rows], state[rows], steps[rows])

    def _gradient_since(self, rows: torch.Tensor, before: _FeatureState, beta1: float) -> torch.Tensor:
        assert self.settings.features is not None
        moment = self.gaussians.state(self.settings.features, "adam")[rows, 0]
        return (moment - beta1 * before.moments[:, 0]) / (1 - beta1)

    def _add(self, rows: torch.Tensor, values: torch.Tensor, before: _FeatureState, rates: StepRates) -> None:
        name = self.settings.features
        assert name is not None
        state, all_steps = self.gaussians.state(name, "adam"), self.gaussians.state("means", "adam")[:, FEATURE_STEPS]
        moved = (all_steps[rows] > before.steps)[:, None]
        gradient = values + torch.where(moved, self._gradient_since(rows, before, rates.beta1), 0)
        first = rates.beta1 * before.moments[:, 0] + (1 - rates.beta1) * gradient
        second = rates.beta2 * before.moments[:, 1] + (1 - rates.beta2) * gradient.square()
        steps = (before.steps + 1)[:, None]
        direction = first / (1 - rates.beta1**steps) / ((second / (1 - rates.beta2**steps)).sqrt() + rates.eps)
        self.gaussians[name][rows] = before.values - rates.features * direction
        state[rows] = torch.stack([first, second], dim=1)
        all_steps[rows] = steps[:, 0]
        self.gaussians.touch(rows, core=False)

    def forget_opacity(self) -> None:
        rows = self.gaussians.state("means", "adam")
        rows[:, OPACITY] = rows[:, OPACITY + SECOND] = 0

    def mean_direction(self, rows: torch.Tensor) -> torch.Tensor:
        return self.gaussians.state("means", "adam")[rows, :3]

    def raise_sh_degree(self, degree: int) -> None:
        old = 3 * (self.gaussians.sh.shape[1] - 1)
        new = 3 * ((degree + 1) ** 2 - 1)
        if new <= old:
            return
        rows = self.gaussians.state("means", "adam")
        wide = rows.new_zeros(len(rows), FIXED + 2 * new)
        wide[:, : FIXED + old] = rows[:, : FIXED + old]
        wide[:, FIXED + new : FIXED + new + old] = rows[:, FIXED + old :]
        _widen_sh(self.gaussians, degree)
        self.gaussians.replace_state("means", "adam", wide)


@dataclass(frozen=True)
class _FeatureState:
    """values (R,C), moments (R,2,C) and steps (R,) of some Gaussians' features."""

    values: torch.Tensor
    moments: torch.Tensor
    steps: torch.Tensor


def _widen_sh(gaussians: GaussianMap, degree: int) -> None:
    sh = gaussians.sh
    wide = sh.new_zeros(len(sh), (degree + 1) ** 2, 3)
    wide[:, : sh.shape[1]] = sh
    gaussians.replace("sh", wide)


class AutogradEngine:
    """The same through autograd and torch, for every back end.

    No rasteriser's autograd tells the gradient of projected centres, so it is taken from that of the centres
    themselves: what moves a centre by z/f sideways moves its image by a pixel.
    """

    def __init__(self, gaussians: GaussianMap, rasterizer: Rasterizer, settings: EngineSettings) -> None:
        self.gaussians, self.rasterizer, self.settings = gaussians, rasterizer, settings
        self._names = (*ATTRIBUTES, *((settings.features,) if settings.features else ()))
        # one table of moments for all that steps together: a step is a few operations on wide rows, not many on narrow ones
        self._keys = ("means", "autograd"), (settings.features or "", "autograd")
        for (owner, key), names in zip(self._keys, (ATTRIBUTES, self._names[len(ATTRIBUTES) :]), strict=True):
            if names:
                width = sum(_width(gaussians, name) for name in names)
                gaussians.register_state(owner, key, (2 * width + 1,))

    def forward(self, camera: Camera, with_features: bool = True) -> Pass:
        # not copied: the map changes only after the backward pass
        leaves = {name: self.gaussians[name].detach().requires_grad_() for name in self._names}
        shown = SplatTensors(**{name: leaves[name] for name in CORE})
        rendering = self.rasterizer.render(
            shown,  # type: ignore[arg-type]
            camera,
            leaves.get(self.settings.features or "") if with_features else None,
            feature_grad_to_geometry=self.settings.features_move_geometry,
        )
        return Pass(rendering, camera, leaves=leaves)

    def step(
        self, forward: Pass, gradients: ImageGradients, rates: StepRates, want_features: bool = False
    ) -> StepStatistics:
        images, grads = [forward.rendering.rgb], [gradients.rgb]
        if gradients.features is not None:
            assert forward.rendering.features is not None
            images.append(forward.rendering.features)
            grads.append(gradients.features)
        torch.autograd.backward(images, [g.to(i) for i, g in zip(images, grads, strict=True)])
        with torch.no_grad():
            return self._step(forward, gradients, rates, want_features)

    def _step(self, forward: Pass, gradients: ImageGradients, rates: StepRates, want_features: bool) -> StepStatistics:
        found = {n: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for n, leaf in forward.leaves.items()}
        means, camera = self.gaussians.means, forward.camera
        pose = world_to_camera(camera, means.device)
        # masks over all rows, never lists of some: how long a list is, the host would have to wait for
        seen = (found["opacity_logits"] != 0).to(means.dtype)
        z = (means @ pose[2, :3] + pose[2, 3]).clamp(min=NEAR_M)
        moved = found["means"] @ pose[:2, :3].T
        norm = torch.hypot(moved[:, 0] / camera.fx, moved[:, 1] / camera.fy) * z
        sigma = self.gaussians.log_scales.amax(dim=1).exp()
        radii = self.rasterizer.settings.extent_sigma * max(camera.fx, camera.fy) * sigma / z * seen
        feature = self.settings.features
        through_image = found[feature].clone() if feature and want_features else None
        turn = None if self.settings.dense else seen
        self._adam(self._keys[0], ATTRIBUTES, found, turn, rates)
        if feature and gradients.features is not None:
            if gradients.rows is not None and gradients.values is not None:
                found[feature].index_add_(0, gradients.rows, gradients.values.to(found[feature]))
                turn = None if turn is None else turn.index_fill(0, gradients.rows, 1)
            self._adam(self._keys[1], (feature,), found, turn, rates)
        self.gaussians.touch()
        return StepStatistics(slice(None), norm, radii, through_image, seen)

    def _adam(
        self,
        key: tuple[str, str],
        names: Sequence[str],
        gradients: dict[str, torch.Tensor],
        turn: torch.Tensor | None,
        rates: StepRates,
    ) -> None:
        """Move the attributes ``names`` down: of all rows, or of those where ``turn`` (N,) is 1 and not 0.

        A row of the state: both moments, and its steps.
        """
        state = self.gaussians.state(*key)
        g = torch.cat([gradients[name].reshape(len(state), -1) for name in names], dim=1)
        width = g.shape[1]
        first, second, steps = state[:, :width], state[:, width:-1], state[:, -1:]
        if turn is None:
            first.lerp_(g, 1 - rates.beta1)
            second.lerp_(g.square_(), 1 - rates.beta2)
            steps += 1
            direction = first / (1 - rates.beta1**steps)
        else:
            turn = turn[:, None]
            first.lerp_(g, turn * (1 - rates.beta1))
            second.lerp_(g.square_(), turn * (1 - rates.beta2))
            steps += turn
            steps = steps.clamp(min=1)
            direction = first / (1 - rates.beta1**steps) * turn
        direction /= (second / (1 - rates.beta2**steps)).sqrt_().add_(rates.eps)
        begin = 0
        for name in names:
            values, rate = self.gaussians[name], getattr(rates, name, rates.features)
            end = begin + _width(self.gaussians, name)
            step = direction[:, begin:end].reshape(values.shape)
            if name == "sh" and rates.sh_rest is not None:
                values[:, 1:].add_(step[:, 1:], alpha=-rates.sh_rest)
                values, step = values[:, :1], step[:, :1]
            values.add_(step, alpha=-rate)
            begin = end

    def forget_opacity(self) -> None:
        state = self.gaussians.state(*self._keys[0])
        place = sum(_width(self.gaussians, name) for name in ATTRIBUTES[: ATTRIBUTES.index("opacity_logits")])
        state[:, place] = state[:, (state.shape[1] - 1) // 2 + place] = 0

    def mean_direction(self, rows: torch.Tensor) -> torch.Tensor:
        return self.gaussians.state(*self._keys[0])[rows, :3]

    def raise_sh_degree(self, degree: int) -> None:
        more = 3 * (degree + 1) ** 2 - _width(self.gaussians, "sh")
        if more <= 0:
            return
        state = self.gaussians.state(*self._keys[0])
        width = (state.shape[1] - 1) // 2  # SH is the last of the attributes
        new = state.new_zeros(len(state), more)
        wide = torch.cat([state[:, :width], new, state[:, width : 2 * width], new, state[:, 2 * width :]], dim=1)
        self.gaussians.replace_state(*self._keys[0], wide)
        _widen_sh(self.gaussians, degree)


def _width(gaussians: GaussianMap, name: str) -> int:
    """Numbers of one row of an attribute."""
    return math.prod(gaussians.specs[name].shape)
