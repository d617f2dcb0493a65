"""Unified-Lift in a small room: what is learned, what is kept apart, what it does with masks it cannot use."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training_bad_input import ChangedRoom
from training_room import RoomSequence, small_config, small_method, small_scene

from gs_semantic.errors import InvalidInputError, MissingExtraError
from gs_semantic.gaussians import Frame
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.segmentation.heads import Codebook
from gs_semantic.segmentation.methods.unified_lift import UnifiedLift
from gs_semantic.segmentation.scoring import match_ids
from gs_semantic.segmentation.trainer import MAP, Trainer
from gs_semantic.segmentation.untracked import Draw


def with_ids(change, frames: int = 10) -> ChangedRoom:
    """The room with id images changed by a function (ids, index) -> ids."""

    def changed(frame: Frame, index: int) -> Frame:
        return replace(frame, instances=change(frame.instances.copy(), index).astype(np.int32))

    return ChangedRoom(changed, frames)


# Fast enough for 250 steps; a round of pruning would take the room's large Gaussians away.
LEARNING = {"masks": "shuffled", "iterations": 250, "evaluate_every": 250, "densify_until": 0, "lr_features": 2e-2}


def moved(method, before) -> set[str]:
    return {name for name in before if not torch.equal(before[name], method.gaussians[name])}


@pytest.mark.parametrize("unlabelled", ["ignore", "segment", "background"])
def test_masks_with_other_ids_in_every_view_become_objects(unlabelled, tmp_path):
    method = small_method("unified_lift", unlabelled=unlabelled, lr_codes=1e-2, **LEARNING)
    result = Trainer(method, tmp_path).run()
    assert result.metrics["miou"] > 0.6
    match = match_ids(method)
    assert len(set(match.values())) == len(match) >= 4
    gaussians, objects = load_map(tmp_path / MAP)
    ids = {obj.id: obj for obj in objects}
    assert set(match.values()) <= set(ids)
    assert ids[match[2]].class_id == 2 and ids[match[2]].observations > 3  # by overlap with the masks' classes
    classes, confidence = method.gaussian_classes()
    assert np.array_equal(gaussians["object"].numpy(), classes) and 0 <= confidence.min() <= confidence.max() <= 1
    shown = method.predict(method.scene.held_out[0].camera)
    assert shown.ids.shape == shown.confidence.shape == (48, 64)
    assert (shown.confidence[shown.ids > 0] >= method.config.unassigned_below).all()


def test_nothing_is_answered_before_training_and_nothing_improbable_after():
    method = small_method("unified_lift", masks="shuffled")
    camera = method.scene.held_out[0].camera
    assert not method.predict(camera).ids.any() and not method.gaussian_classes()[0].any()
    Trainer(method).run()
    assert method.predict(camera).ids.any()
    object.__setattr__(method.config, "answer_temperature", 1.0)  # nothing is certain then
    object.__setattr__(method.config, "unassigned_below", 1.0)
    assert not method.predict(camera).ids.any()


def test_gradients_of_ids_never_reach_geometry_and_codes_never_reach_features():
    method = small_method("unified_lift", adam="all")
    names = ("means", "quats", "log_scales", "opacity_logits", "identity")
    index = next(k for k, view in enumerate(method.scene.train) if view.ids is not None)
    features = torch.randn(48, 64, 16, requires_grad=True)
    terms = method.pixel_losses(1, index, features)
    assert set(terms) == {"norm", "contrast", "concentration", "class"}
    (terms["concentration"] + terms["class"]).backward(retain_graph=True)
    assert features.grad is None and method.codebook.weight.grad.abs().sum() > 0
    method.codebook.weight.grad = None
    (terms["norm"] + terms["contrast"]).backward()
    assert features.grad.abs().sum() > 0 and method.codebook.weight.grad is None
    colour_alone, both = (small_method(name, adam="all", densify_until=0) for name in ("plain", "unified_lift"))
    before = {name: both.gaussians[name].clone() for name in names}
    for iteration in range(1, 4):
        colour_alone.step(iteration, index)
        both.step(iteration, index)
    assert moved(both, before) == set(names)
    for name in names[:4]:
        torch.testing.assert_close(both.gaussians[name], colour_alone.gaussians[name])


def test_features_are_those_of_contrast_alone():
    options = {"masks": "shuffled", "iterations": 12, "densify_until": 6, "densify_every": 3, "draw_balance": 0.5}
    alone, both = (small_method(name, **options) for name in ("contrastive", "unified_lift"))
    for method in (alone, both):
        Trainer(method).run()
    assert torch.equal(alone.gaussians["identity"], both.gaussians["identity"])


def test_the_balance_of_the_contrast_falls_evenly_from_its_first_value_to_its_last():
    method = small_method("unified_lift", iterations=10, contrast_balance=0.6, contrast_balance_end=0.2)
    assert [method.balance(i) for i in (0, 5, 10)] == pytest.approx([0.6, 0.4, 0.2])
    steady = small_method("unified_lift", iterations=10, contrast_balance=0.6, contrast_balance_end=-1.0)
    assert steady.balance(10) == 0.6


def test_without_blocking_codes_reach_features():
    method = small_method("unified_lift", block_gradients=False)
    features = torch.randn(48, 64, 16, requires_grad=True)
    terms = method.pixel_losses(1, 0, features)
    terms["class"].backward(retain_graph=True)
    first = features.grad.clone()
    terms["concentration"].backward()
    assert first.abs().sum() > 0 and not torch.equal(first, features.grad)


@pytest.mark.parametrize(("weighting", "ratio"), [("code", 1e-6), ("paper", 1.0)])
def test_both_weightings_train(weighting, ratio):
    method = small_method("unified_lift", weighting=weighting)
    features = 2 * torch.ones(48, 64, 16) / 4  # of length 2: the norm term is 1
    assert float(method.pixel_losses(1, 0, features)["norm"]) == pytest.approx(ratio, rel=1e-4)
    assert np.isfinite(list(method.step(1, 0).values())).all()


@pytest.mark.parametrize("draw_balance", [0.0, 0.5])
def test_the_sampled_losses_are_those_of_all_pixels_on_average(draw_balance):
    same = {"contrast_least": 0, "filter_below": 1.0, "open_below": 0.0}
    whole = small_method("unified_lift", contrast_pixels=0, association_pixels=0, **same)
    part = small_method(
        "unified_lift",
        contrast_pixels=512,
        association_pixels=512,
        weighting="paper",
        draw_balance=draw_balance,
        **same,
    )
    whole.weights = part.weights
    torch.manual_seed(0)
    centres = torch.eye(5, 16)[whole.scene.classes(0).reshape(48, 64)]
    features = (3 * centres + 0.15 * torch.randn(48, 64, 16)).requires_grad_()
    part.codebook.load_state_dict(whole.codebook.state_dict())
    expected = {name: float(term.detach()) for name, term in whole.pixel_losses(1, 0, features).items()}
    sampled = [part.pixel_losses(1, 0, features) for _ in range(20)]
    for name, value in expected.items():
        values = np.array([float(terms[name].detach()) for terms in sampled])
        assert values.mean() == pytest.approx(value, abs=4 * values.std() / 20**0.5 + 0.02 * value), name


def test_codes_that_answer_to_the_same_masks_are_one_object():
    """Every sixth view shows a mask in two; its other half opens a code, which answers to the whole one, too."""
    method = small_method("unified_lift", in_use=1.0, one_object=0.35)
    whole, halves = (Draw(np.arange(n), np.arange(n), np.arange(1, 1 + n)) for n in (2, 3))
    scores = torch.zeros(3, len(method.codebook) - 1)
    scores[:, :3] = torch.tensor([[10.0, 1.0, 8.0], [1.0, 10.0, 0.0], [1.0, 0.0, 9.0]])
    for view in range(60):
        method._matched(*((scores, halves) if view % 6 == 5 else (scores[:2], whole)))
    assert method.codes()[1].tolist() == [1, 2, 1] and len(method.codes()[0]) == 3
    method.codebook.load_state_dict(method.codebook.state_dict())
    assert method.codes()[1].tolist() == [1, 2, 1]
    object.__setattr__(method.config, "one_object", 1.0)
    assert method.codes()[1].tolist() == [1, 2, 3]


def test_a_mask_that_no_code_explains_opens_one_of_those_that_are_free():
    method = small_method("unified_lift", open_below=0.9, contrast_least=0, codes=4)
    draw = Draw(np.arange(2), np.arange(2), np.array([1, 2]))
    scores = torch.zeros(2, 4)
    scores[0, 0] = scores[1, 1] = 1.0
    vectors, others = torch.eye(16)[:2], method.codebook.weight.detach().clone()
    with torch.no_grad():
        method.codebook.weight[1:3] = vectors  # class 0 has a code that takes no part
    method.codebook.count(np.array([1, 2]), 10)
    assert method._matched(scores, draw, vectors).tolist() == [0, 1]
    assert torch.equal(method.codebook.weight[3:].detach(), others[3:])
    far = torch.stack([vectors[0], torch.eye(16)[5]])
    assert method._matched(scores, draw, far).tolist() == [0, 2]
    assert torch.equal(method.codebook.weight[1:4].detach(), torch.stack([*vectors, far[1]]))


# --- growing ----------------------------------------------------------------------------------------------------------


def test_a_view_with_more_masks_than_codes_makes_the_codebook_grow():
    method = small_method("unified_lift", codes=2, iterations=40, evaluate_every=40)
    seen = max(len(np.unique(view.ids[view.ids > 0])) for view in method.scene.train)
    assert seen > 2
    assert np.isfinite(Trainer(method).run().metrics["miou"])
    assert len(method.codebook) >= 1 + seen


def test_a_codebook_that_is_full_grows_and_keeps_what_it_learned():
    book = Codebook(4, 3, 0.1, np.random.default_rng(0))
    for _ in range(3):
        book.weight.square().sum().backward()
        book.step()
    state, before = book.state_dict(), book.weight.detach().clone()
    moments = next(iter(state["adam"]["state"].values()))["exp_avg"].clone()
    book.count(np.array([1, 2]), 10)
    book.grow(6)
    assert torch.equal(book.weight[:4].detach(), before) and len(book) == 6 == len(book.used)
    kept = next(iter(book.state_dict()["adam"]["state"].values()))["exp_avg"]
    assert torch.equal(kept[:4], moments) and not kept[4:].any()
    assert book.used.tolist() == [0, 1, 1, 0, 0, 0]
    book.grow(2)
    assert len(book) == 6
    book.weight.square().sum().backward()
    book.step()
    other = Codebook(2, 3, 0.1, np.random.default_rng(1))
    other.load_state_dict(book.state_dict())
    assert torch.equal(other.weight, book.weight) and other.weight.requires_grad


def test_it_grows_when_most_codes_are_in_use():
    method = small_method("unified_lift", codes=6, grow_every=5, grow_from=0.5, iterations=10)
    Trainer(method).run()
    assert len(method.codebook) > 7
    never = small_method("unified_lift", codes=6, grow_every=0, iterations=10)
    Trainer(never).run()
    assert len(never.codebook) == 7


# --- masks that it cannot use ------------------------------------------------------------------------------------------


def test_views_without_masks_train_colour_only():
    method = small_method("unified_lift", with_ids(lambda ids, index: ids * (index % 2)))
    labelled = [view.ids is not None for view in method.scene.train]
    assert any(labelled) and not all(labelled)
    first = method.scene.train[labelled.index(False)].name
    without = f"{labelled.count(False)} of {len(labelled)} views have no masks and teach colour alone, first {first}"
    assert without in method.warnings
    assert set(method.step(1, labelled.index(False))) == {"colour"}
    assert {"contrast", "concentration"} <= set(method.step(2, labelled.index(True)))


def test_views_that_are_void_throughout_are_refused_by_name():
    scene = small_scene(small_config("unified_lift"), with_ids(lambda ids, index: 0 * ids))
    with pytest.raises(
        InvalidInputError, match="none of the views to train on has labels; unified_lift lifts id images"
    ):
        UnifiedLift(small_config("unified_lift"), scene)


@pytest.mark.parametrize("unlabelled", ["ignore", "segment", "background"])
def test_one_mask_that_covers_all_is_one_object(unlabelled):
    method = small_method("unified_lift", with_ids(lambda ids, index: 0 * ids + 1 + index), unlabelled=unlabelled)
    assert np.isfinite(list(Trainer(method).run().metrics.values())).all()
    assert torch.isfinite(method.gaussians["identity"]).all()


@pytest.mark.parametrize("unlabelled", ["ignore", "background"])
def test_masks_of_a_single_pixel_take_part_in_the_matching_alone(unlabelled):
    def dots(ids, index):
        dotted = 0 * ids
        dotted[::12, ::16] = np.arange(1, 17).reshape(4, 4)
        return dotted

    method = small_method("unified_lift", with_ids(dots), contrast_least=200, unlabelled=unlabelled)
    losses = method.step(1, 0)
    assert "concentration" in losses and ("contrast" in losses) == (unlabelled == "background")
    assert np.isfinite(list(losses.values())).all() and torch.isfinite(method.gaussians["identity"]).all()


def test_a_recording_without_labels_is_refused():
    config = small_config("unified_lift")
    with pytest.raises(InvalidInputError, match="none of the views to train on has labels"):
        UnifiedLift(config, small_scene(config, RoomSequence(without=("instances",))))


# --- clustering afterwards ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unlabelled", ["ignore", "background"])
def test_clusters_of_contrastive_features_are_objects(unlabelled, tmp_path):
    pytest.importorskip("sklearn")
    method = small_method("contrastive", unlabelled=unlabelled, **LEARNING)
    result = Trainer(method, tmp_path).run()
    assert result.metrics["miou"] > 0.4 and method.cluster_seconds > 0
    assert len(load_map(tmp_path / MAP)[1]) >= 3
    before = len(method.ids)
    method.use_cluster_size(10_000)  # more than there are points: nothing is an object any more
    assert len(method.ids) == 1 < before
    assert not method.predict(method.scene.held_out[0].camera).ids.any()


def test_clustering_names_the_extra_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtraError, match=r"needs the Python module 'scikit-learn'.*gs_semantic\[clustering\]"):
        small_method("contrastive")
