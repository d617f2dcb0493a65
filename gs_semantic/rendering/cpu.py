"""The CPU back end: native kernels (native/), several threads, no torch in the inner loops."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import native
from gs_semantic.rendering.base import Accumulation, IdRendering, LabelAccumulation, RasterSettings, Rendering
from gs_semantic.rendering.image_memory import ImageMemory

PARAMETERS = ("means", "quats", "log_scales", "opacity_logits", "sh")


@dataclass(frozen=True)
class VisibleGradients:
    """Gradients of one view with respect to the map's raw parameters; row i belongs to Gaussian ``view.visible[i]``.

    means (V,3), quats (V,4), log_scales (V,3), opacity_logits (V,), sh (V,K,3), features (V,C) or None.
    means2d_norm (V,): length of the gradient with respect to the projected centre, per pixel; radii (V,): pixels.

    pose (6,) or None: with respect to the twist (rotation rad, translation m) of a rigid motion in the camera frame that
    is put after the world-to-camera transform, ``T_camera_world' = exp(twist) T_camera_world`` at twist = 0. So a step
    down the gradient is ``camera.moved(-rate * pose)``.
    """

    means: torch.Tensor
    quats: torch.Tensor
    log_scales: torch.Tensor
    opacity_logits: torch.Tensor
    sh: torch.Tensor
    features: torch.Tensor | None
    means2d_norm: torch.Tensor
    radii: torch.Tensor
    pose: torch.Tensor | None = None


@dataclass(frozen=True)
class _Packed:
    """Whose parameters, and in which state, the packed scene holds."""

    owner: Callable[[], object] = lambda: None
    version: tuple = ()
    history: object = None
    revision: int = 0


class _Parameters:
    """The raw parameters of a map as checked float32 tensors, and their C form."""

    def __init__(self, gaussians: GaussianMap) -> None:
        tensors = [getattr(gaussians, name) for name in PARAMETERS]
        n = len(tensors[0])
        self.gaussians = gaussians
        self.revision: int = getattr(gaussians, "revision", 0)
        packed = tensors if tensors[4].shape[1:2] == (1,) else tensors[:4]  # colours are packed if of degree 0
        self.version = (
            *(self.revision, n),
            *((t.data_ptr(), 0 if t.is_inference() else t._version) for t in packed),
        )
        shapes = ((n, 3), (n, 4), (n, 3), (n,), (n, None, 3))
        checked = [native.checked(*item) for item in zip(PARAMETERS, tensors, shapes, strict=True)]
        sh_count = checked[4].shape[1]
        if sh_count not in (1, 4, 9, 16):
            raise InvalidRequestError(f"sh: has {sh_count} coefficients, expected 1, 4, 9 or 16 (degree 0 to 3)")
        self.tensors = checked
        self.count, self.sh_count = n, sh_count
        self.struct = native.ParametersStruct(*(t.data_ptr() for t in checked), n, sh_count)


class RasterView:
    """A map as one camera sees it: projected, binned and sorted once, usable for several passes.

    Valid until the map changes; open a new one then. Not for use by two threads at once.
    """

    def __init__(self, rasterizer: CpuRasterizer, parameters: _Parameters, camera: Camera, tile_size: int) -> None:
        self.camera = camera
        self._rasterizer = rasterizer
        self._parameters = parameters
        self._handle = rasterizer._take_handle()
        weakref.finalize(self, _give_back, rasterizer._handles, self._handle)
        self._visible: torch.Tensor | None = None
        rasterizer._project(parameters, self._handle, camera, tile_size)

    @property
    def visible(self) -> torch.Tensor:
        """int64 (V,): rising rows of the Gaussians whose footprint reaches into the image."""
        if self._visible is None:
            rows = torch.empty(self.visible_count, dtype=torch.int64)
            native.library().gs_view_visible(self._handle.pointer, rows.data_ptr())
            self._visible = rows
        return self._visible

    @property
    def visible_count(self) -> int:
        """How many rows ``visible`` has."""
        return int(native.library().gs_view_visible_count(self._handle.pointer))

    @property
    def times_ms(self) -> dict[str, float]:
        """Core time of the stages: project, bin and the last pass (sort and blend)."""
        times = (ctypes.c_double * 3)()
        native.library().gs_view_times(self._handle.pointer, times)
        return dict(zip(("project", "bin", "pass"), times, strict=True))

    @property
    def evaluations(self) -> int:
        """How often the last pass evaluated a Gaussian on a block of 4x4 pixels."""
        return int(native.library().gs_view_evaluations(self._handle.pointer))

    def radii(self) -> torch.Tensor:
        """(V,2): half the width and height, in pixels, of what each visible Gaussian can draw."""
        radii = torch.empty(len(self.visible), 2)
        native.library().gs_view_radii(self._handle.pointer, radii.data_ptr())
        return radii

    def render(
        self,
        features: torch.Tensor | None = None,
        *,
        background: torch.Tensor | None = None,
        median_depth: bool = False,
    ) -> Rendering:
        """Colour, depth, alpha and (N,C) feature channels, as ``Rasterizer.render`` but without autograd."""
        height, width = self.camera.height, self.camera.width
        padded = self._features(features)
        channels = 0 if padded is None else padded.shape[1]
        rgb, depth, alpha = torch.empty(height, width, 3), torch.empty(height, width), torch.empty(height, width)
        image = self._rasterizer._images.empty(height, width, channels)
        median = torch.empty(height, width) if median_depth else None
        background = _background(background)
        native.call(
            "gs_view_render",
            *(self._handle.pointer, self._parameters.struct, native.pointer(padded), channels),
            native.pointer(background),
            native.ImagesStruct(*map(native.pointer, (rgb, depth, alpha, image, median))),
            self._threads,
        )
        return Rendering(rgb, depth, alpha, None if features is None else image[..., : features.shape[1]], median)

    def render_ids(self, ids: torch.Tensor) -> IdRendering:
        """As ``Rasterizer.render_ids``."""
        height, width = self.camera.height, self.camera.width
        ids = native.checked("ids", ids, (self._parameters.count,), torch.int32)
        winner = torch.empty(height, width, dtype=torch.int32)
        confidence, depth = torch.empty(height, width), torch.empty(height, width)
        native.call(
            "gs_view_ids",
            *(self._handle.pointer, ids.data_ptr(), self._rasterizer.settings.vote_rest),
            *(winner.data_ptr(), confidence.data_ptr(), depth.data_ptr(), self._threads),
        )
        return IdRendering(winner, confidence, depth)

    def accumulate(self, image: torch.Tensor) -> Accumulation:
        """As ``Rasterizer.accumulate``."""
        image = native.checked("image", image, (self.camera.height, self.camera.width, None))
        n, channels = self._parameters.count, image.shape[2]
        result = Accumulation(torch.zeros(n, channels), torch.zeros(n), torch.zeros(n, dtype=torch.int32))
        native.call(
            "gs_view_accumulate",
            *(self._handle.pointer, image.data_ptr(), channels, result.weighted_sum.data_ptr()),
            *(result.weight_sum.data_ptr(), result.pixel_count.data_ptr(), self._threads),
        )
        return result

    def accumulate_labels(self, labels: torch.Tensor) -> LabelAccumulation:
        """As ``Rasterizer.accumulate_labels``."""
        labels = native.checked("labels", labels, (self.camera.height, self.camera.width), torch.int32)
        n = self._parameters.count
        result = LabelAccumulation(torch.zeros(n, dtype=torch.int32), torch.zeros(n), torch.zeros(n))
        native.call(
            "gs_view_accumulate_labels",
            *(self._handle.pointer, labels.data_ptr(), result.labels.data_ptr(), result.label_weight.data_ptr()),
            *(result.weight_sum.data_ptr(), self._threads),
        )
        return result

    def backward(
        self,
        rendering: Rendering,
        grad_rgb: torch.Tensor | None = None,
        grad_depth: torch.Tensor | None = None,
        grad_alpha: torch.Tensor | None = None,
        grad_features: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        feature_grad_to_geometry: bool = True,
        *,
        background: torch.Tensor | None = None,
        pose: bool = False,
    ) -> VisibleGradients:
        """Gradients of a rendering that this view returned, given those of its images (same shapes; None is zero).

        ``features`` and ``background`` as given to ``render``; with ``feature_grad_to_geometry`` false, ``grad_features``
        only reaches the features. The depth is the returned, normalised one. ``pose`` also asks for the camera's gradient.
        """
        count, channels = len(self.visible), 0 if features is None else features.shape[1]
        grads = (grad_rgb, grad_depth, grad_alpha, grad_features)
        images, checked_grads = self._checked(rendering, grads, features)
        padded = self._features(features)
        checked_grads[3], images[3] = _pad_channels(checked_grads[3]), _pad_channels(images[3])
        width_padded = 0 if padded is None else padded.shape[1]
        result = VisibleGradients(
            *(torch.empty(count, 3), torch.empty(count, 4), torch.empty(count, 3), torch.empty(count)),
            sh=torch.empty(count, self._parameters.sh_count, 3),
            features=None if padded is None else torch.empty(count, width_padded),
            means2d_norm=torch.empty(count),
            radii=torch.empty(count),
            pose=torch.empty(6) if pose else None,
        )
        background = _background(background)
        native.call(
            "gs_view_backward",
            *(self._handle.pointer, self._parameters.struct, native.pointer(padded), width_padded),
            *(native.pointer(background), native.ImagesStruct(*map(native.pointer, images))),
            *(native.ImagesStruct(*map(native.pointer, checked_grads)), int(feature_grad_to_geometry)),
            native.GradientsStruct(*(native.pointer(getattr(result, field.name)) for field in fields(result))),
            self._threads,
        )
        return result if result.features is None else replace(result, features=result.features[:, :channels])

    def _checked(
        self, rendering: Rendering, grads: Sequence[torch.Tensor | None], features: torch.Tensor | None
    ) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
        """The images of a rendering and their gradients, as the kernels want them; both rgb, depth, alpha, features."""
        height, width = self.camera.height, self.camera.width
        if (features is None) != (grads[3] is None):
            raise InvalidRequestError("backward: features and grad_features must be given together")
        channels = 0 if features is None else features.shape[1]
        shapes = ((height, width, 3), (height, width), (height, width), (height, width, channels))
        names = ("rgb", "depth", "alpha", "features")
        checked_grads = [
            None if grad is None else native.checked(f"grad_{name}", grad, shape)
            for name, grad, shape in zip(names, grads, shapes, strict=True)
        ]
        images = [
            native.checked(name, getattr(rendering, name), shape) if name != "features" or channels else None
            for name, shape in zip(names, shapes, strict=True)
        ]
        return images, checked_grads

    def step_images(
        self,
        state: native.AdamStateStruct,
        rendering: Rendering,
        grads: Sequence[torch.Tensor | None],
        features: torch.Tensor | None,
        features_move_geometry: bool,
        background: torch.Tensor | None,
        outputs: Sequence[torch.Tensor | None],
    ) -> None:
        """One optimisation step from image gradients; outputs: pose, means2d_norm, radii (see rendering/step.py)."""
        images, checked_grads = self._checked(rendering, grads, features)
        background = _background(background)
        channels = 0 if features is None else features.shape[1]
        native.call(
            "gs_view_step_images",
            *(self._handle.pointer, self._parameters.struct, native.pointer(features), channels),
            *(native.pointer(background), native.ImagesStruct(*map(native.pointer, images))),
            *(native.ImagesStruct(*map(native.pointer, checked_grads)), int(features_move_geometry), state),
            *(*map(native.pointer, outputs), self._threads),
        )

    def step(
        self,
        loss: native.WindowLossStruct,
        state: native.AdamStateStruct | None,
        pose: torch.Tensor | None,
        error: ctypes.c_double,
    ) -> None:
        """One optimisation step (see rendering/step.py, which fills the structures)."""
        arguments = (loss, state, native.pointer(pose), error, self._threads)
        native.call("gs_view_step", self._handle.pointer, self._parameters.struct, *arguments)

    def step_photometric(
        self,
        loss: native.PhotometricLossStruct,
        state: native.AdamStateStruct,
        means2d_norm: torch.Tensor,
        radii: torch.Tensor,
        value: ctypes.c_double,
        times_ms: ctypes.Array[ctypes.c_double],
    ) -> None:
        """One optimisation step towards images (see rendering/step.py, which fills the structures)."""
        arguments = (loss, state, means2d_norm.data_ptr(), radii.data_ptr(), value, times_ms, self._threads)
        native.call("gs_view_step_photometric", self._handle.pointer, self._parameters.struct, *arguments)

    def step_features(
        self,
        loss: native.FeatureLossStruct,
        state: native.AdamStateStruct,
        steps: torch.Tensor,
        keep_bytes: int,
        error: ctypes.c_double,
    ) -> int:
        """One optimisation step of features alone (see rendering/step.py, which fills the structures).

        What the view draws is kept for the next such steps if it fits in ``keep_bytes``; returns the bytes that it takes.
        """
        arguments = (loss, state, steps.data_ptr(), keep_bytes, error, self._threads)
        native.call("gs_view_step_features", self._handle.pointer, *arguments)
        return int(native.library().gs_view_kept_bytes(self._handle.pointer))

    def forget(self) -> None:
        """Give back what feature steps kept."""
        native.library().gs_view_forget(self._handle.pointer)

    @property
    def count(self) -> int:
        """Gaussians of the map."""
        return self._parameters.count

    @property
    def _threads(self) -> int:
        return self._rasterizer.threads or 0

    def _features(self, features: torch.Tensor | None) -> torch.Tensor | None:
        """Checked, with the channels padded to a multiple of four (a copy only where they are not)."""
        if features is None:
            return None
        features = native.checked("features", features, (self._parameters.count, None))
        return _pad_channels(features)


class CpuRasterizer:
    """Native rasteriser. ``threads``: None uses every hardware thread.

    Keeps a packed copy of the last map it drew, renewed when the map's revision or its tensors change. Safe to call
    from several threads.
    """

    name = "cpu"
    device = torch.device("cpu")

    def __init__(self, settings: RasterSettings | None = None, threads: int | None = None) -> None:
        native.library()
        self.settings = settings or RasterSettings()
        self.threads = threads
        self._images = ImageMemory()
        self._handles: list[native.Handle] = []  # views not in use; they keep their buffers
        self._lock = threading.Lock()
        self._scene = native.Handle("gs_scene_create", "gs_scene_destroy")
        self._packed = _Packed()
        self.pack_ms = 0.0
        self.skipped = 0  # of the packed map

    def open(self, gaussians: GaussianMap, camera: Camera, *, tile_size: int = 16) -> RasterView:
        """Project, bin and sort the map for a camera. ``tile_size``: a multiple of 4 from 8 to 32, pixels."""
        return RasterView(self, _Parameters(gaussians), camera, tile_size)

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
        """As ``Rasterizer.render``; differentiable."""
        if T_camera_world is not None:
            camera = _camera_at(camera, T_camera_world)
        parameters = [getattr(gaussians, name) for name in PARAMETERS]
        inputs = [features, background, T_camera_world, *parameters]
        if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)):
            return self.open(gaussians, camera, tile_size=32).render(
                features, background=background, median_depth=median_depth
            )
        images = _Render.apply(self, gaussians, camera, feature_grad_to_geometry, *inputs)
        rendering = Rendering(*images)
        if not median_depth:
            return rendering
        with torch.no_grad():
            again = self.open(gaussians, camera, tile_size=32).render(median_depth=True)
        return replace(rendering, median_depth=again.median_depth)

    def render_ids(self, gaussians: GaussianMap, camera: Camera, ids: torch.Tensor) -> IdRendering:
        """Vote of the per-Gaussian ``ids`` int32 (N,); 0 takes part in the vote as "no object"."""
        return self.open(gaussians, camera, tile_size=32).render_ids(ids)

    def accumulate(
        self, gaussians: GaussianMap, camera: Camera, image: torch.Tensor, count: bool = True
    ) -> Accumulation:
        """Transpose pass of an image float32 (H,W,D)."""
        return self.open(gaussians, camera, tile_size=32).accumulate(image)

    def accumulate_labels(self, gaussians: GaussianMap, camera: Camera, labels: torch.Tensor) -> LabelAccumulation:
        """Transpose pass of a label image int32 (H,W)."""
        return self.open(gaussians, camera, tile_size=32).accumulate_labels(labels)

    def _take_handle(self) -> native.Handle:
        try:
            return self._handles.pop()
        except IndexError:
            return native.Handle("gs_view_create", "gs_view_destroy")

    def _project(self, parameters: _Parameters, handle: native.Handle, camera: Camera, tile_size: int) -> None:
        settings = self.settings
        struct = native.SettingsStruct(
            *(settings.near, settings.far, settings.eps2d, settings.alpha_min, settings.alpha_max),
            *(settings.transmittance_min, settings.extent_sigma),
        )
        threads = self.threads or 0
        with self._lock:  # nobody may repack the scene while it is read
            if self._packed.owner() is not parameters.gaussians or self._packed.version != parameters.version:
                self._pack(parameters, threads)
            native.call(
                "gs_view_open",
                *(handle.pointer, self._scene.pointer, _camera_struct(camera), struct, tile_size, threads),
            )

    def _pack(self, parameters: _Parameters, threads: int) -> None:
        """Renew what changed since the last time, or everything where that is not known."""
        start = time.perf_counter()
        gaussians, packed = parameters.gaussians, self._packed
        history = getattr(gaussians, "history", None)  # of any object with the five tensors
        known = history is not None and packed.history is history
        changed = gaussians.changed_chunks(packed.revision) if known else None
        self._packed = _Packed()  # nothing, should the call fail
        scene = (self._scene.pointer, parameters.struct, self.settings.extent_sigma)
        if changed is None:
            native.call("gs_scene_pack", *scene, threads)
        else:
            native.call("gs_scene_repack", *scene, changed.ctypes.data, len(changed), threads)
        self._packed = _Packed(weakref.ref(gaussians), parameters.version, history, parameters.revision)
        self.skipped = int(native.library().gs_scene_invalid(self._scene.pointer))
        self.pack_ms = 1e3 * (time.perf_counter() - start)


class _Render(torch.autograd.Function):
    """Dense gradients for autograd on top of ``RasterView``."""

    @staticmethod
    def forward(ctx, rasterizer, gaussians, camera, to_geometry, features, background, pose, *parameters):
        view = rasterizer.open(gaussians, camera)
        rendering = view.render(features, background=background)
        ctx.view, ctx.to_geometry = view, to_geometry
        images = (rendering.rgb, rendering.depth, rendering.alpha, rendering.features)
        ctx.save_for_backward(features, background, pose, *parameters, *images)
        return images

    @staticmethod
    def backward(ctx, grad_rgb, grad_depth, grad_alpha, grad_features):
        features, background, pose, *rest = ctx.saved_tensors
        parameters, rendering = rest[:5], Rendering(*rest[5:])
        view: RasterView = ctx.view
        grads = view.backward(
            *(rendering, grad_rgb, grad_depth, grad_alpha, grad_features, features, ctx.to_geometry),
            background=background,
            pose=pose is not None,
        )

        def dense(like: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(like).index_copy_(0, view.visible, rows)

        grad_background = None
        if background is not None:
            grad_background = torch.einsum("hw,hwc->c", 1 - rendering.alpha, grad_rgb)
        return (
            *(None, None, None, None),
            None if features is None else dense(features, grads.features),
            grad_background,
            None if pose is None else _matrix_gradient(grads.pose, pose),
            *(dense(tensor, getattr(grads, name)) for name, tensor in zip(PARAMETERS, parameters, strict=True)),
        )


def _give_back(handles: list[native.Handle], handle: native.Handle) -> None:
    """To the views not in use, which keep their buffers, but not what feature steps kept."""
    native.library().gs_view_forget(handle.pointer)
    handles.append(handle)


def _matrix_gradient(twist: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    """A gradient (4,4) with respect to a rigid ``pose`` that has the inner product ``twist . xi`` with exp(xi)' pose.

    For dR = [w]_x R, dt = w x t + v: the part (a - t x b) of w that dt does not explain, as [.]_x R / 2.
    """
    a, b = twist.to(pose.dtype).split(3)
    x, y, z = (a - torch.linalg.cross(pose[:3, 3], b)) / 2
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    gradient = torch.zeros_like(pose)
    gradient[:3, :3] = cross @ pose[:3, :3]
    gradient[:3, 3] = b
    return gradient


def _camera_at(camera: Camera, T_camera_world: torch.Tensor) -> Camera:
    if tuple(T_camera_world.shape) != (4, 4):
        raise InvalidRequestError(f"T_camera_world: shape is {tuple(T_camera_world.shape)}, expected (4, 4)")
    pose = T_camera_world.detach().cpu().double().numpy()
    if np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() > 1e-4:
        raise InvalidRequestError("T_camera_world: its rotation is not orthonormal; orthonormalise it first")
    return camera.at(np.linalg.inv(pose))


def _pad_channels(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Last dimension padded with zeros to a multiple of four, as the kernels want it (a copy only where it is not)."""
    if tensor is None or tensor.shape[-1] % 4 == 0:
        return tensor
    return torch.nn.functional.pad(tensor, (0, -tensor.shape[-1] % 4))


def _background(background: torch.Tensor | None) -> torch.Tensor | None:
    return None if background is None else native.checked("background", background, (3,))


def _camera_struct(camera: Camera) -> native.CameraStruct:
    pose = camera.T_camera_world
    return native.CameraStruct(
        (ctypes.c_float * 9)(*pose[:3, :3].ravel()),
        (ctypes.c_float * 3)(*pose[:3, 3]),
        *(camera.fx, camera.fy, camera.cx + 0.5, camera.cy + 0.5, camera.width, camera.height),
    )
