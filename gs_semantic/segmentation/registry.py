"""The lifting methods by name. A module in ``methods/`` whose class is decorated with ``@register`` is one of them."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

from gs_semantic.errors import InvalidRequestError
from gs_semantic.segmentation import methods
from gs_semantic.segmentation.method import LiftingMethod

_known: dict[str, type[LiftingMethod]] = {}
Method = TypeVar("Method", bound=LiftingMethod)


def register(kind: type[Method]) -> type[Method]:
    """Class decorator: make a method known by its ``name``."""
    other = _known.get(kind.name)
    if other is not None and other.__qualname__ != kind.__qualname__:
        raise ValueError(f"method '{kind.name}' is {other.__qualname__} already")
    _known[kind.name] = kind
    return kind


def all_methods() -> dict[str, type[LiftingMethod]]:
    """Every method by name, in the order of the names."""
    for module in pkgutil.iter_modules(methods.__path__):
        importlib.import_module(f"{methods.__name__}.{module.name}")
    return dict(sorted(_known.items()))


def method_class(name: str) -> type[LiftingMethod]:
    """InvalidRequestError lists what there is."""
    known = all_methods()
    if name not in known:
        raise InvalidRequestError(f"method '{name}': expected one of {', '.join(known)}")
    return known[name]
