"""A plain voxel average of all frames: the simple method that the Gaussian map must beat."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from gs_semantic.gaussians import Camera, Frame

BITS = 21  # per axis in a packed voxel key; at 4 cm that is 84 km
OFFSET = 1 << (BITS - 1)


class VoxelBaseline:
    """Mean colour and most frequent label of every voxel that a depth pixel ever fell into.

    A view is answered by looking up the voxel of each pixel's own point, from the view's depth; where that voxel is
    empty, the nearest filled one. Labels must mean the same in every frame.
    """

    def __init__(self, size: float = 0.04) -> None:
        self.size = size
        self._colour: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # keys, colour sums, pixels
        self._votes: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # keys, labels, pixels
        self._tree: cKDTree | None = None

    def add(self, frame: Frame, labels: np.ndarray | None = None) -> None:
        """Take a frame with depth; ``labels`` int (H, W), 0 = unlabelled (default: its instances)."""
        if frame.depth is None:
            raise ValueError("the voxel baseline needs depth")
        labels = frame.instances if labels is None else labels
        points = frame.camera.unproject(frame.depth)
        valid = np.isfinite(points[..., 2])
        keys, voxel, pixels = np.unique(self._keys(points[valid]), return_inverse=True, return_counts=True)
        rgb = frame.rgb[valid]
        sums = np.stack([np.bincount(voxel, weights=rgb[:, c], minlength=len(keys)) for c in range(3)], axis=1)
        self._colour.append((keys, sums, pixels))
        if labels is not None:
            codes, pixels = np.unique(voxel.astype(np.int64) << 32 | labels[valid].astype(np.int64), return_counts=True)
            voted, voter = codes & 0xFFFFFFFF, codes >> 32
            self._votes.append((keys[voter[voted > 0]], voted[voted > 0], pixels[voted > 0]))
        self._tree = None

    def render(self, camera: Camera, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Colour uint8 (H, W, 3) and label int32 (H, W) of a view with this depth (m); black and 0 without depth."""
        if self._tree is None:
            self._finish()
        points = camera.unproject(depth)
        valid = np.isfinite(points[..., 2])
        keys = self._keys(points[valid])
        row = np.minimum(np.searchsorted(self._filled, keys), len(self._filled) - 1)
        missed = self._filled[row] != keys
        if missed.any():
            assert self._tree is not None
            row[missed] = self._tree.query(points[valid][missed], workers=1)[1]
        rgb = np.zeros((*depth.shape, 3), np.uint8)
        labels = np.zeros(depth.shape, np.int32)
        rgb[valid], labels[valid] = self._mean[row], self._label[row]
        return rgb, labels

    def __len__(self) -> int:
        """Filled voxels."""
        if self._tree is None:
            self._finish()
        return len(self._filled)

    def _keys(self, points: np.ndarray) -> np.ndarray:
        cell = np.floor(points / self.size).astype(np.int64) + OFFSET
        return cell[:, 0] << 2 * BITS | cell[:, 1] << BITS | cell[:, 2]

    def _finish(self) -> None:
        """Join what the frames gave: one row per filled voxel, sorted by key."""
        keys, sums, pixels = (np.concatenate(column) for column in zip(*self._colour, strict=True))
        self._filled, voxel = np.unique(keys, return_inverse=True)
        count = np.bincount(voxel, weights=pixels)
        mean = np.stack([np.bincount(voxel, weights=sums[:, c]) / count for c in range(3)], axis=1)
        self._mean = np.round(mean).astype(np.uint8)
        self._label = np.zeros(len(self._filled), np.int32)
        if self._votes:
            keys, voted, pixels = (np.concatenate(column) for column in zip(*self._votes, strict=True))
            codes = np.searchsorted(self._filled, keys).astype(np.int64) << 32 | voted
            codes, pair = np.unique(codes, return_inverse=True)
            total = np.bincount(pair, weights=pixels)
            order = np.argsort(total, kind="stable")  # the most frequent label is written last and stays
            self._label[codes[order] >> 32] = (codes[order] & 0xFFFFFFFF).astype(np.int32)
        axes = np.stack([self._filled >> 2 * BITS, self._filled >> BITS, self._filled], axis=1) & ((1 << BITS) - 1)
        self._tree = cKDTree((axes - OFFSET + 0.5) * self.size)
