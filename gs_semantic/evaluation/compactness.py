"""Is an object one piece in space? Labels that leak onto other surfaces leave pieces that lie apart."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

NEIGHBOURS = 16


def components_by_object(points: np.ndarray, objects: np.ndarray, reach_m: float = 0.1) -> dict[int, int]:
    """Connected components of the points (N,3) of every object; objects (N,), 0 = none.

    Two points of an object are connected when one is among the other's 16 nearest of the object and within ``reach_m``.
    """
    found = {}
    for key in np.unique(objects):
        if key == 0:
            continue
        own = points[objects == key]
        count = len(own)
        near = min(NEIGHBOURS, count - 1)
        if near < 1:
            found[int(key)] = count
            continue
        distance, other = cKDTree(own).query(own, k=np.arange(2, near + 2), distance_upper_bound=reach_m)
        linked = np.isfinite(distance)
        rows = np.broadcast_to(np.arange(count)[:, None], other.shape)[linked]
        graph = coo_array((np.ones(len(rows), np.int8), (rows, other[linked])), shape=(count, count))
        found[int(key)] = int(connected_components(graph, directed=False)[0])
    return found
