"""Words and the names of objects: 30 names of things that are there, 30 of things that are not."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.benchmarks.words import ABSENT, CLASSES, PRESENT, run_words
from gs_semantic.errors import InvalidRequestError
from gs_semantic.objects.text import THRESHOLD, match_names, score


def found(text: str) -> set[str]:
    scores = match_names(text, [[name] for name in CLASSES])
    return {CLASSES[index] for index in np.flatnonzero(scores >= THRESHOLD)}


def test_recall_and_precision_on_thirty_names_of_things_that_are_there() -> None:
    assert len(PRESENT) == 30
    hits = {text: found(text) for text in PRESENT}
    right = sum(PRESENT[text] in names for text, names in hits.items())
    answers = sum(map(len, hits.values()))
    assert right / 30 >= 0.95, [text for text, names in hits.items() if PRESENT[text] not in names]
    assert right / answers >= 0.95, {text: names for text, names in hits.items() if names != {PRESENT[text]}}


def test_not_found_on_thirty_names_of_things_that_are_not_there() -> None:
    assert len(set(ABSENT)) == 30
    wrong = {text: found(text) for text in ABSENT if found(text)}
    assert len(wrong) <= 3, wrong


def test_the_bench_says_the_same() -> None:
    results = run_words()
    assert (results["present"], results["absent"]) == (30, 30)
    assert results["recall"] >= 0.95 and results["precision"] >= 0.95 and results["not_found_pct"] >= 90


def test_scores_rank() -> None:
    assert score("chair", "chair") > score("seat", "chair") > score("red chair", "chair") > score("red seat", "chair")
    assert score("microwaev oven", "microwave oven") > THRESHOLD > score("chair", "char")
    assert score("tv", "tv_stand") == score("tv stand", "tv") == 0


def test_the_operators_name_counts_beside_the_class() -> None:
    names = [("Anna's mug", "cup"), ("", "cup")]
    assert match_names("anna's mug", names).tolist() == [1.0, 0.7]
    assert match_names("cup", names).tolist() == [1.0, 1.0]


def test_negatives() -> None:
    names = [("office chair",), ("chair",), ("lamp",)]
    assert match_names("chair", names, ["office chair"])[0] == 0
    assert match_names("chair", names, ["lamp"])[1] == 1.0


@pytest.mark.parametrize("text", ["", "  ", "the", "?!"])
def test_an_empty_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="text is empty"):
        match_names(text, [])


def test_a_text_without_end_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="characters"):
        match_names("chair " * 1000, [])
