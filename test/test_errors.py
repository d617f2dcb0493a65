"""Error codes are a promise to the outside."""

from __future__ import annotations

import inspect

import pytest

from gs_semantic import errors
from gs_semantic.errors import ErrorCode, GsSemanticError, MissingExtraError

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, GsSemanticError)]


def test_codes_never_change():
    assert {code.name: int(code) for code in ErrorCode} == {
        "OK": 0,
        "UNKNOWN": 1,
        "INVALID_REQUEST": 10,
        "UNKNOWN_OBJECT": 11,
        "OUTSIDE_IMAGE": 12,
        "EMPTY_MAP": 13,
        "NOTHING_THERE": 14,
        "CONFLICT": 15,
        "INVALID_INPUT": 20,
        "MAP_FORMAT": 30,
        "MAP_FRAME_MISMATCH": 31,
        "STORAGE": 32,
        "MISSING_EXTRA": 40,
        "TRAINING": 50,
    }


def test_every_code_but_ok_belongs_to_one_error():
    assert sorted(c.code for c in CLASSES) == sorted(set(ErrorCode) - {ErrorCode.OK})


@pytest.mark.parametrize("error", CLASSES)
def test_errors_carry_their_code_and_text(error):
    with pytest.raises(GsSemanticError, match="what to do") as caught:
        raise error("what to do")
    assert caught.value.code is error.code


def test_a_missing_extra_names_what_to_install():
    error = MissingExtraError.for_module("gsplat", "cuda", "Rendering on a graphics card")
    assert isinstance(error, ImportError)
    assert str(error) == (
        "Rendering on a graphics card needs the Python module 'gsplat': pip install 'gs_semantic[cuda]'"
    )
