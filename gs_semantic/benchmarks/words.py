"""``bench text``: names of things that are in a map and of things that are not, against the words of the offline matcher."""

from __future__ import annotations

from typing import Any

import numpy as np

from gs_semantic.objects.text import THRESHOLD, match_names

CLASSES = [
    *("armchair", "bed", "book", "bookshelf", "cabinet", "carpet", "chair", "coffee_table", "curtain", "cushion"),
    *("desk", "door", "fridge", "lamp", "laptop", "mirror", "monitor", "nightstand", "oven", "picture"),
    *("plant", "sink", "sofa", "table", "trash_can", "tv", "tv_stand", "vase", "wardrobe", "window"),
]
PRESENT = {
    "armchair": "armchair", "the bed": "bed", "a novel": "book", "bookcase": "bookshelf", "cupboard": "cabinet",
    "rug": "carpet", "office chair": "chair", "coffee table": "coffee_table", "curtains": "curtain", "pillow": "cushion",
    "writing table": "desk", "my door": "door", "refrigerator": "fridge", "floor lamp": "lamp", "notebook": "laptop",
    "looking glass": "mirror", "computer screen": "monitor", "bedside table": "nightstand", "stove": "oven",
    "the paintings": "picture", "potted plant": "plant", "washbasin": "sink", "red couch": "sofa", "dining table": "table",
    "waste bin": "trash_can", "television": "tv", "tv cabinet": "tv_stand", "blue vase": "vase", "closet": "wardrobe",
    "big windows": "window",
}  # fmt: skip
ABSENT = [
    *("guitar", "bicycle", "toothbrush", "helicopter", "elephant", "piano", "umbrella", "kettle", "ladder", "hammer"),
    *("microwave", "washing machine", "dumbbell", "shoe", "printer", "fireplace", "bathtub", "toilet", "tent", "car"),
    *("fire extinguisher", "whiteboard", "keyboard", "headphones", "backpack", "banana", "knife", "chair leg", "skateboard"),
    "traffic light",
]


def run_words(threshold: float = THRESHOLD) -> dict[str, Any]:
    """recall: share of ``PRESENT`` whose object is among the answers; precision: share of all answers to them that are right;
    not_found_pct: of ``ABSENT``, without any answer."""
    hits = {text: _found(text, threshold) for text in PRESENT}
    right = sum(PRESENT[text] in names for text, names in hits.items())
    wrong = {text: names for text in ABSENT if (names := _found(text, threshold))}
    return {
        "present": len(PRESENT),
        "absent": len(ABSENT),
        "recall": right / len(PRESENT),
        "precision": right / max(1, sum(map(len, hits.values()))),
        "not_found_pct": 100 * (1 - len(wrong) / len(ABSENT)),
    }


def _found(text: str, threshold: float) -> list[str]:
    scores = match_names(text, [[name] for name in CLASSES])
    return [CLASSES[index] for index in np.flatnonzero(scores >= threshold)]
