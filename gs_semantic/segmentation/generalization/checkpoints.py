"""Checkpoints of learners: weights with method, stage, options and class list; in training also what decides how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.files import atomic_write
from gs_semantic.labels import LabelSet
from gs_semantic.segmentation.config import make_config
from gs_semantic.segmentation.generalization.method import SceneLearner
from gs_semantic.segmentation.generalization.registry import all_learners, learner_class
from gs_semantic.segmentation.loop import load_content
from gs_semantic.share import share_path

SCHEMA = 1
KIND = "gs_semantic learner"


def save_learner(path: Path, learner: SceneLearner, training: dict[str, Any] | None = None, half: bool = False) -> None:
    """Write a learner. training: state of the loop, plain values and tensors. half: weights in 16 bit, to be shipped."""
    weights = {name: tensor.detach().cpu() for name, tensor in learner.state_dict().items()}
    if half:
        weights = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
    content: dict[str, Any] = {
        "kind": KIND,
        "schema": SCHEMA,
        "method": learner.name,
        "stage": learner.stage,
        "classes": {int(key): str(name) for key, name in learner.labels.names.items()},
        "config": asdict(learner.config),
        "weights": weights,
        "training": training,
    }
    with atomic_write(path) as file:
        torch.save(content, file)


def pack_learners(paths: Sequence[Path], output: Path) -> SceneLearner:
    """Write the weights of a training in 16 bit, to be shipped; of several trainings of one method those of all stages.

    Options and stage are those of the first. InvalidRequestError: other methods or classes, or parts that all have differ.
    """
    contents = [read_learner(path) for path in paths]
    whole = contents[0]
    for path, content in zip(paths[1:], contents[1:], strict=True):
        for what in ("method", "classes"):
            if content[what] != whole[what]:
                raise InvalidRequestError(
                    f"{path}: its {what} are not those of {paths[0]}; they cannot be packed together"
                )
        for name, value in content["weights"].items():
            if not torch.equal(value, whole["weights"].setdefault(name, value)):
                raise InvalidRequestError(
                    f"{path}: {name} differs from that of {paths[0]}; pack stages that went on from the same weights"
                )
    learner = restore_learner(whole, paths[0])
    save_learner(output, learner, half=True)
    return learner


def shipped(path: str | Path) -> Path:
    """The path itself, or for the name of a method the checkpoint that comes with the package."""
    if not Path(path).exists() and str(path) in all_learners():
        return share_path("weights", f"{path}.pt")
    return Path(path)


def read_learner(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint, or of the one that is shipped for a method's name; InvalidInputError names the file that
    is none, or of another version. StorageError: none is shipped."""
    path = shipped(path)
    content = load_content(path, "train one: gs-semantic generalize train")
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InvalidInputError(f"{path}: is not a checkpoint of a method that generalises")
    if content.get("schema") != SCHEMA:
        raise InvalidInputError(
            f"{path}: schema is {content.get('schema')!r}, this version reads schema {SCHEMA}; train again, or use the "
            "version that wrote it"
        )
    return content


def restore_learner(
    content: dict[str, Any], where: str | Path, overrides: dict[str, Any] | None = None
) -> SceneLearner:
    """The learner in a checkpoint, with options changed by ``overrides``; InvalidInputError when weights do not fit."""
    kind = learner_class(content["method"])
    config = make_config(kind.Config, "paper", overrides=content["config"] | (overrides or {}))
    learner = kind(config, LabelSet(dict(content["classes"])))
    try:
        learner.load_state_dict(
            {name: t.float() if t.dtype == torch.half else t for name, t in content["weights"].items()}
        )
    except RuntimeError as error:
        raise InvalidInputError(f"{where}: its weights do not fit method '{kind.name}': {error}") from error
    learner.begin(content["stage"])
    return learner.eval()


def load_learner(path: str | Path, overrides: dict[str, Any] | None = None) -> SceneLearner:
    """Read a learner for use."""
    return restore_learner(read_learner(path), path, overrides)
