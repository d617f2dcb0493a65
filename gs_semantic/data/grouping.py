"""Reader of COLMAP reconstructions with object masks, as Gaussian Grouping trains on, and of the LERF-Mask data set.

Beside the model and images/ of COLMAP (gs_semantic.data.colmap)::

    object_mask/<image>.png        object id per pixel, 0 = unlabelled; one for every training image
    images_train/<image>.*         names of the training images; the others are test views       (optional)
    test_mask/<view>/<prompt>.png  true mask of a text prompt: above half of white               (LERF-Mask)

``<view>`` counts the test views in the order of their names, from 0, or is an image's name without suffix. Some test
views have no masks. Masks may be smaller or larger than the photographs: they are brought to their size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gs_semantic.data.colmap import ColmapSequence, find_model
from gs_semantic.data.images import COLOUR_SUFFIXES, read_ids, read_pixels, resized_nearest
from gs_semantic.errors import InvalidInputError
from gs_semantic.gaussians import Frame

MASKS, TRAIN, PROMPTS = "object_mask", "images_train", "test_mask"
WHITE = 128  # a grey value above belongs to a prompt's mask
ASPECT_TOLERANCE = 0.02  # by which a mask's sides may be scaled differently: sizes are whole numbers


def is_grouping(path: Path) -> bool:
    """Whether a folder holds a COLMAP model with object masks or prompts."""
    return find_model(path) is not None and ((path / MASKS).is_dir() or (path / PROMPTS).is_dir())


class GroupingSequence(ColmapSequence):
    """Photographs with object masks. Test views may lack a mask, or have an empty one; then they have no
    instances.

    ``test_indices``: the views that training must not see. ``prompts``: of each annotated view, by index, the true mask
    of every prompt, as a file.
    """

    format = "gaussian_grouping"

    def __init__(self, folder: str | Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._index = {Path(photograph.name).stem: i for i, photograph in enumerate(self.photographs)}
        if len(self._index) < len(self.photographs):
            raise InvalidInputError(f"{self.model}: two images have the same name but for folder or suffix")
        self.has_instances = (self.folder / MASKS).is_dir()
        self.test_indices = self._split()
        self.prompts = self.find_prompts(self.folder / PROMPTS) if (self.folder / PROMPTS).is_dir() else {}
        if self.prompts and not self.test_indices:
            self.test_indices = tuple(sorted(self.prompts))

    def _split(self) -> tuple[int, ...]:
        folder = self.folder / TRAIN
        if not folder.is_dir():
            return ()
        files = [file for file in sorted(folder.iterdir()) if file.suffix in COLOUR_SUFFIXES]
        unknown = [file for file in files if file.stem not in self._index]
        if unknown:
            raise InvalidInputError(f"{unknown[0]}: the COLMAP model in {self.model} has no image of that name")
        if not files:
            raise InvalidInputError(f"{folder}: no images; expected those to train with")
        train = {self._index[file.stem] for file in files}
        return tuple(i for i in range(len(self)) if i not in train)

    def find_prompts(self, folder: Path) -> dict[int, dict[str, Path]]:
        """Files of masks by view and prompt in a folder laid out as test_mask/: the true ones, or predicted ones."""
        found = {}
        for view in sorted(path for path in folder.iterdir() if path.is_dir()):
            files = {file.stem: file for file in sorted(view.glob("*.png"))}
            if not files:
                raise InvalidInputError(f"{view}: no masks; expected <prompt>.png")
            found[self._view_index(view)] = files
        if not found:
            raise InvalidInputError(f"{folder}: no views; expected <view>/<prompt>.png")
        return found

    def _view_index(self, view: Path) -> int:
        if view.name in self._index:
            return self._index[view.name]
        if not view.name.isdecimal():
            raise InvalidInputError(f"{view}: is neither a number of a test view nor the name of an image")
        if not (self.folder / TRAIN).is_dir():
            raise InvalidInputError(
                f"{self.folder / TRAIN}: no such folder; {PROMPTS}/{view.name} counts the test views, which are the "
                "images that are not in it"
            )
        if int(view.name) >= len(self.test_indices):
            raise InvalidInputError(
                f"{view}: there are {len(self.test_indices)} test views (images that are not in {TRAIN}), from 0"
            )
        return self.test_indices[int(view.name)]

    def prompt_masks(self, index: int) -> dict[str, np.ndarray]:
        """True mask of every prompt annotated in a view, bool (H, W) of the file's own size; empty without any."""
        return {prompt: read_mask(file) for prompt, file in self.prompts.get(self._checked(index), {}).items()}

    def _read(self, index: int) -> Frame:
        frame = super()._read(index)
        if not self.has_instances:
            return frame
        path = (self.folder / MASKS / self.photographs[index].name).with_suffix(".png")
        if not path.is_file():
            path = self.folder / MASKS / f"{Path(self.photographs[index].name).stem}.png"
        if index in self.test_indices and not path.is_file():
            return frame
        lens = self.lenses[self.photographs[index].camera_id]
        size = (lens.recorded.width, lens.recorded.height)
        instances = lens.undistort(_fitted(read_ids(path, "object"), size, path), labels=True)
        if index in self.test_indices and not instances.any():  # the data set's way to say that there is none
            return frame
        return Frame(frame.stamp_ns, frame.camera, frame.rgb, None, instances, self._masks(instances, None))


def read_mask(path: Path) -> np.ndarray:
    """A mask bool (H, W) of an image file in grey or colour: where it is brighter than half of white."""
    modes = {mode: "L" for mode in ("1", "P", "RGB", "RGBA", "LA")}
    return read_pixels(path, "a mask", ("L", *modes), converted=modes) > WHITE


def _fitted(ids: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    height, width = ids.shape
    if abs((width / size[0]) / (height / size[1]) - 1) > ASPECT_TOLERANCE:
        raise InvalidInputError(f"{path}: mask is {width}x{height}, its photograph {size[0]}x{size[1]}: another shape")
    return resized_nearest(ids, size)
