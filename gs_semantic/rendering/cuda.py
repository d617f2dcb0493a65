"""The CUDA back end on gsplat 1.5 behind the same interface; ``votes.py`` adds the one kernel that gsplat lacks.

Results are where the map's tensors are. A map is made ready for gsplat (copied to the device, activated) when it changed,
and seen by a camera once for all that is drawn from there; a map that autograd follows each time, so that gradients reach it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from gs_semantic.errors import InvalidRequestError, MissingExtraError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering.base import (
    Accumulation,
    IdRendering,
    LabelAccumulation,
    RasterSettings,
    Rendering,
    on_device,
)

PARAMETERS = ("means", "quats", "log_scales", "opacity_logits", "sh")
TILE = 8  # pixels: on an H200 a fifth less time than gsplat's 16, as fewer pixels look at a Gaussian in vain
CHUNK = 32  # channels per launch: beyond, gsplat's kernels run out of registers and shared memory
COMPILED_IN = ("alpha_min", "alpha_max", "transmittance_min", "extent_sigma")  # settings that gsplat's kernels fix
ALL_BATCHES = 1 << 30


@dataclass
class _Ready:
    """A map on the device as gsplat's kernels want it: activated, rows that cannot be drawn harmless and invisible."""

    means: torch.Tensor  # (N,3)
    quats: torch.Tensor  # (N,4)
    scales: torch.Tensor  # (N,3)
    opacities: torch.Tensor  # (N,)
    sh: torch.Tensor  # (N,K,3)
    unusable: torch.Tensor  # () how many rows cannot be drawn; read only when somebody asks


@dataclass
class _Projected:
    """A map in one camera, as gsplat's kernels want it, with one image in front."""

    means2d: torch.Tensor  # (1,N,2)
    conics: torch.Tensor  # (1,N,3)
    depths: torch.Tensor  # (1,N)
    opacities: torch.Tensor  # (1,N)
    offsets: torch.Tensor  # (1,tiles_y,tiles_x)
    flatten_ids: torch.Tensor  # (entries,)

    def frozen(self) -> _Projected:
        """The same, cut off from autograd."""
        return _Projected(*(getattr(self, field.name).detach() for field in fields(self)))


class CudaRasterizer:
    """gsplat behind the interface of ``Rasterizer``.

    Raises MissingExtraError without gsplat, InvalidRequestError without a CUDA device or with settings other than those
    that gsplat's kernels are compiled with.
    """

    name = "cuda"

    def __init__(self, settings: RasterSettings | None = None, device: str = "cuda") -> None:
        self.gsplat = load_gsplat()
        self.settings, fixed = settings or RasterSettings(), RasterSettings()
        for name in COMPILED_IN:
            if getattr(self.settings, name) != getattr(fixed, name):
                raise InvalidRequestError(
                    f"{name}: gsplat is compiled with {getattr(fixed, name):g}; for another value use rasterizer 'cpu'"
                )
        if not torch.cuda.is_available():
            raise InvalidRequestError("rasterizer 'cuda': torch finds no CUDA device here; use 'cpu' or 'auto'")
        named = torch.device(device)
        self.device = torch.device("cuda", torch.cuda.current_device()) if named.index is None else named
        self._last: _Ready | None = None  # of the map drawn last
        self._kept: tuple[Any, tuple, _Ready] | None = None  # a map, its version, and that made ready
        self._seen: tuple[_Ready, tuple, _Projected] | None = None  # what the kept map is in the last camera

    @property
    def skipped(self) -> int:
        """Gaussians of the last map drawn that cannot be, as parameters are not finite or a quaternion is 0."""
        return 0 if self._last is None else int(self._last.unusable)

    def render(
        self,
        gaussians: GaussianMap,
        camera: Camera,
        features: torch.Tensor | None = None,
        *,
        background: torch.Tensor | None = None,
        feature_grad_to_geometry: bool = True,
        T_camera_world: torch.Tensor | None = None,
        median_depth: bool = False,
    ) -> Rendering:
        """As ``Rasterizer.render``, without the median depth; differentiable."""
        if median_depth:
            raise InvalidRequestError("median_depth: the cuda back end does not draw it; use rasterizer 'cpu'")
        home = gaussians.means.device
        ready = self._ready(gaussians)
        pose = self._pose(camera, T_camera_world)
        projected = self._project(ready, camera, pose)
        values = torch.cat([self._colors(ready, pose), projected.depths[0][:, None]], dim=1)
        image, alpha = self._blend(projected, values, camera)
        rgb, weighted_depth, feature_image = image[..., :3], image[..., 3], None
        seen = alpha > 0
        depth = torch.where(seen, weighted_depth / torch.where(seen, alpha, 1), 0)
        if background is not None:
            rgb = rgb + (1 - alpha)[..., None] * background.to(self.device, rgb.dtype)
        if features is not None:  # in launches of their own: one of all channels would fill up to 32 with zeros
            geometry = projected if feature_grad_to_geometry else projected.frozen()
            feature_image = self._blend(geometry, self._features(features, len(ready.means)), camera)[0]
        images = (rgb, depth, alpha, feature_image)
        return Rendering(*(None if image is None else image.to(home) for image in images))  # type: ignore[arg-type]

    def open(self, gaussians: GaussianMap, camera: Camera) -> Callable[[torch.Tensor], torch.Tensor]:
        """Images (H,W,C) of features (N,C) in a camera, projected and sorted once; differentiable in the features alone.

        Valid until the map changes.
        """
        with torch.no_grad():
            projected = self._make_projected(self._ready(gaussians), camera, self._pose(camera))
        return lambda features: self._blend(projected, self._features(features, len(gaussians)), camera)[0]

    def render_ids(self, gaussians: GaussianMap, camera: Camera, ids: torch.Tensor) -> IdRendering:
        """Vote of the per-Gaussian ``ids`` int32 (N,); 0 takes part in the vote as "no object"."""
        from gs_semantic.rendering.votes import vote

        home = gaussians.means.device
        with torch.no_grad():
            projected = self._project(self._ready(gaussians), camera, self._pose(camera))
            if ids.shape != (len(gaussians),) or ids.dtype != torch.int32:
                raise InvalidRequestError(
                    f"ids: expected int32 ({len(gaussians)},), got {ids.dtype} {tuple(ids.shape)}"
                )
            winner, confidence, depth = vote(
                projected.means2d[0],
                projected.conics[0],
                projected.depths[0],
                projected.opacities[0],
                ids.to(self.device),
                projected.offsets[0],
                projected.flatten_ids,
                camera.width,
                camera.height,
                self.settings,
            )
        return IdRendering(winner.to(home), confidence.to(home), depth.to(home))

    def accumulate(
        self, gaussians: GaussianMap, camera: Camera, image: torch.Tensor, count: bool = True
    ) -> Accumulation:
        """Transpose pass of an image float32 (H,W,D). Counting lists all pairs of pixel and Gaussian: slow."""
        home, n = gaussians.means.device, len(gaussians)
        self._check_image("image", image, camera)
        with torch.no_grad():
            projected = self._project(self._ready(gaussians), camera, self._pose(camera))
        image = image.to(self.device, torch.float32)
        ones = torch.ones_like(image[..., :1])
        sums = self._transpose(projected, torch.cat([ones, image], dim=2), camera)
        pixels = self._pixel_count(projected, camera) if count else torch.zeros(n, dtype=torch.int32)
        return Accumulation(sums[:, 1:].to(home), sums[:, 0].to(home), pixels.to(home))

    def _pixel_count(self, projected: _Projected, camera: Camera) -> torch.Tensor:
        """int32 (N,): pixels that each Gaussian is blended into."""
        with torch.no_grad():
            rows, _, _ = self.gsplat.rasterize_to_indices_in_range(
                *(0, ALL_BATCHES, torch.ones(1, camera.height, camera.width, device=self.device)),
                *(projected.means2d, projected.conics, projected.opacities, camera.width, camera.height, TILE),
                *(projected.offsets, projected.flatten_ids),
            )
        return torch.bincount(rows.long(), minlength=projected.depths.shape[1]).to(torch.int32)

    def accumulate_labels(self, gaussians: GaussianMap, camera: Camera, labels: torch.Tensor) -> LabelAccumulation:
        """Transpose pass of a label image int32 (H,W), with exact sums of every label instead of two slots."""
        home, n = gaussians.means.device, len(gaussians)
        self._check_image("labels", labels, camera)
        with torch.no_grad():
            projected = self._project(self._ready(gaussians), camera, self._pose(camera))
        values, inverse = torch.unique(labels.to(self.device), return_inverse=True)
        winner = torch.zeros(n, dtype=torch.int32, device=self.device)
        best, total = torch.zeros(n, device=self.device), torch.zeros(n, device=self.device)
        for first in range(0, len(values), CHUNK):
            part = torch.arange(first, min(first + CHUNK, len(values)), device=self.device)
            sums = self._transpose(projected, (inverse[..., None] == part).float(), camera)
            weight, place = sums.max(dim=1)
            better = weight > best
            winner = torch.where(better, values[part[place]].to(torch.int32), winner)
            best = torch.where(better, weight, best)
            total += sums.sum(dim=1)
        return LabelAccumulation(winner.to(home), best.to(home), total.to(home))

    # --- stages -----------------------------------------------------------------------------------------------------

    def _ready(self, gaussians: GaussianMap) -> _Ready:
        """The map made ready, anew if it changed or autograd follows it."""
        tensors = [getattr(gaussians, name) for name in PARAMETERS]
        if any(t.requires_grad for t in tensors):
            self._last = self._make_ready(tensors)
            return self._last
        version = (
            getattr(gaussians, "revision", 0),
            *((t.data_ptr(), len(t), 0 if t.is_inference() else t._version) for t in tensors),
        )
        if self._kept is None or self._kept[0]() is not gaussians or self._kept[1] != version:
            with torch.no_grad():
                self._kept = (weakref.ref(gaussians), version, self._make_ready(tensors))
        self._last = self._kept[2]
        return self._last

    def _make_ready(self, tensors: list[torch.Tensor]) -> _Ready:
        means, quats, log_scales, logits, sh = (t.to(self.device, torch.float32) for t in tensors)
        usable = means.isfinite().all(1) & log_scales.isfinite().all(1) & logits.isfinite()
        usable &= quats.isfinite().all(1) & (quats.norm(dim=1) > 0)
        opacities = torch.sigmoid(torch.where(usable, logits, -100.0))  # below alpha_min: gsplat leaves it out
        clean = [torch.where(usable[:, None], value, fill) for value, fill in ((means, 0), (quats, 1), (log_scales, 0))]
        return _Ready(clean[0], clean[1], clean[2].exp(), opacities, sh, (~usable).sum())

    def _pose(self, camera: Camera, T_camera_world: torch.Tensor | None = None) -> torch.Tensor:
        pose = torch.as_tensor(camera.T_camera_world if T_camera_world is None else T_camera_world)
        if tuple(pose.shape) != (4, 4):
            raise InvalidRequestError(f"T_camera_world: shape is {tuple(pose.shape)}, expected (4, 4)")
        return pose

    def _there(self, pose: torch.Tensor) -> torch.Tensor:
        """A pose on the device: that of a recorded camera is kept there, one that is learned is as it is."""
        if pose.requires_grad or pose.device.type != "cpu":
            return pose.to(self.device, torch.float32)
        return on_device(pose.to(torch.float32).numpy().tobytes(), (4, 4), self.device)

    def _project(self, ready: _Ready, camera: Camera, pose: torch.Tensor) -> _Projected:
        """The map in the camera; what the last call made, if neither changed."""
        if self._kept is None or ready is not self._kept[2] or pose.requires_grad:
            return self._make_projected(ready, camera, pose)
        shape = (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        key = (*shape, tuple(pose.flatten().tolist()))
        if self._seen is None or self._seen[0] is not ready or self._seen[1] != key:
            with torch.no_grad():
                self._seen = (ready, key, self._make_projected(ready, camera, pose))
        return self._seen[2]

    def _make_projected(self, ready: _Ready, camera: Camera, pose: torch.Tensor) -> _Projected:
        s = self.settings
        pose = self._there(pose)
        intrinsics = np.array([[camera.fx, 0, camera.cx + 0.5], [0, camera.fy, camera.cy + 0.5], [0, 0, 1]], np.float32)
        radii, means2d, depths, conics, _ = self.gsplat.fully_fused_projection(
            *(ready.means, None, ready.quats, ready.scales, pose[None], on_device(intrinsics.tobytes(), (1, 3, 3), self.device)),
            *(camera.width, camera.height),
            eps2d=s.eps2d,
            near_plane=s.near,
            far_plane=s.far,
            opacities=ready.opacities.detach(),
        )
        tiles_x, tiles_y = -(-camera.width // TILE), -(-camera.height // TILE)
        with torch.no_grad():
            _, keys, flatten_ids = self.gsplat.isect_tiles(means2d, radii, depths, TILE, tiles_x, tiles_y)
            offsets = self.gsplat.isect_offset_encode(keys, 1, tiles_x, tiles_y)
        return _Projected(means2d, conics, depths, ready.opacities[None], offsets, flatten_ids)

    def _colors(self, ready: _Ready, pose: torch.Tensor) -> torch.Tensor:
        """(N,3) seen from the camera."""
        pose = self._there(pose)
        centre = -pose[:3, :3].T @ pose[:3, 3]
        degree = round(ready.sh.shape[1] ** 0.5) - 1
        return (self.gsplat.spherical_harmonics(degree, ready.means - centre, ready.sh) + 0.5).clamp_min(0)

    def _features(self, features: torch.Tensor | None, count: int) -> torch.Tensor:
        assert features is not None
        if features.dim() != 2 or len(features) != count:
            raise InvalidRequestError(f"features: shape is {tuple(features.shape)}, expected ({count}, any)")
        return features.to(self.device, torch.float32)

    def _blend(self, p: _Projected, values: torch.Tensor, camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (H,W,C) of values (N,C), chunk by chunk, and alpha (H,W)."""
        parts, alpha = [], None
        for chunk in _chunks(values):
            image, alphas = self.gsplat.rasterize_to_pixels(
                *(p.means2d, p.conics, chunk[None], p.opacities, camera.width, camera.height, TILE),
                *(p.offsets, p.flatten_ids),
            )
            parts.append(image[0])
            alpha = alphas[0, ..., 0] if alpha is None else alpha  # the first chunk's carries the gradient
        assert alpha is not None
        return torch.cat(parts, dim=2), alpha

    def _transpose(self, projected: _Projected, image: torch.Tensor, camera: Camera) -> torch.Tensor:
        """sum_p w_i(p) image(p), (N,C): blending is linear in its values, so this is their gradient."""
        frozen, parts = projected.frozen(), []
        for chunk in _chunks(image):
            with torch.enable_grad():
                values = torch.zeros(frozen.depths.shape[1], chunk.shape[2], device=self.device, requires_grad=True)
                blended, _ = self._blend(frozen, values, camera)
                parts.append(torch.autograd.grad(blended, values, chunk)[0])
        return torch.cat(parts, dim=1)

    def _check_image(self, name: str, image: torch.Tensor, camera: Camera) -> None:
        if tuple(image.shape[:2]) != (camera.height, camera.width):
            expected = (camera.height, camera.width)
            raise InvalidRequestError(f"{name}: shape is {tuple(image.shape)}, expected {expected} first")


def load_gsplat() -> Any:
    """The module gsplat; raises MissingExtraError without it."""
    try:
        import gsplat
    except ImportError as error:
        raise MissingExtraError.for_module("gsplat", "cuda", "rasterizer 'cuda'") from error
    return gsplat


def _chunks(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """At most CHUNK channels at a time, of the last dimension."""
    for first in range(0, max(values.shape[-1], 1), CHUNK):
        yield values[..., first : first + CHUNK]
