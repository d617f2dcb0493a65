"""Which objects do words mean? Names and synonyms, offline and without a model; embeddings where objects have some.

Scores are 0..1: 1 the very name, 0.9 a synonym, 0.8 a name with other words before it ("red chair"), 0.7 the same by a
synonym, 0.6 a slip of the pen. Nothing above ``THRESHOLD`` means that the thing is not there.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from gs_semantic.errors import InvalidRequestError
from gs_semantic.objects.synonyms import GROUPS

EXACT, SYNONYM, HEAD, HEAD_SYNONYM, SLIP = 1.0, 0.9, 0.8, 0.7, 0.6
THRESHOLD = 0.5
ALIKE = 0.84  # similarity of letters from which a word is taken for a slip of the pen
SHORTEST_SLIP = 5  # letters; shorter words are too easily another word
LONGEST = 500
# what everything is a little of: a text has to fit better than these (LERF, Kerr et al., ICCV 2023, section 3.4)
CANONICAL = ("object", "thing", "stuff", "texture")
_FILLERS = frozenset(["a", "an", "the", "my", "your", "our", "this", "that", "these", "those", "some", "any", "one", "of"])
_IRREGULAR = {"shelves": "shelf", "knives": "knife", "mice": "mouse", "people": "person", "dishes": "dish"}
_UNCHANGED = frozenset(["glass", "bus", "clothes", "stairs", "scissors", "blinds", "headphones", "steps", "drapes", "keys", "canvas", "dress"])


class TextEncoder(Protocol):
    """A model that puts texts into the space of the objects' embeddings, which has a name. scale: what cosines are
    multiplied by before they compete in a softmax."""

    name: str
    scale: float

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (T, D)."""
        ...


def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words, singular, without articles. InvalidRequestError for a text without any, or without end."""
    if len(text) > LONGEST:
        raise InvalidRequestError(f"text has {len(text)} characters, at most {LONGEST} are read")
    found = [_singular(word) for word in re.findall(r"\w+", text.casefold().replace("_", " "))]
    kept = tuple(word for word in found if word not in _FILLERS)
    if not kept:
        raise InvalidRequestError("text is empty: say what to look for")
    return kept


def _singular(word: str) -> str:
    if word in _IRREGULAR or word in _UNCHANGED:
        return _IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


@functools.cache
def _groups() -> dict[tuple[str, ...], frozenset[int]]:
    """Groups of synonyms that a term belongs to."""
    out: dict[tuple[str, ...], frozenset[int]] = {}
    for number, group in enumerate(GROUPS):
        for term in group:
            key = words_of(term)
            out[key] = out.get(key, frozenset()) | {number}
    return out


def score(text: str, name: str) -> float:
    """How well a text fits the name of an object or class, 0..1; a void name fits nothing."""
    asked = words_of(text)
    try:
        named = words_of(name)
    except InvalidRequestError:
        return 0.0
    if asked == named:
        return EXACT
    if _same(asked, named):
        return SYNONYM
    # the noun comes last: a "red office chair" is a chair, but a "chair leg" is none, and a "tv" is no "tv stand"
    for start in range(1, len(asked)):
        tail = asked[start:]
        if _known(asked):
            break  # the whole is a thing of its own
        if tail == named:
            return HEAD
        if _same(tail, named):
            return HEAD_SYNONYM
    if len(asked) == len(named) and not _known(asked):
        pairs = list(zip(asked, named, strict=True))
        if all(a == b or _slip(a, b) for a, b in pairs):
            return SLIP
    return 0.0


def _known(words: tuple[str, ...]) -> bool:
    return words in _groups()


def _same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return bool(_groups().get(one, frozenset()) & _groups().get(other, frozenset()))


def _slip(one: str, other: str) -> bool:
    return min(len(one), len(other)) >= SHORTEST_SLIP and difflib.SequenceMatcher(None, one, other).ratio() >= ALIKE


def match_names(text: str, names: Sequence[Iterable[str]], negatives: Iterable[str] = ()) -> np.ndarray:
    """Score (N,) of objects, each with its names; 0 for what fits one of the negatives as well or better."""
    table: dict[tuple[str, str], float] = {}

    def best(query: str, own: Iterable[str]) -> float:
        for name in own:
            if (query, name) not in table:
                table[(query, name)] = score(query, name)
        return max((table[(query, name)] for name in own), default=0.0)

    own = [tuple(each) for each in names]
    words_of(text)  # an empty text is refused even where there is nothing to look at
    out = np.array([best(text, each) for each in own], float)
    for negative in negatives:
        against = np.array([best(negative, each) for each in own], float)
        out[against >= np.maximum(out, THRESHOLD)] = 0.0
    return out


def match_embeddings(
    text: str, embeddings: np.ndarray, encoder: TextEncoder, negatives: Iterable[str] = ()
) -> np.ndarray:
    """Score (N,), 0..1, of unit embeddings (N, D): how probable the text is against the one of the negatives and of
    ``CANONICAL`` that fits best (LERF's relevancy), above ``THRESHOLD``; 0 where one of those fits as well or better."""
    words_of(text)
    against = [*negatives, *CANONICAL]
    cosines = embeddings @ encoder.encode([text, *against]).T
    margin = cosines[:, 0] - cosines[:, 1:].max(axis=1)
    return np.where(margin > 0, 1 / (1 + np.exp(-np.clip(encoder.scale * margin, 0, 60))), 0)
