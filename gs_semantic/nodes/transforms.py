"""Coordinate frames over time: the transforms of /tf and /tf_static, looked up at a stamp.

``TransformBuffer`` knows no ROS; where tf2 is installed, ``make_buffer`` puts tf2's own in its place (``tf2_buffer.py``).
A lookup that fails says which frames are concerned, and by how much the stamp lies outside of what is known.
"""

from __future__ import annotations

import bisect
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from gs_semantic.errors import InvalidInputError
from gs_semantic.nodes import faults

UNIT_TOLERANCE = 1e-2  # quaternions come as rounded numbers
HISTORY_S = 10.0


class TransformError(InvalidInputError):
    """A transform that is not known."""


class TooNewError(TransformError):
    """The stamp is newer than the newest transform: worth waiting for."""


def checked_transform(translation: np.ndarray, quaternion: np.ndarray, what: str) -> np.ndarray:
    """4x4 matrix of a translation (3,) and a quaternion x y z w (4,); InvalidInputError naming ``what``."""
    if not (np.isfinite(translation).all() and np.isfinite(quaternion).all()):
        raise InvalidInputError(faults.POSE_INVALID.text(what=what))
    norm = float(np.linalg.norm(quaternion))
    if abs(norm - 1) > UNIT_TOLERANCE:
        raise InvalidInputError(faults.POSE_NOT_UNIT.text(what=what, length=norm))
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


class Transforms(Protocol):
    """What ``TransformBuffer`` and tf2's buffer offer alike."""

    @property
    def newest_ns(self) -> int:
        """Stamp of the newest transform that moves, -1 without one."""

    def clear(self) -> None: ...

    def insert(
        self, parent: str, child: str, stamp_ns: int, T_parent_child: np.ndarray, static: bool = False
    ) -> None: ...

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray: ...


def make_buffer() -> Transforms:
    """tf2's buffer where it is installed, else ours; both give the same transforms."""
    if importlib.util.find_spec("tf2_ros") is not None:
        from gs_semantic.nodes.tf2_buffer import Tf2Buffer

        return Tf2Buffer(HISTORY_S)
    return TransformBuffer(HISTORY_S)


@dataclass
class _Edge:
    """Transforms of one child frame to its parent by rising stamp; one without stamp when static."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    matrices: list[np.ndarray] = field(default_factory=list)


class TransformBuffer:
    """The last seconds of a tree of frames. ``T_parent_child`` maps points of the child into the parent."""

    def __init__(self, history_s: float = HISTORY_S) -> None:
        self._history_ns = int(history_s * 1e9)
        self._edges: dict[str, _Edge] = {}

    @property
    def newest_ns(self) -> int:
        """Stamp of the newest transform that moves, -1 without one."""
        return max((edge.stamps[-1] for edge in self._edges.values() if not edge.static), default=-1)

    def clear(self) -> None:
        """Forget all but the static transforms (after a jump of the clock)."""
        self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def insert(
        self, parent: str, child: str, stamp_ns: int, T_parent_child: np.ndarray, static: bool = False
    ) -> None:
        """Add one transform. A child that changes its parent starts anew.

        InvalidInputError when a frame would become its own ancestor.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not parent or not child or parent == child:
            raise InvalidInputError(f"transform from '{child}' to '{parent}': two different frame names are needed")
        check_no_loop(self._parents, parent, child)
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

    @property
    def _parents(self) -> dict[str, str]:
        return {child: edge.parent for child, edge in self._edges.items()}

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
            reason = why_not_connected(self._parents, target, source)
            raise TransformError(faults.TF_MISSING.text(source=source, target=target, reason=reason))
        return inverse(self._chain(up_target, common, stamp_ns)) @ self._chain(up_source, common, stamp_ns)

    def _ancestors(self, frame: str) -> list[str]:
        """The frame and all above it."""
        return ancestors(self._parents, frame)

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
        if at == len(edge.stamps):
            late = (stamp_ns - edge.stamps[-1]) / 1e6
            raise TooNewError(faults.TF_LATE.text(source=child, target=edge.parent, milliseconds=late))
        if at == 0:
            early = (edge.stamps[0] - stamp_ns) / 1e6
            raise TransformError(faults.TF_OLD.text(source=child, target=edge.parent, milliseconds=early))
        return _interpolated(edge, at, stamp_ns)


def _interpolated(edge: _Edge, at: int, stamp_ns: int) -> np.ndarray:
    before, after = edge.matrices[at - 1], edge.matrices[at]
    share = (stamp_ns - edge.stamps[at - 1]) / (edge.stamps[at] - edge.stamps[at - 1])
    out = np.eye(4)
    out[:3, 3] = (1 - share) * before[:3, 3] + share * after[:3, 3]
    out[:3, :3] = Slerp([0, 1], Rotation.from_matrix(np.stack([before[:3, :3], after[:3, :3]])))(share).as_matrix()
    return out


class JumpWatch:
    """Tells poses that cannot be: farther than ``limit_m`` from the one before, per second where more time has passed.

    Such a frame should not be mapped. When ``CONFIRM`` frames in a row agree with each other, the camera is really there
    (it was carried, or localisation has found itself again), and they count.
    """

    CONFIRM = 3

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, np.ndarray]] = {}
        self._elsewhere: dict[str, tuple[int, np.ndarray, int]] = {}  # and how many frames were there in a row

    def clear(self) -> None:
        self._last.clear()
        self._elsewhere.clear()

    def jump(self, camera: str, stamp_ns: int, position: np.ndarray, limit_m: float) -> tuple[float, float] | None:
        """Metres and seconds of a jump that is not confirmed; None when the pose (3,) can be used."""
        last = self._last.get(camera)
        jump = None
        if last is not None and stamp_ns > last[0]:
            seconds = (stamp_ns - last[0]) / 1e9
            metres = float(np.linalg.norm(position - last[1]))
            jump = (metres, seconds) if metres > limit_m * max(1.0, seconds) else None
        if jump is None:
            self._elsewhere.pop(camera, None)
        elif self._confirmed(camera, stamp_ns, position, limit_m):
            jump = None
        if jump is None:
            self._last[camera] = (stamp_ns, position)
        return jump

    def _confirmed(self, camera: str, stamp_ns: int, position: np.ndarray, limit_m: float) -> bool:
        before = self._elsewhere.pop(camera, None)
        count = 1
        if before is not None:
            seconds = (stamp_ns - before[0]) / 1e9
            near = float(np.linalg.norm(position - before[1])) <= limit_m * max(1.0, seconds)
            count = before[2] + 1 if near else 1
        if count >= self.CONFIRM:
            return True
        self._elsewhere[camera] = (stamp_ns, position, count)
        return False


# --- the tree of frames, given as child -> parent --------------------------------------------------------------------


def ancestors(parents: Mapping[str, str], frame: str) -> list[str]:
    """The frame and all above it."""
    path = [frame]
    while (parent := parents.get(path[-1])) is not None and parent not in path:
        path.append(parent)
    return path


def check_no_loop(parents: Mapping[str, str], parent: str, child: str) -> None:
    """InvalidInputError naming the loop that ``child`` in ``parent`` would close."""
    above = ancestors(parents, parent)
    if child in above:
        loop = " -> ".join([child, *above[: above.index(child) + 1]])
        raise InvalidInputError(faults.TF_LOOP.text(topic="/tf", child=child, parent=parent, loop=loop))


def why_not_connected(parents: Mapping[str, str], target: str, source: str) -> str:
    """Why no path leads from one frame to the other."""
    known = {*parents, *parents.values()}
    if not known:
        return "no transform has come at all"
    unknown = [f"'{frame}'" for frame in (source, target) if frame not in known]
    if unknown:
        return f"frame {' and '.join(unknown)} is unknown; known are {', '.join(sorted(known))}"
    ends = ancestors(parents, source)[-1], ancestors(parents, target)[-1]
    return f"the frames are not connected, '{source}' ends in '{ends[0]}', '{target}' in '{ends[1]}'"
