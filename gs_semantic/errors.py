"""Errors a user can meet. Every one carries a numeric code, so that services answer with the same code and text.

Codes are a promise: they never change meaning. 0 is success.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Numeric codes of replies and errors (see docs/interfaces.md)."""

    OK = 0
    UNKNOWN = 1
    INVALID_REQUEST = 10
    UNKNOWN_OBJECT = 11
    OUTSIDE_IMAGE = 12
    EMPTY_MAP = 13
    NOTHING_THERE = 14
    CONFLICT = 15
    INVALID_INPUT = 20
    MAP_FORMAT = 30
    MAP_FRAME_MISMATCH = 31
    STORAGE = 32
    MISSING_EXTRA = 40
    TRAINING = 50


class GsSemanticError(Exception):
    """Base of all errors raised on purpose. ``code`` is what a service reply carries; the text says what to do next."""

    code = ErrorCode.UNKNOWN


class InvalidRequestError(GsSemanticError):
    code = ErrorCode.INVALID_REQUEST


class UnknownObjectError(GsSemanticError):
    code = ErrorCode.UNKNOWN_OBJECT


class OutsideImageError(GsSemanticError):
    code = ErrorCode.OUTSIDE_IMAGE


class EmptyMapError(GsSemanticError):
    code = ErrorCode.EMPTY_MAP


class NothingThereError(GsSemanticError):
    code = ErrorCode.NOTHING_THERE


class ConflictError(GsSemanticError):
    """Somebody else changed what is to be changed; the text says what and when."""

    code = ErrorCode.CONFLICT


class InvalidInputError(GsSemanticError):
    """Sensor data that cannot be used; the text names the topic, field, frame or file."""

    code = ErrorCode.INVALID_INPUT


class MapFormatError(GsSemanticError):
    """A PLY or map folder that is not what it should be; the text names the file."""

    code = ErrorCode.MAP_FORMAT


class MapFrameMismatchError(GsSemanticError):
    code = ErrorCode.MAP_FRAME_MISMATCH


class StorageError(GsSemanticError):
    """Reading or writing failed (no space, no permission); the text names the path."""

    code = ErrorCode.STORAGE


class TrainingError(GsSemanticError):
    """Training had to stop; the text says where and why, and which checkpoint is the last good one."""

    code = ErrorCode.TRAINING


class MissingExtraError(GsSemanticError, ImportError):
    """An optional dependency is not installed; the text names the extra to install."""

    code = ErrorCode.MISSING_EXTRA

    @classmethod
    def for_module(cls, module: str, extra: str, purpose: str) -> MissingExtraError:
        return cls(f"{purpose} needs the Python module '{module}': pip install 'gs_semantic[{extra}]'")
