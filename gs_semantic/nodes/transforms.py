"""Coordinate frames over time: the transforms of /tf and /tf_static, looked up at a stamp.

``TransformBuffer`` knows no ROS. A lookup that fails says which frames are concerned, and by how much the stamp lies
outside of what is known.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from gs_semantic.errors import InvalidInputError

UNIT_TOLERANCE = 1e-2  # quaternions come as rounded numbers


class TransformError(InvalidInputError):
    """A transform that is not known."""


class TooNewError(TransformError):
    """The stamp is newer than the newest transform: worth waiting for."""


def checked_transform(translation: np.ndarray, quaternion: np.ndarray, what: str) -> np.ndarray:
    """4x4 matrix of a translation (3,) and a quaternion x y z w (4,); InvalidInputError naming ``what``."""
    if not (np.isfinite(translation).all() and np.isfinite(quaternion).all()):
        raise InvalidInputError(f"{what}: contains NaN or infinity")
    norm = float(np.linalg.norm(quaternion))
    if abs(norm - 1) > UNIT_TOLERANCE:
        raise InvalidInputError(f"{what}: the orientation has length {norm:.3g}, a unit quaternion is expected")
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    matrix[:3, 3] = translation
    return matrix


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a rigid 4x4."""
    out = np.eye(4)
    out[:3, :3] = matrix[:3, :3].T
    out[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return out


@dataclass
class _Edge:
    """Transforms of one child frame to its parent by rising stamp; one without stamp when static."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    matrices: list[np.ndarray] = field(default_factory=list)


class TransformBuffer:
    """The last seconds of a tree of frames. ``T_parent_child`` maps points of the child into the parent."""

    def __init__(self, history_s: float = 10.0) -> None:
        self._history_ns = int(history_s * 1e9)
        self._edges: dict[str, _Edge] = {}

    def clear(self) -> None:
        """Forget all but the static transforms (after a jump of the clock)."""
        self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def insert(
        self, parent: str, child: str, stamp_ns: int, T_parent_child: np.ndarray, static: bool = False
    ) -> None:
        """Add one transform. A child that changes its parent starts anew."""
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not parent or not child or parent == child:
            raise InvalidInputError(f"transform from '{child}' to '{parent}': two different frame names are needed")
        edge = self._edges.get(child)
        if edge is None or edge.parent != parent or edge.static != static:
            edge = self._edges[child] = _Edge(parent, static)
        if static:
            edge.stamps, edge.matrices = [0], [T_parent_child]
            return
        at = bisect.bisect_left(edge.stamps, stamp_ns)
        if at < len(edge.stamps) and edge.stamps[at] == stamp_ns:
            edge.matrices[at] = T_parent_child
            return
        edge.stamps.insert(at, stamp_ns)
        edge.matrices.insert(at, T_parent_child)
        old = bisect.bisect_left(edge.stamps, edge.stamps[-1] - self._history_ns)
        if old:
            del edge.stamps[:old], edge.matrices[:old]

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """T_target_source at a stamp, interpolated between the two nearest; 4x4.

        Raises TooNewError when a newer transform may still come, TransformError otherwise.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        if target == source:
            return np.eye(4)
        up_target, up_source = self._ancestors(target), self._ancestors(source)
        common = next((frame for frame in up_source if frame in up_target), None)
        if common is None:
            raise TransformError(self._not_connected(target, source, up_target, up_source))
        return inverse(self._chain(up_target, common, stamp_ns)) @ self._chain(up_source, common, stamp_ns)

    def _ancestors(self, frame: str) -> list[str]:
        """The frame and all above it."""
        path = [frame]
        while (edge := self._edges.get(path[-1])) is not None and edge.parent not in path:
            path.append(edge.parent)
        return path

    def _not_connected(self, target: str, source: str, up_target: list[str], up_source: list[str]) -> str:
        known = set(self._edges) | {edge.parent for edge in self._edges.values()}
        if not known:
            return f"no transform from '{source}' to '{target}': no transform has come at all"
        unknown = [f"'{frame}'" for frame in (source, target) if frame not in known]
        if unknown:
            return (
                f"no transform from '{source}' to '{target}': frame {' and '.join(unknown)} is unknown; "
                f"known are {', '.join(sorted(known))}"
            )
        return (
            f"no transform from '{source}' to '{target}': the frames are not connected, "
            f"'{source}' ends in '{up_source[-1]}', '{target}' in '{up_target[-1]}'"
        )

    def _chain(self, path: list[str], stop: str, stamp_ns: int) -> np.ndarray:
        """T_stop_frame of the first frame of the path."""
        matrix = np.eye(4)
        for child in path[: path.index(stop)]:
            matrix = self._at(child, stamp_ns) @ matrix
        return matrix

    def _at(self, child: str, stamp_ns: int) -> np.ndarray:
        edge = self._edges[child]
        if edge.static:
            return edge.matrices[0]
        at = bisect.bisect_left(edge.stamps, stamp_ns)
        if at < len(edge.stamps) and edge.stamps[at] == stamp_ns:
            return edge.matrices[at]
        name = f"transform from '{child}' to '{edge.parent}'"
        if at == len(edge.stamps):
            late = (stamp_ns - edge.stamps[-1]) / 1e6
            raise TooNewError(f"{name}: the stamp is {late:.1f} ms newer than the newest one")
        if at == 0:
            early = (edge.stamps[0] - stamp_ns) / 1e6
            raise TransformError(f"{name}: the stamp is {early:.1f} ms older than the oldest one")
        return _interpolated(edge, at, stamp_ns)


def _interpolated(edge: _Edge, at: int, stamp_ns: int) -> np.ndarray:
    before, after = edge.matrices[at - 1], edge.matrices[at]
    share = (stamp_ns - edge.stamps[at - 1]) / (edge.stamps[at] - edge.stamps[at - 1])
    out = np.eye(4)
    out[:3, 3] = (1 - share) * before[:3, 3] + share * after[:3, 3]
    out[:3, :3] = Slerp([0, 1], Rotation.from_matrix(np.stack([before[:3, :3], after[:3, :3]])))(share).as_matrix()
    return out
