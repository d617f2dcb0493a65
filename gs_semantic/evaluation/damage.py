"""Seeded damage of perfect instance masks, to look like those of a 2D segmenter that knows nothing of other frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import cv2
import numpy as np

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import MaskInfo

DamageMode = Literal["none", "shuffled", "damaged", "noise_low", "noise_mid", "noise_high"]
CORRELATION = 4  # of the displacement of borders, times its largest length


@dataclass(frozen=True)
class Damage:
    """What is done to the masks of a frame; the same (seed, frame index) always gives the same result.

    none: nothing. shuffled: every mask gets a new random id in every frame. damaged: in this order every mask is
    dropped with probability ``drop``, merged with a random touching neighbour with probability ``merge`` (the larger
    one's class counts), cut in two across its longer axis, at the median, with probability ``split``, and all masks
    are eroded by ``erode`` pixels (a square of 2 erode + 1; the image border does not erode); then shuffled.
    noise_low, noise_mid, noise_high: the labels of a segmenter and tracker that err, see ``LabelNoise``; ids stay.

    classes: class ids that a mask may be taken for; without, those of the frame's masks.
    """

    mode: DamageMode = "none"
    seed: int = 0
    drop: float = 0.10
    merge: float = 0.05
    split: float = 0.05
    erode: int = 3
    classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in get_args(DamageMode):
            raise InvalidRequestError(f"masks: '{self.mode}' is not one of {', '.join(get_args(DamageMode))}")

    def apply(
        self, instances: np.ndarray, masks: dict[int, MaskInfo], frame_index: int
    ) -> tuple[np.ndarray, dict[int, MaskInfo]]:
        """Damaged copies of an id image int (H, W), 0 = unlabelled, and of the classes by id; ids come back int32.

        New ids are distinct and fit 8 bits where there are few enough masks, else 16 bits.
        """
        if self.mode == "none":
            return instances.astype(np.int32), dict(masks)
        rng = np.random.default_rng((self.seed, frame_index))
        if self.mode in NOISE:
            return NOISE[self.mode].apply(instances, masks, rng, self.classes)
        ids = np.unique(instances)
        ids = ids[ids > 0]
        if len(ids) == 0:
            return np.zeros(instances.shape, np.int32), {}
        # dense labels 1..count from here on; infos[label - 1] belongs to label
        labels = np.where(instances > 0, np.searchsorted(ids, instances) + 1, 0).astype(np.uint16)
        infos = [masks.get(int(key)) for key in ids]
        if self.mode == "damaged":
            labels = self._drop(labels, len(infos), rng)
            labels = self._merge(labels, len(infos), rng)
            labels, infos = self._split(labels, infos, rng)
            labels = eroded(labels, self.erode)
        return shuffled(labels, infos, rng)

    def _drop(self, labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        keep = np.arange(count + 1, dtype=np.uint16)
        keep[1:][rng.random(count) < self.drop] = 0
        return keep[labels]

    def _merge(self, labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        area = np.bincount(labels.ravel(), minlength=count + 1)
        touching = neighbours(labels, count)
        target = np.arange(count + 1, dtype=np.uint16)  # label that every original label has become
        for label in np.flatnonzero(rng.random(count) < self.merge) + 1:
            own = int(target[label])
            others = np.unique(target[np.flatnonzero(touching[target == own].any(axis=0))])
            others = others[(others != own) & (area[others] > 0)]
            if area[own] == 0 or len(others) == 0:
                continue
            pair = sorted((own, int(rng.choice(others))), key=lambda key: int(area[key]))
            small, large = pair
            target[target == small] = large
            area[large] += area[small]
            area[small] = 0
        return target[labels]

    def _split(
        self, labels: np.ndarray, infos: list[MaskInfo | None], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[MaskInfo | None]]:
        labels, infos = labels.copy(), list(infos)
        for label in np.flatnonzero(rng.random(len(infos)) < self.split) + 1:
            v, u = np.nonzero(labels == label)
            if len(v) < 2:
                continue
            points = np.stack([u, v], axis=1) - np.array([u.mean(), v.mean()])
            axis = np.linalg.eigh(points.T @ points)[1][:, 1]  # eigenvalues rise: the last one is the longer axis
            along = points @ axis
            half = along > np.median(along)
            infos.append(infos[label - 1])
            labels[v[half], u[half]] = len(infos)
        return labels, infos


@dataclass(frozen=True)
class LabelNoise:
    """Errors of a zero-shot segmenter with a tracker behind it, none of which agrees with those of other frames.

    flips: probability per mask and frame that its class is another one. switches: that its id and that of another mask
    are exchanged (each mask keeps its class). jitter_px: borders move by up to this, by a random smooth displacement.
    """

    flips: float
    switches: float
    jitter_px: float

    def apply(
        self, instances: np.ndarray, masks: dict[int, MaskInfo], rng: np.random.Generator, classes: tuple[int, ...] = ()
    ) -> tuple[np.ndarray, dict[int, MaskInfo]]:
        """Copies of an id image (H, W) and of the classes by id, with errors; ids int32."""
        labels = displaced(instances.astype(np.int32), self.jitter_px, rng)
        ids = np.unique(labels)
        ids = ids[ids > 0]
        known = classes or tuple(sorted({info.class_id for info in masks.values()} - {0}))
        seen: list[MaskInfo | None] = []
        for info, flipped in zip(map(masks.get, ids.tolist()), rng.random(len(ids)) < self.flips, strict=True):
            others = [key for key in known if info is not None and key != info.class_id]
            if info is not None and flipped and others:
                info = replace(info, class_id=int(rng.choice(others)))
            seen.append(info)
        target = ids.copy()
        for place in np.flatnonzero(rng.random(len(ids)) < self.switches):
            other = int(rng.integers(len(ids)))
            target[[place, other]] = target[[other, place]]
        if len(ids):
            labels = np.where(labels > 0, target[np.searchsorted(ids, np.maximum(labels, ids[0]))], 0).astype(np.int32)
        return labels, {int(key): info for key, info in zip(target, seen, strict=True) if info is not None}


NOISE: dict[str, LabelNoise] = {
    "noise_low": LabelNoise(0.10, 0.05, 1),
    "noise_mid": LabelNoise(0.20, 0.10, 3),
    "noise_high": LabelNoise(0.30, 0.20, 5),
}


def displaced(labels: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """A label image (H, W) whose every pixel is taken from up to ``pixels`` away, in rows and in columns."""
    if pixels <= 0:
        return labels
    height, width = labels.shape
    cells = max(1, round(height / (CORRELATION * pixels))) + 3, max(1, round(width / (CORRELATION * pixels))) + 3
    coarse = rng.uniform(-pixels, pixels, (2, *cells)).astype(np.float32)
    shift = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in coarse]
    rows = np.clip(np.round(np.arange(height)[:, None] + shift[0]), 0, height - 1).astype(int)
    columns = np.clip(np.round(np.arange(width)[None] + shift[1]), 0, width - 1).astype(int)
    return labels[rows, columns]


def neighbours(labels: np.ndarray, count: int) -> np.ndarray:
    """Which of the labels 0..count share a pixel's side: symmetric bool (count + 1, count + 1); 0 touches none."""
    touching = np.zeros((count + 1, count + 1), dtype=bool)
    for first, second in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        border = (first != second) & (first > 0) & (second > 0)
        touching[first[border], second[border]] = True
    return touching | touching.T


def eroded(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Every label of a uint16 image (H, W) eroded by a square: a pixel stays where its whole square has its label."""
    if pixels <= 0:
        return labels
    square = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return np.where(cv2.erode(labels, square) == cv2.dilate(labels, square), labels, 0)


def shuffled(
    labels: np.ndarray, infos: list[MaskInfo | None], rng: np.random.Generator
) -> tuple[np.ndarray, dict[int, MaskInfo]]:
    """New random distinct ids for the labels 1..len(infos): id image int32 (H, W), and the class of the ids in it."""
    limit = 255 if len(infos) <= 255 else 65535
    table = np.zeros(len(infos) + 1, np.int32)
    table[1:] = rng.permutation(limit)[: len(infos)] + 1
    present = np.unique(labels)
    masks = {}
    for label in present[present > 0].tolist():
        info = infos[label - 1]
        if info is not None:
            masks[int(table[label])] = info
    return table[labels], masks
