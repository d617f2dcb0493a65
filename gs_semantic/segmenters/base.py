"""What every 2D segmenter is: one frame in, an image of mask numbers out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gs_semantic.gaussians import Frame, MaskInfo
from gs_semantic.labels import LabelSet


@dataclass(frozen=True)
class Segmentation:
    """Masks of one frame.

    instances: int32 (H, W), 0 = unlabelled, else a number that means nothing in another frame. masks: class and score
    of every number in ``instances``; class 0 = unknown.
    """

    instances: np.ndarray
    masks: dict[int, MaskInfo] = field(default_factory=dict)


class Segmenter(Protocol):
    """A source of 2D masks. It may keep buffers between frames, so one thread uses it at a time.

    needs_depth: frames without depth are refused. labels: the names of the class ids in ``Segmentation.masks``; None
    when the segmenter knows no classes.
    """

    needs_depth: bool
    labels: LabelSet | None

    def segment(self, frame: Frame) -> Segmentation:
        """Masks of a frame (its pose and its own masks are not looked at). InvalidInputError for one it cannot use."""
        ...
