"""The map: a structure of arrays, one row per Gaussian."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from gs_semantic.gaussians.camera import Camera
from gs_semantic.gaussians.changes import CHUNK, ChangeRecord

SH_C0 = 0.28209479177387814  # zeroth real spherical harmonic

CORE = ("means", "quats", "log_scales", "opacity_logits", "sh")


@dataclass(frozen=True)
class AttributeSpec:
    """Shape of one row, dtype and the value of rows that are added without one."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: float | int = 0


@dataclass(frozen=True)
class Anchor:
    """What ties a map's frame to the world: the name of the localisation's map, and where a fixed frame was in the map.

    T_map_frame (4, 4); ``frame`` empty: none was given. A map fits where both are what they were.
    """

    localization_map: str = ""
    frame: str = ""
    T_map_frame: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(4))


class GaussianMap:
    """N Gaussians: means (N,3) m, quats (N,4) wxyz, log_scales (N,3) ln m, opacity_logits (N,), sh (N,(degree+1)^2,3).

    Any number of extra named attributes, and optimiser state of any attribute, share the rows and survive add, clone,
    split, prune and merge. Two extras always exist: ``uid`` int64 (unique key of a Gaussian, never reused) and
    ``keyframe`` int32 (the keyframe that made it, -1 unknown), so that a pose-graph correction can move it.

    Rows live in buffers that grow by half, so that adding is cheap; a tensor returned by ``map["name"]`` is a
    contiguous view that is valid until the next change of the number of rows. ``revision`` rises at every change. Who
    writes into such a tensor calls ``touch`` afterwards, before anybody else changes the map. All tensors are on one ``device``.
    """

    def __init__(
        self,
        sh_degree: int = 0,
        map_id: str | None = None,
        frame_id: str = "map",
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.map_id = map_id or uuid.uuid4().hex
        self.frame_id = frame_id
        self.anchor: Anchor | None = None
        self.views: tuple[Camera, ...] = ()  # of earlier runs: from where what the map shows was seen
        self.revision = 0
        self._changes = ChangeRecord()
        self._seen: tuple = ()
        self._is_copy = False
        self._count = 0
        self._next_uid = 0
        self._specs: dict[str, AttributeSpec] = {}
        self._buffers: dict[str, torch.Tensor] = {}
        self._state_specs: dict[tuple[str, str], AttributeSpec] = {}
        self._state: dict[tuple[str, str], torch.Tensor] = {}
        self.register("means", (3,))
        self.register("quats", (4,))
        self.register("log_scales", (3,))
        self.register("opacity_logits", ())
        self.register("sh", ((sh_degree + 1) ** 2, 3))
        self.register("uid", (), torch.int64, -1)
        self.register("keyframe", (), torch.int32, -1)

    # --- attributes -------------------------------------------------------------------------------------------------

    def register(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, fill: float = 0) -> None:
        """Add a named attribute; existing rows get ``fill``. The same shape and dtype again does nothing."""
        spec = AttributeSpec(tuple(shape), dtype, fill)
        known = self._specs.get(name)
        if known is not None:
            if (known.shape, known.dtype) != (spec.shape, spec.dtype):
                raise ValueError(f"attribute '{name}' exists with shape {known.shape} {known.dtype}")
            return
        self._specs[name] = spec
        self._buffers[name] = torch.full((self._capacity, *spec.shape), fill, dtype=dtype, device=self.device)

    def unregister(self, name: str) -> None:
        """Forget a named attribute that is not one of the core; one that is not there is none to forget."""
        if name in self.extras:
            del self._specs[name], self._buffers[name]

    def register_state(self, name: str, key: str, shape: tuple[int, ...] | None = None, fill: float = 0.0) -> None:
        """Optimiser state ``key`` of attribute ``name`` (shape of a row: that of the attribute unless given)."""
        if (name, key) in self._state_specs:
            return
        spec = AttributeSpec(self._specs[name].shape if shape is None else tuple(shape), torch.float32, fill)
        self._state_specs[(name, key)] = spec
        self._state[(name, key)] = torch.full((self._capacity, *spec.shape), fill, device=self.device)

    @property
    def _capacity(self) -> int:
        return self._buffers["means"].shape[0] if "means" in self._buffers else 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: str) -> bool:
        return name in self._specs

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __getitem__(self, name: str) -> torch.Tensor:
        try:
            return self._buffers[name][: self._count]
        except KeyError:
            raise KeyError(f"the map has no attribute '{name}'; it has {sorted(self._specs)}") from None

    def __setitem__(self, name: str, value: torch.Tensor) -> None:
        """Overwrite all rows of an attribute."""
        self[name].copy_(value)
        self.touch(core=name in CORE)

    def replace(self, name: str, values: torch.Tensor) -> None:
        """Give an attribute rows of another shape, (N, ...) as in ``values``; new rows get its fill value."""
        spec = dataclasses.replace(self._specs[name], shape=tuple(values.shape[1:]))
        self._buffers[name], self._specs[name] = self._refilled(values), spec
        self.touch(core=name in CORE)

    def replace_state(self, name: str, key: str, values: torch.Tensor) -> None:
        """The same for optimiser state."""
        spec = dataclasses.replace(self._state_specs[(name, key)], shape=tuple(values.shape[1:]))
        self._state[(name, key)], self._state_specs[(name, key)] = self._refilled(values), spec

    def _refilled(self, values: torch.Tensor) -> torch.Tensor:
        if len(values) != self._count:
            raise ValueError(f"{len(values)} rows were given, the map has {self._count}")
        return _copied(values, self._count, self._capacity)

    def state(self, name: str, key: str) -> torch.Tensor:
        """Optimiser state rows (N, ...)."""
        return self._state[(name, key)][: self._count]

    @property
    def state_keys(self) -> list[tuple[str, str]]:
        return list(self._state_specs)

    @property
    def extras(self) -> list[str]:
        """Names of the attributes beyond the five of standard 3D Gaussian Splatting."""
        return [name for name in self._specs if name not in CORE]

    @property
    def specs(self) -> Mapping[str, AttributeSpec]:
        return self._specs

    @property
    def state_specs(self) -> Mapping[tuple[str, str], AttributeSpec]:
        return self._state_specs

    @property
    def sh_degree(self) -> int:
        return round(self._specs["sh"].shape[0] ** 0.5) - 1

    means = property(lambda self: self["means"])
    quats = property(lambda self: self["quats"])
    log_scales = property(lambda self: self["log_scales"])
    opacity_logits = property(lambda self: self["opacity_logits"])
    sh = property(lambda self: self["sh"])

    @property
    def next_uid(self) -> int:
        """The ``uid`` that the next new Gaussian gets."""
        return self._next_uid

    def continue_from(self, next_uid: int, revision: int) -> None:
        """Take over the counters of the map that these rows came from (loading)."""
        self._next_uid = max(self._next_uid, next_uid)
        self.revision = revision
        self._changes = ChangeRecord()
        self._note(None)

    # --- changes ----------------------------------------------------------------------------------------------------

    def touch(self, rows: torch.Tensor | None = None, core: bool = True) -> None:
        """Note that values changed: of ``rows`` (int64 indices; None for all); ``core`` false: of no core attribute."""
        self.revision += 1
        self._note(rows, core)

    @property
    def history(self) -> object:
        """One object for this map and its reading copies (``CopyPool``): with the same revision they have the same rows."""
        return self._changes.history

    def changed_chunks(self, revision: int, core: bool = True) -> np.ndarray | None:
        """int32: chunks of 64 rows that changed after ``revision`` (with ``core``, in a core attribute); None: unknown.

        Unknown also means that a core tensor was written to or replaced without ``touch``.
        """
        if revision > self.revision or not self._noted:
            return None
        return self._changes.since(revision, self._count, core)

    def _signature(self) -> tuple:
        """Changes when torch writes to a core attribute, or somebody replaces it."""
        buffers = [self._buffers[name] for name in CORE]
        return tuple((b.data_ptr(), 0 if b.is_inference() else b._version) for b in buffers)

    def _note(self, rows: torch.Tensor | slice | None, core: bool = True) -> None:
        signature = self._signature()
        if not core and signature != self._seen:  # somebody wrote without a touch
            rows, core = None, True
        if self._is_copy:  # and goes its own way from here on
            self._changes.history = object()
            self._is_copy, rows, core = False, None, True
        self._changes.note(rows, self.revision, self._count, core)
        self._seen = signature

    def _rows_changed(self, rows: torch.Tensor | slice, noted: bool) -> None:
        """Count a change of the number of rows; ``noted``: nobody had written without ``touch`` before it."""
        self.revision += 1
        self._note(rows if noted else None)

    def _take_over(self, source: GaussianMap, buffers: dict[str, torch.Tensor]) -> None:
        """Become a reading copy: ``buffers`` hold the rows of ``source``."""
        self._buffers = dict(buffers)
        self._count, self._next_uid, self.revision = source._count, source._next_uid, source.revision
        self._changes, self._is_copy, self._seen = source._changes.copy(), True, self._signature()
        if not source._noted:  # the next copy may differ at the same revision
            self._changes.history = object()

    @property
    def _noted(self) -> bool:
        return self._seen == self._signature()

    # --- rows -------------------------------------------------------------------------------------------------------

    def _reserve(self, count: int) -> None:
        if count <= self._capacity:
            return
        capacity = max(count, self._capacity * 3 // 2, 1024)
        capacity = -(-capacity // CHUNK) * CHUNK
        for store, specs in ((self._buffers, self._specs), (self._state, self._state_specs)):
            for name, spec in specs.items():
                # rows are written when they are added
                grown = torch.empty((capacity, *spec.shape), dtype=spec.dtype, device=self.device)
                grown[: self._count] = store[name][: self._count]  # type: ignore[index]
                store[name] = grown  # type: ignore[index]

    def add(self, **values: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Append rows; attributes not given get their fill value, ``uid`` a new key. Returns the new row indices."""
        missing = [name for name in CORE if name not in values]
        unknown = [name for name in values if name not in self._specs]
        if missing or unknown:
            raise ValueError(f"add: missing {missing}, unknown {unknown}")
        rows = len(values["means"])
        start, stop = self._count, self._count + rows
        for name, value in values.items():
            expected = (rows, *self._specs[name].shape)
            if tuple(value.shape) != expected:
                raise ValueError(f"add: '{name}' has shape {tuple(value.shape)}, expected {expected}")
        noted = self._noted
        self._reserve(stop)
        for name, spec in self._specs.items():
            _write(self._buffers[name], start, stop, values.get(name, spec.fill))
        if "uid" not in values:
            keys = torch.arange(self._next_uid, self._next_uid + rows, device=self.device)
            self._buffers["uid"][start:stop] = keys
            self._next_uid += rows
        elif rows:
            self._next_uid = max(self._next_uid, int(self._buffers["uid"][start:stop].max()) + 1)
        for key, spec in self._state_specs.items():
            _write(self._state[key], start, stop, spec.fill)
        self._count = stop
        self._rows_changed(slice(start, stop), noted)
        return torch.arange(start, stop, device=self.device)

    def keep(self, mask: torch.Tensor) -> None:
        """Prune: keep the rows where ``mask`` (N,) is true, in their order."""
        index = torch.nonzero(mask, as_tuple=False)[:, 0]
        if len(index) == self._count:
            return
        noted = self._noted
        for store in (self._buffers, self._state):
            for name in store:
                store[name][: len(index)] = store[name][: self._count][index]  # type: ignore[index]
        first = int(torch.nonzero(~mask)[0])
        self._count = len(index)
        self._rows_changed(slice(first, self._count + 1), noted)

    def remove(self, index: torch.Tensor) -> None:
        """Remove a few rows quickly: the last rows take their places, so the order of rows changes."""
        if not len(index):
            return
        noted = self._noted
        index = torch.unique(index)
        left = self._count - len(index)
        holes = index[index < left]
        tail = torch.ones(self._count - left, dtype=torch.bool, device=self.device)
        tail[index[index >= left] - left] = False
        movers = torch.nonzero(tail)[:, 0] + left
        for store in (self._buffers, self._state):
            for name in store:
                store[name][holes] = store[name][movers]  # type: ignore[index]
        self._count = left
        # the chunk of the first row that is gone changed, too
        self._rows_changed(torch.cat([holes, holes.new_tensor([left])]), noted)

    def shrink_to_fit(self) -> None:
        """Give back the memory of rows that were removed; values and revision stay."""
        noted, capacity = self._noted, -(-self._count // CHUNK) * CHUNK
        for store in (self._buffers, self._state):
            for name in store:
                store[name] = _copied(store[name], self._count, capacity)  # type: ignore[index]
        if noted:
            self._seen = self._signature()

    def clone(self, index: torch.Tensor) -> torch.Tensor:
        """Copy rows (all attributes but ``uid``; optimiser state of the copies is reset). Returns the new indices."""
        rows = {name: self[name][index].clone() for name in self._specs if name != "uid"}
        return self.add(**rows)

    def split(self, index: torch.Tensor, children: int = 2, shrink: float = 1.6, seed: int = 0) -> torch.Tensor:
        """Replace rows by ``children`` smaller ones drawn from the parent's own density (3DGS); attributes are copied.

        Scales shrink by ``shrink``; parents are removed. Returns the indices of the children, which are the last rows.
        """
        generator = torch.Generator().manual_seed(seed)
        parent = index.repeat_interleave(children)
        rows = {name: self[name][parent].clone() for name in self._specs if name != "uid"}
        drawn = torch.randn(len(parent), 3, generator=generator)  # the same on every device
        noise = drawn.to(self.device) * rows["log_scales"].exp()
        rows["means"] += torch.einsum("nij,nj->ni", rotation_matrices(rows["quats"]), noise)
        rows["log_scales"] -= float(np.log(shrink))
        mask = torch.ones(self._count, dtype=torch.bool, device=self.device)
        mask[index] = False
        self.keep(mask)
        return self.add(**rows)

    def merge(self, other: GaussianMap) -> torch.Tensor:
        """Append all rows of another map (new ``uid``); attributes that only one of them has get their fill value."""
        for name, spec in other.specs.items():
            self.register(name, spec.shape, spec.dtype, spec.fill)
        return self.add(**{name: other[name] for name in other if name != "uid"})

    def snapshot(self, device: torch.device | str | None = None) -> GaussianMap:
        """An independent copy of the rows, with attributes and optimiser state; on another ``device``, if one is given."""
        copy = GaussianMap(self.sh_degree, self.map_id, self.frame_id, self.device if device is None else device)
        for name, spec in self._specs.items():
            copy.register(name, spec.shape, spec.dtype, spec.fill)
            copy._buffers[name] = self[name].to(copy.device, copy=True)
        for (name, key), spec in self._state_specs.items():
            copy.register_state(name, key, spec.shape, spec.fill)
            copy._state[(name, key)] = self.state(name, key).to(copy.device, copy=True)
        copy.anchor, copy.views = self.anchor, self.views
        copy._count, copy._next_uid, copy.revision = self._count, self._next_uid, self.revision
        copy._note(None)
        return copy


def _copied(buffer: torch.Tensor, count: int, capacity: int) -> torch.Tensor:
    """A buffer of ``capacity`` rows with the first ``count`` of another."""
    out = torch.empty((capacity, *buffer.shape[1:]), dtype=buffer.dtype, device=buffer.device)
    out[:count] = buffer[:count]
    return out


def _write(buffer: torch.Tensor, start: int, stop: int, values: torch.Tensor | np.ndarray | float) -> None:
    """Write rows ``start`` to ``stop``; through numpy where the buffer is on the CPU, which also inference mode allows."""
    if buffer.device.type == "cpu":
        given = values.detach().cpu() if isinstance(values, torch.Tensor) else values
        buffer.numpy()[start:stop] = np.asarray(given)
    elif isinstance(values, torch.Tensor | np.ndarray):
        buffer[start:stop] = torch.as_tensor(values).to(buffer.device)
    else:
        buffer[start:stop].fill_(values)


def rotation_matrices(quats: torch.Tensor) -> torch.Tensor:
    """(N,3,3) rotations of wxyz quaternions (N,4), which need not be normalised."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    return torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        dim=-1,
    ).reshape(*quats.shape[:-1], 3, 3)


def rgb_to_sh(rgb: torch.Tensor) -> torch.Tensor:
    """Colour 0..1 to the zeroth SH coefficient."""
    return (rgb - 0.5) / SH_C0


def sh_to_rgb(sh: torch.Tensor) -> torch.Tensor:
    """Zeroth SH coefficient to colour (not clamped)."""
    return sh * SH_C0 + 0.5
