"""Classes by name, found in the modules of a package: a new method is one file."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any, Generic, TypeVar

from gs_semantic.errors import InvalidRequestError

Base = TypeVar("Base")
Kind = TypeVar("Kind", bound=type[Any])


class Registered(Generic[Base]):
    """The classes with a ``name`` that modules of ``package`` register; the modules are imported when somebody asks."""

    def __init__(self, package: ModuleType) -> None:
        self._package = package
        self._known: dict[str, type[Base]] = {}

    def register(self, kind: Kind) -> Kind:
        """Class decorator: make a class known by its ``name``."""
        other = self._known.get(kind.name)
        if other is not None and other.__qualname__ != kind.__qualname__:
            raise ValueError(f"method '{kind.name}' is {other.__qualname__} already")
        self._known[kind.name] = kind
        return kind

    def all(self) -> dict[str, type[Base]]:
        """Every class by name, in the order of the names."""
        for module in pkgutil.iter_modules(self._package.__path__):
            importlib.import_module(f"{self._package.__name__}.{module.name}")
        return dict(sorted(self._known.items()))

    def find(self, name: str) -> type[Base]:
        """InvalidRequestError lists what there is."""
        known = self.all()
        if name not in known:
            raise InvalidRequestError(f"method '{name}': expected one of {', '.join(known)}")
        return known[name]
