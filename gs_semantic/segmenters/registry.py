"""The segmenters by name. Modules, and the libraries they need, are imported when one is made."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gs_semantic.errors import InvalidRequestError

if TYPE_CHECKING:
    from gs_semantic.segmenters.base import Segmenter

SAM2_WEIGHTS = "facebook/sam2.1-hiera-tiny"


@dataclass(frozen=True)
class Options:
    """What a user may choose. model: folder or name of the weights, empty: the segmenter's usual ones; mask_model: the
    same for the SAM 2 that makes masks of boxes. words: things to find. config: the segmenter's settings."""

    model: str = ""
    mask_model: str = ""
    words: Sequence[str] = ()
    download: bool = False
    device: str = "auto"
    config: Any = None


@dataclass(frozen=True)
class Kind:
    """One segmenter: its module, class and dataclass of settings, and the name of its usual weights (empty: none)."""

    name: str
    summary: str
    module: str
    class_name: str
    config_name: str
    needs_depth: bool = False
    has_classes: bool = False
    weights: str = ""

    def imported(self, name: str) -> Any:
        """A name of the segmenter's module."""
        return getattr(importlib.import_module(f"gs_semantic.segmenters.{self.module}"), name)

    @property
    def config_class(self) -> type[Any]:
        found: type[Any] = self.imported(self.config_name)
        return found

    def make(self, options: Options) -> Segmenter:
        made: Segmenter = _MAKERS.get(self.name, _with_weights)(self, options)
        return made


def _geometric(kind: Kind, options: Options) -> Any:
    return kind.imported(kind.class_name)(options.config)


def _with_weights(kind: Kind, options: Options) -> Any:
    from gs_semantic.segmenters.weights import Weights

    weights = Weights(options.model or kind.weights, options.download)
    return kind.imported(kind.class_name)(weights, options.device, options.config)


def _grounded(kind: Kind, options: Options) -> Any:
    from gs_semantic.segmenters.weights import Weights

    weights = Weights(options.model or kind.weights, options.download)
    masks = Weights(options.mask_model or SAM2_WEIGHTS, options.download)
    return kind.imported(kind.class_name)(weights, masks, options.words, options.device, options.config)


_MAKERS: dict[str, Callable[[Kind, Options], Any]] = {"geometric": _geometric, "grounded": _grounded}

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "geometric",
            "colour and depth edges, no weights, no classes",
            "geometric",
            "GeometricSegmenter",
            "GeometricConfig",
            needs_depth=True,
        ),
        Kind("sam2", "SAM 2 automatic masks, no classes", "sam2", "Sam2Segmenter", "Sam2Config", weights=SAM2_WEIGHTS),
        Kind(
            "mask2former",
            "Mask2Former panoptic masks with classes",
            "panoptic",
            "Mask2FormerSegmenter",
            "PanopticConfig",
            has_classes=True,
            weights="facebook/mask2former-swin-tiny-coco-panoptic",
        ),
        Kind(
            "oneformer",
            "OneFormer panoptic masks with classes",
            "panoptic",
            "OneFormerSegmenter",
            "PanopticConfig",
            has_classes=True,
            weights="shi-labs/oneformer_ade20k_swin_tiny",
        ),
        Kind(
            "grounded",
            "Grounding DINO and SAM 2: masks of the things on a list of words",
            "grounded",
            "GroundedSegmenter",
            "GroundedConfig",
            has_classes=True,
            weights="IDEA-Research/grounding-dino-tiny",
        ),
    )
}


def kind_of(name: str) -> Kind:
    """InvalidRequestError for an unknown name."""
    if name not in KINDS:
        raise InvalidRequestError(f"segmenter: '{name}' is not one of {', '.join(KINDS)}")
    return KINDS[name]


def create(name: str, **options: Any) -> Segmenter:
    """A segmenter by its name; ``options`` are fields of ``Options``.

    InvalidRequestError for an unknown name, MissingExtraError when weights or libraries are not there.
    """
    return kind_of(name).make(Options(**options))
