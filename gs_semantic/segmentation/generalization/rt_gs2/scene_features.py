"""3D features of a whole scene, in pieces that fit the memory, and of what changed in a live map alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from gs_semantic.gaussians import GaussianMap
from gs_semantic.gaussians.changes import CHUNK
from gs_semantic.segmentation.generalization.rt_gs2.gaussian_inputs import (
    GaussianInputs,
    Normalisation,
    gaussian_inputs,
)
from gs_semantic.segmentation.generalization.rt_gs2.point_transformer import PointTransformer

MAX_POINTS = 300_000  # Gaussians in one pass
HALO_M = 1.0  # what a piece sees beyond its own Gaussians
TILE_M = 1.0  # pieces of a live map that are renewed
CHANGED = 0.05  # change of any input from which on a Gaussian counts as changed


@torch.no_grad()
def scene_features(
    model: PointTransformer, gaussians: GaussianMap, max_points: int = MAX_POINTS, seed: int = 0
) -> torch.Tensor:
    """Features float32 (N,32) of all Gaussians, on the CPU; the model is switched to evaluation.

    A scene of more than ``max_points`` is cut into boxes that each see a margin around them, so memory is bounded.
    """
    return _features(model, gaussian_inputs(gaussians), max_points, seed)


def _features(model: PointTransformer, inputs: GaussianInputs, max_points: int, seed: int) -> torch.Tensor:
    out = torch.empty(len(inputs), model.config.features)
    for core, seen in _pieces(inputs.xyz, max_points, seed):
        out[core] = _run(model, inputs.rows(seen))[: len(core)]
    return out


def _run(model: PointTransformer, inputs: GaussianInputs) -> torch.Tensor:
    device = next(model.parameters()).device
    return model.eval()(inputs.xyz.to(device), inputs.features.to(device)).float().cpu()


def _pieces(xyz: torch.Tensor, max_points: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(rows of a piece, the same rows and then those around it), together all rows, none in two pieces."""
    everything = torch.arange(len(xyz))
    if len(xyz) <= max_points:
        yield everything, everything
        return
    generator = torch.Generator().manual_seed(seed)
    waiting = [everything]
    while waiting:
        core = waiting.pop()
        if len(core) > max_points // 2:
            points = xyz[core]
            axis = int((points.amax(dim=0) - points.amin(dim=0)).argmax())
            order = points[:, axis].argsort()
            waiting += [core[order[: len(core) // 2]], core[order[len(core) // 2 :]]]
            continue
        low, high = xyz[core].amin(dim=0) - HALO_M, xyz[core].amax(dim=0) + HALO_M
        around = ((xyz >= low) & (xyz <= high)).all(dim=1)
        around[core] = False
        halo = torch.nonzero(around)[:, 0]
        room = max_points - len(core)
        if len(halo) > room:
            halo = halo[torch.randperm(len(halo), generator=generator)[:room]]
        yield core, torch.cat([core, halo])


class LiveFeatures:
    """Features of a map that grows: ``update`` renews those of places that changed since the last time.

    The map, or its reading copies, tell which rows changed (``changed_chunks``). A place is a cube of ``TILE_M``; it is
    renewed with a margin of ``HALO_M`` around it to look at. Colour and position keep the normalisation of the last full run.
    """

    def __init__(self, model: PointTransformer, max_points: int = MAX_POINTS) -> None:
        self.model, self.max_points = model, max_points
        self.renewed = 0  # Gaussians whose features the last update made
        self._history: object = None
        self._revision = -1
        self._normalisation: Normalisation | None = None
        self._inputs = torch.empty(0, 0)
        self._features = torch.empty(0, 0)

    @torch.no_grad()
    def update(self, gaussians: GaussianMap) -> torch.Tensor:
        """Features (N,32) of the map as it is."""
        known = gaussians.history is self._history
        inputs = gaussian_inputs(gaussians, self._normalisation if known else None)
        chunks = gaussians.changed_chunks(self._revision) if known else None
        dirty = None if chunks is None else self._changed(inputs, chunks)
        if dirty is None or int(dirty.sum()) > len(inputs) // 2:
            inputs = gaussian_inputs(gaussians)
            self._normalisation = inputs.normalisation
            self._features = _features(self.model, inputs, self.max_points, 0)
            self.renewed = len(inputs)
        else:
            self._renew(inputs, dirty)
        self._history, self._revision = gaussians.history, gaussians.revision
        self._inputs = inputs.features
        return self._features

    def _changed(self, inputs: GaussianInputs, chunks: np.ndarray) -> torch.Tensor:
        """bool (N,): rows that are new or not as they were."""
        count, before = len(inputs), len(self._inputs)
        noted = torch.zeros(-(-max(count, 1) // CHUNK), dtype=torch.bool)
        noted[torch.from_numpy(chunks[chunks < len(noted)]).long()] = True
        dirty = noted.repeat_interleave(CHUNK)[:count].clone()
        both = min(count, before)
        moved = (inputs.features[:both] - self._inputs[:both]).abs().amax(dim=1) > CHANGED
        dirty[:both] &= moved
        dirty[both:] = True
        return dirty

    def _renew(self, inputs: GaussianInputs, dirty: torch.Tensor) -> None:
        count = len(inputs)
        features = torch.zeros(count, self.model.config.features)
        both = min(count, len(self._features))
        features[:both] = self._features[:both]
        self._features, self.renewed = features, 0
        if not bool(dirty.any()):
            return
        tiles = torch.floor(inputs.xyz / TILE_M).long()
        tiles -= tiles.amin(dim=0)
        wide = tiles.amax(dim=0) + 1
        key = (tiles[:, 0] * wide[1] + tiles[:, 1]) * wide[2] + tiles[:, 2]
        core = torch.isin(key, key[dirty].unique())
        for rows in torch.nonzero(core)[:, 0].split(self.max_points // 2):
            low, high = inputs.xyz[rows].amin(dim=0) - HALO_M, inputs.xyz[rows].amax(dim=0) + HALO_M
            around = ((inputs.xyz >= low) & (inputs.xyz <= high)).all(dim=1)
            around[rows] = False
            halo = torch.nonzero(around)[:, 0][: self.max_points - len(rows)]
            self._features[rows] = _run(self.model, inputs.rows(torch.cat([rows, halo])))[: len(rows)]
            self.renewed += len(rows)
