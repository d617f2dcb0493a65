"""ROS parameters from dataclasses: one field is one parameter with type, range and description.

A field's metadata holds ``text`` and, where they apply, ``low``/``high`` and ``choices``. Parameters are read-only: they
are read once, when the node starts.
"""

from __future__ import annotations

import typing
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
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
}


def parameter(
    default: Any, text: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A documented dataclass field."""
    return field(default=default, metadata={"text": text, "low": low, "high": high, "choices": choices})


def default_of(spec: Field[Any]) -> Any:
    return spec.default_factory() if spec.default_factory is not MISSING else spec.default


def declare(node: Node, kind: type[T]) -> T:
    """Declare every field of a dataclass as a parameter and return the dataclass with the values the node was given.

    Raises InvalidInputError naming the parameter for a value of another type or outside its range.
    """
    hints = typing.get_type_hints(kind)
    values = {}
    for spec in fields(kind):  # type: ignore[arg-type]
        values[spec.name] = _declare_one(node, spec, hints[spec.name])
    return kind(**values)


def _declare_one(node: Node, spec: Field[Any], hint: Any) -> Any:
    low, high = spec.metadata.get("low"), spec.metadata.get("high")
    choices = spec.metadata.get("choices") or ()
    default = default_of(spec)
    descriptor = ParameterDescriptor(name=spec.name, description=spec.metadata.get("text", ""), read_only=True)
    if choices:
        descriptor.additional_constraints = "one of " + ", ".join(repr(choice) for choice in choices)
    if low is not None and high is not None and hint is int:
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
    elif low is not None and high is not None:
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)]
    known = Parameter.Type.from_parameter_value(default) == TYPES[hint]
    try:
        # an empty list does not tell its type, so that one is declared by type and has no value until it is given
        node.declare_parameter(spec.name, default if known else TYPES[hint], descriptor)
    except InvalidParameterTypeException as error:
        raise InvalidInputError(f"parameter {spec.name}: {error}") from error
    except InvalidParameterValueException:
        given = node._parameter_overrides[spec.name].value  # the exception's text holds neither value nor range
        raise InvalidInputError(f"parameter {spec.name}: {given} is outside [{low}, {high}]") from None
    value = node.get_parameter_or(spec.name, Parameter(spec.name, TYPES[hint], default)).value
    value = list(value) if hint == list[int] else value
    if choices and value not in choices:
        raise InvalidInputError(f"parameter {spec.name}: '{value}' is not one of {', '.join(map(repr, choices))}")
    return value


def table(kind: type[Any]) -> list[str]:
    """Markdown rows of the parameters, as docs/interfaces.md holds them: name, type, default, range, meaning."""
    hints = typing.get_type_hints(kind)
    rows = []
    for spec in fields(kind):
        low, high, choices = (spec.metadata.get(key) for key in ("low", "high", "choices"))
        limits = f"{low:g} .. {high:g}" if low is not None and high is not None else ", ".join(choices or ())
        hint, default = hints[spec.name], default_of(spec)
        name = "int list" if hint == list[int] else hint.__name__
        shown = f'"{default}"' if hint is str else str(default).lower() if hint is bool else str(default)
        rows.append(f"| `{spec.name}` | {name} | {shown} | {limits} | {spec.metadata.get('text', '')} |")
    return rows
