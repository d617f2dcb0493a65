"""Objects that are taken away or moved while the map goes on.

An object that keyframes look through is removed, not forgotten: what its Gaussians were is kept, and when an object like
it turns up elsewhere, it was moved, and its Gaussians are put there. Single Gaussians in front of a measured surface are
carved from the map by the mapper; whole objects are judged here by all their pixels, which is surer, so that a smaller
distance suffices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.gaussian_map import CORE, sh_to_rgb
from gs_semantic.gaussians.rigid import move_rows
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.lifting import add_votes
from gs_semantic.objects.registry import MapObject, ObjectRegistry, ObjectState
from gs_semantic.objects.relocation import Relocation, relocate
from gs_semantic.rendering.harmonics import rotate_harmonics

THROUGH_M, THROUGH_PER_M2 = 0.02, 0.006  # a measured surface so far behind an object's means that it is not there
THROUGH = 0.5  # share of an object's visible pixels from which it is not there, whatever masks say
DOUBTFUL = 0.25  # and from which it is not there when no mask shows it
THERE = 0.15  # up to this what was carved of it were strays
ENOUGH = 0.12  # share of an object's Gaussians that must be seen, and seen through, in one view
FEWEST_PX = 30  # visible pixels that say something
CARVED, LEFT = 0.5, 0.15  # an object is gone, too, when it was carved but for a few Gaussians
FEWEST = 30  # Gaussians; smaller objects are too uncertain to be recognised elsewhere
KEPT = 64  # removed objects remembered
# share of a new object's surface that must be explained for it to be the old one: while only a side of it is known, much of it fits
# others, too (measured up to 0.62); the right ones reach 0.8 as they are seen
FITS = 0.7
GROWN = 1.5  # a pair that did not fit is compared again when so many times more of the new one is known
UNSEEN_M = 0.03  # old Gaussians farther than this from new ones show sides not seen yet


@dataclass
class _Remains:
    """Rows of core attributes of what was carved from an object."""

    parts: list[dict[str, torch.Tensor]]

    @property
    def count(self) -> int:
        return sum(len(part["means"]) for part in self.parts)

    def joined(self) -> dict[str, torch.Tensor]:
        return {name: torch.cat([part[name] for part in self.parts]) for name in CORE}


class SceneChanges:
    """Remembers what was carved, and says which objects are gone or elsewhere. Changes neither map nor registry, but for
    ``put_back``."""

    def __init__(self, config: MapperConfig) -> None:
        self.config = config
        self._misses: defaultdict[int, int] = defaultdict(int)  # by slot: keyframes in a row that looked through it
        self._doubtful: set[int] = set()
        self._carved: defaultdict[int, _Remains] = defaultdict(lambda: _Remains([]))  # by slot, objects still there
        self._removed: dict[int, _Remains] = {}  # by slot, objects that are gone
        self._compared: dict[tuple[int, int], int] = {}  # ids of (old, new) -> Gaussians of the new one then

    @staticmethod
    def margin(depth: np.ndarray) -> np.ndarray:
        """How far behind the map's surface a measured one (m) must lie to show that the map's is not there."""
        return THROUGH_M + THROUGH_PER_M2 * depth**2

    def look(
        self, top: np.ndarray, owner: np.ndarray, rendered: np.ndarray, measured: np.ndarray, sizes: np.ndarray
    ) -> set[int]:
        """Compare one view: key (H, W) of the Gaussian that shows at each pixel, depth of the map and of the sensor, m, 0 = none.

        owner: object slot by key, 0 where it is not sure; sizes: Gaussians of each slot. Returns the slots of objects that it looks through: what is seen there now is something else.
        """
        slots = owner[top]
        known = (measured > 0) & (slots > 0)
        margin = self.margin(measured)
        known &= measured > rendered - margin  # else something stands in front
        count = np.bincount(slots[known])
        missed = known & (measured > rendered + margin)
        through = np.bincount(slots[missed], minlength=len(count))
        out = set()
        self._doubtful = set()
        for slot in np.flatnonzero(count >= FEWEST_PX).tolist():
            share = through[slot] / count[slot]
            if share >= DOUBTFUL:
                # the rim of an object that is far away or hidden says nothing of it
                gaussians = len(np.unique(top[missed & (slots == slot)]))
                if gaussians < ENOUGH * sizes[slot]:
                    continue
            if share >= THROUGH:
                self._misses[slot] += 1
                out.add(slot)
            elif share >= DOUBTFUL:
                self._doubtful.add(slot)
            else:
                self._misses.pop(slot, None)
                if share <= THERE:
                    self._carved.pop(slot, None)  # these were strays
        return out

    def claimed(self, slots: set[int]) -> None:
        """Which objects the masks of the view last looked at show."""
        for slot in self._doubtful:
            if slot in slots:
                self._misses.pop(slot, None)
            else:
                self._misses[slot] += 1
        self._doubtful = set()

    def carve(self, gaussians: GaussianMap, rows: np.ndarray) -> None:
        """Take note of rows that are about to be removed because the sensor looked through them."""
        slots = gaussians["object"].numpy()[rows]
        for slot in np.unique(slots[slots > 0]).tolist():
            self._keep(self._carved[slot], gaussians, rows[slots == slot])

    @staticmethod
    def _keep(remains: _Remains, gaussians: GaussianMap, rows: np.ndarray) -> None:
        index = torch.from_numpy(rows)
        remains.parts.append({name: gaussians[name][index].clone() for name in CORE})

    def gone(self, objects: ObjectRegistry) -> list[MapObject]:
        """Objects that are not there any more."""
        out = []
        for slot in {*self._carved, *self._misses}:
            if not objects.has_slot(slot) or objects.by_slot(slot).state is ObjectState.REMOVED:
                self._carved.pop(slot, None)
                self._misses.pop(slot, None)
                continue
            obj = objects.by_slot(slot)
            carved = self._carved[slot].count if slot in self._carved else 0
            few = obj.num_gaussians <= LEFT * obj.most_gaussians and carved >= CARVED * obj.most_gaussians
            if obj.shown and (few or self._misses.get(slot, 0) >= self.config.removed_misses):
                out.append(obj)
        return out

    def bury(self, gaussians: GaussianMap, objects: ObjectRegistry, obj: MapObject, rows: np.ndarray) -> None:
        """Keep what an object was; ``rows`` are the Gaussians that it still has, and that are removed now."""
        self._misses.pop(obj.slot, None)
        remains = self._carved.pop(obj.slot, _Remains([]))
        if len(rows):
            self._keep(remains, gaussians, rows)
        self._removed[obj.slot] = remains
        for slot in list(self._removed)[:-KEPT]:
            del self._removed[slot]
            if objects.has_slot(slot) and objects.by_slot(slot).state is ObjectState.REMOVED:
                objects.drop(slot)
        known = {objects.by_slot(slot).id for slot in self._removed if objects.has_slot(slot)}
        self._compared = {pair: size for pair, size in self._compared.items() if pair[0] in known}

    def moved(self, gaussians: GaussianMap, objects: ObjectRegistry) -> Iterator[tuple[MapObject, MapObject, Relocation]]:
        """Pairs of a removed object and the newer one that it is."""
        if not self.config.follow_moved:
            return
        for slot in list(self._removed):
            if not objects.has_slot(slot) or objects.by_slot(slot).state is not ObjectState.REMOVED:
                del self._removed[slot]  # dropped, or brought back by an edit
                continue
            old, fitting = objects.by_slot(slot), list[tuple[float, MapObject, Relocation]]()
            for new in objects.present():
                if not self._comparable(old, new):
                    continue
                fit = self._fit(gaussians, self._removed[slot], new)
                if fit is not None and fit.share >= FITS:
                    fitting.append((fit.share, new, fit))
            if fitting:
                _, new, fit = max(fitting, key=lambda entry: entry[0])
                yield old, new, fit

    def _comparable(self, old: MapObject, new: MapObject) -> bool:
        if new.locked or new.first_seen_ns <= old.last_seen_ns or new.num_gaussians < FEWEST:
            return False
        if old.class_id and new.class_id and old.class_id != new.class_id:
            return False
        key = (old.id, new.id)
        if new.num_gaussians < GROWN * self._compared.get(key, 0):
            return False
        self._compared[key] = new.num_gaussians
        return True

    @staticmethod
    def _fit(gaussians: GaussianMap, remains: _Remains, new: MapObject) -> Relocation | None:
        if not remains.parts:
            return None
        rows = torch.nonzero(gaussians["object"] == new.slot)[:, 0]
        before = remains.joined()
        return relocate(
            before["means"].numpy(),
            sh_to_rgb(before["sh"][:, 0]).numpy(),
            gaussians.means[rows].numpy(),
            sh_to_rgb(gaussians.sh[rows, 0]).numpy(),
        )

    def put_back(self, gaussians: GaussianMap, obj: MapObject, motion: np.ndarray) -> np.ndarray:
        """Add the kept Gaussians of an object where it is now, but for the sides that are in the map already; the rows."""
        values = self._removed.pop(obj.slot).joined()
        there = gaussians.means[gaussians["object"] == obj.slot].numpy()
        place = values["means"].numpy() @ motion[:3, :3].T.astype(np.float32) + motion[:3, 3].astype(np.float32)
        unseen = torch.from_numpy(cKDTree(there).query(place)[0] > UNSEEN_M)
        if not bool(unseen.any()):
            return np.zeros(0, np.int64)
        rows = gaussians.add(**{name: value[unseen] for name, value in values.items()}).numpy()
        if gaussians.sh_degree:
            gaussians.sh[rows] = rotate_harmonics(gaussians.sh[rows], torch.from_numpy(motion[:3, :3]))
        move_rows(gaussians, rows, motion[None])
        add_votes(gaussians, rows, np.full(len(rows), obj.slot), np.ones(len(rows), np.float32))
        return rows
