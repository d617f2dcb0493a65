"""Depth of posed keyframes without a depth sensor: each is matched with others that see the same from elsewhere.

A keyframe waits until the next one has come, so that it is matched with sources on both sides. A plane sweep with
semi-global smoothing (``rendering/sweep.py``) finds a depth for every pixel; what stays are pixels whose depth an
earlier keyframe, matched on its own, confirms. What is new in a keyframe is so confirmed by the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from gs_semantic.gaussians import Camera, Frame
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.rendering.sweep import MAX_PLANES, PlaneSweep, census

CENSUS_THRESHOLD = 1  # grey levels within which two pixels count as equal
SMALL_STEP, LARGE_STEP, EDGE = 8, 80, 8  # of the semi-global smoothing, see native/src/kernels/sweep.h
BEST_ANGLE = 0.12  # baseline over depth that suits matching best: shorter is inexact, longer looks different
CHECKED_VIEWS = 4  # earlier keyframes that may confirm a depth
SMOOTH = 0.03  # relative difference of depth within which neighbours are averaged
NEARER, UNEXPECTED = 1.5, 0.005  # how much nearer surfaces may come unlooked for, and the share of the image that tells
PLANES_PER_PIXEL = 2  # of matching; descriptors are finer than that
NEAR_PLANES = 20  # far away, where depths tried lie wide apart, that is this fraction of their spacing times SMOOTH


@dataclass
class StereoView:
    """A keyframe prepared for matching. camera: at the resolution of matching; descriptors uint32 at that of the image,
    intensity uint8 and, once matched, inverse_depth float32 (0 = none) at that of matching."""

    frame: Frame
    index: int
    camera: Camera
    descriptors: np.ndarray
    intensity: np.ndarray
    regions: np.ndarray | None = None
    inverse_depth: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.camera.width, self.camera.height


@dataclass(frozen=True)
class Matched:
    """A keyframe with the depth found for it: frame.depth float32 (H, W) m, 0 = none; ``empty`` when none was found."""

    index: int
    frame: Frame

    @property
    def empty(self) -> bool:
        return self.frame.depth is None or not self.frame.depth.any()


class StereoDepth:
    """Takes keyframes without depth by ``add``, and gives them back with depth once the next one has come."""

    def __init__(self, config: MapperConfig, threads: int | None = None) -> None:
        self.config = config
        self._sweep = PlaneSweep(threads)
        self._views: list[StereoView] = []  # by age; the newest waits for its successor
        self._waiting = False
        self._typical_m: float | None = None
        self._near: float | None = None  # largest inverse depth to expect

    @property
    def waiting(self) -> bool:
        """Is there a keyframe whose depth has not been asked for?"""
        return self._waiting

    def add(self, index: int, frame: Frame) -> Iterator[Matched]:
        """Take a keyframe; yields the one before with its depth, if there is one."""
        self._views.append(self._prepare(index, frame))
        del self._views[: -self.config.match_memory]
        if self._waiting and len(self._views) > 1:
            yield self._match(self._views[-2])
        self._waiting = True

    def flush(self) -> Iterator[Matched]:
        """The keyframe that waits for a successor, matched with what there is."""
        if self._waiting:
            self._waiting = False
            yield self._match(self._views[-1])

    # --- one keyframe -----------------------------------------------------------------------------------------------

    def _prepare(self, index: int, frame: Frame) -> StereoView:
        wanted = round(frame.camera.width / self.config.match_width_px)
        step = max(1, min(wanted, *frame.rgb.shape[:2]))
        grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
        if step > 1:  # pixel (x, y) becomes the mean of the step x step pixels from there on
            padded = cv2.copyMakeBorder(grey, 0, step - 1, 0, step - 1, cv2.BORDER_REPLICATE)
            grey = cv2.blur(padded, (step, step), anchor=(0, 0))[: grey.shape[0], : grey.shape[1]]
        height, width = grey.shape[0] // step, grey.shape[1] // step
        camera = replace(frame.camera, width=width * step, height=height * step).resized(width, height)
        intensity = np.ascontiguousarray(grey[::step, ::step][:height, :width])
        descriptors = census(grey, step, CENSUS_THRESHOLD, self._sweep.threads)
        regions = None
        if frame.instances is not None:
            middle = frame.instances[step // 2 :: step, step // 2 :: step]
            regions = np.ascontiguousarray(middle[:height, :width], np.int32)
        return StereoView(frame, index, camera, descriptors, intensity, regions)

    def _match(self, view: StereoView) -> Matched:
        frame = view.frame
        height, width = frame.rgb.shape[:2]
        sources = self._sources(view)
        if not sources:
            return Matched(view.index, replace(frame, depth=np.zeros((height, width), np.float32)))
        far, near = 1 / self.config.depth_max_m, 1 / self.config.match_near_m
        inverse, blur = self._swept(view, sources, far, self._near or near)
        if self._near and np.mean(inverse > 0.95 * self._near) > UNEXPECTED:  # something came nearer
            inverse, blur = self._swept(view, sources, far, near)
        view.inverse_depth = _smoothed(inverse, blur)
        known = inverse[inverse > 0]
        if len(known):
            self._typical_m = float(1 / np.median(known))
            self._near = float(np.clip(NEARER * np.quantile(known, 0.99), 4 * far, near))
        fused, confirmed = self._confirmed(view, blur)
        fused = _smoothed(_closed(fused, confirmed, blur), blur)
        return Matched(view.index, replace(frame, depth=_enlarged(fused, blur, height, width)))

    def _swept(
        self, view: StereoView, sources: list[StereoView], far: float, near: float
    ) -> tuple[np.ndarray, float]:
        """Inverse depth (h, w) between ``far`` and ``near``, 0 where it is not certain; what far away it is uncertain by."""
        baseline = np.median([_baseline(view, source) for source in sources])
        wanted = int(PLANES_PER_PIXEL * (near - far) * view.camera.fx * baseline) + 1
        planes = min(MAX_PLANES, self.config.match_planes, max(48, wanted)) // 16 * 16
        result = self._sweep.run(
            view.descriptors,
            view.intensity,
            [(source.descriptors, _projection(view, source)) for source in sources],
            planes,
            far,
            (near - far) / (planes - 1),
            SMALL_STEP,
            LARGE_STEP,
            EDGE,
            view.regions,
        )
        inverse = np.maximum(result.inverse_depth, far)
        inverse[(result.margin < self.config.match_margin) | (result.cost > self.config.match_cost)] = 0
        return inverse, NEAR_PLANES * (near - far) / (planes - 1)

    def _sources(self, view: StereoView) -> list[StereoView]:
        """Views that see much of the same from other places: each new one best complements those chosen before."""
        typical = self._typical_m or 10 * self.config.match_near_m
        others = [other for other in self._views if other is not view]
        scores, directions = [], []
        for other in others:
            offset = view.camera.T_camera_world @ other.camera.T_world_camera
            distance = float(np.linalg.norm(offset[:3, 3]))
            angle = max(distance / typical, 1e-6)
            fit = np.exp(-0.5 * np.log(angle / BEST_ANGLE) ** 2)
            scores.append(fit * _overlap(view.camera, other.camera, typical))
            directions.append(offset[:3, 3] / max(distance, 1e-9))
        chosen: list[int] = []
        left = np.array(scores)
        while len(chosen) < min(self.config.match_sources, len(others)):
            best = int(left.argmax())
            if left[best] <= 0.02:
                break
            chosen.append(best)
            left[best] = 0
            same = np.array([max(0.0, float(direction @ directions[best])) for direction in directions])
            left *= 1 - 0.5 * same
        return [others[i] for i in chosen]

    def _confirmed(self, view: StereoView, blur: float) -> tuple[np.ndarray, np.ndarray]:
        """Inverse depth averaged over the views that agree, and where (h, w) bool an earlier view does agree."""
        inverse = view.inverse_depth
        assert inverse is not None
        agreed, total = np.zeros(inverse.shape, np.float32), inverse.copy()
        earlier = [other for other in self._views if other.inverse_depth is not None and other is not view]
        y, x = np.mgrid[0 : inverse.shape[0], 0 : inverse.shape[1]].astype(np.float32)
        for other in earlier[-CHECKED_VIEWS:]:
            M = _matrix(view.camera, other.camera).astype(np.float32)
            u, v, z = (M[i, 0] * x + M[i, 1] * y + M[i, 2] + M[i, 3] * inverse for i in range(3))
            with np.errstate(divide="ignore", invalid="ignore"):
                expected = inverse / z  # inverse depth in the other view
                u, v = u / z, v / z
            assert other.inverse_depth is not None
            found = cv2.remap(
                other.inverse_depth, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = found / expected
                tolerance = self.config.match_tolerance * (expected + blur)
                agrees = (z > 0) & (found > 0) & (np.abs(found - expected) < tolerance)
            agreed += agrees
            total[agrees] += inverse[agrees] * ratio[agrees]
        return total / (1 + agreed), (agreed > 0) & (inverse > 0)


def _baseline(a: StereoView, b: StereoView) -> float:
    return float(np.linalg.norm(a.camera.T_world_camera[:3, 3] - b.camera.T_world_camera[:3, 3]))


def _matrix(a: Camera, b: Camera) -> np.ndarray:
    """(3, 4): pixel (x, y) of ``a`` at inverse depth w is seen by ``b`` at M (x, y, 1, w), homogeneous; the third
    component is depth in b over depth in a."""
    b_from_a = b.T_camera_world @ a.T_world_camera
    return np.concatenate([b.K @ b_from_a[:3, :3] @ np.linalg.inv(a.K), (b.K @ b_from_a[:3, 3])[:, None]], axis=1)


def _projection(view: StereoView, source: StereoView) -> np.ndarray:
    """The same to pixels of the source's descriptors, whose pixel x is the mean of ``step`` pixels from x on."""
    full, height = source.frame.camera, source.descriptors.shape[0]
    step = height // source.camera.height
    half = (step - 1) / 2
    return _matrix(view.camera, replace(full, cx=full.cx - half, cy=full.cy - half))


def _overlap(a: Camera, b: Camera, depth: float) -> float:
    """Share of the image of ``a`` that ``b`` sees, if everything were at this depth."""
    x, y = np.meshgrid(np.linspace(0, a.width - 1, 8), np.linspace(0, a.height - 1, 6))
    points = _matrix(a, b) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size), np.full(x.size, 1 / depth)])
    ahead = points[2] > 0
    u, v = points[0] / np.where(ahead, points[2], 1), points[1] / np.where(ahead, points[2], 1)
    return float((ahead & (u >= 0) & (u < b.width) & (v >= 0) & (v < b.height)).mean())


def _smoothed(inverse: np.ndarray, blur: float) -> np.ndarray:
    """Neighbours whose inverse depths differ little, by SMOOTH * (inverse depth + blur), averaged; 0 stays 0."""
    known = inverse > 0
    logarithm = np.full(inverse.shape, -50, np.float32)
    np.log(inverse + np.float32(blur), out=logarithm, where=known)
    smooth = np.exp(cv2.bilateralFilter(logarithm, 7, SMOOTH, 2.0)) - np.float32(blur)
    smooth[~known] = 0
    return np.maximum(smooth, 0)


def _closed(inverse: np.ndarray, confirmed: np.ndarray, blur: float) -> np.ndarray:
    """Inverse depth where confirmed, else 0; but small gaps within an even surface are filled, and specks dropped."""
    weight = confirmed.astype(np.float32)
    kept = inverse * weight
    share, first, second = (cv2.blur(image, (5, 5)) for image in (weight, kept, kept * inverse))
    mean = first / np.maximum(share, 1e-6)
    spread = np.sqrt(np.maximum(second / np.maximum(share, 1e-6) - mean**2, 0))
    gap = ~confirmed & (share > 0.4) & (spread < SMOOTH * (mean + blur))
    kept[gap] = mean[gap]
    kept[share < 0.2] = 0
    return kept


def _enlarged(inverse: np.ndarray, blur: float, height: int, width: int) -> np.ndarray:
    """Depth at the image's resolution: between neighbours on one surface, else that of the nearest."""
    step = height // inverse.shape[0]
    size = (inverse.shape[1] * step, inverse.shape[0] * step)
    nearest = cv2.resize(inverse, size, interpolation=cv2.INTER_NEAREST)
    linear = cv2.resize(inverse, size, interpolation=cv2.INTER_LINEAR)
    inverse = np.where(np.abs(linear - nearest) < 2 * SMOOTH * (nearest + blur), linear, nearest)
    out = np.zeros((height, width), np.float32)
    np.divide(1, inverse, out=out[: size[1], : size[0]], where=nearest > 0)
    return out
