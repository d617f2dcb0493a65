"""New Gaussians from a depth image: a quadtree of discs that tile the observed surface.

Where colour, label and depth are smooth, one disc stands for a block of up to 8x8 pixels; at edges every pixel gets its
own. A disc is the footprint of its block on the local plane, so slanted surfaces are covered without gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from gs_semantic.gaussians import Camera
from gs_semantic.gaussians.gaussian_map import SH_C0
from gs_semantic.mapping.config import MapperConfig

CUT = 8  # px: largest block; images are worked on in blocks of this size
MAX_SLANT = 4.0  # steepest depth gradient followed, in units of the pixel footprint (about 76 degrees)
THICKNESS = 0.15  # thickness of a disc relative to its smaller half axis


@dataclass(frozen=True)
class Seeds:
    """Rows for ``GaussianMap.add`` and where they came from: pixel (M, 2) u, v of the block centre; size (M,) pixels."""

    means: np.ndarray
    quats: np.ndarray
    log_scales: np.ndarray
    opacity_logits: np.ndarray
    sh: np.ndarray
    pixel: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.means)

    def take(self, index: np.ndarray) -> Seeds:
        return Seeds(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})

    @property
    def rows(self) -> dict[str, np.ndarray]:
        return {n: getattr(self, n) for n in ("means", "quats", "log_scales", "opacity_logits", "sh")}


@dataclass(frozen=True)
class Surface:
    """Local geometry of a depth image, per pixel. inverse: 1 / depth (0 where none). step_x[v, u]: the surface breaks
    between (u, v) and (u + 1, v); step_y likewise downwards. grad_x, grad_y: derivative of inverse depth per pixel,
    taken on the side of a break that the pixel belongs to."""

    inverse: np.ndarray
    step_x: np.ndarray
    step_y: np.ndarray
    grad_x: np.ndarray
    grad_y: np.ndarray


def surface(depth: np.ndarray) -> Surface:
    """Analyse depth (H, W) m, 0 = none. Inverse depth is linear along a scanline of any plane, whatever its slant, so
    a break is where its difference departs from the differences on both sides, by more than sensor noise would."""
    inverse = np.zeros_like(depth)
    np.divide(1.0, depth, out=inverse, where=depth > 0)
    tolerance = inverse * 0.012 + np.float32(0.006)  # relative 0.012 + 0.006 z, times 1 / z
    step_x, grad_x = _steps(inverse, tolerance)
    step_y, grad_y = _steps(inverse.T, tolerance.T)
    return Surface(inverse, step_x, step_y.T, grad_x, grad_y.T)


def _steps(w: np.ndarray, tolerance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Breaks after each pixel along a row, and the one-sided or central derivative of ``w`` along it."""
    difference = np.zeros_like(w)
    difference[:, :-1] = w[:, 1:] - w[:, :-1]
    before = np.zeros_like(w)
    before[:, 1:] = difference[:, :-1]
    after = np.zeros_like(w)
    after[:, :-1] = difference[:, 1:]
    missing = w <= 0
    gap = missing.copy()
    gap[:, :-1] |= missing[:, 1:]
    gap[:, -1] = True
    step = (np.abs(difference - before) > tolerance) & (np.abs(difference - after) > tolerance)
    # where a neighbour has no depth there is no slope to compare with: only a plain jump counts as a break
    beside = gap.copy()
    beside[:, 1:] |= gap[:, :-1]
    beside[:, :-1] |= gap[:, 1:]
    step[beside] = (np.abs(difference) > 3 * tolerance)[beside]
    step[gap] = False
    stop = step | gap
    left = np.ones_like(stop)  # a break or gap before the pixel
    left[:, 1:] = stop[:, :-1]
    grad = np.where(left, difference, np.where(stop, before, 0.5 * (difference + before)))
    grad[left & stop] = 0
    return step, grad


def _cut(image: np.ndarray, at: tuple[np.ndarray, ...]) -> np.ndarray:
    """Chosen 8x8 blocks of an image: (H, W, ...) -> (B, 8, 8, ...)."""
    height, width = image.shape[:2]
    blocks = image.reshape(height // CUT, CUT, width // CUT, CUT, *image.shape[2:])
    return blocks[at[0], :, at[1]]


def _cells_with_any(mask: np.ndarray) -> np.ndarray:
    """Which 8x8 blocks of a bool image (H, W) have any: (H/8, W/8)."""
    height, width = mask.shape
    return np.logical_or.reduce(mask.reshape(height // CUT, CUT, width // CUT, CUT), axis=(1, 3))


def _halve(blocks: np.ndarray, reduce: np.ufunc) -> np.ndarray:
    """Reduce 2x2 cells: (B, h, w, ...) -> (B, h/2, w/2, ...)."""
    rows = reduce(blocks[:, 0::2], blocks[:, 1::2])
    return reduce(rows[:, :, 0::2], rows[:, :, 1::2])


def _distance_to_border(local: Surface, labels: np.ndarray | None) -> np.ndarray:
    """Distance in px (0 at the border) of each pixel to the nearest depth break or change from
    one label to another. A large disc reaches
    over the edge of its block, and where it happens to be sorted in front it would smear the border."""
    inside = np.ones(local.inverse.shape, np.uint8)
    across_x, across_y = local.step_x[:, :-1].copy(), local.step_y[:-1].copy()
    if labels is not None:
        known = labels > 0
        across_x |= (labels[:, 1:] != labels[:, :-1]) & known[:, 1:] & known[:, :-1]
        across_y |= (labels[1:] != labels[:-1]) & known[1:] & known[:-1]
    inside[:, :-1][across_x] = inside[:, 1:][across_x] = 0
    inside[:-1][across_y] = inside[1:][across_y] = 0
    return cv2.distanceTransform(inside, cv2.DIST_L2, 3)


def _broken(step_x: np.ndarray, step_y: np.ndarray, size: int) -> np.ndarray:
    """Cells of ``size`` px whose surface breaks between their halves; steps as (B, 8, 8)."""
    count = CUT // size
    columns = step_x[:, :, size // 2 - 1 :: size].reshape(-1, count, size, count).any(2)
    rows = step_y[:, size // 2 - 1 :: size].reshape(-1, count, count, size).any(3)
    return np.logical_or(columns, rows)


def make_seeds(
    rgb: np.ndarray,
    depth: np.ndarray,
    wanted: np.ndarray,
    camera: Camera,
    config: MapperConfig,
    labels: np.ndarray | None = None,
) -> Seeds:
    """Discs for the pixels in ``wanted`` (H, W) bool that have depth. rgb uint8, depth float32 m, labels int32 (H, W)."""
    height, width = depth.shape
    pad_y, pad_x = -height % CUT, -width % CUT
    if pad_y or pad_x:
        rgb = np.pad(rgb, ((0, pad_y), (0, pad_x), (0, 0)), mode="edge")
        depth = np.pad(depth, ((0, pad_y), (0, pad_x)))
        wanted = np.pad(wanted, ((0, pad_y), (0, pad_x)))
        labels = None if labels is None else np.pad(labels, ((0, pad_y), (0, pad_x)))
    valid = wanted & (depth > 0)
    local = surface(depth)
    border = _distance_to_border(local, labels)
    # most keyframes show little that is new: only blocks with something wanted are looked at
    at = np.nonzero(_cells_with_any(valid))
    rgb, depth, valid, room = (_cut(image, at) for image in (rgb, depth, valid, border))
    step_x, step_y = _cut(local.step_x, at), _cut(local.step_y, at)
    geometry = [_cut(image, at)[..., None] for image in (local.inverse, local.grad_x, local.grad_y)]
    labels = None if labels is None else _cut(labels, at)

    mean = np.concatenate([*geometry, (room <= 1)[..., None], rgb.astype(np.float32) / 255.0], axis=3)
    mean[~valid] = 0
    count = valid.astype(np.float32)
    depths = (depth > 0).astype(np.float32)
    low, high = rgb, rgb
    smooth = np.ones_like(valid)
    label_low = label_high = labels
    pixel_size = 1.0 / max(camera.fx, camera.fy)

    levels = []  # (size, sums (B,h,w,7), counts (B,h,w), may be one seed (B,h,w))
    size = 1
    levels.append((1, mean, count, valid))
    while size < config.seed_max_block_px:
        size *= 2
        mean = _halve(mean, np.add)
        count = _halve(count, np.add)
        depths = _halve(depths, np.add)
        low, high = _halve(low, np.minimum), _halve(high, np.maximum)
        smooth = _halve(smooth, np.logical_and) & ~_broken(step_x, step_y, size)
        room = _halve(room, np.minimum)
        # blocks below the smallest spacing are merged whatever they show
        with np.errstate(divide="ignore", invalid="ignore"):
            spacing = 0.5 * size * pixel_size * count / mean[..., 0]
        tiny = spacing < config.seed_min_size_m
        tolerance = int(config.seed_colour_tolerance * 255)
        even = (high.astype(np.int16) - low).max(-1) <= tolerance if size > config.seed_detail_px else count > 0
        if label_low is not None and label_high is not None:
            label_low, label_high = _halve(label_low, np.minimum), _halve(label_high, np.maximum)
            even &= label_low == label_high
        filled = (count >= 0.6 * depths) & (depths >= 0.25 * size * size)  # sensors leave holes: they are covered, too
        mergeable = filled & smooth & (even | tiny) & (room >= config.seed_border_margin * size)
        levels.append((size, mean, count, mergeable))

    parts: list[tuple[np.ndarray, ...]] = []
    taken = np.zeros(levels[-1][2].shape, dtype=bool)
    for size, sums, counts, mergeable in reversed(levels):
        emit = mergeable & ~taken & (counts > 0)
        block, y, x = np.nonzero(emit)
        if len(y):
            stats = sums[block, y, x] / counts[block, y, x][:, None]
            x, y = x + at[1][block] * (CUT // size), y + at[0][block] * (CUT // size)
            parts.append((x, y, np.full(len(x), size, np.float32), stats))
        taken |= emit
        if size > 1:
            taken = taken.repeat(2, axis=1).repeat(2, axis=2)
    if not parts:
        empty = np.zeros((0, 3), np.float32)
        return Seeds(empty, np.zeros((0, 4), np.float32), empty, empty[:, 0], empty[:, None], empty[:, :2], empty[:, 0])
    x, y, sizes, stats = (np.concatenate(p) for p in zip(*parts, strict=True))
    return _discs(x, y, sizes, stats.astype(np.float32), camera, config)


def _discs(
    x: np.ndarray, y: np.ndarray, size: np.ndarray, stats: np.ndarray, camera: Camera, config: MapperConfig
) -> Seeds:
    """Discs of blocks at block coordinates x, y; stats (M, 7): inverse depth, its gradient,
    share of border pixels, colour."""
    u = (x * size + (size - 1) / 2).astype(np.float32)
    v = (y * size + (size - 1) / 2).astype(np.float32)
    z = 1.0 / stats[:, 0]
    ray = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], 1).astype(np.float32)
    steep = MAX_SLANT * z / camera.fx
    dz_du = np.clip(-(z**2) * stats[:, 1], -steep, steep)
    dz_dv = np.clip(-(z**2) * stats[:, 2], -steep, steep)
    du = ray * dz_du[:, None]
    du[:, 0] += z / camera.fx
    dv = ray * dz_dv[:, None]
    dv[:, 1] += z / camera.fy
    sigma = size * np.where(stats[:, 3] > 0, config.seed_border_sigma, config.seed_sigma)
    du *= sigma[:, None]
    dv *= sigma[:, None]
    # principal axes of the ellipse du du' + dv dv' on the plane they span
    a = np.einsum("ij,ij->i", du, du)
    b = np.einsum("ij,ij->i", du, dv)
    c = np.einsum("ij,ij->i", dv, dv)
    theta = 0.5 * np.arctan2(2 * b, a - c)
    cos, sin = np.cos(theta)[:, None], np.sin(theta)[:, None]
    major, minor = du * cos + dv * sin, dv * cos - du * sin
    s1 = np.linalg.norm(major, axis=1)
    s2 = np.linalg.norm(minor, axis=1)
    e1 = major / s1[:, None]
    normal = np.cross(e1, minor)
    normal /= np.linalg.norm(normal, axis=1)[:, None]
    e2 = np.cross(normal, e1)
    rotation = np.stack([e1, e2, normal], axis=2)  # columns
    pose = camera.T_world_camera.astype(np.float32)
    rotation = pose[:3, :3] @ rotation
    s3 = THICKNESS * np.minimum(s1, s2)
    means = (ray * z[:, None]) @ pose[:3, :3].T + pose[:3, 3]
    opacity = float(np.log(config.seed_opacity / (1 - config.seed_opacity)))
    return Seeds(
        means=means.astype(np.float32),
        quats=quaternions(rotation),
        log_scales=np.log(np.stack([s1, s2, s3], 1)).astype(np.float32),
        opacity_logits=np.full(len(u), opacity, np.float32),
        sh=((stats[:, None, 4:7] - 0.5) / SH_C0).astype(np.float32),
        pixel=np.stack([u, v], 1),
        size=size,
    )


def quaternions(rotation: np.ndarray) -> np.ndarray:
    """wxyz quaternions (M, 4) of rotation matrices (M, 3, 3); the largest component is computed first, for accuracy."""
    m = rotation
    trace = np.stack(
        [
            1 + m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2],
            1 + m[:, 0, 0] - m[:, 1, 1] - m[:, 2, 2],
            1 - m[:, 0, 0] + m[:, 1, 1] - m[:, 2, 2],
            1 - m[:, 0, 0] - m[:, 1, 1] + m[:, 2, 2],
        ],
        1,
    )
    a, b, c = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    d, e, f = m[:, 1, 0] + m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] + m[:, 1, 2]
    t0, t1, t2, t3 = trace.T
    table = np.stack(
        [
            np.stack([t0, a, b, c], 1),
            np.stack([a, t1, d, e], 1),
            np.stack([b, d, t2, f], 1),
            np.stack([c, e, f, t3], 1),
        ],
        1,
    )
    best = table[np.arange(len(m)), trace.argmax(1)]
    return (best / np.linalg.norm(best, axis=1)[:, None]).astype(np.float32)
