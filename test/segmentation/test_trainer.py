"""Runs of the harness: learning, reports, checkpoints, cancelling, resuming, outputs."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from training_room import RoomSequence, small_config, small_method, small_scene

from gs_semantic.data.folder_writer import write_folder
from gs_semantic.errors import InvalidInputError, TrainingError
from gs_semantic.files import atomic_write
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.objects.registry import ObjectState
from gs_semantic.rendering import create_rasterizer
from gs_semantic.segmentation.checkpoints import read_checkpoint
from gs_semantic.segmentation.loop import BEST, CHECKPOINT, METRICS, link_checkpoint
from gs_semantic.segmentation.registry import all_methods
from gs_semantic.segmentation.scoring import match_ids, score_views
from gs_semantic.segmentation.trainer import MAP, Trainer, TrainingJob, train

NEEDS = {"contrastive": "sklearn"}  # modules of an extra
METHODS = [
    pytest.param(name, marks=pytest.mark.skipif(not find_spec(NEEDS.get(name, "torch")), reason="the extra is missing"))
    for name in all_methods()
]


def content_of(method) -> dict[str, torch.Tensor]:
    """Everything that training changes, to be compared bit by bit."""
    values = {name: method.gaussians[name].clone() for name in method.gaussians}
    values |= {f"{name}/{key}": method.gaussians.state(name, key).clone() for name, key in method.gaussians.state_keys}
    if hasattr(method, "classifier"):
        values |= {"weight": method.classifier.weight.detach().clone(), "bias": method.classifier.bias.detach().clone()}
    if getattr(method, "field", None) is not None:
        values |= {f"decoder/{name}": value.clone() for name, value in method.field.decoder.state_dict().items()}
        values["features"] = method.lifted_features()
    if hasattr(method, "codebook"):
        values |= {"codes": method.codebook.weight.detach().clone(), "used": method.codebook.used.clone()}
    return values


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if a[name].shape != b[name].shape or not torch.equal(a[name], b[name])]


def test_identities_are_learned_and_colour_improves():
    method = small_method("grouping", iterations=250, evaluate_every=250)
    before = score_views(method, method.scene.held_out)
    result = Trainer(method).run()
    assert result.metrics["miou"] > 0.7 > before["miou"]
    assert result.metrics["psnr_db"] > before["psnr_db"] + 3
    assert 0 < result.metrics["mboundary_iou"] <= 1
    classes, probability = method.gaussian_classes()
    assert len(classes) == len(method.gaussians) and 0 < probability.min() <= probability.max() <= 1


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(name, tmp_path):
    options = {"sh_degree": 1, "sh_every": 8, "densify_from": 2, "densify_every": 5, "densify_until": 20}
    if name == "gradiseg":
        options |= {"igd_from": 6, "igd_until": 18, "igd_every": 4, "igd_radius_px": 0.5, "la_from": 6}
    if name == "coseg":
        options |= {"segment_for": 13}
    options |= {"max_gaussians": 900}
    whole = small_method(name, **options)
    Trainer(whole).run()
    part = small_method(name, **options)
    # stopped in the middle of a round of views, after the checkpoint of iteration 10
    stopped = Trainer(part, tmp_path, cancelled=lambda: stopped.loop.iteration >= 13)
    stopped.run()
    resumed = Trainer.resume(tmp_path, small_scene(small_config(name, **options)))
    assert resumed.loop.iteration == 10
    assert resumed.run().iteration == 20
    assert differing(content_of(whole), content_of(resumed.method)) == []
    assert len(whole.gaussians) != 800  # rows came and went


def test_the_same_seed_gives_the_same_map_and_another_seed_another():
    first, second, other = (small_method("grouping", seed=seed) for seed in (0, 0, 1))
    for method in (first, second, other):
        Trainer(method).run()
    assert differing(content_of(first), content_of(second)) == []
    assert differing(content_of(first), content_of(other)) != []


def test_views_come_in_rounds_without_replacement():
    trainer = Trainer(small_method("plain"))
    views = [trainer._next_view() for _ in range(3 * len(trainer.method.scene.train))]
    count = len(trainer.method.scene.train)
    rounds = [views[k : k + count] for k in range(0, len(views), count)]
    assert all(sorted(one) == list(range(count)) for one in rounds)
    assert rounds[0] != rounds[1]


def test_reports_have_all_live_metrics(tmp_path):
    reports = []
    Trainer(small_method("grouping"), tmp_path, [reports.append]).run()
    assert [report.iteration for report in reports] == [5, 10, 15, 20]
    last = reports[-1]
    assert {"colour", "identity", "neighbours"} <= set(last.losses)
    assert last.psnr_db > 5 and 0 <= last.miou <= 1 and last.it_per_s > 0 and last.eta_s == 0 and last.memory_mb > 50
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [5, 10, 15, 20] and lines[0]["loss_identity"] > 0


def test_cancelling_ends_at_once_and_keeps_the_best_checkpoint(tmp_path):
    method, asked = small_method("grouping", iterations=100_000, evaluate_every=10), []

    def cancelled() -> bool:
        if method.gaussians.revision and (tmp_path / BEST).exists() and not asked:
            asked.append(time.perf_counter())
        return bool(asked)

    result = Trainer(method, tmp_path, cancelled=cancelled).run()
    assert time.perf_counter() - asked[0] < 60  # a hang would be seen; how soon it ends is measured, not asserted
    assert result.cancelled and result.iteration == 10
    assert read_checkpoint(tmp_path / BEST)["loop"]["iteration"] == 10
    assert result.metrics["miou"] == read_checkpoint(tmp_path / BEST)["loop"]["best_metrics"]["miou"]
    assert len(load_map(tmp_path / MAP)[0]) == len(method.gaussians)


def test_cancelling_while_the_recording_is_read_ends_at_once(tmp_path):
    write_folder(RoomSequence(), tmp_path / "room")
    asked = []
    job = TrainingJob("plain", tmp_path / "room", tmp_path / "out", "quick")
    result = train(job, cancelled=lambda: len(asked) >= 3 or bool(asked.append(1)))
    assert result.cancelled and result.iteration == 0 and result.map is None
    assert not (tmp_path / "out").exists()


def test_cancelling_before_the_first_evaluation_leaves_a_checkpoint(tmp_path):
    calls = iter([False] * 3)
    result = Trainer(small_method("plain"), tmp_path, cancelled=lambda: next(calls, True)).run()
    assert result.iteration == 3 == read_checkpoint(tmp_path / CHECKPOINT)["loop"]["iteration"]


def test_the_map_folder_knows_every_gaussians_object(tmp_path):
    sequence = RoomSequence(ids={2: 70_000, 3: 2**31 - 1})  # far beyond 256 and beyond 16 bit
    method = small_method("grouping", sequence, iterations=150, evaluate_every=150)
    Trainer(method, tmp_path).run()
    gaussians, objects = load_map(tmp_path / MAP)
    assert {obj.id for obj in objects} <= {1, 4, 70_000, 2**31 - 1} and len(objects) >= 3
    assert all(obj.state is ObjectState.CONFIRMED and obj.num_gaussians > 0 for obj in objects)
    by_slot = {obj.slot: obj.id for obj in objects}
    classes, probability = method.gaussian_classes()
    assert [by_slot.get(slot, 0) for slot in gaussians["object"].tolist()] == method.scene.ids[classes].tolist()
    assert np.allclose(gaussians["object_probability"].numpy(), probability)
    assert objects.by_id(70_000).class_id == 2 and objects.by_id(70_000).box is not None
    shown = method.predict(method.scene.held_out[0].camera)
    assert 70_000 in shown.ids and shown.rgb.shape == (48, 64, 3)


def test_a_loss_that_is_not_finite_is_named_and_the_last_checkpoint_kept(tmp_path):
    method = small_method("grouping")
    plain_losses = method.pixel_losses

    def broken(iteration, index, features):
        terms = plain_losses(iteration, index, features)
        return {"identity": terms["identity"] * torch.nan} if iteration == 14 else terms

    method.pixel_losses = broken
    with pytest.raises(TrainingError) as raised:
        Trainer(method, tmp_path).run()
    text = str(raised.value)
    assert "'identity' is nan at iteration 14" in text and str(tmp_path / CHECKPOINT) in text
    assert read_checkpoint(tmp_path / CHECKPOINT)["loop"]["iteration"] == 10
    assert torch.isfinite(method.gaussians.means).all()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] can't allocate memory: 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_out_of_memory_says_what_to_lower(error):
    method = small_method("plain")

    def step(iteration, index):
        raise error

    method.step = step
    with pytest.raises(TrainingError, match="out of memory at iteration 1 .* lower max_gaussians, width"):
        Trainer(method).run()


def test_a_damaged_checkpoint_is_named(tmp_path):
    scene = small_scene(small_config("plain"))
    with pytest.raises(InvalidInputError, match="no such checkpoint"):
        Trainer.resume(tmp_path, scene)
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(InvalidInputError, match="is not a readable checkpoint"):
        Trainer.resume(tmp_path, scene)


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_keeps_its_second_name_also_where_files_have_one(tmp_path, monkeypatch, links):
    def refuse(*names):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    for number in range(2):
        with atomic_write(tmp_path / CHECKPOINT) as file:
            file.write(f"iteration {number}".encode())
        if number == 0:
            link_checkpoint(tmp_path / CHECKPOINT, tmp_path / BEST)
    assert (tmp_path / BEST).read_text() == "iteration 0" and (tmp_path / CHECKPOINT).read_text() == "iteration 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([BEST, CHECKPOINT])


def test_every_back_end_trains():
    config = small_config("grouping", iterations=6, evaluate_every=6, initial_gaussians=150, rasterizer="reference")
    method = small_method("grouping", RoomSequence(4), **{name: getattr(config, name) for name in (
        "iterations", "evaluate_every", "initial_gaussians", "rasterizer")}, hold_out_every=4)  # fmt: skip
    assert method.rasterizer.name == create_rasterizer("reference").name
    losses = [method.step(1, 0)["colour"]] + [method.step(k, 0)["colour"] for k in range(2, 12)]
    assert losses[-1] < losses[0]


def test_damaged_masks_are_matched_once_on_training_views():
    method = small_method("grouping", RoomSequence(ids={2: 12, 3: 13, 4: 14}), iterations=200, evaluate_every=200)
    for view in method.scene.held_out:  # the truth has other ids than the masks that were trained on
        view.ids[:] = view.ids % 10
    for view in method.scene.train:
        object.__setattr__(view, "truth", view.ids % 10)
    method.scene.ids_are_true = False
    result = Trainer(method).run()
    match = match_ids(method)
    assert {true: match[true] % 10 for true in match} == {true: true for true in match}
    assert result.metrics["miou"] > 0.6
