"""Association of masks with objects by a codebook that is kept up while the map grows (Unified-Lift, online).

Unified-Lift (CVPR 2025, arXiv 2503.14029) trains features of Gaussians and a codebook of objects together, over all
views. Here a keyframe comes once: its masks are matched with the codes by how probable these are for the features of
the Gaussians that they cover (Eq. 2 and 5), Gaussians whose feature speaks against their mask are left out (Eq. 7), and
features and codes take a step towards each other (Eq. 4 and 6 in closed form). Between keyframes the optimiser of the
map pulls rendered features towards the codes. Objects that no code explains open one; codes of forgotten objects are
given to new ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from gs_semantic.mapping.association import Assignment, Evidence, Membership, OverlapAssociator
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.objects.registry import ObjectRegistry

TEMPERATURE = 0.1  # of cosines, as in Eq. 7
NOBODY = 0.5  # cosine with the best code below which a feature belongs to none
IMPROBABLE = 0.02  # shares below are left out
LEARNED = 0.1  # length of a feature from which on it says anything
FEATURE_RATE = 0.5  # a feature moves so far towards the code of its mask
CODE_RATE = 0.1  # a code moves so far towards the mean feature of its mask
UNSURE = 0.8  # tau of Eq. 7
TRIES = 64  # directions tried for a new code


class CodebookAssociator(OverlapAssociator):
    """The same decisions and states as by overlap, but a Gaussian belongs to objects by its feature, not by its votes.

    ``vectors`` (L,D) are the codes, of unit length, ``owners`` (L,) the slot of each one's object; 0: the code is free.
    An object that took over another one has the codes of both.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        self.vectors = np.zeros((0, config.identity_dims), np.float32)
        self.owners = np.zeros(0, np.int32)
        self._random = np.random.default_rng(config.seed)

    def codes(self, slots: int) -> torch.Tensor | None:
        """(slots, D): the code of each object, 0 for slots without."""
        table = np.zeros((slots, self.vectors.shape[1]), np.float32)
        for place in np.flatnonzero(self.owners)[::-1]:  # the oldest of several counts
            if self.owners[place] < slots:
                table[self.owners[place]] = self.vectors[place]
        return torch.from_numpy(table)

    def associate(self, evidence: Evidence, objects: ObjectRegistry) -> Assignment:
        self._free(objects)
        result = super().associate(evidence, objects)
        for lost, keeper in result.merged.items():
            self.owners[self.owners == lost] = keeper
        self._free(objects)
        for slot in result.slots:
            if slot and not (self.owners == slot).any():
                self._open(int(slot))
        kept = self._sure(evidence) & ~self._shielded(evidence, result)
        return replace(result, features=self._learn(evidence, result, kept), kept=kept)

    # --- which object a Gaussian belongs to -----------------------------------------------------------------------------

    def membership(self, evidence: Evidence) -> Membership:
        """By Eq. 2 with cosines, where a feature was learned; else by votes, as for a map that was loaded."""
        by_votes = super().membership(evidence)
        features, length = _features(evidence)
        open_codes = np.flatnonzero(self.owners)
        learned = length > LEARNED
        rows = np.flatnonzero(learned)
        if not len(open_codes) or not len(rows):
            return by_votes
        cosines = (features[rows] / length[rows, None]) @ self.vectors[open_codes].T
        shares = np.exp((cosines - 1) / TEMPERATURE)
        shares /= shares.sum(axis=1, keepdims=True) + np.exp((NOBODY - 1) / TEMPERATURE)
        which, column = np.nonzero(shares > IMPROBABLE)
        others = ~learned[by_votes.row]
        return Membership(
            np.concatenate([rows[which], by_votes.row[others]]),
            np.concatenate([self.owners[open_codes[column]], by_votes.slot[others]]),
            np.concatenate([shares[which, column], by_votes.share[others]]),
        )

    # --- learning -------------------------------------------------------------------------------------------------------

    def _free(self, objects: ObjectRegistry) -> None:
        """Codes whose object is gone wait for a new one."""
        for place in np.flatnonzero(self.owners):
            if not objects.has_slot(int(self.owners[place])):
                self.owners[place] = 0

    def _open(self, slot: int) -> None:
        """A code for a new object: of some random directions the one farthest from all codes in use."""
        tried = self._random.standard_normal((TRIES, self.vectors.shape[1])).astype(np.float32)
        tried /= np.linalg.norm(tried, axis=1, keepdims=True)
        used = self.vectors[self.owners > 0]
        nearest = (tried @ used.T).max(axis=1) if len(used) else np.zeros(TRIES)
        vector = tried[nearest.argmin()]
        dead = np.flatnonzero(self.owners == 0)
        if len(dead):
            self.vectors[dead[0]], self.owners[dead[0]] = vector, slot
        else:
            self.vectors = np.concatenate([self.vectors, vector[None]])
            self.owners = np.append(self.owners, np.int32(slot))

    def _sure(self, evidence: Evidence) -> np.ndarray:
        """Eq. 7, bool (V,): Gaussians whose feature speaks for their own mask among those of the keyframe.

        A Gaussian that has learned nothing yet says nothing against it.
        """
        features, length = _features(evidence)
        masks = len(evidence.areas)
        learned = (length > LEARNED) & (evidence.mask > 0)
        rows = np.flatnonzero(learned)
        kept = np.ones(len(length), bool)
        if not len(rows):
            return kept
        unit = features[rows] / length[rows, None]
        mask = evidence.mask[rows]
        sums = np.zeros((masks, unit.shape[1]), np.float32)
        np.add.at(sums, mask, unit * evidence.weight[rows, None])
        areas = np.bincount(mask, weights=evidence.weight[rows], minlength=masks)
        shown = np.flatnonzero(areas)
        centres = sums[shown] / areas[shown, None]
        shares = np.exp(unit @ centres.T / TEMPERATURE)
        own = shares[np.arange(len(rows)), np.searchsorted(shown, mask)]
        kept[rows] = own > (1 - UNSURE) * shares.sum(axis=1)
        return kept

    def _shielded(self, evidence: Evidence, result: Assignment) -> np.ndarray:
        """bool (V,): Gaussians whose own object a mask swallowed; learning from it, they would soon be its."""
        found = np.zeros(len(evidence.mask), bool)
        if not result.shielded:
            return found
        features, length = _features(evidence)
        open_codes = np.flatnonzero(self.owners)
        cosines = features @ self.vectors[open_codes].T
        nearest = self.owners[open_codes[cosines.argmax(axis=1)]]
        nearest[cosines.max(axis=1) < NOBODY * np.maximum(length, LEARNED)] = 0
        for mask, other in result.shielded:
            found |= (evidence.mask == mask) & (nearest == other)
        return found

    def _learn(self, evidence: Evidence, result: Assignment, kept: np.ndarray) -> np.ndarray:
        """New features (V,D); codes move, too."""
        features = _features(evidence)[0].copy()
        target = result.slots[evidence.mask]
        for slot in np.unique(target[target > 0]):
            rows = np.flatnonzero((target == slot) & kept)
            place = int(np.flatnonzero(self.owners == slot)[0])
            if not len(rows):
                continue
            length = np.linalg.norm(features[rows], axis=1, keepdims=True)
            known = length[:, 0] > LEARNED
            if known.any():
                weight = evidence.weight[rows[known], None]
                mean = (features[rows[known]] / length[known] * weight).sum(axis=0) / weight.sum()
                self.vectors[place] = _unit(self.vectors[place] + CODE_RATE * (mean - self.vectors[place]))
            rate = np.where(known[:, None], FEATURE_RATE * np.minimum(evidence.weight[rows, None], 1), 1)
            features[rows] += rate * (self.vectors[place] - features[rows])
        return features


def _features(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Features (V,D) of the visible Gaussians and their lengths (V,)."""
    assert evidence.features is not None, "the mapper gives the features of what is visible"
    return evidence.features, np.linalg.norm(evidence.features, axis=1)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)
