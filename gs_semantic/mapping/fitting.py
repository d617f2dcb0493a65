"""Fitting a map to whole photographs, offline: the training of 3D Gaussian Splatting.

Loss and densification follow Kerbl et al. 2023 (sections 5 and 6), except that the number of Gaussians rises evenly to
a bound: in every round those grow whose projected centres are pulled hardest. Photographs of half the size come first;
view-dependent colour comes with the full size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree

from gs_semantic.data.sequence import SparsePoints
from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera, Frame, GaussianMap
from gs_semantic.gaussians.gaussian_map import rgb_to_sh
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.losses import ssim_l1_gradient
from gs_semantic.rendering.step import StepRates, optimise_from_gradients, register_adam

HALF_SIZE = 0.7  # share of the steps on photographs of half the size
GROW_FROM, GROW_UNTIL, GROW_EVERY = 0.03, 0.65, 60  # share of the steps, and steps, between which the map grows
EXPOSURE_FROM = 0.05  # share of the steps after which exposures are estimated
FAINT = 0.01  # opacity below which a Gaussian goes when the map grows
HUGE = 0.3  # size, in units of the scene, above which it does
SPLIT = 0.006  # size, in units of the scene, above which a growing Gaussian is split instead of copied
# the unit of the scene is how far cameras lie apart, or surfaces from them, whichever is more
# learning rates; that of positions in units of the scene, falling to a hundredth
MEANS, QUATS, LOG_SCALES, OPACITY, COLOUR, LATE_COLOUR = 1.6e-4, 1e-3, 5e-3, 2.5e-2, 2.5e-3, 5e-4
DETAILED = 0.2  # rates of a map that has detail already, against those above


@dataclass(frozen=True)
class FitSettings:
    """steps: optimisation steps, one photograph each. max_gaussians: bound of the growth. sh_degree: of view-dependent
    colour (0 to 3). exposure: every photograph has its own gain and offset of colour, 1 and 0 in the mean. detailed: the
    map has fine detail already, so it is fitted at full size from the first step, in smaller steps, and does not grow."""

    steps: int = 6000
    max_gaussians: int = 200_000
    sh_degree: int = 1
    exposure: bool = True
    detailed: bool = False
    ssim_weight: float = 0.2
    seed: int = 0

    def validate(self) -> None:
        """InvalidRequestError naming the setting."""
        limits = {"steps": (1, 10**7), "max_gaussians": (1, 2 * 10**7), "sh_degree": (0, 3), "ssim_weight": (0, 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidRequestError(f"{name} = {getattr(self, name)}: expected {low} to {high}")


@dataclass
class Exposures:
    """Gain (P, 3) and offset (P, 3) of the photographs' colour, against that of the map: image = gain * map + offset.

    The map's own colour is that of the mean photograph: gains are 1 and offsets 0 in the mean.
    """

    gain: np.ndarray
    offset: np.ndarray

    @classmethod
    def neutral(cls, count: int) -> Exposures:
        return cls(np.ones((count, 3), np.float32), np.zeros((count, 3), np.float32))

    def of(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gain and offset (3,) of one photograph."""
        gain, offset = self.gain[index] / self.gain.mean(0), self.offset[index] - self.offset.mean(0)
        return torch.from_numpy(gain.astype(np.float32)), torch.from_numpy(offset.astype(np.float32))

    def observe(self, index: int, rendered: np.ndarray, photograph: np.ndarray) -> None:
        """Take half a step to what fits best; images float32 (H, W, 3)."""
        gain, offset = fit_exposure(rendered[::4, ::4], photograph[::4, ::4])
        self.gain[index] += 0.5 * (gain - self.gain[index])
        self.offset[index] += 0.5 * (offset - self.offset[index])


def fit_exposure(rendered: np.ndarray, photograph: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset (3,) that take ``rendered`` to ``photograph`` by least squares, drawn to 1 and, more, to 0: photographs differ in gain."""
    x, y = rendered.reshape(-1, 3).astype(np.float64), photograph.reshape(-1, 3).astype(np.float64)
    gain, offset = np.empty(3), np.empty(3)
    for channel in range(3):
        a, b = x[:, channel], y[:, channel]
        pull = 0.02 * len(a)
        matrix = [[a @ a + pull, a.sum()], [a.sum(), len(a) + 16 * pull]]
        gain[channel], offset[channel] = np.linalg.solve(matrix, [a @ b + pull, b.sum()])
    return gain, offset


def map_from_points(points: SparsePoints, frame_id: str = "map") -> GaussianMap:
    """A map with one faint round Gaussian for each point, as wide as its neighbours are far."""
    if len(points) < 4:
        raise InvalidRequestError(f"{len(points)} points: a map needs at least 4 to start from")
    distance, _ = cKDTree(points.xyz).query(points.xyz, k=4)
    size = np.maximum(np.sqrt(np.square(distance[:, 1:]).mean(1)), 1e-4).astype(np.float32)
    gaussians = GaussianMap(frame_id=frame_id)
    gaussians.add(
        means=points.xyz,
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (len(points), 1)),
        log_scales=np.repeat(np.log(size)[:, None], 3, axis=1),
        opacity_logits=np.full(len(points), -2.2, np.float32),
        sh=rgb_to_sh(torch.from_numpy(points.rgb.astype(np.float32) / 255))[:, None],
    )
    return gaussians


def with_sh_degree(source: GaussianMap, degree: int) -> GaussianMap:
    """The same Gaussians with colour of another degree: new coefficients are 0; optimiser state is left out."""
    result = GaussianMap(degree, source.map_id, source.frame_id)
    for name, spec in source.specs.items():
        if name != "sh":
            result.register(name, spec.shape, spec.dtype, spec.fill)
    sh = torch.zeros(len(source), (degree + 1) ** 2, 3)
    kept = min(sh.shape[1], source.sh.shape[1])
    sh[:, :kept] = source.sh[:, :kept]
    result.add(**{name: source[name] for name in source if name != "sh"}, sh=sh)
    result.continue_from(source.next_uid, source.revision + 1)
    return result


@dataclass
class _Pull:
    """How hard the projected centres of the Gaussians were pulled since the last round: sum (N,), and how often."""

    total: torch.Tensor
    times: torch.Tensor

    @classmethod
    def none(cls, count: int) -> _Pull:
        return cls(torch.zeros(count), torch.zeros(count))

    @property
    def mean(self) -> torch.Tensor:
        return self.total / self.times.clamp(min=1)


@dataclass
class PhotographFitter:
    """Fits a map to frames; colour alone is looked at, pixels of ``Frame.ignored`` are not.

    ``run`` gives the fitted map, which has the attributes of the one it came from. ``exposures`` are those found.
    """

    frames: Sequence[Frame]
    settings: FitSettings = field(default_factory=FitSettings)
    rasterizer: CpuRasterizer = field(default_factory=CpuRasterizer)

    def __post_init__(self) -> None:
        self.settings.validate()
        if not self.frames:
            raise InvalidRequestError("nothing to fit to: there are no frames")
        self.exposures = Exposures.neutral(len(self.frames))
        centres = np.stack([frame.camera.T_world_camera[:3, 3] for frame in self.frames])
        self._middle = centres.mean(0).astype(np.float32)
        self._cameras = 1.1 * float(np.linalg.norm(centres - self._middle, axis=1).max())
        self._scene = 1.0
        self._random = np.random.default_rng(self.settings.seed)
        self._order: list[int] = []

    def run(self, gaussians: GaussianMap, progress: Callable[[], object] = lambda: None) -> GaussianMap:
        """Take all steps; ``progress`` is called after each. Raises InvalidRequestError for a map without Gaussians."""
        if not len(gaussians):
            raise InvalidRequestError("nothing to fit: the map has no Gaussians")
        steps, start = self.settings.steps, len(gaussians)
        distance = (gaussians.means - torch.from_numpy(self._middle)).norm(dim=1)
        self._scene = max(self._cameras, float(distance.nanmedian()), 1e-3)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # torch's own threads would only take the kernels' cores between two calls
        try:
            gaussians = with_sh_degree(gaussians, gaussians.sh_degree)
            register_adam(gaussians)
            half_size = 0.0 if self.settings.detailed else HALF_SIZE
            photographs = [_halved(frame) for frame in self.frames]
            pull = _Pull.none(len(gaussians))
            for step in range(steps):
                done = step / steps
                if step == int(half_size * steps):
                    photographs = [(frame.camera, frame.rgb, frame.ignored) for frame in self.frames]
                    gaussians = with_sh_degree(gaussians, self.settings.sh_degree)
                    register_adam(gaussians)
                    pull = _Pull.none(len(gaussians))
                self._step(gaussians, photographs, done, pull)
                grows = not self.settings.detailed and GROW_FROM < done < GROW_UNTIL
                if grows and step % GROW_EVERY == GROW_EVERY - 1:
                    share = (done - GROW_FROM) / (GROW_UNTIL - GROW_FROM)
                    bound = start * (max(self.settings.max_gaussians, start) / start) ** min(1.0, 1.2 * share)
                    self._grow(gaussians, pull, int(bound), step)
                    pull = _Pull.none(len(gaussians))
                progress()
        finally:
            torch.set_num_threads(threads)
        return gaussians

    def _next(self) -> int:
        """Every photograph once, in random order, then again."""
        if not self._order:
            self._order = self._random.permutation(len(self.frames)).tolist()
        return self._order.pop()

    def _step(
        self,
        gaussians: GaussianMap,
        photographs: Sequence[tuple[Camera, np.ndarray, np.ndarray | None]],
        done: float,
        pull: _Pull,
    ) -> None:
        index = self._next()
        camera, pixels, ignored = photographs[index]
        view = self.rasterizer.open(gaussians, camera)
        rendering = view.render()
        target = torch.from_numpy(pixels * np.float32(1 / 255))
        if ignored is not None:
            target[torch.from_numpy(ignored)] = rendering.rgb[torch.from_numpy(ignored)]
        shown, gain = rendering.rgb, None
        if self.settings.exposure and done > EXPOSURE_FROM:
            self.exposures.observe(index, rendering.rgb.numpy(), target.numpy())
            gain, offset = self.exposures.of(index)
            shown = rendering.rgb * gain + offset
        _, gradient = ssim_l1_gradient(shown, target, self.settings.ssim_weight, self.rasterizer.threads)
        if gain is not None:
            gradient *= gain
        care = DETAILED if self.settings.detailed else 1.0
        rates = StepRates(
            means=MEANS * self._scene * 0.01**done * care,
            quats=QUATS * care,
            log_scales=LOG_SCALES * care,
            opacity_logits=OPACITY * care,
            sh=COLOUR if done < HALF_SIZE and not self.settings.detailed else LATE_COLOUR,
        )
        visible = view.visible
        seen = optimise_from_gradients(view, gaussians, rendering, rates, gradient)
        pull.total[visible] += seen.means2d_norm * max(camera.width, camera.height)
        pull.times[visible] += 1

    def _grow(self, gaussians: GaussianMap, pull: _Pull, bound: int, seed: int) -> None:
        """Remove what is faint or huge; copy small and split large Gaussians that are pulled hardest."""
        bad = gaussians.opacity_logits < float(np.log(FAINT / (1 - FAINT)))
        bad |= gaussians.log_scales.max(1).values > float(np.log(HUGE * self._scene))
        bad |= ~torch.isfinite(gaussians.means).all(1)
        mean = torch.where(bad | (pull.times < 2), torch.zeros(()), pull.mean)
        gaussians.keep(~bad)
        mean = mean[~bad]
        count = min(bound - len(gaussians), int((mean > 0).sum()))
        if count <= 0:
            return
        chosen = torch.topk(mean, count).indices
        large = gaussians.log_scales.max(1).values[chosen] > float(np.log(SPLIT * self._scene))
        gaussians.clone(chosen[~large])
        gaussians.split(chosen[large], seed=seed)


def _halved(frame: Frame) -> tuple[Camera, np.ndarray, np.ndarray | None]:
    """Camera, colour and ignored pixels of a frame at half its size."""
    width, height = max(1, frame.camera.width // 2), max(1, frame.camera.height // 2)
    rgb = cv2.resize(frame.rgb, (width, height), interpolation=cv2.INTER_AREA)
    ignored = frame.ignored
    if ignored is not None:
        ignored = cv2.resize(ignored.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return frame.camera.resized(width, height), rgb, ignored
