"""Mapping without ROS: a recorded sequence through ``Mapper.step``, and map folders opened for looking at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from gs_semantic.data.sequence import FrameSequence
from gs_semantic.errors import EmptyMapError, InvalidInputError, InvalidRequestError
from gs_semantic.evaluation.damage import Damage
from gs_semantic.gaussians import Camera, Frame
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.events import Events, LabelImages
from gs_semantic.mapping.fitting import Exposures, FitSettings, PhotographFitter
from gs_semantic.mapping.language import LanguageSource
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.semantics import SemanticSource
from gs_semantic.objects.registry import ObjectState

# what suits matched depth better than a sensor's; config/sensor/mono.yaml says the same to the mapper node, and to take fewer
# keyframes, for which there is no haste here
COLOUR_ONLY = ("lr_means=0.001", "refine_error=0.15")
# for a map whose geometry is there already: keyframes only give it labels
LABELS_ONLY = ("match=false", "steps_per_keyframe=0", "steps_when_busy=0")


def mapper_config(pairs: Iterable[str] = ()) -> MapperConfig:
    """Defaults changed by ``name=value`` texts; InvalidRequestError naming the parameter when one does not fit."""
    config, known = MapperConfig(), {spec.name for spec in fields(MapperConfig)}
    changes: dict[str, Any] = {}
    for pair in pairs:
        name, assigned, text = pair.partition("=")
        if not assigned or name not in known:
            names = ", ".join(sorted(known))
            raise InvalidRequestError(f"--param {pair}: expected NAME=VALUE with NAME one of {names}")
        default, value = getattr(config, name), yaml.safe_load(text)
        if isinstance(default, float) and isinstance(value, int | str) and not isinstance(value, bool):
            try:
                value = float(value)  # also 1e-3, which YAML takes for text
            except ValueError:
                pass  # refused below, by its type
        if type(value) is not type(default):
            raise InvalidRequestError(f"--param {pair}: expected {type(default).__name__}, as in {name}={default}")
        changes[name] = value
    config = replace(config, **changes)
    try:
        config.validate()
    except ValueError as error:
        raise InvalidRequestError(f"--param: {error}") from None
    return config


class MapOffline:
    """A mapper that is fed frame by frame and finishes all work of a frame before the next; shows its map."""

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper

    @classmethod
    def create(
        cls,
        labels: LabelSet | None = None,
        params: Iterable[str] = (),
        semantics: SemanticSource | None = None,
        language: LanguageSource | None = None,
    ) -> MapOffline:
        """An empty map; ``labels`` are the class names, ``params`` texts for ``mapper_config``; ``semantics`` labels it
        in the place of masks, ``language`` gives objects their embeddings."""
        names = semantics.labels if semantics else labels
        return cls(Mapper(mapper_config(params), labels=names, semantics=semantics, language=language))

    @classmethod
    def open(cls, folder: str | Path) -> MapOffline:
        """The map in a folder; EmptyMapError when there is nothing in it."""
        gaussians, objects = load_map(folder)
        if len(gaussians) == 0:
            raise EmptyMapError(f"{folder}: the map has no Gaussians; map a sequence first")
        return cls(Mapper(gaussians=gaussians, objects=objects, labels=objects.labels))

    def add(self, frame: Frame) -> list[Events]:
        """One frame with everything that it entails."""
        events = [self.mapper.step(frame, answer=False)]
        while self.mapper.pending:
            events.append(self.mapper.step(None))
        return events

    def refine(self, steps: int, progress: Callable[[], object] = lambda: None) -> None:
        """Further optimisation steps on the keyframes of this run."""
        for _ in range(steps if self.mapper.can_optimise else 0):
            self.mapper.step(None)
            progress()

    def fit(
        self, frames: Sequence[Frame], settings: FitSettings, progress: Callable[[], object] = lambda: None
    ) -> Exposures:
        """Fit the map to whole photographs (``mapping/fitting.py``); the mapper's keyframes are forgotten."""
        fitter = PhotographFitter(frames, settings, self.mapper.rasterizer)
        self.mapper.load(fitter.run(self.mapper.gaussians, progress), self.mapper.objects)
        return fitter.exposures

    def save(self, folder: str | Path) -> None:
        mapper = self.mapper
        save_map(folder, mapper.gaussians, mapper.objects, mapper.objects.labels, views=mapper.views.values())

    @property
    def confirmed_slots(self) -> list[int]:
        return [obj.slot for obj in self.mapper.objects if obj.state == ObjectState.CONFIRMED]

    def render_labels(self, camera: Camera, stamp_ns: int = 0) -> LabelImages:
        return self.mapper.render_labels(camera, stamp_ns)

    def render_colour(self, camera: Camera) -> np.ndarray:
        """uint8 (H, W, 3)."""
        with torch.no_grad():
            rgb = self.mapper.rasterizer.render(self.mapper.gaussians, camera).rgb
        return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def map_sequence(
    shown: MapOffline,
    sequence: FrameSequence,
    indices: Iterable[int],
    damage: Damage | None,
    progress: Callable[[int], object] = lambda index: None,
    use_depth: bool = True,
) -> int:
    """Feed frames of a sequence, with damaged masks or (``damage`` None) without any; returns the keyframes taken.

    Without recorded depth, or with ``use_depth`` false, the mapper finds depth by matching the frames.
    """
    if not sequence.has_depth and not shown.mapper.config.match and not len(shown.mapper.gaussians):
        raise InvalidInputError(f"{sequence.folder}: has no depth; mapping needs depth, or match=true")
    keyframes = 0
    for index in indices:
        frame = sequence[index]
        if damage is None:
            frame = replace(frame, instances=None, masks={})
        elif frame.instances is not None:
            instances, masks = damage.apply(frame.instances, frame.masks, index)
            frame = replace(frame, instances=instances, masks=masks)
        if not use_depth:
            frame = replace(frame, depth=None)
        keyframes += sum(event.keyframe for event in shown.add(frame))
        progress(index)
    shown.mapper.finish()  # the last keyframe that waited to be matched
    return keyframes
