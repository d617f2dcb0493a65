"""Learning from many scenes: checkpoints, going on, several processes, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from gs_semantic.cli import EXIT_ERROR, main
from gs_semantic.data.room_writer import RoomFormat, list_rooms, write_rooms
from gs_semantic.data.rooms import CLASSES, room_labels
from gs_semantic.errors import InvalidInputError, InvalidRequestError, StorageError, TrainingError
from gs_semantic.labels import LabelSet
from gs_semantic.segmentation.generalization.checkpoints import load_learner, read_learner, save_learner
from gs_semantic.segmentation.generalization.classes import ClassMap
from gs_semantic.segmentation.generalization.config import GeneralizationConfig
from gs_semantic.segmentation.generalization.images import ImageChanges, LabelledImages
from gs_semantic.segmentation.generalization.method import SceneLearner
from gs_semantic.segmentation.generalization.methods.segformer import cross_entropy
from gs_semantic.segmentation.generalization.registry import learner_class, register
from gs_semantic.segmentation.generalization.scenes import LearningScene, open_scenes
from gs_semantic.segmentation.generalization.trainer import LearningJob, learn
from gs_semantic.segmentation.loop import BEST, CHECKPOINT, METRICS

PATIENCE_S = 280


@register
class ColourLearner(SceneLearner):
    """Class of a pixel from its colour alone, by one matrix; quick to train."""

    name = "colour_for_tests"
    summary = "a matrix"
    stages = ("first", "second")

    def __init__(self, config: GeneralizationConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.matrix = torch.nn.Linear(3, self.class_count)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def begin(self, stage: str) -> None:
        super().begin(stage)
        self.matrix.requires_grad_(stage == "first")

    def sample(self, scenes, random):
        scene = scenes[int(random.integers(len(scenes)))]
        view = scene.views[int(random.integers(len(scene.views)))]
        return {"rgb": view.colour().flatten(1).T, "classes": torch.from_numpy(view.classes.astype(np.int64)).flatten()}

    def forward(self, batch):
        logits = self.matrix(batch["rgb"] * self.scale)
        return {"loss": torch.nn.functional.cross_entropy(logits, batch["classes"] - 1, ignore_index=-1)}

    def evaluate(self, scenes, views=0, stop=lambda: False):
        losses = [self(self.sample([scene], np.random.default_rng(0)))["loss"].item() for scene in scenes]
        return {"score": 1 / (1 + float(np.mean(losses))), "miou": 0.5}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    form = RoomFormat(48, 36, views=3, novel=1)
    write_rooms(folder, [("train", 0), ("train", 1), ("validation", 5000)], form)
    return folder


def job(rooms, output, *, method="colour_for_tests", resume=False, stage="", start=None, **options):
    changes = {"iterations": 12, "evaluate_every": 4, "report_every": 2, "lr": 0.05, "warmup": 2} | options
    return LearningJob(method, (rooms,), output, (), stage, "paper", None, changes, start, resume)


def test_a_run_learns_and_its_checkpoint_is_the_learner(rooms, tmp_path):
    reports = []
    result = learn(job(rooms, tmp_path / "run", iterations=40), [reports.append])
    assert result.iteration == 40 and not result.cancelled and result.checkpoint == tmp_path / "run" / BEST
    assert reports[-1].losses["loss"] < reports[0].losses["loss"] - 0.2
    assert len((tmp_path / "run" / METRICS).read_text().splitlines()) == len(reports) == 20
    content = read_learner(tmp_path / "run" / BEST)
    assert content["classes"] == dict(enumerate(CLASSES)) and content["stage"] == "first"
    again = load_learner(tmp_path / "run" / BEST)
    assert not again.training and again.labels == room_labels()
    save_learner(tmp_path / "small.pt", again, half=True)
    shipped = load_learner(tmp_path / "small.pt")
    scenes = open_scenes(list_rooms(rooms, "validation"), shipped.labels)
    assert shipped.evaluate(scenes)["score"] == pytest.approx(again.evaluate(scenes)["score"], abs=1e-3)


def test_a_resumed_run_ends_as_one_that_never_stopped(rooms, tmp_path):
    whole = learn(job(rooms, tmp_path / "whole"))
    seen = []

    def after_seven() -> bool:
        seen.append(None)
        return len(seen) > 7

    part = learn(job(rooms, tmp_path / "part"), cancelled=after_seven)
    assert part.cancelled and 0 < part.iteration < 12
    rest = learn(job(rooms, tmp_path / "part", resume=True))
    assert (rest.iteration, rest.metrics) == (whole.iteration, whole.metrics)
    first, second = (read_learner(tmp_path / name / CHECKPOINT)["weights"] for name in ("whole", "part"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stage_starts_from_the_weights_of_another_and_trains_its_own_part(rooms, tmp_path):
    learn(job(rooms, tmp_path / "first"))
    learn(job(rooms, tmp_path / "second", stage="second", start=tmp_path / "first" / CHECKPOINT, weight_decay=0.0))
    first, second = (read_learner(tmp_path / name / CHECKPOINT)["weights"] for name in ("first", "second"))
    assert torch.equal(first["matrix.weight"], second["matrix.weight"])
    assert first["scale"] != second["scale"]


def test_a_run_ends_in_its_time(rooms, tmp_path):
    reports = []
    result = learn(job(rooms, tmp_path / "run", iterations=10**6, minutes=0.02, evaluate_every=10**6), [reports.append])
    assert 0 < result.iteration < 10**6 and not result.cancelled and result.checkpoint is not None
    assert reports[-1].iteration == result.iteration  # the last one is reported and scored, too
    again = learn(job(rooms, tmp_path / "run", resume=True))
    assert again.iteration == result.iteration  # there is no time left


def test_train2d_on_two_processes(rooms, tmp_path, capsys):
    """Gradients are averaged, so both processes have one network; each draws images of its own."""
    words = ["train2d", str(rooms), str(tmp_path / "out")]
    options = ["--set", "iterations=2", "--set", "batch=2", "--set", "evaluate_every=2", "--set", "accelerator=cpu"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "gs_semantic.cli", *words, *options, "--json", str(tmp_path / "two.json")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.json").is_file()
    content = read_learner(tmp_path / "out" / CHECKPOINT)
    states = [state["numpy"]["state"] for state in content["training"]["random"]]
    assert len(states) == 2 and states[0] != states[1]
    learner = load_learner(tmp_path / "out" / BEST)
    images = [view.rgb for view in LearningScene(list_rooms(rooms, "train")[0], learner.labels).views]
    found = learner.probabilities(images)
    assert found.shape == (3, len(CLASSES) - 1, 36, 48) and torch.allclose(found.sum(1), torch.ones(3, 36, 48))
    with pytest.raises(InvalidInputError, match="16x12 pixels are too small"):
        learner.probabilities([np.zeros((12, 16, 3), np.uint8)])
    # one process cannot go on with the batches of two
    assert main([*words, "--resume"]) == EXIT_ERROR
    assert "2 processes, not 1" in capsys.readouterr().err


def test_parts_of_images_keep_their_classes(rooms, tmp_path):
    scenes = open_scenes(list_rooms(rooms, "train"), room_labels())
    images = LabelledImages.of(scenes, torch.device("cpu"))
    assert len(images) == 8 and images.pixels(19).sum() == 8 * 36 * 48
    # an image whose colour tells its class: parts of it do, wherever they were cut
    classes = torch.arange(48).repeat(36, 1) // 8
    known = LabelledImages((classes * 40).repeat(1, 3, 1, 1).byte(), classes[None].byte())
    changes = ImageChanges(gain=0.0, contrast=0.0, tint=0.0)
    rgb, found = known.draw(6, np.random.default_rng(0), changes)
    assert rgb.shape == (6, 3, 36, 48) and found.shape == (6, 36, 48)
    told = rgb[:, 0] * 255 / 40
    inside = (told - told.round()).abs() < 1e-3  # not between two of them
    assert inside.float().mean() > 0.5 and torch.equal(told[inside].round().long(), found[inside])
    assert len({tuple(image[0].tolist()) for image in found}) > 3  # other parts, some of them mirrored
    again = known.draw(6, np.random.default_rng(0), changes)
    assert torch.equal(again[0], rgb) and torch.equal(again[1], found)
    write_rooms(tmp_path, [("train", 2)], RoomFormat(40, 32, views=2, novel=1))
    with pytest.raises(InvalidInputError, match="images of 40x32, 48x36 cannot be learned from together"):
        LabelledImages.of([*scenes, *open_scenes(list_rooms(tmp_path, "train"), room_labels())], torch.device("cpu"))


def test_classes_of_coarser_images_are_those_in_the_middle_of_squares(rooms):
    images = LabelledImages.of(open_scenes(list_rooms(rooms, "train"), room_labels()), torch.device("cpu"))
    plan = images.plan(4, np.random.default_rng(1), ImageChanges())
    fine, coarse = images.parts(plan)[1], images.parts(plan, 3)[1]
    assert coarse.shape == (4, 12, 16) and torch.equal(coarse, fine[:, 1::3, 1::3])
    with torch.autocast("cpu", torch.bfloat16):  # mixed precision would move the colours off their classes
        mixed = images.parts(plan)
    assert torch.equal(mixed[0], images.parts(plan)[0]) and torch.equal(mixed[1], fine)


def test_the_loss_that_can_be_recorded_is_cross_entropy():
    torch.manual_seed(0)
    logits, classes, weights = torch.randn(2, 5, 6, 7), torch.randint(0, 6, (2, 6, 7)), torch.rand(5) + 0.1
    wanted = torch.nn.functional.cross_entropy(
        logits, classes - 1, weight=weights, ignore_index=-1, label_smoothing=0.1
    )
    assert torch.allclose(cross_entropy(logits, classes, weights, 0.1), wanted)
    assert cross_entropy(logits, torch.zeros_like(classes), weights, 0.1) == 0


def test_classes_are_brought_together_by_name():
    recorded = LabelSet({0: "void", 3: "Coffee Table", 5: "wall", 9: "dragon"})
    learned = LabelSet({0: "void", 1: "wall", 2: "table"})
    both = ClassMap.between(recorded, learned, "scan")
    assert both(np.array([[0, 3, 5, 9, 77]])).tolist() == [[0, 2, 1, 0, 0]] and both.missing == ("dragon",)
    with pytest.raises(InvalidInputError, match=r"scan: none of its classes.* has dragon; learned were wall, table"):
        ClassMap.between(LabelSet({0: "void", 1: "dragon"}), learned, "scan")


def test_what_is_no_checkpoint_is_refused(rooms, tmp_path):
    with pytest.raises(InvalidInputError, match="no such checkpoint"):
        load_learner(tmp_path / "none.pt")
    for noise in (b"nothing", b"\x80\x04.", b"\x80\x02M\xe9"):  # torch has an error of another kind for each
        (tmp_path / "noise.pt").write_bytes(noise)
        with pytest.raises(InvalidInputError, match="noise.pt: is not a readable checkpoint"):
            load_learner(tmp_path / "noise.pt")
    torch.save({"schema": 1}, tmp_path / "other.pt")
    with pytest.raises(InvalidInputError, match="not a checkpoint of a method"):
        load_learner(tmp_path / "other.pt")
    learner = learner_class("colour_for_tests")(GeneralizationConfig(), room_labels())
    save_learner(tmp_path / "mine.pt", learner)
    content = torch.load(tmp_path / "mine.pt")
    torch.save({**content, "schema": 7}, tmp_path / "later.pt")
    with pytest.raises(InvalidInputError, match="schema is 7, this version reads schema 1"):
        load_learner(tmp_path / "later.pt")
    torch.save({**content, "weights": {}}, tmp_path / "empty.pt")
    with pytest.raises(InvalidInputError, match="weights do not fit"):
        load_learner(tmp_path / "empty.pt")
    (tmp_path / "run").mkdir()
    (tmp_path / "mine.pt").rename(tmp_path / "run" / CHECKPOINT)
    with pytest.raises(InvalidInputError, match="has weights alone"):
        learn(job(rooms, tmp_path / "run", resume=True))
    with pytest.raises(InvalidRequestError, match="was trained with method 'colour_for_tests'"):
        learn(job(rooms, tmp_path / "run", resume=True, method="segformer"))


def test_a_method_is_the_name_of_its_shipped_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learner = load_learner("gnesf")
    assert learner.name == "gnesf" and learner.labels == room_labels() and not learner.training
    with pytest.raises(StorageError, match=r"colour_for_tests.pt: not found"):
        load_learner("colour_for_tests")


def test_what_cannot_be_learned_is_refused(rooms, tmp_path, monkeypatch):
    with pytest.raises(InvalidRequestError, match=r"stage 'third': colour_for_tests has first, second"):
        job(rooms, tmp_path, stage="third").config()
    with pytest.raises(InvalidRequestError, match="expected one of .*segformer"):
        job(rooms, tmp_path, method="guess").config()
    with pytest.raises(InvalidInputError, match="has no rooms"):
        learn(job(tmp_path, tmp_path / "out"))
    with pytest.raises(InvalidRequestError, match="say which to validate at"):
        LearningJob("colour_for_tests", tuple(list_rooms(rooms, "train")), tmp_path).folders()
    with pytest.raises(TrainingError, match=r"the loss is nan at iteration 1: .* there is no checkpoint yet"):
        monkeypatch.setattr(ColourLearner, "forward", lambda self, batch: {"loss": self.scale * torch.nan})
        learn(job(rooms, tmp_path / "nan"))
