"""Options of a training run: one dataclass a method, presets, YAML files and NAME=VALUE overrides."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml

from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.damage import DamageMode
from gs_semantic.files import atomic_write, reason

FULL_RUN = 30_000  # iterations that the schedule's defaults are meant for
PRESETS = ("quick", "standard", "paper")


def option(
    default: Any, text: str, *, low: float | None = None, high: float | None = None, schedule: bool = False, choices=()
) -> Any:
    """A field of a configuration. schedule: counts iterations of a run of FULL_RUN, and shrinks with shorter runs."""
    metadata = {"text": text, "low": low, "high": high, "schedule": schedule, "choices": tuple(choices)}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunConfig:
    """What every training run has, on one scene or on many."""

    iterations: int = option(FULL_RUN, "optimisation steps", low=1)
    width: int = option(0, "images are scaled down to this width, px; 0: as recorded", low=0)
    seed: int = option(0, "seed of every random choice", low=0)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check(spec, getattr(self, spec.name), spec.name)


@dataclass(frozen=True)
class TrainingConfig(RunConfig):
    """What every lifting method shares. Defaults are those of 3D Gaussian Splatting as the grouping papers use it."""

    rasterizer: str = option("auto", "back end", choices=("auto", "cpu", "cuda", "reference"))
    eps2d: float = option(
        0.3, "blur added to every drawn Gaussian, px^2; the less, the less the size of views matters", low=0, high=2
    )
    adam: str = option(
        "all", "which Gaussians take a step: all (as torch's Adam), or those in view", choices=("all", "visible")
    )

    # data
    ids: str = option(
        "recorded", "ids per view: as recorded, or tracked by the mapper's association", choices=("recorded", "tracked")
    )
    labels: str = option(
        "instance", "what is lifted: ids of objects, or the classes of the masks", choices=("instance", "semantic")
    )
    masks: str = option("perfect", "what is done to the recorded masks", choices=("perfect", *get_args(DamageMode)[1:]))
    mask_seed: int = option(0, "seed of the masks' damage", low=0)
    hold_out_every: int = option(8, "every k-th view is kept from training and scored, if no other sequence is", low=2)
    initial: str = option("auto", "where the first Gaussians come from", choices=("auto", "depth", "points", "map"))
    initial_map: str = option("", "map folder to start from, with initial=map")
    initial_gaussians: int = option(100_000, "first Gaussians at most", low=1)
    initial_opacity: float = option(0.1, "their opacity", low=1e-3, high=0.999)

    # colour and geometry
    ssim_weight: float = option(0.2, "weight of 1 - SSIM against L1", low=0, high=1)
    sh_degree: int = option(3, "largest degree of the spherical harmonics", low=0, high=3)
    sh_every: int = option(1000, "iterations from one degree to the next", low=1, schedule=True)
    lr_means: float = option(1.6e-4, "learning rate of positions at the start, times the scene's extent", low=0)
    lr_means_end: float = option(1.6e-6, "the same at the end; in between log-linear", low=0)
    lr_colour: float = option(2.5e-3, "learning rate of the first colour coefficient", low=0)
    lr_colour_rest: float = option(1.25e-4, "learning rate of the further colour coefficients", low=0)
    lr_opacity: float = option(0.05, "learning rate of opacity logits", low=0)
    lr_scales: float = option(5e-3, "learning rate of log scales", low=0)
    lr_quats: float = option(1e-3, "learning rate of rotations", low=0)

    # densification
    densify_from: int = option(500, "first iteration of densification", low=0, schedule=True)
    densify_until: int = option(15_000, "last iteration of densification", low=0, schedule=True)
    densify_every: int = option(100, "iterations between two rounds", low=1)
    densify_gradient: float = option(
        2e-4, "mean gradient of the projected centre (image half = 1) from which on", low=0
    )
    densify_scale: float = option(
        0.01, "largest scale of what is cloned, beyond it is split; share of the extent", low=0
    )
    max_gaussians: int = option(0, "no more Gaussians than this; 0: no limit", low=0)
    prune_opacity: float = option(0.005, "fainter Gaussians are removed", low=0, high=1)
    prune_size_from: int = option(3000, "iteration from which large Gaussians are removed, too", low=0, schedule=True)
    prune_radius_px: float = option(20.0, "radius in the image that counts as large, px; 0: none does", low=0)
    prune_scale: float = option(0.1, "scale that counts as large, share of the extent; 0: none does", low=0)
    opacity_reset_every: int = option(
        3000, "opacities are lowered to 0.01 this often while densifying; 0: never", low=0, schedule=True
    )

    # reports
    report_every: int = option(50, "iterations between two reports of progress", low=1)
    evaluate_every: int = option(
        3000, "iterations between two evaluations, each with a checkpoint", low=1, schedule=True
    )
    evaluate_views: int = option(8, "held-out views scored during training; 0: all", low=0)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {
            "iterations": 3000, "width": 320, "eps2d": 0.01, "sh_degree": 0, "adam": "visible", "initial_gaussians": 60_000,
            "max_gaussians": 100_000, "prune_radius_px": 0.0, "opacity_reset_every": 0, "evaluate_every": 10_000,
        },
        "standard": {
            "width": 320, "eps2d": 0.01, "sh_degree": 1, "adam": "visible", "initial_gaussians": 80_000, "max_gaussians": 150_000,
            "prune_radius_px": 0.0, "opacity_reset_every": 0,
        },
        "paper": {},
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial == "map" and not self.initial_map:
            raise InvalidRequestError("initial=map: say which, initial_map=FOLDER")


Config = TypeVar("Config", bound=RunConfig)


def make_config(
    kind: type[Config],
    preset: str = "standard",
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    stage: Mapping[str, Any] | None = None,
) -> Config:
    """A preset, changed by what a ``stage`` wants, a YAML file, and ``overrides``; then the schedule is fitted to ``iterations``.

    What the file or ``overrides`` say of the schedule is taken as it stands. Raises InvalidRequestError naming an
    unknown option, with the nearest one there is, and every value that does not fit.
    """
    if preset not in PRESETS:
        raise InvalidRequestError(f"preset '{preset}': expected one of {', '.join(PRESETS)}")
    values = dict[str, Any]()
    for parent in reversed(kind.__mro__):
        values |= vars(parent).get("presets", {}).get(preset, {})
    values |= stage or {}
    given = checked_options(kind, (read_options(file) if file else {}) | dict(overrides or {}))
    specs = {spec.name: spec for spec in fields(kind)}
    values |= given
    iterations = values.get("iterations", FULL_RUN)
    _check(specs["iterations"], iterations, "iterations")
    share = min(1.0, iterations / FULL_RUN)
    for spec in specs.values():
        if spec.metadata["schedule"] and spec.name not in given:
            full = values.get(spec.name, spec.default)
            values[spec.name] = max(1, round(full * share)) if full else 0
    return kind(**values)


def checked_options(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` as fields of a dataclass of options; InvalidRequestError names what is unknown or does not fit."""
    specs = {spec.name: spec for spec in fields(kind)}
    for name in given:
        if name not in specs:
            raise InvalidRequestError(f"option '{name}': {_suggestion(name, specs)}")
    values = {name: _converted(specs[name], value) for name, value in given.items()}
    for name, value in values.items():
        _check(specs[name], value, name)
    return values


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``NAME=VALUE`` texts; values as in YAML."""
    values = {}
    for pair in pairs:
        name, assigned, text = pair.partition("=")
        if not assigned or not name:
            raise InvalidRequestError(f"'{pair}': expected NAME=VALUE")
        try:
            values[name] = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            raise InvalidRequestError(f"'{pair}': the value is not readable") from None
    return values


def read_options(path: str | Path) -> dict[str, Any]:
    """Options in a YAML file; InvalidRequestError names the file."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path}: cannot be read: {reason(error)}") from error
    except yaml.YAMLError as error:
        raise InvalidRequestError(f"{path}: is not YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidRequestError(f"{path}: expected lines of 'name: value'")
    return {str(name): value for name, value in values.items()}


def write_options(path: str | Path, config: RunConfig) -> None:
    """All options, so that ``make_config`` with this file gives the same again."""
    with atomic_write(path) as file:
        file.write(yaml.safe_dump(asdict(config), sort_keys=False).encode())


def describe_options(kind: type[RunConfig]) -> list[tuple[str, Any, str]]:
    """Name, default in the paper preset and text of every option."""
    config = make_config(kind, "paper")
    return [(spec.name, getattr(config, spec.name), spec.metadata["text"]) for spec in fields(kind)]


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"there is none of that name; did you mean '{near[0]}'?" if near else "there is none of that name"


def _converted(spec: Field, value: Any) -> Any:
    """A value of the option's type where nothing is lost by it; else as it was, to be refused."""
    if isinstance(spec.default, float) and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # also 1e-3, which YAML takes for text
        except ValueError:
            return value
    return value


def _check(spec: Field, value: Any, name: str) -> None:
    expected = type(spec.default)
    if type(value) is not expected:
        raise InvalidRequestError(
            f"option '{name}': expected {expected.__name__}, as in {name}={spec.default}, got {value!r}"
        )
    low, high, choices = (spec.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise InvalidRequestError(f"option '{name}': {value!r} is none of {', '.join(map(str, choices))}")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"{'' if low is None else low}..{'' if high is None else high}"
        raise InvalidRequestError(f"option '{name}': {value} is outside {bounds}")
