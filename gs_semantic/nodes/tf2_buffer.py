"""tf2's own buffer behind the functions of ``TransformBuffer``: used where tf2_ros is installed (a robot)."""

from __future__ import annotations

import numpy as np
import tf2_ros
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.time import Time

from gs_semantic.errors import InvalidInputError
from gs_semantic.nodes import conversions, faults
from gs_semantic.nodes.transforms import TooNewError, TransformError, ancestors, check_no_loop, why_not_connected

AUTHORITY = "gs_semantic"


class Tf2Buffer:
    """Keeps transforms in tf2; says in our words what tf2 cannot find."""

    def __init__(self, history_s: float) -> None:
        self._history_s = history_s
        self._static: dict[str, TransformStamped] = {}
        self._parents: dict[str, str] = {}
        self._span_ns: dict[str, tuple[int, int]] = {}  # oldest and newest stamp of each moving child
        self._buffer = self._fresh()

    def _fresh(self) -> tf2_ros.Buffer:
        buffer = tf2_ros.Buffer(cache_time=Duration(seconds=self._history_s))
        for transform in self._static.values():
            buffer.set_transform_static(transform, AUTHORITY)
        return buffer

    @property
    def newest_ns(self) -> int:
        return max((newest for _, newest in self._span_ns.values()), default=-1)

    def clear(self) -> None:
        """Forget all but the static transforms."""
        self._parents = {child: entry.header.frame_id for child, entry in self._static.items()}
        self._span_ns.clear()
        self._buffer = self._fresh()

    def insert(self, parent: str, child: str, stamp_ns: int, T_parent_child: np.ndarray, static: bool = False) -> None:
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not parent or not child or parent == child:
            raise InvalidInputError(f"transform from '{child}' to '{parent}': two different frame names are needed")
        check_no_loop(self._parents, parent, child)
        header = conversions.make_header(stamp_ns, parent)
        entry = TransformStamped(header=header, child_frame_id=child, transform=conversions.write_transform(T_parent_child))
        self._parents[child] = parent
        if static:
            self._static[child] = entry
            self._buffer.set_transform_static(entry, AUTHORITY)
            return
        self._static.pop(child, None)
        oldest, newest = self._span_ns.get(child, (stamp_ns, stamp_ns))
        oldest, newest = min(oldest, stamp_ns), max(newest, stamp_ns)
        self._span_ns[child] = (max(oldest, newest - int(self._history_s * 1e9)), newest)
        self._buffer.set_transform(entry, AUTHORITY)

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """T_target_source at a stamp; errors as ``TransformBuffer.lookup`` raises them."""
        target, source = target.lstrip("/"), source.lstrip("/")
        if target == source:
            return np.eye(4)
        try:
            # the core's own function: that of tf2_ros would wait, which the caller does already
            found = self._buffer.lookup_transform_core(target, source, Time(nanoseconds=stamp_ns))
        except tf2_ros.ExtrapolationException as error:
            raise self._outside(target, source, stamp_ns, str(error)) from error
        except tf2_ros.TransformException as error:
            reason = why_not_connected(self._parents, target, source)
            raise TransformError(faults.TF_MISSING.text(source=source, target=target, reason=reason)) from error
        return conversions.read_transform(found.transform, f"/tf: transform of '{source}' in '{target}'")

    def _outside(self, target: str, source: str, stamp_ns: int, reason: str) -> TransformError:
        """The part of the chain whose stamps do not reach the one asked for."""
        for child, (oldest, newest) in self._span_ns.items():
            if child not in self._chain(target, source):
                continue
            names = {"source": child, "target": self._parents[child]}
            if stamp_ns > newest:
                return TooNewError(faults.TF_LATE.text(**names, milliseconds=(stamp_ns - newest) / 1e6))
            if stamp_ns < oldest:
                return TransformError(faults.TF_OLD.text(**names, milliseconds=(oldest - stamp_ns) / 1e6))
        return TransformError(faults.TF_MISSING.text(source=source, target=target, reason=reason))

    def _chain(self, target: str, source: str) -> set[str]:
        """Frames between the two and their first common ancestor."""
        up_target, up_source = ancestors(self._parents, target), ancestors(self._parents, source)
        return set(up_target) ^ set(up_source)
