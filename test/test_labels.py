"""Class names and colours."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gs_semantic.labels import VOID, LabelSet, palette


@given(st.integers(0, 2000), st.integers(0, 100))
def test_colours_are_stable_and_the_first_is_black(count, seed):
    colours = palette(count, seed)
    assert colours.shape == (count, 3) and colours.dtype == np.uint8
    assert np.array_equal(colours, palette(count + 10, seed)[:count])
    assert not colours[:1].any()


def test_neighbouring_colours_can_be_told_apart():
    colours = palette(256).astype(int)
    assert len(np.unique(colours, axis=0)) == 256
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 60
    assert colours[1:].max(axis=1).min() > 100  # nothing as dark as void


def test_names():
    labels = LabelSet({0: "void", 4: "mug"})
    assert labels.name(4) == "mug" and labels.name(np.int32(4)) == "mug"
    assert labels.name(9) == "class_9" and labels.name(VOID) == "void"
    assert labels.object_name(VOID) == "unknown" and labels.object_name(4) == "mug"
    assert labels.id_of("mug") == 4 and labels.id_of("spoon") is None
    assert LabelSet().names == {VOID: "void"} and LabelSet().names is not LabelSet().names
