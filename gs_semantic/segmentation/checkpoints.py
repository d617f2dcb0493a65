"""Checkpoints of a training run: everything that decides how it goes on, in one file that is written whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gs_semantic.errors import InvalidInputError
from gs_semantic.files import atomic_write
from gs_semantic.gaussians import GaussianMap
from gs_semantic.rendering import Rasterizer
from gs_semantic.segmentation.config import make_config
from gs_semantic.segmentation.loop import load_content
from gs_semantic.segmentation.method import LiftingMethod
from gs_semantic.segmentation.registry import method_class
from gs_semantic.segmentation.scene import Scene

SCHEMA = 1


def save_checkpoint(path: Path, method: LiftingMethod, loop: dict[str, Any]) -> None:
    """Write the method's state and that of the training loop (plain values and tensors)."""
    content = {
        "schema": SCHEMA,
        "method": method.name,
        "config": asdict(method.config),
        "ids": torch.from_numpy(method.scene.ids),
        "map": _map_state(method.gaussians),
        "state": method.state_dict(),
        "loop": loop,
    }
    with atomic_write(path) as file:
        torch.save(_on_cpu(content), file)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint; InvalidInputError names the file that is none."""
    content = load_content(path, "start without resuming")
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InvalidInputError(f"{path}: schema is {schema!r}, this version reads schema {SCHEMA}")
    return content


def restore_method(content: dict[str, Any], scene: Scene, rasterizer: Rasterizer | None = None) -> LiftingMethod:
    """The method as it was when ``content`` was saved; the scene has to be the same again."""
    ids = content["ids"].numpy()
    if ids.tolist() != scene.ids.tolist():
        raise InvalidInputError(f"{scene.name}: has other ids than the checkpoint was trained with ({len(ids)})")
    kind = method_class(content["method"])
    config = make_config(kind.Config, "paper", overrides=content["config"])
    method = kind(config, scene, rasterizer, _map_of(content["map"]))
    for record in content["map"]["state"]:
        target = method.gaussians.state(record["attribute"], record["key"])
        if target.shape != record["rows"].shape:  # SH of a higher degree than the map had at first
            method.gaussians.replace_state(record["attribute"], record["key"], record["rows"])
        else:
            target.copy_(record["rows"])
    method.load_state_dict(content["state"])
    return method


def _on_cpu(content: Any) -> Any:
    """The same with all tensors on the CPU, so that any machine reads it."""
    if isinstance(content, dict):
        return {key: _on_cpu(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_on_cpu(value) for value in content)
    return content.cpu() if isinstance(content, torch.Tensor) else content


def _map_state(gaussians: GaussianMap) -> dict[str, Any]:
    return {
        "map_id": gaussians.map_id,
        "frame_id": gaussians.frame_id,
        "sh_degree": gaussians.sh_degree,
        "next_uid": gaussians.next_uid,
        "revision": gaussians.revision,
        "attributes": [
            {"name": name, "fill": gaussians.specs[name].fill, "rows": gaussians[name].clone()} for name in gaussians
        ],
        "state": [
            {"attribute": name, "key": key, "rows": gaussians.state(name, key).clone()}
            for name, key in gaussians.state_keys
        ],
    }


def _map_of(state: dict[str, Any]) -> GaussianMap:
    gaussians = GaussianMap(state["sh_degree"], state["map_id"], state["frame_id"])
    for record in state["attributes"]:
        rows = record["rows"]
        gaussians.register(record["name"], tuple(rows.shape[1:]), rows.dtype, record["fill"])
    gaussians.add(**{record["name"]: record["rows"] for record in state["attributes"]})
    gaussians.continue_from(state["next_uid"], state["revision"])
    return gaussians
