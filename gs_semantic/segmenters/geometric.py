"""Masks from colour and depth alone: no weights, no classes.

Everything is done on inverse depth w = 1/z, because it makes the facts used here simple:

* a plane is an affine function of the pixel, so that fitting one is linear regression on pixel coordinates;
* depth noise that grows with z^2 is the same everywhere;
* perspective keeps straight lines straight, so the sign of the second difference of w along a line tells a concave
  crease or a step to what lies behind (positive: there objects meet) from a convex crease (negative: an edge of one
  object).

Lengths in pixels are at the working width, at which the whole takes about 15 ms of one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Frame, MaskInfo
from gs_semantic.labels import LabelSet
from gs_semantic.segmenters.base import Segmentation
from gs_semantic.segmenters.regions import Borders, RegionSums, union
from gs_semantic.segmenters.settings import setting

STRENGTH_LIMIT = 3.0  # an edge is at most so strong: beyond, it is only certain
ROUNDS = 12  # of joining neighbours; each at least halves what can still be joined


@dataclass(frozen=True)
class GeometricConfig:
    """Every field is documented in its metadata."""

    width_px: int = setting(320, "images are worked on at this width", 64, 2048)
    depth_min_m: float = setting(0.1, "depth nearer than this is not used", 0.0, 10.0)
    depth_max_m: float = setting(20.0, "depth farther than this is not used", 0.1, 1000.0)
    hole_px: int = setting(6, "holes in the depth up to about twice this width are filled", 0, 100)
    arm_px: int = setting(3, "second differences are taken over this many pixels to both sides", 1, 20)
    crease: float = setting(0.0012, "second difference of inverse depth that is an edge, 1/m", 0.0, 1.0)
    crease_relative: float = setting(0.0045, "the same, part that grows with inverse depth", 0.0, 1.0)
    colour_edge: float = setting(40.0, "colour step (CIE Lab) that is an edge", 1.0, 500.0)
    seed_px: int = setting(15, "a region starts from at least so many pixels between edges", 1, 100000)
    join_crease: float = setting(0.55, "regions are joined when edge strength / this + ...", 0.01, 100.0)
    join_colour: float = setting(55.0, "... difference of mean colours (CIE Lab) / this < 1", 1.0, 1000.0)
    join_small: float = setting(0.75, "... which is less by this for regions of least_px, falling with size", 0.0, 10.0)
    least_px: int = setting(35, "smaller regions are given to a neighbour", 1, 100000)
    plane_px: int = setting(300, "smaller regions are not joined over a distance", 1, 1000000)
    plane_tolerance: float = setting(0.003, "regions this close to one plane, relative to depth, are joined", 0.0, 1.0)
    plane_colour: float = setting(20.0, "... when their mean colours (CIE Lab) differ by less", 0.0, 500.0)
    mask_share: float = setting(0.002, "masks that fill less than this share of the image are left out", 0.0, 1.0)


class GeometricSegmenter:
    """Depth steps, concave creases and strong colour edges make regions; those that little separates are joined."""

    needs_depth = True
    labels: LabelSet | None = None

    def __init__(self, config: GeometricConfig | None = None) -> None:
        self.config = config or GeometricConfig()

    def segment(self, frame: Frame) -> Segmentation:
        """Masks of a frame with depth; there is none where no depth is near."""
        if frame.depth is None:
            raise InvalidInputError("depth: the geometric segmenter needs a depth image with every colour image")
        height, width = frame.depth.shape
        scale = min(1.0, self.config.width_px / width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        inverse, known = self._inverse_depth(frame.depth, size)
        if not known.any():
            return Segmentation(np.zeros((height, width), np.int32))
        rgb = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
        lab = cv2.medianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), 5)
        concave, convex = self._bends(inverse)
        inside = (concave < 1) & (colour_steps(lab) < self.config.colour_edge)
        regions = self._regions(inside & known, known, inverse, lab)
        flat = (np.maximum(concave, convex) < 1) & known
        labels = np.where(known, self._joined(regions, concave, flat, inverse, lab), 0)
        pixels = np.bincount(labels.ravel())
        labels[pixels[labels] < self.config.mask_share * labels.size] = 0
        wide = cv2.resize(labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
        labels = wide.astype(np.int32)
        ids = np.nonzero(np.bincount(labels.ravel()))[0]
        return Segmentation(labels, {int(key): MaskInfo() for key in ids if key > 0})

    # --- steps, all at the working size -----------------------------------------------------------------------------

    def _inverse_depth(self, depth: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Smoothed 1/z, float32, unknown pixels like the nearest known one; and which are known, small holes too."""
        config = self.config
        valid = (depth > config.depth_min_m) & (depth < config.depth_max_m)  # False for NaN
        inverse = np.divide(1, depth, out=np.zeros(depth.shape, np.float32), where=valid)
        total = cv2.resize(inverse, size, interpolation=cv2.INTER_AREA)
        share = cv2.resize(valid.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        measured = share > 0.2
        if not measured.any():
            return total, measured
        filled = np.where(measured, total / np.maximum(share, 1e-6), 0)[nearest(measured)]
        radius = config.hole_px
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        # the border repeats the image, so that closing does not eat what touches it
        wide = cv2.copyMakeBorder(measured.astype(np.uint8), radius, radius, radius, radius, cv2.BORDER_REPLICATE)
        closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, disc)
        known = closed[radius : radius + size[1], radius : radius + size[0]] > 0
        return cv2.GaussianBlur(cv2.medianBlur(filled, 3), (3, 3), 0), known

    def _bends(self, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How concave and how convex the surface is, each the largest of four directions; 1 is an edge."""
        config, arm = self.config, self.config.arm_px
        padded = cv2.copyMakeBorder(inverse, arm, arm, arm, arm, cv2.BORDER_REPLICATE)
        height, width = inverse.shape
        concave, convex = np.zeros_like(inverse), np.zeros_like(inverse)
        for dy, dx in ((0, arm), (arm, 0), (arm, arm), (arm, -arm)):
            plus = padded[arm + dy : arm + dy + height, arm + dx : arm + dx + width]
            minus = padded[arm - dy : arm - dy + height, arm - dx : arm - dx + width]
            bend = plus + minus - 2 * inverse
            np.maximum(concave, bend, out=concave)
            np.maximum(convex, -bend, out=convex)
        tolerance = config.crease + config.crease_relative * inverse
        return concave / tolerance, convex / tolerance

    def _regions(self, inside: np.ndarray, known: np.ndarray, inverse: np.ndarray, lab: np.ndarray) -> np.ndarray:
        """Many regions, int32, 0 = none: connected pixels that are ``inside``, grown over what is known around."""
        _, seeds, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=4)
        large = stats[:, cv2.CC_STAT_AREA] >= self.config.seed_px
        large[0] = False
        seeds = np.where(large, np.cumsum(large), 0).astype(np.int32)[seeds]
        if not seeds.any():
            return known.astype(np.int32)
        # watershed floods the most similar neighbours first: here in lightness, log depth and one colour channel
        guide = lab.copy()
        guide[..., 1] = np.clip(128 + 60 * np.log(np.maximum(inverse, 1e-3)), 0, 255)
        grown = cv2.watershed(guide, seeds.copy())  # leaves -1 between regions and on the image's border
        grown = np.where(grown > 0, grown, seeds)
        return np.where(known, grown[nearest(grown > 0)], 0)

    def _joined(
        self, labels: np.ndarray, concave: np.ndarray, flat: np.ndarray, inverse: np.ndarray, lab: np.ndarray
    ) -> np.ndarray:
        """Regions joined, first with neighbours from which little separates them, then with others in their plane."""
        config = self.config
        regions = RegionSums.of(labels, lab, inverse, flat)
        borders = Borders.of(labels, np.minimum(concave, STRENGTH_LIMIT))
        table = np.arange(len(regions))
        for _ in range(ROUNDS):
            a, b = borders.a, borders.b
            smaller = np.minimum(regions.area[a], regions.area[b])
            score = borders.strength / config.join_crease + regions.colour_difference(a, b) / config.join_colour
            score -= config.join_small * config.least_px / np.maximum(smaller, 1)
            a, b = borders.closest(score, (score < 1) | (smaller < config.least_px), regions.area < config.least_px)
            if not len(a):
                break
            step = union(len(regions), a, b)
            regions, borders, table = regions.joined(step), borders.renumbered(step), step[table]
        large = np.nonzero(regions.flat_area >= config.plane_px)[0]
        large = large[large > 0]
        i, j = np.triu_indices(len(large), 1)
        a, b = large[i], large[j]
        same = regions.plane_error(a, b) < config.plane_tolerance
        same &= regions.colour_difference(a, b) < config.plane_colour
        return union(len(regions), a[same], b[same])[table][labels]


def colour_steps(lab: np.ndarray) -> np.ndarray:
    """Colour step over two pixels, float32 (H, W), of a Lab image uint8 (H, W, 3)."""
    dx, dy = (cv2.Sobel(lab, cv2.CV_32F, *axes, ksize=3, scale=0.25) for axes in ((1, 0), (0, 1)))
    return np.sqrt((dx * dx + dy * dy).sum(axis=2))


def nearest(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column, int (H, W) each, of the pixel of a bool mask (H, W) that is nearest to every pixel.

    The mask must have a pixel.
    """
    _, which = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(mask)
    place = np.zeros(int(which.max()) + 1, np.int64)
    place[which[rows, columns]] = np.arange(len(rows))
    found = place[which]
    return rows[found], columns[found]
