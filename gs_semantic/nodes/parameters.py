"""ROS parameters from dataclasses: one field is one parameter with type, range, unit and description.

A field's metadata holds ``text`` and, where they apply, ``low``/``high``, ``choices``, ``unit``, ``live`` and ``name`` (for
names that no field can have, as ``budget.mb``). Those that are live may
be changed at any time, the others while the node is not configured (``LiveChanges``).
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, field, fields, replace
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from gs_semantic.errors import InvalidInputError

T = TypeVar("T")

TYPES = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
    list[int]: Parameter.Type.INTEGER_ARRAY,
    list[str]: Parameter.Type.STRING_ARRAY,
}
LISTS = {list[int]: "int list", list[str]: "str list"}

# unit by the end of a name; numbers without one are counts, shares or factors
UNITS = {
    "_per_m2": "m per m²",
    "_mbps": "Mbit/s",
    "_deg": "deg",
    "_hz": "Hz",
    "_mb": "MB",
    "_px": "px",
    "_s": "s",
    "_m": "m",
}


def parameter(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    name: str = "",
) -> Any:
    """A documented dataclass field."""
    return field(
        default=default,
        metadata={"text": text, "low": low, "high": high, "choices": choices, "live": live, "name": name},
    )


def name_of(spec: Field[Any]) -> str:
    """The parameter's name."""
    return spec.metadata.get("name") or spec.name


def unit_of(spec: Field[Any]) -> str:
    """The unit that the name's end tells; empty for a number without one."""
    return next((unit for end, unit in UNITS.items() if spec.name.endswith(end)), "")


def is_live(spec: Field[Any], live: Iterable[str] = ()) -> bool:
    return bool(spec.metadata.get("live")) or spec.name in live


def default_of(spec: Field[Any]) -> Any:
    return spec.default_factory() if spec.default_factory is not MISSING else spec.default


def declare(node: Node, kind: type[T], live: Iterable[str] = ()) -> T:
    """Declare every field of a dataclass as a parameter and return the dataclass with the values the node was given.

    ``live``: fields that may be changed at any time, beside those that say so themselves. Raises InvalidInputError
    naming the parameter for a value of another type or outside its range.
    """
    hints = typing.get_type_hints(kind)
    for spec in fields(kind):  # type: ignore[arg-type]
        _declare_one(node, spec, hints[spec.name], is_live(spec, live))
    return read(node, kind)


def read(node: Node, kind: type[T]) -> T:
    """The dataclass with the values that its parameters have now."""
    hints = typing.get_type_hints(kind)
    values = {}
    for spec in fields(kind):  # type: ignore[arg-type]
        name, hint = name_of(spec), hints[spec.name]
        value = node.get_parameter_or(name, Parameter(name, TYPES[hint], default_of(spec))).value
        values[spec.name] = list(value) if hint in LISTS else value
        _check_choice(spec, values[spec.name])
    return kind(**values)


def _check_choice(spec: Field[Any], value: Any) -> None:
    choices = spec.metadata.get("choices") or ()
    if choices and value not in choices:
        raise InvalidInputError(f"parameter {name_of(spec)}: '{value}' is not one of {', '.join(map(repr, choices))}")


def describe(spec: Field[Any], hint: Any, live: bool) -> ParameterDescriptor:
    """What `ros2 param describe` tells."""
    low, high = spec.metadata.get("low"), spec.metadata.get("high")
    unit = unit_of(spec)
    text = spec.metadata.get("text", "") + (f" [{unit}]" if unit else "")
    descriptor = ParameterDescriptor(name=name_of(spec), description=text)
    remarks = []
    if choices := spec.metadata.get("choices") or ():
        remarks.append("one of " + ", ".join(repr(choice) for choice in choices))
    remarks.append("may be changed at any time" if live else "read when the node is configured")
    descriptor.additional_constraints = "; ".join(remarks)
    if low is not None and high is not None and hint is int:
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
    elif low is not None and high is not None:
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)]
    return descriptor


def _declare_one(node: Node, spec: Field[Any], hint: Any, live: bool) -> None:
    name, default = name_of(spec), default_of(spec)
    descriptor = describe(spec, hint, live)
    known = Parameter.Type.from_parameter_value(default) == TYPES[hint]
    try:
        # an empty list does not tell its type, so that one is declared by type and has no value until it is given
        node.declare_parameter(name, default if known else TYPES[hint], descriptor)
    except InvalidParameterTypeException as error:
        raise InvalidInputError(f"parameter {name}: {error}") from error
    except InvalidParameterValueException:
        given = node._parameter_overrides[name].value  # the exception's text holds neither value nor range
        low, high = spec.metadata["low"], spec.metadata["high"]
        raise InvalidInputError(f"parameter {name}: {given} is outside [{low}, {high}]") from None


class LiveChanges:
    """Takes changes of parameters over into the dataclasses that hold them, all of a request or none.

    targets: gives the dataclasses in use, in whose fields live changes are written. live: names of fields that may be
    changed at any time, beside those that say so themselves. may_change_all: true while nothing is configured. check:
    raises ValueError or InvalidInputError for candidates that do not go together. changed: is told the names of fields.
    """

    def __init__(
        self,
        node: Node,
        targets: Callable[[], Iterable[Any]],
        live: Iterable[str],
        may_change_all: Callable[[], bool],
        check: Callable[..., None],
        changed: Callable[[set[str]], None],
    ) -> None:
        self._node, self._targets, self._live = node, targets, frozenset(live)
        self._may_change_all, self._check, self._changed = may_change_all, check, changed
        node.add_on_set_parameters_callback(self._on_set)
        self._applies_itself = hasattr(node, "add_post_set_parameters_callback")  # not in Humble
        if self._applies_itself:
            node.add_post_set_parameters_callback(self._apply)

    def _specs(self, target: Any) -> dict[str, Field[Any]]:
        return {name_of(spec): spec for spec in fields(target)}

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            self._examine(parameters)
        except (ValueError, InvalidInputError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not self._applies_itself:
            self._apply(parameters)
        return SetParametersResult(successful=True)

    def _examine(self, parameters: list[Parameter]) -> None:
        candidates = []
        for target in self._targets():
            specs, values = self._specs(target), {}
            for given in parameters:
                if (spec := specs.get(given.name)) is None:
                    continue
                if not (is_live(spec, self._live) or self._may_change_all()):
                    raise InvalidInputError(
                        f"parameter {given.name} is read when the node is configured: deactivate and clean the node up "
                        f"(`ros2 lifecycle set {self._node.get_fully_qualified_name()} ...`), set it, and configure again"
                    )
                _check_choice(spec, given.value)
                values[spec.name] = given.value
            candidates.append(replace(target, **values))
        self._check(*candidates)

    def _apply(self, parameters: list[Parameter]) -> None:
        changed = set()
        for target in self._targets():
            specs = self._specs(target)
            for given in parameters:
                if (spec := specs.get(given.name)) is not None:
                    value = list(given.value) if isinstance(getattr(target, spec.name), list) else given.value
                    setattr(target, spec.name, value)
                    changed.add(spec.name)
        if changed:
            self._changed(changed)


def table(kind: type[Any], live: Iterable[str] = ()) -> list[str]:
    """Markdown rows of the parameters, as docs/parameters.md holds them: name, type, default, range, unit, live, meaning."""
    hints = typing.get_type_hints(kind)
    rows = []
    for spec in fields(kind):
        low, high, choices = (spec.metadata.get(key) for key in ("low", "high", "choices"))
        limits = f"{low:g} .. {high:g}" if low is not None and high is not None else ", ".join(choices or ())
        hint, default = hints[spec.name], default_of(spec)
        name = LISTS.get(hint) or hint.__name__
        shown = f'"{default}"' if hint is str else str(default).lower() if hint is bool else str(default)
        cells = (f"`{name_of(spec)}`", name, shown, limits, unit_of(spec), "yes" if is_live(spec, live) else "")
        rows.append(f"| {' | '.join(cells)} | {spec.metadata.get('text', '')} |")
    return rows
