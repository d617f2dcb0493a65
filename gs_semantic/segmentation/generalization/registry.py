"""The methods that generalise, by name. A module in ``methods/`` whose class is decorated with ``@register`` is one."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

from gs_semantic.errors import InvalidRequestError
from gs_semantic.segmentation.generalization import methods
from gs_semantic.segmentation.generalization.method import SceneLearner

_known: dict[str, type[SceneLearner]] = {}
Learner = TypeVar("Learner", bound=SceneLearner)


def register(kind: type[Learner]) -> type[Learner]:
    """Class decorator: make a learner known by its ``name``."""
    other = _known.get(kind.name)
    if other is not None and other.__qualname__ != kind.__qualname__:
        raise ValueError(f"learner '{kind.name}' is {other.__qualname__} already")
    _known[kind.name] = kind
    return kind


def all_learners() -> dict[str, type[SceneLearner]]:
    """Every learner by name, in the order of the names."""
    for module in pkgutil.iter_modules(methods.__path__):
        importlib.import_module(f"{methods.__name__}.{module.name}")
    return dict(sorted(_known.items()))


def learner_class(name: str) -> type[SceneLearner]:
    """InvalidRequestError lists what there is."""
    known = all_learners()
    if name not in known:
        raise InvalidRequestError(f"method '{name}': expected one of {', '.join(known)}")
    return known[name]
