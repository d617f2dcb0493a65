"""The LERF-Mask protocol on images small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gs_semantic.evaluation.lerf import IdView, fitted, oracle, prompt_mask, score_prompts, select_ids

IDS = np.zeros((40, 60), int)
IDS[:20, :20], IDS[:20, 20:40], IDS[:20, 40:] = 3, 4, 5


def test_ids_are_selected_by_their_share_inside_the_mask():
    mask = np.zeros(IDS.shape, bool)
    mask[:20, :34] = True  # all of 3, 70 % of 4
    assert select_ids(IDS, mask) == [3]
    mask[0, 34] = True
    assert select_ids(IDS, mask) == [3, 4]
    assert select_ids(IDS, np.ones(IDS.shape, bool)) == [3, 4, 5]  # never nobody
    assert select_ids(IDS, mask[::2, ::2]) == [3, 4]  # a mask of another size: one pixel stands for four
    assert select_ids(IDS, np.zeros(IDS.shape, bool)) == []


def test_a_pixel_belongs_to_a_prompt_when_any_selected_id_is_probable():
    probabilities = np.array([[[0.5, 0.2, 0.3], [0.1, 0.15, 0.75], [0.15, 0.21, 0.64]]])
    view = IdView(np.array([[3, 5, 5]]), lambda key: probabilities[..., key - 3])
    assert prompt_mask(view, [3, 4]).tolist() == [[True, False, True]]
    assert prompt_mask(view, []).tolist() == [[False] * 3]
    hard = IdView.hard(np.array([[3, 3, 4]]), np.array([[0.1, 0.9, 0.9]]))
    assert prompt_mask(hard, [3]).tolist() == [[False, True, False]]


def test_prompts_are_grounded_in_their_first_view_and_scored_in_all():
    first, second = IDS == 3, np.zeros(IDS.shape, bool)
    second[:20, :10] = True  # half of what id 3 covers there
    truth = {"mug": {2: first, 5: second}, "fork": {2: IDS == 5}}
    score = score_prompts({2: IdView.hard(IDS), 5: IdView.hard(IDS)}, truth)
    names = score.by_name()
    assert names["mug"][0] == pytest.approx((1 + 0.5) / 2) and names["fork"] == (1.0, 1.0)
    assert score.miou == pytest.approx((0.75 + 1) / 2)


def test_what_is_missing_scores_zero():
    truth = {"mug": {0: IDS == 3, 1: IDS == 3}, "cup": {0: IDS == 4}, "nothing": {0: IDS == 9}}
    views = {0: IdView.hard(np.where(IDS == 4, 0, IDS))}  # view 1 and object 4 are not there
    assert score_prompts(views, truth).by_name() == {"mug": (0.5, 0.5), "cup": (0.0, 0.0)}
    assert score_prompts({}, truth).miou == 0.0


def test_another_grounding_and_other_sizes():
    truth = {"mug": {0: fitted(IDS == 3, (80, 120))}}
    views = {0: IdView.hard(IDS)}
    assert score_prompts(views, truth).miou == 1.0
    elsewhere = score_prompts(views, truth, lambda prompt, masks: (0, IDS == 4))
    assert elsewhere.miou == 0.0
    assert oracle("mug", {4: np.zeros((2, 2), bool), 7: np.ones((2, 2), bool)})[0] == 7
