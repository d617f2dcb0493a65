"""One synchronised observation of a posed camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians.camera import Camera


@dataclass(frozen=True)
class MaskInfo:
    """What a 2D segmenter says of one mask of one frame: class id (0 = unknown) and score 0..1."""

    class_id: int = 0
    score: float = 1.0


@dataclass(frozen=True)
class Frame:
    """Colour, and where present depth and masks, of one instant; all images of the camera's size.

    rgb: uint8 (H, W, 3). depth: float32 metres (H, W), 0 or NaN invalid. instances: int32 (H, W), 0 = unlabelled;
    ids need not mean the same in another frame. masks: class and score per id in ``instances`` (missing: unknown).
    ignored: bool (H, W), pixels that show what does not belong into the map (the robot itself); depth and instances
    should be 0 there.
    """

    stamp_ns: int
    camera: Camera
    rgb: np.ndarray
    depth: np.ndarray | None = None
    instances: np.ndarray | None = None
    masks: dict[int, MaskInfo] = field(default_factory=dict)
    frame_id: str = ""
    ignored: np.ndarray | None = None

    def __post_init__(self) -> None:
        size = (self.camera.height, self.camera.width)
        for name in ("rgb", "depth", "instances", "ignored"):
            image = getattr(self, name)
            if image is not None and image.shape[:2] != size:
                raise InvalidInputError(
                    f"{name}: image is {image.shape[1]}x{image.shape[0]}, the camera is {size[1]}x{size[0]}"
                )
        if self.rgb.dtype != np.uint8 or self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise InvalidInputError(f"rgb: expected uint8 (H, W, 3), got {self.rgb.dtype} {self.rgb.shape}")


def class_image(instances: np.ndarray, masks: Mapping[int, MaskInfo]) -> np.ndarray:
    """Class ids, int32 (H, W), of an id image and what is known of its ids; 0 where nothing is."""
    ids, dense = np.unique(instances, return_inverse=True)
    classes = np.array([masks[key].class_id if key > 0 and key in masks else 0 for key in ids.tolist()], np.int32)
    return classes[dense].reshape(instances.shape)
