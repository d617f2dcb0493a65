"""The method as a whole, on a tiny room: stages, answers, and what is refused."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_room import cameras, room

from gs_semantic.cli import main
from gs_semantic.data.rooms import room_labels
from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.evaluation.consistency import ConsistencyScore, LabelledView
from gs_semantic.evaluation.depth import depth_errors
from gs_semantic.gaussians import Camera, Frame, GaussianMap
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.rendering import create_rasterizer
from gs_semantic.segmentation.config import make_config
from gs_semantic.segmentation.generalization.checkpoints import (
    load_learner,
    read_learner,
    restore_learner,
    save_learner,
)
from gs_semantic.segmentation.generalization.methods.rt_gs2 import RtGs2, RtGs2Config, mean_depth_errors
from gs_semantic.segmentation.generalization.scenes import SceneView
from gs_semantic.segmentation.generalization.trainer import LearningJob
from gs_semantic.segmentation.graphs import GraphedStep

LABELS = LabelSet({0: "void", 1: "wall", 2: "floor", 3: "ball"})
SMALL = {"size": "small", "pairs": 64, "normalise": True, "batch": 2, "augment": False}


@dataclass(eq=False)
class TinyScene:
    """What a learner reads of a scene."""

    gaussians: GaussianMap
    views: list[SceneView]
    novel: list[SceneView]


@pytest.fixture(scope="module")
def rasterizer():
    return create_rasterizer()


@pytest.fixture(scope="module")
def scene(rasterizer):
    gaussians, classes = room(1500)
    ids = (classes + 1).to(torch.int32)

    def view(camera: Camera) -> SceneView:
        drawn = rasterizer.render_ids(gaussians, camera, ids)
        depth = rasterizer.render(gaussians, camera).depth.numpy()
        rgb = (rasterizer.render(gaussians, camera).rgb.clamp(0, 1) * 255).to(torch.uint8).numpy()
        return SceneView("tiny", camera, rgb, depth, drawn.ids.numpy().astype(np.int16))

    views = [view(camera) for camera in cameras(16)]
    return TinyScene(gaussians, views[::2] + views[1::4], views[3::4])


def learner(stage: str, **options) -> RtGs2:
    torch.manual_seed(0)
    made = RtGs2(make_config(RtGs2Config, "paper", overrides=SMALL | options), LABELS)
    made.begin(stage)
    return made


def trained(made: RtGs2, scene: TinyScene, steps: int, lr: float) -> list[float]:
    random, optimiser = np.random.default_rng(0), torch.optim.Adam(made.parameter_groups(), lr=lr)
    for group in optimiser.param_groups:
        group["lr"] = lr
    losses = []
    made.train()
    for _ in range(steps):
        loss = torch.stack(list(made(made.sample([scene], random)).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def fitted(scene):
    """A learner that knows the tiny room by heart."""
    made = learner("classes", smoothing=0.0)
    losses = trained(made, scene, 40, 3e-3)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    return made.eval()


def test_a_stage_trains_its_part_alone(scene):
    made = learner("features")
    before = {name: value.clone() for name, value in made.state_dict().items()}
    trained(made, scene, 2, 1e-3)
    assert not any(torch.equal(before[name], p) for name, p in made.named_parameters() if "mlp" in name)
    frozen = {name: value.clone() for name, value in made.state_dict().items()}
    made.begin("classes")
    trained(made, scene, 2, 1e-3)
    after = made.state_dict()
    assert all(torch.equal(frozen[name], after[name]) for name in frozen)  # running means of its norms, too
    assert any(name.startswith("networks.classes.") for name in after)
    assert set(made.evaluate([scene], views=1)) == {"score", "miou", "mean_accuracy", "accuracy"}


@pytest.mark.parametrize("inputs", ["both", "image"])
def test_networks_begin_with_what_photographs_taught(scene, inputs, tmp_path):
    made = learner("image")
    photographs = TinyScene(scene.gaussians, scene.views, scene.novel)
    photographs.forget = lambda: None
    losses = trained(made, photographs, 8, 3e-3)
    assert losses[-1] < losses[0] and 0 <= made.evaluate([scene])["miou"] <= 1
    save_learner(tmp_path / "image.pt", made)
    started = load_learner(tmp_path / "image.pt", {"inputs": inputs})
    learned = started.networks["image"].state_dict()
    started.begin("classes")
    assert list(started.networks) == ["classes"]
    mine = started.networks["classes"].state_dict()
    kept = [name for name in learned if name.startswith("image.") or inputs == "image"]
    assert kept and all(torch.equal(mine[name], learned[name]) for name in kept)
    trained(started, scene, 1, 1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_by_a_recorded_step_and_answers_as_the_cpu(scene, tmp_path):
    made = learner("classes", smoothing=0.0, augment=True, rasterizer="cpu").cuda().train()
    parameters, rate = made.parameter_groups()[0]["params"], torch.tensor(3e-3, device="cuda")
    step = GraphedStep(made, torch.optim.AdamW(parameters, lr=rate, fused=True, capturable=True), 1.0)
    random, losses = np.random.default_rng(0), []
    for _ in range(40):
        batch = {name: value.to(made.device) for name, value in made.sample([scene], random).items()}
        losses.append(float(sum(step(batch).values())))
    assert step._replay is not None and np.mean(losses[-5:]) < 0.7 * losses[0]
    save_learner(tmp_path / "classes.pt", made.eval())
    here, camera = load_learner(tmp_path / "classes.pt"), scene.novel[0].camera
    mine, theirs = (m.logits(scene.gaussians, m.features(scene.gaussians), camera).argmax(0) for m in (made, here))
    assert (mine == theirs).float().mean() > 0.98


def test_features_are_scored_by_their_loss(scene):
    made = learner("features").eval()
    with torch.no_grad():
        first, again = made.evaluate([scene]), made.evaluate([scene])
    assert first == again and first["score"] == pytest.approx(np.exp(-first["contrast"]))


def test_it_learns_and_gives_gaussians_classes(fitted, scene, rasterizer):
    scores = fitted.evaluate([scene])
    assert scores["miou"] > 0.7
    known = fitted.segment(scene.gaussians, scene.views, rasterizer)
    sums = known.probabilities.sum(dim=1)
    assert ((sums - 1).abs() < 1e-4).logical_or(sums == 0).all()
    _, truth = room(1500)
    seen = known.classes > 0
    assert seen.sum() > 300
    # the view's truth is drawn by Gaussians of some size, so not every one is right
    assert (known.classes[seen] == truth[seen] + 1).float().mean() > 0.75


def test_fused_answers_agree_between_views(fitted, scene, rasterizer):
    known = fitted.segment(scene.gaussians, scene.views, rasterizer)
    score = ConsistencyScore()
    views = [
        LabelledView(v.camera, fitted.show(scene.gaussians, known, v.camera, rasterizer).classes, v.depth, v.classes)
        for v in scene.novel
    ]
    for first, second in pairwise(views):
        score.update(first, second)
    assert score.compared > 50 and score.value > 0.9


def test_labels_of_views_are_not_looked_at(fitted, scene, rasterizer):
    bare = [SceneView(v.name, v.camera, np.zeros_like(v.rgb)) for v in scene.views]
    one = fitted.segment(scene.gaussians, scene.views, rasterizer)
    assert torch.equal(one.probabilities, fitted.segment(scene.gaussians, bare, rasterizer).probabilities)


def test_depth_has_a_network_of_its_own_and_eight_scores(scene):
    made = learner("depth")
    losses = trained(made, scene, 15, 3e-3)
    assert np.mean(losses[-3:]) < losses[0]
    scores = made.eval().evaluate([scene])
    names = {"abs_rel", "abs_diff_m", "sq_rel_m", "rmse_m", "delta1", "delta2", "delta3", "completeness"}
    assert set(scores) == names | {"score"} and 0 < scores["rmse_m"] < 5
    depth = made.logits(scene.gaussians, made.features(scene.gaussians), scene.novel[0].camera, "depth")
    assert depth.shape == (1, 48, 64)


def test_fine_tuning_looks_at_training_views_alone_and_does_not_smooth(scene):
    made = learner("fine_tune")
    assert made._loss.smoothing == 0
    random = np.random.default_rng(0)
    for _ in range(12):
        made.sample([scene], random)
    drawn = set(made._views[scene])
    assert drawn <= set(range(len(scene.views))) and len(drawn) > 5
    assert sum(view.bytes for view in made._views[scene].values()) == made._kept_bytes > 0


@pytest.mark.parametrize(("preset", "iterations"), [("paper", 20_000), ("standard", 5000)])
def test_fine_tuning_has_lengths_of_its_own(tmp_path, preset, iterations):
    job = LearningJob("rt_gs2", (tmp_path,), tmp_path, stage="fine_tune", preset=preset)
    assert (job.config().iterations, job.config().warmup) == (iterations, 0)
    shorter = replace(job, overrides={"iterations": 7, "warmup": 3}).config()
    assert (shorter.iterations, shorter.warmup) == (7, 3)
    assert replace(job, stage="classes").config().warmup > 0


def test_drawn_views_are_kept_while_there_is_room(scene):
    made = learner("classes", cache_gb=0.0)
    once, again = (made.sample([scene], np.random.default_rng(1)) for _ in range(2))
    assert not made._views[scene] and all(torch.equal(once[name], again[name]) for name in once)
    made.config = replace(made.config, cache_gb=1.0)
    kept = made.sample([scene], np.random.default_rng(1))
    assert made._views[scene] and all(torch.equal(once[name], kept[name]) for name in once)


def test_a_network_that_sees_no_depth_scores_nothing():
    blind = depth_errors(np.zeros((4, 4)), np.ones((4, 4)))
    assert mean_depth_errors([blind])["score"] == 0
    half = np.where(np.arange(4) < 2, 1.0, -1.0) * np.ones((4, 1))
    scores = mean_depth_errors([blind, depth_errors(half, np.ones((4, 4)))])
    assert scores["rmse_m"] == 0 and scores["completeness"] == 0.25 and scores["score"] == 0.25


def test_checkpoints_bring_their_networks(fitted, scene, tmp_path):
    save_learner(tmp_path / "classes.pt", fitted)
    again = load_learner(tmp_path / "classes.pt")
    camera, features = scene.novel[0].camera, fitted.features(scene.gaussians)
    torch.testing.assert_close(
        again.logits(scene.gaussians, again.features(scene.gaussians), camera),
        fitted.logits(scene.gaussians, features, camera),
    )
    with pytest.raises(InvalidRequestError, match="no network for depth"):
        again.logits(scene.gaussians, features, camera, "depth")
    save_learner(tmp_path / "features.pt", learner("features"))
    only_features = load_learner(tmp_path / "features.pt", {"inputs": "image"})  # for an ablation
    only_features.begin("classes")
    assert only_features.networks["classes"].stages is None


def test_stages_are_packed_into_one_checkpoint(fitted, scene, tmp_path, capsys):
    save_learner(tmp_path / "classes.pt", fitted, {"loop": {}})
    depth = restore_learner(read_learner(tmp_path / "classes.pt"), "classes.pt")
    del depth.networks["classes"]
    depth.begin("depth")
    save_learner(tmp_path / "depth.pt", depth)
    files = [str(tmp_path / name) for name in ("classes.pt", "depth.pt", "both.pt")]
    assert main(["generalize", "pack", *files]) == 0 and "both.pt: rt_gs2, " in capsys.readouterr().out
    both = load_learner(tmp_path / "both.pt")
    assert set(both.networks) == {"classes", "depth"} and both.stage == "classes"
    assert both.evaluate([scene])["miou"] == pytest.approx(fitted.evaluate([scene])["miou"], abs=0.02)
    with torch.no_grad():
        next(depth.transformer.parameters()).add_(1)
    save_learner(tmp_path / "other.pt", depth)
    assert main(["generalize", "pack", files[0], str(tmp_path / "other.pt"), files[2]]) != 0
    assert "differs from that of" in capsys.readouterr().err


def test_the_shipped_checkpoint_labels_and_measures(tmp_path, monkeypatch, scene):
    monkeypatch.chdir(tmp_path)
    shipped = load_learner("rt_gs2")
    assert set(shipped.networks) == {"classes", "depth"} and shipped.labels == room_labels()
    camera, features = scene.novel[0].camera, shipped.features(scene.gaussians)
    assert shipped.logits(scene.gaussians, features, camera).shape == (19, 48, 64)
    depth = shipped.logits(scene.gaussians, features, camera, "depth")[0].numpy()
    known = scene.novel[0].depth > 0
    assert 0.3 < np.median(depth[known]) < 6


def test_a_checkpoint_for_other_classes_is_refused(fitted, tmp_path):
    save_learner(tmp_path / "classes.pt", fitted)
    content = read_learner(tmp_path / "classes.pt")
    content["classes"] = {0: "void", 1: "wall", 2: "floor"}
    with pytest.raises(InvalidInputError, match="do not fit"):
        restore_learner(content, "classes.pt")


def test_scenes_that_cannot_be_labelled(fitted, scene, rasterizer):
    with pytest.raises(InvalidInputError, match="no view"):
        fitted.segment(scene.gaussians, [], rasterizer)
    away = Camera(64, 48, 50.0, 50.0, 31.5, 23.5)  # below the room, looking up along z from its middle
    pose = np.eye(4)
    pose[2, 3] = 50.0
    blind = SceneView("blind", away.at(pose), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(InvalidInputError, match="none of 1 views sees"):
        fitted.segment(scene.gaussians, [blind], rasterizer)


@pytest.mark.parametrize("degree", [1, 3])
def test_other_degrees_of_spherical_harmonics(fitted, rasterizer, scene, degree):
    gaussians, _ = room(400, sh_degree=degree)
    assert fitted.segment(gaussians, scene.views[:2], rasterizer).classes.any()


def test_ten_gaussians(fitted, rasterizer, scene):
    assert fitted.segment(room(10)[0], scene.views, rasterizer).probabilities.shape == (10, 3)


def test_a_map_that_grows_is_labelled_keyframe_by_keyframe(fitted, rasterizer, scene):
    gaussians, truth = room(1500)
    source = fitted.live(rasterizer)
    classes = torch.zeros(1500, dtype=torch.int32)
    for stamp, view in enumerate(scene.views):
        frame = Frame(stamp, view.camera, view.rgb)
        found = source.update(gaussians, frame)
        assert len(found.rows) > 50 and (found.probability <= 1).all()
        classes[found.rows] = found.classes
    seen = classes > 0
    assert (classes[seen] == truth[seen] + 1).float().mean() > 0.75
    gaussians.keep(torch.arange(1500) % 3 != 0)  # what is known stays with the Gaussians that stay
    known = gaussians["class_logits"].clone()
    assert len(source.update(gaussians, frame).rows) > 30 and known.abs().sum() > 0
    unseen = gaussians["class_weight"] == 0
    assert not gaussians["class_logits"][unseen].any()


def test_a_mapper_labels_a_scene_that_nobody_labelled(fitted, scene):
    mapper = Mapper(MapperConfig(steps_per_keyframe=1), labels=LABELS, semantics=fitted.live(create_rasterizer("cpu")))
    for stamp, view in enumerate(scene.views[:3]):
        mapper.step(Frame(stamp * 1_000_000_000, view.camera, view.rgb, view.depth))
        mapper.finish()
    names = {obj.name for obj in mapper.objects.present()}
    assert names and names <= set(LABELS.names.values())
    assert (mapper.gaussians["object"] > 0).float().mean() > 0.5


def test_features_alone_cannot_label_a_map(rasterizer):
    with pytest.raises(InvalidRequestError, match="train stage classes"):
        learner("features").live(rasterizer)
