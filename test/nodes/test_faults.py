"""The catalogue of faults: texts that can be made, found again and taken apart; the page that is made from it."""

from __future__ import annotations

import re

import pytest

from gs_semantic.nodes import faults
from gs_semantic.nodes.faults import CATALOGUE, Severity

DETAILS = {"seconds": 1.5, "milliseconds": 12.25, "metres": 0.5, "length": 2.0, "stamp": 3.0, "before": 4.0}


def text_of(fault: faults.Fault) -> str:
    return fault.text(**{name: DETAILS.get(name, f"the {name}") for name in fault.fields})


@pytest.mark.parametrize("fault", CATALOGUE.values(), ids=CATALOGUE)
def test_a_text_names_its_fault_and_can_be_taken_apart(fault: faults.Fault) -> None:
    text = text_of(fault)
    assert faults.named_in(text) is fault
    message, mend = fault.split(text)
    assert (message, mend) == fault.parts(**{name: DETAILS.get(name, f"the {name}") for name in fault.fields})
    assert faults.of_text("here", text, faults.OTHER) == faults.Finding(
        fault.name, fault.severity, "here", message, mend
    )


@pytest.mark.parametrize("fault", CATALOGUE.values(), ids=CATALOGUE)
def test_every_fault_says_what_where_and_what_to_do(fault: faults.Fault) -> None:
    assert fault.fields, "a message without a topic, frame, file or amount helps nobody"
    assert fault.mend.endswith(".")
    assert fault.meaning.endswith(".")
    assert not fault.message.endswith(".")
    assert re.fullmatch(r"[a-z_]+", fault.name)


def test_a_text_from_elsewhere_keeps_its_words() -> None:
    assert faults.named_in("something [not_a_fault]") is None
    finding = faults.of_text("/topic", "something went wrong", faults.ENCODING)
    assert (finding.name, finding.severity, finding.message, finding.mend) == (
        "encoding",
        Severity.ERROR,
        "something went wrong",
        "",
    )


def test_a_field_that_is_not_given_is_an_error() -> None:
    with pytest.raises(KeyError, match="encoding"):
        faults.ENCODING.text(topic="/camera", expected="rgb8")
