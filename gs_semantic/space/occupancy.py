"""What stands in the way on the floor: a grid of occupied, free and unknown cells, and costs around what is occupied, with a
distance of its own for each class.

A cell is occupied where a surface lies in the band of heights, free where all of the band above it was looked through, and
unknown else. Gaussians that float where cameras looked through do not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import rotation_matrices
from gs_semantic.space.discs import DISC, OPAQUE
from gs_semantic.space.seen import SeenSpace

UNKNOWN, FREE, OCCUPIED, INSCRIBED = -1, 0, 100, 99  # of nav_msgs/OccupancyGrid; 99: the robot's middle cannot be there
MOST_CELLS = 4_000_000
MOST_BAND_M = 2000.0
MOST_SAMPLES = 64  # along a disc, which stand for it
EVEN_M = 1e-6  # distances between cells are multiples of the resolution, but for rounding
SLICE_CELLS = 20_000  # columns of which heights are looked at at once: memory


@dataclass(frozen=True)
class GridSpec:
    """resolution m of a cell; low, high m: band of heights in the map; lower, upper (2,) m: corners of the grid, None:
    around all that was seen."""

    resolution: float = 0.05
    low: float = 0.1
    high: float = 1.5
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0.01 <= self.resolution <= 1:
            raise InvalidRequestError(f"resolution is {self.resolution}, expected 0.01 to 1 m")
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise InvalidRequestError(f"heights are {self.low} to {self.high} m, expected a band with low < high")
        if self.high - self.low > MOST_BAND_M:
            raise InvalidRequestError(f"heights are {self.low} to {self.high} m, expected a band of {MOST_BAND_M:g} m at most")
        if (self.lower is None) != (self.upper is None):
            raise InvalidRequestError("a grid has two corners, or none")
        if self.lower is not None and self.upper is not None:
            corners = np.array([self.lower, self.upper], float)
            if not (np.isfinite(corners).all() and (corners[0] < corners[1]).all()):
                raise InvalidRequestError(f"corners are {corners.tolist()}, expected the lower and the upper one")


@dataclass(frozen=True)
class Inflation:
    """Costs around obstacles as nav2_costmap_2d gives them: 99 within ``inscribed`` m (the robot's inner radius), then
    98 exp(-decay (distance - inscribed)), and nothing beyond ``radius`` m, or what ``by_class`` says for a class."""

    inscribed: float = 0.2
    radius: float = 0.5
    decay: float = 5.0
    by_class: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        radii = [self.inscribed, self.radius, self.decay, *(self.by_class or {}).values()]
        if not all(np.isfinite(value) and value >= 0 for value in radii):
            raise InvalidRequestError(f"inflation: {radii} are not all 0 or more")


@dataclass(frozen=True)
class Grid:
    """cells int8 (H, W): -1 unknown, 0 free, up to 100 occupied; row 0 lies at ``origin`` (2,) m, rows go along y, columns
    along x. slot int32 (H, W): object that occupies a cell, 0: none."""

    cells: np.ndarray
    slot: np.ndarray
    origin: np.ndarray
    resolution: float

    def index(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row and column (N,) of points (N, >= 2), and bool (N,): whether they lie on the grid."""
        column, row = np.floor((np.asarray(points)[:, :2] - self.origin) / self.resolution).astype(np.int64).T
        height, width = self.cells.shape
        return row, column, (row >= 0) & (column >= 0) & (row < height) & (column < width)


def occupancy(gaussians: GaussianMap, seen: SeenSpace, spec: GridSpec | None = None, without: Collection[int] = ()) -> Grid:
    """The grid of a map; ``without``: slots of objects that count as not there. InvalidRequestError for too large a grid."""
    spec = spec or GridSpec()
    lower, upper = seen.bounds() if spec.lower is None else (spec.lower, spec.upper)
    origin = np.floor(np.asarray(lower, float)[:2] / spec.resolution) * spec.resolution
    width, height = (max(1, int(n)) for n in np.ceil((np.asarray(upper, float)[:2] - origin) / spec.resolution))
    if width * height > MOST_CELLS:
        raise InvalidRequestError(f"a grid of {width} x {height} cells: at most {MOST_CELLS}; choose a coarser resolution")
    grid = Grid(
        np.full((height, width), UNKNOWN, np.int8), np.zeros((height, width), np.int32), origin, spec.resolution
    )
    grid.cells[_looked_through(grid, seen, spec)] = FREE
    points, slots = _obstacles(gaussians, spec, without)
    row, column, on = grid.index(points)
    on &= ~seen.clear(points)
    grid.cells[row[on], column[on]] = OCCUPIED
    belongs = np.flatnonzero(on)[np.argsort(slots[on], kind="stable")]  # an object rather than none
    grid.slot[row[belongs], column[belongs]] = slots[belongs]
    return grid


def _obstacles(gaussians: GaussianMap, spec: GridSpec, without: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 3) on the discs in the band of heights, dense enough for its cells, and the slot (P,) of each."""
    slots = gaussians["object"].numpy()
    height = gaussians.means[:, 2].numpy()
    chosen = gaussians.opacity_logits.numpy() > np.log(OPAQUE / (1 - OPAQUE))
    reach = DISC * np.exp(gaussians.log_scales.numpy().max(axis=1))
    chosen &= (height + reach >= spec.low) & (height - reach <= spec.high)
    if len(without):
        chosen &= ~np.isin(slots, list(without))
    rows = np.flatnonzero(chosen)
    number = np.clip(np.ceil(2 * reach[rows] / spec.resolution), 1, MOST_SAMPLES).astype(int)
    points, owners = [np.zeros((0, 3))], [np.zeros(0, np.int64)]
    for along in np.unique(number):
        own = rows[number == along]
        index = torch.from_numpy(own)
        scales = DISC * np.exp(gaussians.log_scales.numpy()[own])
        scales[np.arange(len(own)), scales.argmin(axis=1)] = 0  # a disc has no thickness
        share = (np.arange(along) + 0.5) / along * 2 - 1
        axes = rotation_matrices(gaussians.quats[index]).numpy() * scales[:, None]
        flat = np.argsort(scales, axis=1)[:, 1:]
        for u in share:
            for v in share:
                if u * u + v * v <= 1:
                    first, second = (np.take_along_axis(axes, flat[:, None, k : k + 1], 2)[..., 0] for k in (0, 1))
                    points.append(gaussians.means.numpy()[own] + u * first + v * second)
                    owners.append(own)
    place, owner = np.concatenate(points), np.concatenate(owners)
    within = (place[:, 2] >= spec.low) & (place[:, 2] <= spec.high)
    return place[within], slots[owner[within]]


def _looked_through(grid: Grid, seen: SeenSpace, spec: GridSpec) -> np.ndarray:
    """bool (H, W): has all of the band above a cell been seen?"""
    height, width = grid.cells.shape
    # every block of voxels is looked at, and within those near surfaces every second voxel
    levels = np.arange(spec.low, spec.high, 2 * seen.voxel)
    rows, columns = np.divmod(np.arange(height * width), width)
    middle = grid.origin + (np.stack([columns, rows], axis=1) + 0.5) * grid.resolution
    through = np.zeros(height * width, bool)
    for part in np.array_split(np.arange(height * width), max(1, height * width // SLICE_CELLS)):
        open_ = part
        for level in levels:
            points = np.column_stack([middle[open_], np.full(len(open_), level)])
            open_ = open_[seen.known(points)]
            if not len(open_):
                break
        through[open_] = True
    return through.reshape(height, width)


def inflate(grid: Grid, inflation: Inflation | None = None, classes: np.ndarray | None = None) -> Grid:
    """Costs around occupied cells; classes (S,) by slot. Unknown cells stay unknown unless the robot's middle cannot be there
    anyway."""
    inflation = inflation or Inflation()
    occupied = grid.cells == OCCUPIED
    radius = np.full(grid.cells.shape, inflation.radius)
    if inflation.by_class and classes is not None:
        of_cell = np.asarray(classes)[np.minimum(grid.slot, len(classes) - 1)]
        for class_id, own in inflation.by_class.items():
            radius[(of_cell == class_id) & (grid.slot > 0)] = own
    cost = np.zeros(grid.cells.shape)
    for own in np.unique(radius[occupied]):
        source = occupied & (radius == own)
        distance = distance_transform_edt(~source) * grid.resolution
        decaying = (INSCRIBED - 1) * np.exp(-inflation.decay * np.maximum(distance - inflation.inscribed, 0))
        own_cost = np.where(distance <= own + EVEN_M, decaying, 0)
        own_cost = np.where(distance <= inflation.inscribed + EVEN_M, INSCRIBED, own_cost)
        cost = np.maximum(cost, own_cost)
    cost = np.round(cost).astype(np.int8)
    cells = np.where(occupied, OCCUPIED, cost)
    cells = np.where((grid.cells == UNKNOWN) & (cost < INSCRIBED), UNKNOWN, cells).astype(np.int8)
    return Grid(cells, grid.slot, grid.origin, grid.resolution)
