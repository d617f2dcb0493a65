"""The online mapper: posed frames in, a Gaussian map with objects out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from gs_semantic.gaussians import Camera, Frame, GaussianMap, MaskInfo
from gs_semantic.gaussians.anchors import move_with_keyframes
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.association import Associator, Evidence, OverlapAssociator
from gs_semantic.mapping.codebook import CodebookAssociator
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.corrections import motions
from gs_semantic.mapping.depth_noise import smooth_depth
from gs_semantic.mapping.events import Events, LabelImages
from gs_semantic.mapping.keyframes import KeyframeStore, make_keyframe, usable_depth
from gs_semantic.mapping.language import LanguageSource, embed
from gs_semantic.mapping.lifting import add_votes, grow_labels, hand_over_votes, register_votes, relabel_votes
from gs_semantic.mapping.optimiser import WindowOptimiser, object_codes
from gs_semantic.mapping.pose_refinement import PoseRefiner
from gs_semantic.mapping.scene_changes import SceneChanges
from gs_semantic.mapping.seeding import Seeds, make_seeds
from gs_semantic.mapping.semantics import SemanticSource, take_classes
from gs_semantic.mapping.stereo import Matched, StereoDepth
from gs_semantic.mapping.view import label_images
from gs_semantic.objects.geometry import clear_votes, in_box, update_geometry
from gs_semantic.objects.registry import MapObject, ObjectRegistry, ObjectState
from gs_semantic.rendering.cpu import CpuRasterizer

PUBLISHED = (ObjectState.CONFIRMED, ObjectState.STALE)
OBJECTS_EVERY = 4  # keyframes between two updates of the objects' boxes while keyframes keep coming
OBJECTS_AFTER = 16  # optimisation steps after a keyframe that they wait at most
GUESS_LIMIT = 1.5  # votes up to which a Gaussian still takes guessed ones
SPLIT_VOTES = 1.0  # a Gaussian belongs to a part that comes off when it has so many votes for it
TOMBSTONE_MARGIN_M = 0.03
COVERED_ALPHA = 0.6  # below, a pixel counts as a hole in the map


@dataclass
class _Waiting:
    """A keyframe in the queue."""

    index: int
    frame: Frame


@dataclass
class _Planned:
    """The keyframe whose planned optimisation is under way."""

    stamp_ns: int
    steps: int = 0


class Mapper:
    """Keeps the map and its objects. ``step(frame)`` answers and queues, ``step(None)`` does one slice of queued work.

    A slice is one stage of a keyframe's integration (compare and seed; associate and lift) or one optimisation step, so
    that a caller with a camera's rhythm can always answer the next frame in between. Nothing here runs in the
    background, and the same calls with the same frames give the same map.
    """

    def __init__(
        self,
        config: MapperConfig | None = None,
        rasterizer: CpuRasterizer | None = None,
        gaussians: GaussianMap | None = None,
        objects: ObjectRegistry | None = None,
        labels: LabelSet | None = None,
        associator: Associator | None = None,
        semantics: SemanticSource | None = None,
        language: LanguageSource | None = None,
        live: bool = False,
    ) -> None:
        """semantics: labels the Gaussians of keyframes that bring no masks. language: gives objects their embeddings. live:
        the next keyframe comes soon, so boxes of objects are not brought up to date after every one."""
        self.live = live
        self.config = config or MapperConfig()
        self.semantics, self.language = semantics, language
        self.config.validate()
        self.rasterizer = rasterizer or CpuRasterizer(self.config.raster_settings)
        self._labels = labels
        kind = CodebookAssociator if self.config.association == "codebook" else OverlapAssociator
        self._make_associator = (lambda: associator) if associator else (lambda: kind(self.config))
        self._start(gaussians or GaussianMap(), objects or ObjectRegistry(labels))

    def _start(self, gaussians: GaussianMap, objects: ObjectRegistry) -> None:
        self.gaussians, self.objects = gaussians, objects
        register_votes(gaussians)
        self.optimiser = WindowOptimiser(gaussians, self.rasterizer, self.config)
        owner = gaussians["keyframe"]
        first = int(owner.max()) + 1 if len(owner) else 0  # keyframes of an earlier run are not ours to move
        self.keyframes = KeyframeStore(self.config, first)
        self.poses = PoseRefiner()
        self.associator: Associator = self._make_associator()
        self.stereo = StereoDepth(self.config, self.rasterizer.threads)
        self._queue: deque[_Waiting] = deque()
        self._work: Iterator[None] | None = None
        self._events = Events()
        self._planned: _Planned | None = None
        self._step = 0
        self._dirty: set[int] = set()  # slots of objects whose geometry is out of date
        self.changes = SceneChanges(self.config)
        self._looked_through: set[int] = set()  # slots, by the keyframe that is being integrated
        self._codes = object_codes(1, self.config.identity_dims)
        self.dropped_keyframes = 0

    def reset(self) -> None:
        """Forget everything; the map gets a new id, the registry keeps counting ids so that none is given twice."""
        fresh = ObjectRegistry(self.objects.labels)
        fresh.continue_ids(self.objects)
        self._start(GaussianMap(self.gaussians.sh_degree, frame_id=self.gaussians.frame_id), fresh)

    def load(self, gaussians: GaussianMap, objects: ObjectRegistry) -> None:
        """Go on with a loaded map; keyframes of the old one are forgotten."""
        self._start(gaussians, objects)

    # --- stepping ---------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Is there queued work (a keyframe to integrate, or planned optimisation steps)?"""
        return self._work is not None or bool(self._queue) or self._planned is not None or bool(self._dirty)

    @property
    def can_optimise(self) -> bool:
        """May ``step(None)`` improve the map although nothing is pending?"""
        return self.config.steps_when_idle and len(self.keyframes) > 0 and len(self.gaussians) > 0

    @property
    def _boxes_wait(self) -> bool:
        return self.live and self.can_optimise and self._step < OBJECTS_AFTER

    def step(self, frame: Frame | None = None, answer: bool = True) -> Events:
        """With a frame: render its label images (when ``answer``), queue it if it is a keyframe. Without: one slice of work."""
        self._events = Events()
        if frame is not None:
            if answer:
                with self._timed("answer"):
                    self._events.answer = self.render_labels(frame.camera, frame.stamp_ns)
            if self.keyframes.wanted(frame):
                self._enqueue(frame)
        else:
            self._advance()
        self._events.map_revision = self.gaussians.revision
        return self._events

    def finish(self) -> None:
        """Do all pending work."""
        while self.pending:
            self.step(None)
        if self.stereo.waiting:
            self._work = self._integrate_matched(self.stereo.flush())
            self.finish()

    def _enqueue(self, frame: Frame) -> None:
        if len(self._queue) >= self.config.keyframe_queue:
            self._queue.popleft()
            self.dropped_keyframes += 1
        self._queue.append(_Waiting(self.keyframes.note(frame), frame))
        self._events.keyframe = True

    def _advance(self) -> None:
        if self._work is None and self._planned is None and self._queue:
            waiting = self._queue.popleft()
            if waiting.frame.depth is None and self.config.match:
                self._work = self._integrate_matched(self.stereo.add(waiting.index, waiting.frame))
            else:
                self._work = self._integrate(waiting.index, waiting.frame)
        if self._work is not None:
            if next(self._work, "done") == "done":
                self._work = None
        elif self._dirty and self._planned is None and not self._boxes_wait:
            self._refresh_objects()
        elif self._planned is not None or self.can_optimise:
            self._optimise()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        spent = (time.process_time() - start) * 1e3
        self._events.timings_ms[stage] = self._events.timings_ms.get(stage, 0.0) + spent

    def correct_poses(self, poses: dict[int, np.ndarray]) -> tuple[int, int]:
        """Keyframes are elsewhere than thought (a loop was closed): stamp in ns -> camera's pose (4, 4) in the map.

        Gaussians move rigidly with the keyframes that made them, objects with their Gaussians; ids stay, and the planned
        steps of a keyframe optimise what does not fit together afterwards. Keyframes between two given ones move by what
        lies between, others as the nearest. Returns how many keyframes and Gaussians moved.
        """
        moves = motions(self.keyframes.trail, poses)
        self.keyframes.move(moves)
        self.poses = PoseRefiner()  # it compares with poses as they were
        rows = move_with_keyframes(self.gaussians, moves)
        self._dirty |= {int(slot) for slot in np.unique(self.gaussians["object"].numpy()[rows]) if slot}
        self._planned = _Planned(max(poses)) if self.can_optimise else self._planned
        return len(moves), len(rows)

    @property
    def views(self) -> dict[int, Camera]:
        """From where what the map shows was seen: by number of the keyframe, those of earlier runs by negative numbers."""
        earlier = {-1 - number: camera for number, camera in enumerate(self.gaussians.views)}
        return earlier | {keyframe.index: keyframe.camera for keyframe in list(self.keyframes.frames)}

    # --- answers ----------------------------------------------------------------------------------------------------

    def render_labels(self, camera: Camera, stamp_ns: int = 0, tentative: bool = False) -> LabelImages:
        """Label images of the map as it is; ``tentative`` shows objects that are not confirmed yet, too."""
        slots, classes = self._tables(tentative)
        return label_images(self.rasterizer, self.gaussians, camera, slots, classes, stamp_ns)

    def _tables(self, tentative: bool) -> tuple[np.ndarray, np.ndarray]:
        """Slot -> published slot (0 for hidden objects), slot -> class id."""
        slots = np.zeros(self.objects.slots, np.int32)
        classes = np.zeros(self.objects.slots, np.uint16)
        for obj in self.objects:
            if obj.state in PUBLISHED or (tentative and obj.state is ObjectState.TENTATIVE):
                slots[obj.slot] = obj.slot
                classes[obj.slot] = obj.class_id
        return slots, classes

    # --- integration of a keyframe ----------------------------------------------------------------------------------

    def _integrate_matched(self, matching: Iterator[Matched]) -> Iterator[None]:
        """Keyframes without depth, as soon as theirs is found."""
        while True:
            with self._timed("match"):
                matched = next(matching, None)
            yield
            if matched is None:
                return
            if matched.index and matched.empty:
                self._events.warnings.append(
                    "frame without depth: matching found none that an earlier keyframe confirms; "
                    "move the camera sideways, and check that its poses are right"
                )
            yield from self._integrate(matched.index, matched.frame, self.config.match_tolerance_per_m2)

    def _integrate(self, index: int, frame: Frame, tolerance_per_m2: float | None = None) -> Iterator[None]:
        """``tolerance_per_m2``: how inexact the depth is, if not as the configuration says of the sensor."""
        labels = infos = None
        self._looked_through = set()
        if frame.instances is not None:
            labels, infos = self._masks(frame)
        depth = None if frame.depth is None else usable_depth(frame.depth, self.config)
        if depth is None:
            self._events.warnings.append("frame without depth: labels and colours are used, nothing is seeded")
        else:
            if tolerance_per_m2 is None:  # measured
                depth = smooth_depth(depth)
                frame = replace(frame, depth=depth)
                if self.config.refine_poses:
                    with self._timed("align"):
                        frame = self._refine_pose(index, frame, depth)
                    yield
            with self._timed("seed"):
                self._seed(index, frame, depth, labels, tolerance_per_m2)
            yield
        slots = None
        if labels is not None and infos is not None:
            with self._timed("lift"):
                sure = labels
                if tolerance_per_m2 is not None and depth is not None:
                    # where matching found nothing, the map may show what lies behind the mask: it gets no vote from it
                    sure = np.where(depth > 0, labels, 0)
                slots = self._lift(frame, depth, sure, infos)
                slots = None if slots is None else slots[labels]
            yield
        elif self.semantics is not None and len(self.gaussians):
            with self._timed("vote"):
                update = self.semantics.update(self.gaussians, frame)
                changed = take_classes(self.gaussians, self.objects, update, self.semantics.labels)
                self._dirty |= changed
                self._events.objects_changed |= changed
            yield
        if self.language is not None and index % self.config.embed_every == 0 and len(self.gaussians):
            with self._timed("embed"):
                seen = self.render_labels(frame.camera, frame.stamp_ns, tentative=True)
                embed(self.objects, seen, self.language.map(frame.rgb), self.language.name)
            yield
        with self._timed("keyframe"):
            self.keyframes.add(make_keyframe(index, frame, slots, self.config))
            if index % self.config.prune_every == self.config.prune_every - 1:
                self._prune()
        if index % OBJECTS_EVERY == OBJECTS_EVERY - 1:
            yield
            self._refresh_objects()
        self._planned = _Planned(frame.stamp_ns)
        self._step = 0  # the first step after a keyframe is one with identity
        if self.config.steps_per_keyframe == 0:
            self._finish_keyframe()

    def _refine_pose(self, index: int, frame: Frame, depth: np.ndarray) -> Frame:
        """The frame where it belongs; older keyframes move with what they made."""
        known_noisy = self.poses.noisy
        refined = self.poses.add(index, frame.camera, frame.rgb, depth, self.keyframes.frames)
        if self.poses.noisy and not known_noisy:
            metres, radians = self.poses.noise
            self._events.warnings.append(
                f"the given poses disagree with the images by about {metres * 1e3:.0f} mm and "
                f"{np.degrees(radians):.2f} deg: keyframes are realigned (refine_poses)"
            )
        if refined.moves:
            self.keyframes.move(refined.moves)
            rows = move_with_keyframes(self.gaussians, refined.moves)
            self._dirty |= {int(slot) for slot in np.unique(self.gaussians["object"].numpy()[rows]) if slot}
        return replace(frame, camera=frame.camera.at(refined.T_world_camera))

    def _masks(self, frame: Frame) -> tuple[np.ndarray, list[MaskInfo]]:
        """Dense mask numbers 1..M in an int32 image (0 = unlabelled), and what is known of each."""
        assert frame.instances is not None
        image = np.maximum(frame.instances, 0)
        if int(image.max(initial=0)) < 1 << 16:
            ids = np.nonzero(np.bincount(image.ravel()))[0]
            dense = image
            table = np.zeros(int(ids[-1]) + 1, np.int32)
            position = ids
        else:
            ids, dense = np.unique(image, return_inverse=True)
            table = np.zeros(len(ids), np.int32)
            position = np.arange(len(ids))
        infos = [MaskInfo()]
        for place, mask_id in zip(position, ids, strict=True):
            info = frame.masks.get(int(mask_id), MaskInfo())
            if mask_id > 0 and info.class_id not in self.config.ignored_classes:
                table[place] = len(infos)
                infos.append(info)
        return table[dense].reshape(image.shape), infos

    def _seed(
        self,
        index: int,
        frame: Frame,
        depth: np.ndarray,
        labels: np.ndarray | None,
        tolerance_per_m2: float | None = None,
    ) -> None:
        """Compare the map with the frame; remove what floats in front, replace what is too coarse, fill what is missing."""
        config, gaussians = self.config, self.gaussians
        measured = depth > 0
        wanted = measured.copy()
        votes = None
        if len(gaussians):
            view = self.rasterizer.open(gaussians, frame.camera)
            rendering = view.render()
            rendered, alpha = rendering.depth.numpy(), rendering.alpha.numpy()
            per_m2 = config.depth_tolerance_per_m2 if tolerance_per_m2 is None else tolerance_per_m2
            tolerance = config.depth_tolerance_m + per_m2 * depth**2
            wanted &= (alpha < COVERED_ALPHA) | (rendered > depth + tolerance)
            around, least = ((3, 3), 3.5) if tolerance_per_m2 is None else ((7, 7), 20)  # matched depth has rough edges
            wanted &= cv2.boxFilter(wanted.astype(np.float32), -1, around, normalize=False) > least  # no lone pixels
            floating = measured & (alpha >= COVERED_ALPHA) & (rendered < depth - 2 * tolerance)
            # row + 1 of the Gaussian that shows most at each pixel, 0 = none
            top = view.render_ids(torch.arange(1, len(gaussians) + 1, dtype=torch.int32)).ids.numpy()
            solid = np.where(alpha >= COVERED_ALPHA, depth, 0)
            sizes = np.bincount(gaussians["object"].numpy(), minlength=self.objects.slots)
            self._looked_through = self.changes.look(top, self._clear_owners(top), rendered, solid, sizes)
            doomed = np.zeros(0, np.int64)
            if config.refine_max:
                excluded = wanted | floating | ~measured
                doomed = self._coarse(frame.rgb, rendering.rgb.numpy(), top, excluded)
            if config.carve:
                floaters = self._floaters(top, floating, measured)
                self.changes.carve(gaussians, floaters)
                doomed = np.union1d(doomed, floaters)
            if len(doomed):
                hit = np.zeros(len(gaussians) + 1, bool)
                hit[doomed + 1] = True
                replaced = hit[top] & measured
                wanted |= replaced
                # what newly appears in front of a surface is none of its kind, nor is what was hidden behind it
                parent = np.where(replaced & (depth < rendered + self.changes.margin(depth)), top - 1, -1)
                votes = (parent, gaussians["vote_object"].numpy().copy(), gaussians["vote_weight"].numpy().copy())
                gaussians.remove(torch.from_numpy(doomed))
        room = config.max_gaussians - len(gaussians)
        if not wanted.any() or room <= 0:
            if room <= 0:
                self._events.warnings.append(f"max_gaussians = {config.max_gaussians} reached: nothing is seeded")
            return
        seeds = make_seeds(frame.rgb, depth, wanted, frame.camera, config, labels)
        if len(seeds) > room:
            largest = np.argsort(-seeds.size, kind="stable")[:room]
            seeds = seeds.take(np.sort(largest))
            self._events.warnings.append(f"max_gaussians = {config.max_gaussians} reached: only the largest seeds kept")
        self._add(index, seeds, votes)

    def _add(self, index: int, seeds: Seeds, votes: tuple[np.ndarray, np.ndarray, np.ndarray] | None) -> None:
        rows: dict[str, np.ndarray] = {**seeds.rows, "keyframe": np.full(len(seeds), index, np.int32)}
        if votes is not None:
            parents, vote_object, vote_weight = votes
            # the middle of a block that an odd image size cuts off lies on the image's edge
            column, row = np.minimum(np.floor(seeds.pixel).astype(int), np.array(parents.shape[::-1]) - 1).T
            parent = parents[row, column]
            inherited = parent >= 0
            rows["vote_object"] = np.where(inherited[:, None], vote_object[parent], 0)
            # half: the parent mixed what the children tell apart
            rows["vote_weight"] = np.where(inherited[:, None], 0.5 * vote_weight[parent], 0)
            best = rows["vote_weight"].argmax(1)
            rows["object"] = rows["vote_object"][np.arange(len(seeds)), best]
        places = rows["means"]
        added = self.gaussians.add(**rows).numpy()
        for obj in self.objects:
            if obj.state is ObjectState.REMOVED and obj.locked and obj.box is not None:
                self._claim(obj, added[in_box(obj.box, places, TOMBSTONE_MARGIN_M)])

    def _claim(self, tombstone: MapObject, rows: np.ndarray) -> None:
        """New Gaussians where an operator deleted an object belong to what is hidden, so that none is opened there."""
        rows = rows[self.gaussians["object"].numpy()[rows] == 0]
        if len(rows):
            add_votes(self.gaussians, rows, np.full(len(rows), tombstone.slot), np.full(len(rows), 0.5, np.float32))

    def _clear_owners(self, top: np.ndarray) -> np.ndarray:
        """Object slot of each Gaussian, (N + 1,) by row + 1; 0 for those that ``top`` (H, W) does not hold and those
        whose votes are few or divided."""
        hit = np.zeros(len(self.gaussians) + 1, bool)
        hit[top] = True
        rows = np.flatnonzero(hit[1:])
        # more than guesses alone give: rims that are guessed lie on what is behind an object
        rows = rows[clear_votes(self.gaussians["vote_weight"].numpy()[rows], GUESS_LIMIT + 0.1)]
        owner = np.zeros(len(self.gaussians) + 1, np.int32)
        owner[rows + 1] = self.gaussians["object"].numpy()[rows]
        return owner

    def _coarse(self, image: np.ndarray, rendered: np.ndarray, top: np.ndarray, excluded: np.ndarray) -> np.ndarray:
        """Rows of Gaussians that fill many pixels with a colour that is wrong there: detail came into view.

        Every second pixel of every second line is looked at.
        """
        config, size = self.config, len(self.gaussians) + 1
        part = np.s_[::2, ::2]
        error = np.abs(rendered[part] - image[part] * np.float32(1 / 255)).sum(-1)
        error[excluded[part]] = 0
        owner = top[part].ravel().astype(np.int64)
        count = np.bincount(owner, minlength=size)
        total = np.bincount(owner, weights=error.ravel(), minlength=size) / 3
        coarse = (4 * count >= config.refine_min_px) & (total > config.refine_error * count)
        coarse[0] = False
        rows = np.nonzero(coarse)[0]
        if len(rows) > config.refine_max:
            rows = rows[np.argsort(-total[rows], kind="stable")[: config.refine_max]]
        return np.sort(rows) - 1

    def _floaters(self, top: np.ndarray, floating: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Rows of Gaussians that mostly show where the sensor looked through them."""
        through, times = np.unique(top[floating], return_counts=True)
        if not len(through):
            return through
        suspect = np.zeros(len(self.gaussians) + 1, bool)
        suspect[through[times >= 3]] = True
        suspect[0] = False
        seen, total = np.unique(top[measured & suspect[top]], return_counts=True)
        gone = times[np.searchsorted(through, seen)] > 0.8 * total
        return seen[gone].astype(np.int64) - 1

    def _lift(
        self, frame: Frame, depth: np.ndarray | None, labels: np.ndarray, infos: list[MaskInfo]
    ) -> np.ndarray | None:
        """Associate the masks, vote on the visible Gaussians; returns the object slot of each mask (M + 1,)."""
        gaussians = self.gaussians
        if not len(gaussians):
            return None
        masks = len(infos)
        image = labels
        if self.config.mask_grow_px and self.config.mask_grow_weight > 0:
            rim = grow_labels(labels, depth, self.config.mask_grow_px)
            image = np.where(rim > 0, rim + masks, labels)  # guesses are labels of their own in the same pass
        result = self.rasterizer.accumulate_labels(gaussians, frame.camera, torch.from_numpy(image))
        weight_sum = result.weight_sum.numpy()
        visible = weight_sum > 0.05
        if self._looked_through:  # what is not there any more is not what the masks show
            absent = np.zeros(self.objects.slots, bool)
            absent[list(self._looked_through)] = True
            visible &= ~absent[gaussians["object"].numpy()]
        rows = np.nonzero(visible)[0]
        label, weight = result.labels.numpy()[rows], result.label_weight.numpy()[rows]
        guessed = label >= masks
        mask = np.where(guessed, 0, label)
        table, support = gaussians["vote_object"].numpy()[rows], gaussians["vote_weight"].numpy()[rows]
        evidence = Evidence(
            mask=mask,
            weight=weight,
            vote_object=table,
            vote_weight=support,
            areas=np.bincount(labels.ravel(), minlength=masks),
            infos=infos,
            stamp_ns=frame.stamp_ns,
            features=gaussians["identity"].numpy()[rows],
        )
        assignment = self.associator.associate(evidence, self.objects)
        self._events.objects_changed |= assignment.changed
        slots = assignment.slots
        self.changes.claimed({int(slot) for slot in slots if slot})
        vote = np.minimum(weight, 1.0) * weight / np.maximum(weight_sum[rows], 1e-6)
        leader = gaussians["object"].numpy()[rows]
        for row, other in assignment.shielded:
            vote[(mask == row) & (leader == other)] = 0
        # a guess must not add up over many frames to more than a real observation
        vote[guessed] *= self.config.mask_grow_weight * (support[guessed].sum(1) <= GUESS_LIMIT)
        target = slots[np.where(guessed, label - masks, mask)]
        held = np.zeros(self.objects.slots, bool)
        held[[obj.slot for obj in self.objects if obj.locked]] = True
        vote[held[leader] & (target != leader)] = 0  # what an operator has settled
        voting = (target > 0) & (vote > 0)
        if assignment.kept is not None:
            voting &= assignment.kept
        if assignment.features is not None:
            gaussians["identity"].numpy()[rows] = assignment.features
            gaussians.touch(torch.from_numpy(rows), core=False)
        if voting.any():
            add_votes(gaussians, rows[voting], target[voting], vote[voting].astype(np.float32))
        for part, whole in assignment.split.items():
            hand_over_votes(gaussians, part, whole, SPLIT_VOTES)
        for slot in {*assignment.split, *assignment.split.values(), *assignment.merged.values()}:
            if self.objects.has_slot(slot):
                self.objects.by_slot(slot).edited = gaussians.revision
        if assignment.merged or assignment.forgotten:
            self._rename(assignment.merged, assignment.forgotten)
        self._dirty |= {int(slot) for slot in slots if slot} | assignment.changed
        return slots

    def rename_slots(self, merged: dict[int, int]) -> None:
        """Objects were merged by hand: slot -> slot that took it over."""
        self._rename(merged, set())
        self._dirty |= set(merged.values())

    def forget_slot(self, slot: int) -> None:
        """An object was deleted: neither Gaussians nor keyframes show it."""
        self.keyframes.ignore(slot)
        self._rename({}, {slot})

    def _rename(self, merged: dict[int, int], forgotten: set[int]) -> None:
        lut = np.arange(self.objects.slots, dtype=np.int32)
        for slot in forgotten:
            lut[slot] = 0
        for lost, kept in merged.items():
            while kept in merged:
                kept = merged[kept]
            lut[lost] = kept
        relabel_votes(self.gaussians, lut)
        self.keyframes.rename(lut)

    def objects_changed(self, slots: set[int]) -> None:
        """Somebody changed Gaussians of these objects from outside: their geometry is worked out anew soon."""
        self._dirty |= slots

    def _refresh_objects(self) -> None:
        """Recompute the geometry of the objects that changed since the last time."""
        with self._timed("objects"):
            dirty = np.zeros(self.objects.slots, bool)
            dirty[[slot for slot in self._dirty if self.objects.has_slot(slot)]] = True
            owner = self.gaussians["object"].numpy()
            rows = np.nonzero(dirty[owner])[0]
            rows = rows[np.argsort(owner[rows].astype(np.uint16), kind="stable")]  # 16 bit: sorted by radix
            slots, starts = np.unique(owner[rows], return_index=True)
            for slot, own in zip(slots, np.split(rows, starts)[1:], strict=True):
                if self.objects.by_slot(int(slot)).state is ObjectState.REMOVED:
                    continue  # a tombstone stays where it is
                update_geometry(self.objects.by_slot(int(slot)), self.gaussians, own)
                dirty[slot] = False
            for slot in np.nonzero(dirty)[0]:  # lost all its Gaussians
                obj = self.objects.by_slot(int(slot))
                if obj.state is not ObjectState.REMOVED:
                    update_geometry(obj, self.gaussians, rows[:0], keep_place=obj.shown)
            self._events.objects_changed |= self._dirty
            self._dirty = set()
            self._follow_changes()

    def _follow_changes(self) -> None:
        """Objects that were seen through are removed; one that turned up elsewhere goes on there under its id."""
        for obj in self.changes.gone(self.objects):
            obj.edited = obj.revision = self.gaussians.revision
            self._events.objects_changed.add(obj.slot)
            if obj.locked:  # a person has said that it is there
                obj.state = ObjectState.STALE
                continue
            rows = np.flatnonzero(self.gaussians["object"].numpy() == obj.slot)
            self.changes.bury(self.gaussians, self.objects, obj, rows)
            self.gaussians.remove(torch.from_numpy(rows))
            obj.state, obj.num_gaussians = ObjectState.REMOVED, 0
            self.forget_slot(obj.slot)
        for old, new, found in self.changes.moved(self.gaussians, self.objects):
            self.objects.absorb(old, new)
            self._rename({new.slot: old.slot}, set())
            self.changes.put_back(self.gaussians, old, found.motion)
            old.state = ObjectState.CONFIRMED
            old.moved = old.edited = old.revision = self.gaussians.revision
            self._dirty.add(old.slot)
            self._events.objects_changed |= {old.slot, new.slot}

    # --- optimisation -----------------------------------------------------------------------------------------------

    def _optimise(self) -> None:
        idle = self._planned is None
        with_identity = idle or self._step % self.config.identity_every == 0
        self._step += 1
        with self._timed("optimise+identity" if with_identity else "optimise"):
            codes = None
            if with_identity:
                codes = self.associator.codes(self.objects.slots)
                if codes is None:
                    if len(self._codes) < self.objects.slots:
                        self._codes = object_codes(2 * self.objects.slots, self.config.identity_dims)
                    codes = self._codes
                self._events.identity_iterations += 1
            self.optimiser.step(self.keyframes.draw(evenly=idle), codes)
        self._events.iterations += 1
        if self._planned is not None:
            self._planned.steps += 1
            goal = self.config.steps_when_busy if self._queue else self.config.steps_per_keyframe
            if self._planned.steps >= goal:
                self._finish_keyframe()

    def _finish_keyframe(self) -> None:
        assert self._planned is not None
        self._events.integrated.append(self._planned.stamp_ns)
        self._planned = None

    def _prune(self) -> None:
        """Remove Gaussians that became faint, huge or not finite."""
        config, gaussians = self.config, self.gaussians
        limit = float(np.log(config.prune_opacity / (1 - config.prune_opacity)))
        bad = (gaussians.opacity_logits < limit) | (gaussians.log_scales.max(1).values > np.log(config.prune_scale_m))
        bad |= ~torch.isfinite(gaussians.means).all(1)
        gaussians.remove(torch.nonzero(bad)[:, 0])
