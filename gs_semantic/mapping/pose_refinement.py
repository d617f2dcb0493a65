"""Takes the noise out of the poses that keyframes come with.

Each keyframe is aligned with the one or two before it and with an older one of the same place; a pose graph weighs these
against the given poses. How far to trust the given poses is measured, not configured: the noise of their differences
against the alignments. Good poses are left alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from gs_semantic.gaussians import Camera
from gs_semantic.mapping.alignment import Motion, Pyramid, align, logarithm, make_pyramid
from gs_semantic.mapping.keyframes import Keyframe, moved
from gs_semantic.mapping.pose_graph import PoseGraph

NOISY_M, NOISY_DEG = 0.0035, 0.12  # noise of given poses (per axis) below which they are left alone
FIRST = 8  # the first pairs are always aligned; while poses are good, afterwards every ``CHECK_EVERY``-th
CHECK_EVERY = 8
REMEMBERED = 60  # differences that the noise is estimated from
RECENT = 2  # keyframes before this one that it is aligned with
LOOP_GAP = 4  # an older keyframe counts as another visit
LOOP_DISTANCE = 0.6  # m, where turning by 60 degrees counts like 1 m
SLIP_M, SLIP_RAD, SLIP_SIGMA = 0.15, 0.1, 7.0  # an alignment that moves a keyframe farther is not believed
MOVE_M, MOVE_DEG = 0.001, 0.02  # smaller corrections of older keyframes wait until they have grown


@dataclass(frozen=True)
class Refined:
    """The new keyframe's pose, and the rigid motions (4x4, world) that take older keyframes where they belong."""

    T_world_camera: np.ndarray
    moves: dict[int, np.ndarray]


class PoseRefiner:
    """Give it every keyframe with measured depth, in order; others are none of its business, and are not moved."""

    def __init__(self) -> None:
        self._graph = PoseGraph()
        self._node: dict[int, int] = {}  # keyframe -> node of the graph, as long as either is needed
        self._applied: dict[int, np.ndarray] = {}  # by node of the window: where the keyframe's Gaussians are
        self._recent: deque[tuple[int, Pyramid]] = deque(maxlen=RECENT)
        self._differences: deque[np.ndarray] = deque(maxlen=REMEMBERED)
        self.noisy = False

    @property
    def noise(self) -> tuple[float, float]:
        """Standard deviation per axis of the given poses: m, rad."""
        if not self._differences:
            return 0.0, 0.0
        spread = np.abs(np.stack(self._differences))
        scale = 1.4826 / np.sqrt(2)  # median to standard deviation; a difference has the noise of two
        return scale * float(np.median(spread[:, :3])), scale * float(np.median(spread[:, 3:]))

    def add(self, index: int, camera: Camera, rgb: np.ndarray, depth: np.ndarray, kept: list[Keyframe]) -> Refined:
        """The next keyframe (depth m, 0 = none), and those kept so far, at the poses they have now."""
        graph = self._graph
        number = graph.count
        given = camera.T_world_camera
        active = self.noisy or number <= FIRST or number % CHECK_EVERY <= 1
        pyramid = make_pyramid(camera, rgb, depth) if active else None
        estimate = given
        found: list[tuple[int, Motion]] = []
        if pyramid is not None:
            for other, reference in self._references(camera, number, kept):
                guess = np.linalg.inv(graph.poses[other]) @ estimate
                motion = align(pyramid, reference, guess)
                if motion is not None and self._plausible(motion.T_ref_src @ np.linalg.inv(guess)):
                    if not found:
                        estimate = graph.poses[other] @ motion.T_ref_src
                    if not found and number - other <= RECENT:
                        between = np.linalg.inv(graph.given[other]) @ given
                        self._differences.append(logarithm(between @ np.linalg.inv(motion.T_ref_src)))
                    found.append((other, motion))
            self._recent.append((number, pyramid))
        graph.add(given, estimate)
        self._applied[number], self._node[index] = given, number
        for other, motion in found:
            graph.connect(other, number, motion)
        self._forget(kept)
        sigma_m, sigma_rad = self.noise
        if len(self._differences) >= FIRST - 1:
            self.noisy |= sigma_m > NOISY_M or sigma_rad > np.radians(NOISY_DEG)
        if not self.noisy:
            graph.poses[number] = given
            return Refined(given, {})
        graph.solve(sigma_m, sigma_rad)
        self._applied[number] = graph.poses[number]
        return Refined(graph.poses[number], self._moves())

    def _references(self, camera: Camera, number: int, kept: list[Keyframe]) -> list[tuple[int, Pyramid]]:
        """The keyframes just before, newest first, then (while poses are noisy) the nearest of an earlier visit."""
        result = [(other, pyramid) for other, pyramid in reversed(self._recent) if number - other <= RECENT]
        if not self.noisy:
            return result[:1]
        nearest, best = None, LOOP_DISTANCE
        for keyframe in kept:
            node = self._node.get(keyframe.index)
            if node is None or keyframe.depth_mm is None or number - node < LOOP_GAP:
                continue
            distance, angle = moved(keyframe.camera, camera)
            away = distance + 2.0 * (1 - np.cos(np.radians(angle)))
            if away < best:
                nearest, best = keyframe, away
        if nearest is not None:
            depth = nearest.depth_mm * np.float32(1e-3)
            result.append((self._node[nearest.index], make_pyramid(nearest.camera, nearest.rgb, depth)))
        return result

    def _plausible(self, correction: np.ndarray) -> bool:
        """Is this a difference that the noise of the given poses explains? Views without structure slip away."""
        sigma_m, sigma_rad = self.noise if self.noisy else (np.inf, np.inf)
        off = np.abs(logarithm(correction))
        return bool(
            off[:3].max() < min(SLIP_M, SLIP_SIGMA * sigma_m) and off[3:].max() < min(SLIP_RAD, SLIP_SIGMA * sigma_rad)
        )

    def _forget(self, kept: list[Keyframe]) -> None:
        """Drop what concerns neither the graph's window nor a kept keyframe, so that a long run needs no more memory."""
        graph = self._graph
        used = {keyframe.index for keyframe in kept}
        self._node = {index: node for index, node in self._node.items() if node >= graph.first or index in used}
        graph.forget(self._node.values())
        for number in [n for n in self._applied if n < graph.first]:
            del self._applied[number]

    def _moves(self) -> dict[int, np.ndarray]:
        number_of, index_of = list(self._applied), {node: index for index, node in self._node.items()}
        poses = np.stack([self._graph.poses[number] for number in number_of])
        applied = np.stack(list(self._applied.values()))
        moves = poses @ np.linalg.inv(applied)
        distance = np.linalg.norm(poses[:, :3, 3] - applied[:, :3, 3], axis=1)
        cosine = (np.trace(moves[:, :3, :3], axis1=1, axis2=2) - 1) / 2
        turned = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        due = np.nonzero((distance > MOVE_M) | (turned > MOVE_DEG))[0]
        for k in due:
            self._applied[number_of[k]] = poses[k]
        return {index_of[number_of[k]]: moves[k] for k in due}
