"""What is scored by the protocols: a map, or a folder of images that anything may have made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from gs_semantic.benchmarks.scoring import Evaluation, View
from gs_semantic.data.grouping import PROMPTS, GroupingSequence, read_mask
from gs_semantic.data.images import read_colour, read_depth, read_ids
from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.evaluation.protocols import PROTOCOLS, Protocol, ProtocolOptions, ViewImages
from gs_semantic.gaussians.map_folder import INDEX
from gs_semantic.mapping.offline import MapOffline

MILLIMETRE = 0.001
FOLDERS = {
    "colour": "rgb",
    "depth": "depth",
    "instance": "instance",
    "semantic": "semantic",
    "confidence": "confidence",
}


class Predictions(ABC):
    """``kinds``: what is shown at views; ``at(view)``: the images."""

    kinds: frozenset[str]

    @abstractmethod
    def at(self, view: View) -> ViewImages:
        """What is shown at a view; None for a kind that this view lacks."""


class MapPredictions(Predictions):
    """Images rendered from a map."""

    kinds = frozenset({"rgb", "depth", "instance", "semantic"})

    def __init__(self, shown: MapOffline) -> None:
        self.shown = shown

    def at(self, view: View) -> ViewImages:
        labels = self.shown.render_labels(view.frame.camera, view.frame.stamp_ns)
        return ViewImages(
            rgb=self.shown.render_colour(view.frame.camera),
            depth=labels.depth,
            instance=labels.instance,
            semantic=labels.semantic,
            confidence=labels.confidence.astype(np.float32) / 255,
        )


class FolderPredictions(Predictions):
    """Images of a folder, laid out as ``gs-semantic render`` writes them, or only ids.

    colour/, semantic/, instance/, confidence/, depth/ (mm) hold a ``000000.png`` for frame 0 of the sequence, and so on;
    without any of them the folder itself holds instance ids by these names. test_mask/ holds masks of prompts as the
    LERF-Mask data set does. InvalidInputError names a folder that has an image of no view, and a file that is damaged
    or not of the frame's size.
    """

    def __init__(self, folder: Path, evaluation: Evaluation) -> None:
        self._sequence = evaluation.sequence
        self._folders = {kind: folder / name for name, kind in FOLDERS.items() if (folder / name).is_dir()}
        self._prompts: dict[int, dict[str, Path]] = {}
        if (folder / PROMPTS).is_dir():
            if not isinstance(self._sequence, GroupingSequence):
                raise InvalidInputError(f"{folder / PROMPTS}: {self._sequence.folder} has no prompts to compare with")
            self._prompts = self._sequence.find_prompts(folder / PROMPTS)
        if not self._folders and not self._prompts:
            self._folders = {"instance": folder}
        for place in self._folders.values():
            if not any(_file(place, index).is_file() for index in evaluation.indices):
                first = _file(place, evaluation.indices[0])
                raise InvalidInputError(
                    f"{place}: has an image of none of the {len(evaluation)} views of {self._sequence.folder}; "
                    f"expected {first.name} and so on, by number of the frame"
                )
        self.kinds = frozenset(self._folders) | ({"prompts"} if self._prompts else set())

    def at(self, view: View) -> ViewImages:
        images: dict[str, np.ndarray] = {}
        size, source = (view.frame.camera.width, view.frame.camera.height), str(self._sequence.folder)
        for kind, folder in self._folders.items():
            if not (path := _file(folder, view.index)).is_file():
                continue
            if kind == "rgb":
                images[kind] = read_colour(path, size, source)
            elif kind == "depth":
                images[kind] = read_depth(path, MILLIMETRE, size, source)
            else:
                images[kind] = read_ids(path, kind, size, source)
        if "confidence" in images:
            images["confidence"] = images["confidence"] / 255
        prompts = {prompt: read_mask(file) for prompt, file in self._prompts.get(view.index, {}).items()}
        return ViewImages(**images, prompts=prompts if self._prompts else None)


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.png"


def open_predictions(path: Path, evaluation: Evaluation) -> Predictions:
    """A map folder, or a folder of images."""
    if path.is_dir() and not (path / INDEX).exists():
        return FolderPredictions(path, evaluation)
    return MapPredictions(MapOffline.open(path))


def truth_of(view: View, sequence: FrameSequence) -> ViewImages:
    """What a sequence says of one of its views."""
    frame = view.frame
    prompts = sequence.prompt_masks(view.index) if isinstance(sequence, GroupingSequence) else {}
    return ViewImages(frame.rgb, frame.depth, frame.instances, view.semantic, prompts=prompts or None)


def known(sequence: FrameSequence) -> set[str]:
    """The kinds of truth that a sequence has."""
    has = {"depth": sequence.has_depth, "instance": sequence.has_instances, "semantic": sequence.has_semantic}
    prompts = isinstance(sequence, GroupingSequence) and bool(sequence.prompts)
    return {"rgb"} | {kind for kind, there in has.items() if there} | ({"prompts"} if prompts else set())


def choose(
    names: Iterable[str], predictions: Predictions, sequence: FrameSequence, options: ProtocolOptions
) -> tuple[list[Protocol], dict[str, str]]:
    """The protocols of these names; without names all that can be applied, and why the others cannot be.

    InvalidRequestError when a named one cannot be.
    """
    asked = list(dict.fromkeys(names))
    chosen, left_out = list[Protocol](), dict[str, str]()
    for name in asked or PROTOCOLS:
        if name not in PROTOCOLS:
            raise InvalidRequestError(f"protocol '{name}': expected one of {', '.join(PROTOCOLS)}")
        kind = PROTOCOLS[name]
        if kind.truth not in known(sequence):
            left_out[name] = f"{sequence.folder} has no {_called(kind.truth)} to compare with"
        elif not predictions.kinds & set(kind.shown):
            left_out[name] = f"there are no predicted {' or '.join(_called(shown) for shown in kind.shown)}"
        else:
            chosen.append(kind(options))
    if asked and left_out:
        name, why = next(iter(left_out.items()))
        raise InvalidRequestError(f"protocol '{name}' cannot be applied: {why}")
    return chosen, left_out


def _called(kind: str) -> str:
    return {"rgb": "colour images", "prompts": "masks of prompts"}.get(kind, f"{kind} images")


def score_protocols(
    protocols: Iterable[Protocol],
    predictions: Predictions,
    evaluation: Evaluation,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, float | None]:
    """Show every view to every protocol; returns their results and ``views_without_prediction``."""
    protocols, missing = list(protocols), 0
    for view in evaluation:
        shown, truth = predictions.at(view), truth_of(view, evaluation.sequence)
        missing += not shown.kinds
        for protocol in protocols:
            if protocol.truth in truth.kinds:
                protocol.update(view.index, shown, truth)
        progress()
    results: dict[str, float | None] = {"views_without_prediction": missing}
    for protocol in protocols:
        results |= protocol.results()
    return results
