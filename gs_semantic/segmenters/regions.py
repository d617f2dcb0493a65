"""Regions of an image as a graph: what they are like, which ones touch, and joining them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Borders:
    """Pairs of touching regions (P,), a < b, each once: the pixels along the border and the edge strength there."""

    a: np.ndarray
    b: np.ndarray
    length: np.ndarray
    strength: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, edges: np.ndarray) -> Borders:
        """Borders in an image of regions (H, W), 0 = none; ``edges`` float32 (H, W) are averaged along them."""
        a, b, strength = [], [], []
        for first, second in (((slice(None), slice(-1)), (slice(None), slice(1, None))), (slice(-1), slice(1, None))):
            left, right = labels[first], labels[second]
            touching = (left != right) & (left > 0) & (right > 0)
            a.append(left[touching])
            b.append(right[touching])
            strength.append(np.maximum(edges[first][touching], edges[second][touching]))
        pairs = np.concatenate(a), np.concatenate(b)
        return cls._pooled(*pairs, np.ones(len(pairs[0])), np.concatenate(strength))

    @classmethod
    def _pooled(cls, a: np.ndarray, b: np.ndarray, length: np.ndarray, strength: np.ndarray) -> Borders:
        """One entry per pair, whatever its order; pairs of a region with itself are left out."""
        a, b = np.minimum(a, b).astype(np.int64), np.maximum(a, b).astype(np.int64)
        apart = a != b
        count = int(b.max(initial=0)) + 1
        pairs, position = np.unique(a[apart] * count + b[apart], return_inverse=True)
        total = np.bincount(position, weights=length[apart], minlength=len(pairs))
        weighted = np.bincount(position, weights=(length * strength)[apart], minlength=len(pairs))
        return cls(pairs // count, pairs % count, total, weighted / np.maximum(total, 1e-9))

    def renumbered(self, table: np.ndarray) -> Borders:
        """Borders after every region got the number ``table[region]``."""
        return self._pooled(table[self.a], table[self.b], self.length, self.strength)

    def closest(self, score: np.ndarray, allowed: np.ndarray, weak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs to join: each is, of its allowed pairs, the one with the lowest score for both regions.

        For a region that is ``weak`` (bool, by region) it need only be so for that one.
        """
        a, b, value = self.a[allowed], self.b[allowed], score[allowed]
        best = np.full(len(weak), np.inf)
        np.minimum.at(best, a, value)
        np.minimum.at(best, b, value)
        for_a, for_b = value == best[a], value == best[b]
        chosen = (for_a & for_b) | (for_a & weak[a]) | (for_b & weak[b])
        return a[chosen], b[chosen]


@dataclass(frozen=True)
class RegionSums:
    """Sums over the pixels of every region (row 0 = none), so that joined regions are sums of rows.

    Columns: 1 and colour (3) of all pixels; then, of those that may tell a plane, 1, u, v, uu, uv, vv, w, uw, vw, ww
    with pixel coordinates u, v and inverse depth w.
    """

    sums: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, colour: np.ndarray, inverse: np.ndarray, flat: np.ndarray) -> RegionSums:
        """Of regions (H, W), a colour image (H, W, 3), inverse depth (H, W) and the pixels (H, W) to fit planes to."""
        count = int(labels.max()) + 1
        everywhere = [np.ones(labels.shape, np.float32), *np.moveaxis(colour, 2, 0)]
        sums = [np.bincount(labels.ravel(), weights=column.ravel(), minlength=count) for column in everywhere]
        rows, columns = np.nonzero(flat)
        u, v = columns / labels.shape[1], rows / labels.shape[1]  # about 1, for well-conditioned sums
        w, place = inverse[flat], labels[flat]
        for column in (np.ones_like(u), u, v, u * u, u * v, v * v, w, u * w, v * w, w * w):
            sums.append(np.bincount(place, weights=column, minlength=count))
        return cls(np.stack(sums, axis=1))

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def area(self) -> np.ndarray:
        """Pixels of every region (R,)."""
        return self.sums[:, 0]

    @property
    def flat_area(self) -> np.ndarray:
        """Pixels of every region (R,) that planes are fitted to."""
        return self.sums[:, 4]

    def colour_difference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distance of the mean colours of regions a[i] and b[i]."""
        mean = self.sums[:, 1:4] / np.maximum(self.area, 1)[:, None]
        return np.linalg.norm(mean[a] - mean[b], axis=1)

    def plane_error(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Root mean square distance of regions a[i] and b[i] from the plane that fits both best, relative to depth."""
        total = self.sums[a] + self.sums[b]
        u, v, uu, uv, vv, w, uw, vw, ww = (total[:, 5:] / np.maximum(total[:, 4:5], 1)).T
        uu, uv, vv = uu - u * u + 1e-12, uv - u * v, vv - v * v + 1e-12
        uw, vw, ww = uw - u * w, vw - v * w, ww - w * w
        determinant = np.maximum(uu * vv - uv * uv, 1e-18)
        explained = (vv * uw * uw - 2 * uv * uw * vw + uu * vw * vw) / determinant
        return np.sqrt(np.maximum(ww - explained, 0)) / np.maximum(w, 1e-6)

    def joined(self, table: np.ndarray) -> RegionSums:
        """The regions after each got the number ``table[region]``."""
        out = np.zeros((int(table.max()) + 1, self.sums.shape[1]))
        np.add.at(out, table, self.sums)
        return RegionSums(out)


def union(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Table (count,) of new numbers when the regions a[i] and b[i] are joined: dense, int32; 0 stays 0."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for p, q in zip(a.tolist(), b.tolist(), strict=True):
        p, q = root(p), root(q)
        parent[max(p, q)] = min(p, q)  # the lowest number stays, so 0 does
    _, table = np.unique([root(node) for node in range(count)], return_inverse=True)
    return table.astype(np.int32)
