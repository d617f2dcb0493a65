"""What has been looked at: a truncated signed distance field (TSDF; Curless and Levoy, 1996) in blocks of 8x8x8 voxels.

Blocks near a surface hold distances and weights. One that cameras looked through as a whole is free, one that they did
not is unknown, and neither takes memory beyond its place in the table of blocks, so that a house of 200 m2 at 2 cm needs about 130 MB.
"""

from __future__ import annotations

import ctypes

import numpy as np

from gs_semantic.errors import GsSemanticError
from gs_semantic.gaussians import Camera
from gs_semantic.rendering import native

SIDE = 8  # voxels along a block
VOXEL_M = 0.02
TRUNCATION = 4.0  # voxels
MOST_BLOCKS = 120_000  # near surfaces: 300 MB
COMPACT_AT, COMPACT_GROWTH = 20_000, 1.5  # blocks from which on, and their growth after which, they are looked through
MOST_PLACES = 30_000_000  # in the table of blocks
MARGIN_BLOCKS = 8  # by which the table grows beyond what is needed
NEAR_M = 0.05
MOST_WEIGHT = 8  # at which a voxel stops to trust new views less
MOST_INDEX = 1 << 30  # of a voxel; beyond, nothing is known anyway
UNKNOWN, FREE = -2, -1
AT_TRUNCATION = 0.98  # of it: voxels far from surfaces


class TooLargeError(GsSemanticError):
    """The space does not fit at this size of voxels."""


class TsdfFusionStruct(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("depth", "rows", "corners", "distance", "weight")),
        ("count", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("width", "height", "most_weight")),
        *((name, ctypes.c_float) for name in ("fx", "fy", "cx", "cy", "near", "truncation")),
        ("axes", ctypes.c_float * 9),
    ]


class TsdfVolume:
    """Grows with what is fused. voxel: edge in m."""

    def __init__(self, voxel: float = VOXEL_M) -> None:
        self.voxel = float(voxel)
        self.truncation = TRUNCATION * self.voxel
        self.block = SIDE * self.voxel
        self.first = np.zeros(3, np.int64)  # number of the table's first block along each axis, from the origin
        self.table = np.full((0, 0, 0), UNKNOWN, np.int32)  # row of a block, FREE or UNKNOWN
        # memory is taken when it is written to
        self.distance = np.zeros((MOST_BLOCKS, SIDE**3), np.float32)  # m, positive before surfaces
        self.weight = np.zeros((MOST_BLOCKS, SIDE**3), np.uint8)  # 0: unknown
        self._unused = np.arange(MOST_BLOCKS - 1, -1, -1)  # rows, of which the first ``_left`` are
        self._left = MOST_BLOCKS
        self._compact_at = COMPACT_AT

    @property
    def blocks(self) -> int:
        """Blocks that hold voxels."""
        return MOST_BLOCKS - self._left

    # --- fusing -----------------------------------------------------------------------------------------------------

    def fuse(
        self, camera: Camera, depth: np.ndarray, through: np.ndarray | None = None, threads: int | None = None
    ) -> None:
        """Add a depth image (H, W) m, 0 = none. through (H, W) m: how far each pixel's ray surely went through free space,
        if that is known where the depth is not. TooLargeError when the space does not fit."""
        depth = np.ascontiguousarray(depth, np.float32)
        if not depth.any():
            return
        cells, middles = self._in_view(camera, depth)
        local = (middles @ camera.T_camera_world[:3, :3].T + camera.T_camera_world[:3, 3]).astype(np.float32)
        half = 0.5 * np.sqrt(3) * self.block  # of a block, across
        nearest, least, most = _depths_in(depth, depth if through is None else through, camera, local, half)
        z = local[:, 2]
        state = self.table.reshape(-1)[cells]
        free = nearest > z + half + self.truncation
        self.table.reshape(-1)[cells[free & (state == UNKNOWN)]] = FREE
        reached = most > z - half - self.truncation
        surface = reached & (least < z + half + self.truncation)
        opened = cells[reached & ~free & (state == UNKNOWN) | surface & (state == FREE)]
        self._open(opened)
        rows = self.table.reshape(-1)[cells]
        touched = np.flatnonzero(reached & (rows >= 0))
        if len(touched):
            self._add(camera, depth, rows[touched], local[touched], threads)
        self._release(opened[~self.weight[self.table.reshape(-1)[opened]].any(axis=1)], UNKNOWN)

    def _in_view(self, camera: Camera, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat numbers (B,) and middles (B, 3) m of the blocks between a camera and what its depth image shows."""
        step = max(1, min(depth.shape) // 60)
        coarse = depth[::step, ::step]
        v, u = np.nonzero(coarse)
        rays = np.column_stack([(u * step - camera.cx) / camera.fx, (v * step - camera.cy) / camera.fy, np.ones(len(u))])
        eye = camera.T_world_camera[:3, 3]
        ends = np.vstack([rays * coarse[v, u, None] @ camera.T_world_camera[:3, :3].T + eye, eye])
        margin = self.truncation + self.block
        low = np.floor((ends.min(0) - margin) / self.block).astype(np.int64)
        high = np.floor((ends.max(0) + margin) / self.block).astype(np.int64)
        far = float(depth.max()) + self.truncation
        self._cover(low, high)
        axes = [np.arange(low[k], high[k] + 1) for k in range(3)]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        # a block beside what is seen would only be looked at in vain
        middles = (index + 0.5) * self.block
        local = middles @ camera.T_camera_world[:3, :3].T + camera.T_camera_world[:3, 3]
        reach = 0.9 * self.block
        z = local[:, 2]
        seen = (z > -reach) & (z < far + reach)
        for k, (focal, centre, size) in enumerate(
            ((camera.fx, camera.cx, camera.width), (camera.fy, camera.cy, camera.height))
        ):
            for edge, sign in ((-0.5, 1), (size - 0.5, -1)):  # planes through the edges of the image
                slope = (edge - centre) / focal
                seen &= sign * (local[:, k] - slope * z) > -reach * np.hypot(1, slope)
        cells = np.ravel_multi_index(tuple((index[seen] - self.first).T), self.table.shape)
        return cells, middles[seen]

    def _cover(self, low: np.ndarray, high: np.ndarray) -> None:
        """Grow the table to hold blocks from ``low`` to ``high`` (3,)."""
        first, shape = self.first, np.array(self.table.shape)
        if shape.any() and (low >= first).all() and (high < first + shape).all():
            return
        if shape.any():
            low, high = np.minimum(low - MARGIN_BLOCKS, first), np.maximum(high + MARGIN_BLOCKS, first + shape - 1)
        grown = high - low + 1
        if float(np.prod(grown.astype(float))) > MOST_PLACES:
            raise TooLargeError(f"space of {' x '.join(f'{n * self.block:.0f}' for n in grown)} m at {self.voxel} m")
        table = np.full(tuple(grown), UNKNOWN, np.int32)
        if shape.any():
            at = first - low
            table[tuple(slice(at[k], at[k] + shape[k]) for k in range(3))] = self.table
        self.first, self.table = low, table

    def _open(self, cells: np.ndarray) -> None:
        """Give voxels to blocks that have none."""
        if self.blocks + len(cells) > min(self._compact_at, MOST_BLOCKS):
            self.compact()
            self._compact_at = max(COMPACT_AT, int(COMPACT_GROWTH * (self.blocks + len(cells))))
        if len(cells) > self._left:
            raise TooLargeError(f"more than {MOST_BLOCKS} blocks of {self.block} m near surfaces")
        flat = self.table.reshape(-1)
        rows = self._unused[self._left - len(cells) : self._left]
        self._left -= len(cells)
        free = (flat[cells] == FREE)[:, None]
        self.distance[rows], self.weight[rows] = np.where(free, np.float32(self.truncation), 0), free
        flat[cells] = rows

    def _release(self, cells: np.ndarray, state: int) -> None:
        """Take the voxels of blocks that have some."""
        flat = self.table.reshape(-1)
        self._unused[self._left : self._left + len(cells)] = flat[cells]
        self._left += len(cells)
        flat[cells] = state

    def _add(
        self, camera: Camera, depth: np.ndarray, rows: np.ndarray, middles: np.ndarray, threads: int | None
    ) -> None:
        """Fuse into blocks, whose middles (B, 3) are in the camera's frame."""
        steps = (camera.T_camera_world[:3, :3] * self.voxel).T  # of a voxel along each axis
        corners = np.ascontiguousarray(middles - steps.sum(axis=0) * (SIDE - 1) / 2, np.float32)
        rows = np.ascontiguousarray(rows, np.int64)
        struct = TsdfFusionStruct(
            depth=depth.ctypes.data,
            rows=rows.ctypes.data,
            corners=corners.ctypes.data,
            distance=self.distance.ctypes.data,
            weight=self.weight.ctypes.data,
            count=len(rows),
            width=camera.width,
            height=camera.height,
            most_weight=MOST_WEIGHT,
            fx=camera.fx,
            fy=camera.fy,
            cx=camera.cx,
            cy=camera.cy,
            near=NEAR_M,
            truncation=self.truncation,
            axes=(ctypes.c_float * 9)(*steps.ravel()),
        )
        native.call("gs_tsdf_fuse", ctypes.byref(struct), threads or 0)

    def compact(self) -> None:
        """Give back the voxels of blocks that turned out to be free, or in which nothing was seen."""
        flat = self.table.reshape(-1)
        cells = np.flatnonzero(flat >= 0)
        for part in np.array_split(cells, max(1, len(cells) // 4096)):
            rows = flat[part]
            weight = self.weight[rows]
            free = ((self.distance[rows] >= AT_TRUNCATION * self.truncation) & (weight > 0)).all(axis=1)
            unseen = ~weight.any(axis=1)
            self._release(part[free], FREE)
            self._release(part[unseen], UNKNOWN)

    def forget(self, low: np.ndarray, high: np.ndarray) -> None:
        """Blocks that touch the box from ``low`` to ``high`` (3,) m become unknown."""
        start = np.floor(np.asarray(low) / self.block).astype(np.int64) - self.first
        stop = np.floor(np.asarray(high) / self.block).astype(np.int64) - self.first + 1
        part = tuple(slice(max(0, a), max(0, b)) for a, b in zip(start, stop, strict=True))
        cells = np.arange(self.table.size).reshape(self.table.shape)[part].reshape(-1)
        flat = self.table.reshape(-1)
        self._release(cells[flat[cells] >= 0], UNKNOWN)
        flat[cells] = UNKNOWN

    # --- asking -----------------------------------------------------------------------------------------------------

    def states(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row of the block of each point (N, 3), FREE or UNKNOWN, and its voxel in it."""
        voxel = np.floor(np.clip(np.asarray(points) * (1 / self.voxel), -MOST_INDEX, MOST_INDEX)).astype(np.int32)
        block, inner = voxel >> 3, voxel & 7
        index = block - self.first.astype(np.int32)
        inside = ((index >= 0) & (index < np.array(self.table.shape, np.int32))).all(axis=-1)
        shape = self.table.shape
        flat = (index[..., 0].astype(np.int64) * shape[1] + index[..., 1]) * shape[2] + index[..., 2]
        if not self.table.size:
            return np.full(inside.shape, UNKNOWN, np.int32), np.zeros(inside.shape, np.int32)
        row = np.where(inside, self.table.reshape(-1)[np.where(inside, flat, 0)], UNKNOWN)
        return row, (inner[..., 0] * SIDE + inner[..., 1]) * SIDE + inner[..., 2]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high corner (3,) m of the blocks that are not unknown; both 0 where there are none."""
        known = self.table != UNKNOWN
        if not known.any():
            return np.zeros(3), np.zeros(3)
        ends = [np.flatnonzero(known.any(axis=tuple(k for k in range(3) if k != axis)))[[0, -1]] for axis in range(3)]
        low, high = np.array(ends).T + self.first
        return low * self.block, (high + 1) * self.block

    def known(self, points: np.ndarray) -> np.ndarray:
        """Has somebody looked there: bool (N,) for points (N, 3) m."""
        return self.in_voxels(points)[1]

    def in_voxels(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As ``at``, but the distance in the middle of the voxel that a point lies in."""
        row, voxel = self.states(points)
        held, known = np.flatnonzero(row >= 0), row == FREE
        distance = np.where(known, np.float32(self.truncation), np.float32(0))
        own = row[held], voxel[held]
        distance[held], known[held] = self.distance[own], self.weight[own] > 0
        return distance, known

    def at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance (N,) m along the cameras' views at points (N, 3), at most the truncation, between voxels by trilinear
        interpolation over those that are known; and whether the point's own voxel is known, bool (N,)."""
        known = self.known(points)
        start = np.asarray(points) - 0.5 * self.voxel
        share = start / self.voxel
        share -= np.floor(share)
        total, weights = np.zeros(len(start)), np.zeros(len(start))
        for corner in np.ndindex(2, 2, 2):
            distance, seen = self.in_voxels(start + np.array(corner) * self.voxel)
            part = np.prod(np.where(corner, share, 1 - share), axis=1) * seen
            total += part * distance
            weights += part
        return np.where(known, total / np.maximum(weights, 1e-9), 0.0), known


def _depths_in(
    depth: np.ndarray, through: np.ndarray, camera: Camera, middles: np.ndarray, half: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For balls in the camera's frame, middles (B, 3) and radius ``half`` m: over the pixels that each covers, the least
    of ``through``, which is 0 outside of the image; and the least and greatest depth of those that have one.

    From an image pyramid: at the level where a ball is not wider than a pixel it touches 2x2 of them.
    """
    z = np.maximum(middles[:, 2] - half, NEAR_M)
    in_front = middles[:, 2] > half
    u = middles[:, 0] / np.maximum(middles[:, 2], NEAR_M) * camera.fx + camera.cx
    v = middles[:, 1] / np.maximum(middles[:, 2], NEAR_M) * camera.fy + camera.cy
    radius = np.maximum(camera.fx, camera.fy) * half / z * np.hypot(
        1, np.hypot((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy)
    )
    top = int(np.ceil(np.log2(max(depth.shape)))) + 1
    level = np.clip(np.ceil(np.log2(2 * radius + 1)), 0, top).astype(int)
    close = np.where(depth > 0, depth, np.inf).astype(np.float32)
    images: tuple[np.ndarray, ...] = (through.astype(np.float32), close, depth)
    out = tuple(np.zeros(len(middles), np.float32) for _ in range(3))
    reductions = (np.minimum, np.minimum, np.maximum)
    outside = (np.inf, np.inf, 0.0)
    for number in range(top + 1):
        own = np.flatnonzero(level == number)
        if len(own):
            column = np.floor((u[own] - radius[own] + 0.5) / (1 << number))
            line = np.floor((v[own] - radius[own] + 0.5) / (1 << number))
            last_column = np.floor((u[own] + radius[own] + 0.5) / (1 << number))
            last_line = np.floor((v[own] + radius[own] + 0.5) / (1 << number))
            for image, target, reduction, beyond in zip(images, out, reductions, outside, strict=True):
                height, width = image.shape
                value = np.full(len(own), np.inf if reduction is np.minimum else 0.0, np.float32)
                for y in (line, last_line):
                    for x in (column, last_column):
                        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
                        at = np.where(inside, y, 0).astype(int), np.where(inside, x, 0).astype(int)
                        value = reduction(value, np.where(inside, image[at], np.float32(beyond)))
                target[own] = value
        images = tuple(
            _halved(image, reduction, beyond)
            for image, reduction, beyond in zip(images, reductions, outside, strict=True)
        )
    wide = 2 * radius + 1 > 1 << top
    whole = (u - radius >= -0.5) & (v - radius >= -0.5)
    whole &= (u + radius <= camera.width - 0.5) & (v + radius <= camera.height - 0.5)
    out[0][wide | ~in_front | ~whole] = 0  # nobody sees all of it
    out[1][wide], out[2][wide] = close.min(), depth.max()
    return out[0], out[1], out[2]


def _halved(image: np.ndarray, reduction: np.ufunc, beyond: float) -> np.ndarray:
    """An image of half the size; what is outside of it counts as ``beyond``."""
    height, width = (-(-n // 2) for n in image.shape)
    padded = np.full((2 * height, 2 * width), beyond, np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    return np.asarray(reduction.reduce(padded.reshape(height, 2, width, 2), axis=(1, 3)))
