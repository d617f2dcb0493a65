"""GNeSF: published values, the sums that replace a softmax over all views, and what learned votes are good for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from gs_semantic.cli import EXIT_ERROR, main
from gs_semantic.cli.suite import draw_classes
from gs_semantic.data.room_writer import RoomFormat, list_rooms, write_rooms
from gs_semantic.data.rooms import room_labels
from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.gaussians import Camera, Frame
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.labels import LabelSet
from gs_semantic.mapping.offline import MapOffline
from gs_semantic.rendering import create_rasterizer
from gs_semantic.segmentation.config import make_config
from gs_semantic.segmentation.generalization.apply import ApplyJob, apply
from gs_semantic.segmentation.generalization.checkpoints import load_learner, save_learner
from gs_semantic.segmentation.generalization.classifier import TransformersClassifier
from gs_semantic.segmentation.generalization.gnesf.live import LiveVotes
from gs_semantic.segmentation.generalization.gnesf.losses import semantic_loss
from gs_semantic.segmentation.generalization.gnesf.neighbours import (
    NeighbourNetwork,
    SceneVotes,
    Surroundings,
    shown_classes,
)
from gs_semantic.segmentation.generalization.gnesf.prepared import PreparedViews
from gs_semantic.segmentation.generalization.gnesf.sources import SourceViews
from gs_semantic.segmentation.generalization.gnesf.visibility import visible_by_depth, visible_by_sdf
from gs_semantic.segmentation.generalization.gnesf.voting import Elu, Pooled, VotingNetwork, pooled, soft_vote
from gs_semantic.segmentation.generalization.method import GaussianClasses
from gs_semantic.segmentation.generalization.methods.gnesf import Gnesf, GnesfConfig, Seen
from gs_semantic.segmentation.generalization.methods.gnesf_volume import GnesfVolume, GnesfVolumeConfig
from gs_semantic.segmentation.generalization.methods.segformer import SegformerConfig, SegformerLearner
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView
from gs_semantic.segmentation.generalization.suite import GnesfSuite, gains, nearest_classes
from gs_semantic.segmenters.weights import Weights


class Oracle:
    """Knows the classes of images; of two images in three it says wrong ones, and is less sure of them."""

    def __init__(self, scenes: list[LearningScene]) -> None:
        self.labels = room_labels()
        self.known = {view.rgb.tobytes(): (i, view.classes) for s in scenes for i, view in enumerate(s.views)}

    def scores(self, images):
        found = []
        for rgb in images:
            number, classes = self.known[rgb.tobytes()]
            said = classes.astype(np.int64) if number % 3 == 0 else classes.astype(np.int64) % 19 + 1
            chance = 0.9 if number % 3 == 0 else 0.6
            likely = torch.nn.functional.one_hot(torch.from_numpy(said) - 1, 19).permute(2, 0, 1).float()
            found.append(torch.log(likely * chance + (1 - likely) * (1 - chance) / 18))
        return torch.stack(found)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    write_rooms(folder, [("train", 0), ("validation", 5000)], RoomFormat(48, 36, views=30, novel=3))
    return [LearningScene(list_rooms(folder, split)[0], room_labels()) for split in ("train", "validation")]


def learner(**options) -> Gnesf:
    torch.manual_seed(0)
    return Gnesf(make_config(GnesfConfig, "paper", overrides=options), room_labels())


def cameras() -> list[Camera]:
    turned = np.eye(4)
    turned[:3, :3] = [[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]]
    turned[:3, 3] = [-0.5, 0.1, 0.2]
    return [Camera(40, 30, 30.0, 32.0, 19.0, 14.0, pose) for pose in (np.eye(4), turned)]


def test_points_are_projected_where_cameras_see_them():
    views = cameras()
    depth = np.full((30, 40), 2.0, np.float32)
    sources = SourceViews.of(views)
    for number, camera in enumerate(views):
        points = torch.from_numpy(camera.unproject(depth).reshape(-1, 3))
        places, z = sources.project(points)
        grid = np.stack(np.meshgrid(np.arange(40), np.arange(30)), axis=-1).reshape(-1, 2)
        assert np.allclose(places[number].numpy(), grid, atol=1e-3) and np.allclose(z[number].numpy(), 2, atol=1e-5)
        assert sources.inside(places, z)[number].all()
        values = torch.rand(2, 3, 30, 40)
        assert torch.allclose(sources.read(values, places)[number].T.reshape(3, 30, 40), values[number], atol=1e-3)
    behind = torch.tensor([[0.0, 0.0, -1.0]])
    assert not sources.inside(*sources.project(behind))[0].any()
    with pytest.raises(InvalidInputError, match="all of one size"):
        SourceViews.of([views[0], views[1].resized(20, 15)])


def test_views_see_what_the_rendered_depth_agrees_with():
    z = torch.tensor([1.0, 1.0, 5.0, 5.0, 1.0])
    rendered = torch.tensor([1.049, 1.051, 5.099, 5.101, 0.0])
    assert visible_by_depth(z, rendered).tolist() == [True, False, True, False, False]


def test_signed_distance_hides_points_behind_things():
    """A wall at x = 3; a slab from 1.4 to 1.9 m stands before it where y > 0. One change of sign is the surface itself."""

    def sdf(places: torch.Tensor) -> torch.Tensor:
        wall, slab = 3.0 - places[:, 0], torch.maximum((places[:, 0] - 1.65).abs() - 0.25, -places[:, 1])
        return torch.minimum(wall, slab)

    points = torch.tensor([[3.05, -1.0, 0.0], [3.05, 1.0, 0.0], [2.9, 0.9, 0.0]])
    centres = torch.tensor([[0.0, -0.2, 0.0], [0.0, 0.6, 0.0]])
    assert visible_by_sdf(sdf, points, centres).tolist() == [[True, False, False], [True, False, False]]


def test_votes_have_the_published_sizes():
    ray = VotingNetwork(35, "ray", "ray")
    assert ray.base[0].in_features == 105 and ray.vote[0].in_features == 37 and ray.approach[0].in_features == 4
    depth = VotingNetwork(59, "depth", "z", volume=24)
    assert depth.base[0].in_features == 201 and depth.vote[0].in_features == 34
    assert [layer.out_features for layer in depth.vote[::2]] == [16, 8, 1] and depth.residual[2].out_features == 33
    weights = ray.pool_weights(torch.tensor([[0.0], [-1.0], [-2.0]]), torch.tensor([[True], [True], [True]]))
    expected = np.exp([0, -0.2, -0.4]) - np.exp(-0.4)
    assert np.allclose(weights[:, 0].detach(), expected / expected.sum(), atol=1e-6)
    known = pooled(torch.tensor([[[1.0]], [[4.0]]]), torch.tensor([[0.25], [0.75]]))
    assert known.mean.item() == 3.25 and known.variance.item() == pytest.approx(0.25 * 2.25**2 + 0.75 * 0.75**2)


def test_a_soft_vote_is_a_softmax_over_the_views_that_see_the_point():
    opinions = torch.tensor([[[1.0, 0.0]] * 3, [[0.0, 1.0]] * 3, [[0.5, 0.5]] * 3])
    logits = torch.tensor([[0.0] * 3, [np.log(3.0)] * 3, [9.0] * 3])
    valid = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    found = soft_vote(logits, opinions, valid)
    assert torch.allclose(found, torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.0, 0.0]]), atol=1e-6)


def test_the_quick_elu_is_elu():
    x = torch.cat([torch.linspace(-30, 30, 1001), torch.linspace(-1e-3, 1e-3, 101)])
    torch.testing.assert_close(Elu()(x), torch.nn.functional.elu(x), atol=1e-7, rtol=1e-6)
    x.requires_grad_()
    assert Elu()(x).requires_grad


def test_losses_have_their_values():
    probabilities = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.5, 0.5]])
    classes = torch.tensor([1, 2, 0])  # the last is not known
    assert semantic_loss(probabilities, classes, "one_minus_p").item() == pytest.approx((0.2 + 0.4) / 2)
    assert semantic_loss(probabilities, classes, "ce").item() == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert semantic_loss(probabilities, torch.zeros(3, dtype=torch.int64), "ce").item() == 0


@pytest.mark.parametrize(
    ("answer", "blend"), [("vote", "mean"), ("vote", "log"), ("uniform", "mean"), ("direct", "mean")]
)
def test_sums_view_by_view_equal_the_vote_of_all_views_at_once(scenes, answer, blend):
    method = learner(answer=answer, blend=blend).eval()
    method.use_classifier(Oracle(scenes))
    scene = scenes[0]
    prepared = method.prepared(scene).subset(range(0, 30, 3))
    found = method.classes_of(scene.gaussians, prepared).probabilities
    with torch.no_grad():
        points = scene.gaussians["means"]
        places, z, valid = prepared.seen(points)
        images = prepared.images()
        own = torch.cat(
            [prepared.sources.read(images, places), prepared.sources.read(method.features(images), places)], -1
        )
        difference = method._difference(points, prepared.sources.centres, prepared.sources.rotation, z)
        described = method.voting.described(own, difference)
        weights = method.voting.pool_weights(-z, valid)
        opinions = prepared.opinions(places)
        mean = (opinions * valid[..., None]).sum(0) / valid.sum(0).clamp_min(1)[:, None]
        cues = method._cues(opinions, mean, places, z, torch.tensor(prepared.sources.size))
        votes = method.voting(described, pooled(described, weights), weights, difference, valid, None, cues)
        if answer == "vote" and blend == "log":  # a product of the opinions, each to the power of its weight
            weight = votes.logits.softmax(dim=0)[..., None]
            expected = (opinions.clamp_min(1e-4) ** weight).prod(dim=0) * valid.any(0)[:, None]
            expected = expected / expected.sum(dim=1, keepdim=True).clamp_min(1e-12)
        elif answer == "vote":
            expected = soft_vote(votes.logits, opinions, valid)
        elif answer == "uniform":
            expected = mean * valid.any(0)[:, None]
        else:
            expected = method._direct_of(votes, valid).softmax(-1) * valid.any(0)[:, None]
    assert valid.any(0).float().mean() > 0.5 and valid.sum(0).max() > 3
    # places half-way between two pixels may be rounded either way, so that some views differ
    assert ((found - expected).abs().amax(dim=1) < 2e-3).float().mean() > 0.99


@pytest.mark.parametrize("visibility", ["depth", "none"])
def test_one_view_sees_in_one_pass_what_it_sees(scenes, visibility):
    method, scene = learner().eval(), scenes[0]
    method.use_classifier(Oracle(scenes))
    view, means = method.prepared(scene).subset([4]), scene.gaussians["means"]
    places, z, valid = view.seen(means, visibility)
    among = torch.arange(len(means)) % 3 > 0
    for chosen in (None, among):
        rows, found, depth = view.rows_seen(means, visibility, chosen)
        expected = valid[0] if chosen is None else valid[0] & among
        seen = torch.zeros(len(means), dtype=torch.bool)
        seen[rows] = True
        assert 0 < len(rows) < len(means) and (rows.diff() > 0).all()
        assert (seen != expected).float().mean() < 1e-3  # half-way between two pixels is rounded either way
        torch.testing.assert_close(found, places[:, rows], atol=1e-3, rtol=1e-5)
        torch.testing.assert_close(depth, z[:, rows])


def test_a_later_view_changes_only_what_it_sees(scenes):
    method = learner().eval()
    method.use_classifier(Oracle(scenes))
    scene = scenes[0]
    prepared, means = method.prepared(scene), scene.gaussians["means"]
    sums = method.empty_sums(len(means))
    with torch.no_grad():
        for number in range(3):
            before = sums.result().clone()
            seen = method.look(means, prepared.subset([number]))
            sums.add_features(seen.rows, seen.described, seen.weight, seen.opinions)
            method.vote(sums, seen)
            same = torch.ones(len(means), dtype=torch.bool)
            same[seen.rows] = False
            assert 0 < len(seen.rows) < len(means) and torch.equal(sums.result()[same], before[same])
        grown = sums.resized(torch.cat([torch.tensor([5, 2]), torch.full((3,), -1)]))
    assert torch.equal(grown.numerator[:2], sums.numerator[[5, 2]]) and not grown.denominator[2:].any()
    total = sums.result().sum(dim=1)
    assert torch.allclose(total[sums.views > 0], torch.ones(()), atol=1e-4) and not total[sums.views == 0].any()


def test_learned_votes_trust_views_that_are_right(scenes, tmp_path):
    """Two views of three are wrong, which can be seen from how sure they are."""
    method = learner(points=256, views=6)
    method.use_classifier(Oracle(scenes))
    optimizer = torch.optim.Adam([p for group in method.parameter_groups() for p in group["params"]], lr=0.01)
    random = np.random.default_rng(0)
    method.train()
    for _ in range(60):
        optimizer.zero_grad()
        sum(method(method.sample(scenes[:1], random)).values()).backward()
        optimizer.step()
    method.eval()
    learned = method.evaluate(scenes[1:])
    uniform = learner(answer="uniform").eval()
    uniform.use_classifier(Oracle(scenes))
    assert learned["miou"] > uniform.evaluate(scenes[1:])["miou"] + 0.2
    save_learner(tmp_path / "votes.pt", method)
    again = load_learner(tmp_path / "votes.pt")
    again.use_classifier(Oracle(scenes))
    assert again.evaluate(scenes[1:]) == learned


def test_neighbours_are_weighed_by_how_alike_they_are_and_never_by_class():
    torch.manual_seed(0)
    network = NeighbourNetwork()
    views = torch.tensor([2.0, 3.0, 0.0])
    points = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.1, 0.0], [0.1, 0.0, 0.0]])
    normals = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.95, 0.0975**0.5], [0.0, 1.0, 0.0]])
    colours = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.575], [0.5, 0.5, 0.5]])
    index = torch.tensor([[0, 1, 2]] * 3, dtype=torch.int32)
    logs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]).log()
    votes = SceneVotes.of(logs + 3, views, Surroundings(points, normals, colours, index))
    found = network.answers(votes)
    less = (
        0.1 * np.sqrt(0.05) / 0.1 + 0.1 * 0.1 / 0.03 + 0.05 / 0.1 + 0.025 / 0.1
    )  # metres, off the plane, normals, colour
    weight = 1 / (1 + np.exp(-less))
    expected = (weight * logs[0] + (1 - weight) * logs[1]).softmax(dim=-1)  # nobody has seen the third
    torch.testing.assert_close(found[0], expected)

    torch.nn.init.normal_(network.weigh[-1].weight)  # as if something had been learned
    surroundings = Surroundings.among(torch.rand(60, 3), torch.rand(60, 3))
    logs, views = 3 * torch.randn(60, 5), torch.randint(0, 4, (60,)).float()
    order = torch.tensor([3, 0, 4, 1, 2])
    found = network.answers(SceneVotes.of(logs, views, surroundings))
    torch.testing.assert_close(network.answers(SceneVotes.of(logs[:, order], views, surroundings)), found[:, order])
    assert (found - logs.softmax(dim=-1)).abs().max() > 0.1
    network.own.data.fill_(1e4)  # neighbours count nothing: the vote of the views alone
    found = network.answers(SceneVotes.of(logs, views, surroundings))
    torch.testing.assert_close(found[views > 0], logs[views > 0].softmax(dim=-1))


def test_neighbours_outvote_a_wrong_region_up_to_its_border():
    side, random = 24, np.random.default_rng(0)
    u, v = np.meshgrid(*[np.arange(side) * 0.04] * 2)
    left = torch.from_numpy(u.ravel() < 0.47)
    points = torch.from_numpy(np.stack([u.ravel(), v.ravel(), np.ones(side**2)], axis=1)).float()
    surroundings = Surroundings.among(points, torch.where(left, 0.2, 0.9)[:, None].expand(-1, 3))
    assert torch.equal(surroundings.index[:, 0], torch.arange(side**2, dtype=torch.int32))
    assert (surroundings.normals[:, 2].abs() > 0.999).all()
    true = torch.where(left, 0, 1)
    wrong = torch.from_numpy(random.random(side**2) < 0.25)
    logs = torch.nn.functional.one_hot(torch.where(wrong, 2, true), 3).float() * 2
    views = torch.full((side**2,), 3.0)
    views[50:60], logs[50:60] = 0, 0
    answers = NeighbourNetwork().answers(SceneVotes.of(logs, views, surroundings))
    assert (answers.argmax(1) == true).float().mean() > 0.99 and (answers.sum(1) - 1).abs().max() < 1e-5
    assert not NeighbourNetwork().answers(SceneVotes.of(logs, torch.zeros_like(views), surroundings)).any()
    for empty in (0, 1):
        alone = SceneVotes.of(logs[:empty], views[:empty], Surroundings.among(points[:empty], points[:empty]))
        torch.testing.assert_close(NeighbourNetwork().answers(alone), logs[:empty].softmax(dim=-1))


def test_a_broken_gaussian_has_no_neighbours_and_breaks_none():
    points, colours = torch.rand(60, 3), torch.rand(60, 3)
    points[3, 1], points[4, 0], colours[5] = float("nan"), float("inf"), float("nan")
    views = torch.ones(60)
    views[3:5] = 0  # no view can see them
    found = NeighbourNetwork().answers(SceneVotes.of(torch.randn(60, 5), views, Surroundings.among(points, colours)))
    sums = torch.ones(60)
    sums[3:5] = 0
    torch.testing.assert_close(found.sum(dim=1), sums)


def test_what_neighbours_say_is_learned_in_a_stage_of_its_own(scenes, tmp_path):
    """Which needs neither the images nor the votes again; a checkpoint of votes alone begins it, and can be had back."""
    save_learner(tmp_path / "votes.pt", learner())
    votes = load_learner(tmp_path / "votes.pt")
    votes.begin("neighbours")
    with pytest.raises(InvalidRequestError, match="needs neighbours=learned"):
        votes.parameter_groups()
    method = load_learner(tmp_path / "votes.pt", {"neighbours": "learned", "points": 400, "loss": "ce"})
    method.use_classifier(Oracle(scenes))
    method.begin("neighbours")
    before = method.evaluate(scenes[:1])["miou"]
    optimizer = torch.optim.Adam(method.parameter_groups()[0]["params"], lr=0.02)
    random = np.random.default_rng(0)
    for _ in range(40):
        optimizer.zero_grad()
        method(method.sample(scenes[:1], random))["semantic"].backward()
        optimizer.step()
    after = method.evaluate(scenes[:1])
    assert after["miou"] > before
    save_learner(tmp_path / "neighbours.pt", method)
    again = load_learner(tmp_path / "neighbours.pt")
    again.use_classifier(Oracle(scenes))
    again.begin("train")
    assert again.evaluate(scenes[:1]) == pytest.approx(after, abs=0.01)  # from the views, not from what was kept
    assert load_learner(tmp_path / "neighbours.pt", {"neighbours": "none"}).neighbours is None
    kept = method.scene_votes(scenes[0])
    method.use_classifier(method.classifier)
    assert not torch.equal(method.scene_votes(scenes[0]).votes.logs, kept.votes.logs)  # another one says other things


def test_views_that_do_not_fit_are_refused(scenes):
    method, rasterizer, scene = learner(), create_rasterizer("auto"), scenes[0]
    with pytest.raises(InvalidInputError, match="no source view"):
        method.segment(scene.gaussians, [], rasterizer)
    away = np.eye(4)
    away[:3, 3] = 100
    blank = SceneView("far", Camera(48, 36, 40.0, 40.0, 23.5, 17.5, away), np.zeros((36, 48, 3), np.uint8))
    with pytest.raises(InvalidInputError, match="none of the 2 views sees any of the"):
        method.segment(scene.gaussians, [blank, blank], rasterizer)
    small = SceneView("small", blank.camera.resized(64, 48), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(InvalidInputError, match="all of one size"):
        PreparedViews.of([blank, small], scene.gaussians, method.classifier, rasterizer)
    for classes, lack in ((None, "has classes"), (np.ones((36, 48), np.int16), "map the scene again")):
        with pytest.raises(InvalidInputError, match=f"^far: .*{lack}"):
            shown_classes(scene.gaussians, [replace(blank, classes=classes)], rasterizer)
    few = method.segment(scene.gaussians, scene.views[:1], rasterizer)  # fewer than in training: no error
    assert 0 < (few.classes > 0).float().mean() < 1

    other = SegformerLearner(SegformerConfig(), LabelSet({0: "void", 1: "cat"}))
    with pytest.raises(InvalidInputError, match=r"has the classes void, cat; votes were learned for void, wall"):
        method.use_classifier(other)


def test_the_2d_segmenter_has_to_be_given_and_to_fit(tmp_path):
    with pytest.raises(InvalidRequestError, match="say which 2D segmenter"):
        learner().initialise()
    save_learner(tmp_path / "wide.pt", SegformerLearner(SegformerConfig(decoder=64), room_labels()))
    with pytest.raises(InvalidRequestError, match="set segmenter_stride=4 segmenter_decoder=64"):
        learner(segmenter=str(tmp_path / "wide.pt")).initialise()
    fits = learner(segmenter=str(tmp_path / "wide.pt"), segmenter_decoder=64)
    fits.initialise()
    save_learner(tmp_path / "gnesf.pt", fits)
    with pytest.raises(InvalidRequestError, match="is of method 'gnesf'"):
        learner(segmenter=str(tmp_path / "gnesf.pt")).initialise()
    save_learner(tmp_path / "cats.pt", SegformerLearner(SegformerConfig(), LabelSet({0: "void", 1: "cat"})))
    with pytest.raises(InvalidInputError, match="has other classes than the rooms: void, cat"):
        learner(segmenter=str(tmp_path / "cats.pt")).initialise()


@pytest.mark.parametrize("options", [{}, {"cues": False, "difference": "vector"}])
def test_votes_of_one_view_in_one_pass_are_those_of_the_network(options):
    method = learner(**options).eval()
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in method.voting.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
        sums, rows = method.empty_sums(3001), torch.randperm(3001, generator=random)[:1003]
        for _ in range(2):
            described = torch.randn(1003, method.width, generator=random)
            opinions = torch.rand(1003, 19, generator=random).softmax(dim=1)
            sums.add_features(rows, described, torch.rand(1003, generator=random), opinions)
        width = 3 if options else 1
        seen = Seen(
            rows, described, torch.ones(1003), opinions, torch.randn(1003, width, generator=random),
            30 * torch.rand(1003, 2, generator=random), 3 * torch.rand(1003, generator=random), (48, 36),
        )  # fmt: skip
        size = torch.tensor(seen.size)
        expected = method._votes(sums, seen, slice(0, None), size).logits[0]
        found = method._logits(sums, seen, slice(0, None), size)
    assert expected.std() > 1
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_pooled_is_what_running_sums_say():
    random = torch.Generator().manual_seed(1)
    features, weight = torch.rand(5, 7, 3, generator=random), torch.rand(5, 7, generator=random)
    method = learner()
    sums = method.empty_sums(7)
    wide = torch.zeros(7, method.width)
    for view in range(5):
        described = wide.clone()
        described[:, :3] = features[view]
        sums.add_features(torch.arange(7), described, weight[view], torch.zeros(7, 19))
    expected = pooled(features, weight / weight.sum(0))
    found: Pooled = sums.pooled(torch.arange(7))
    assert torch.allclose(found.mean[:, :3], expected.mean, atol=1e-5)
    assert torch.allclose(found.variance[:, :3], expected.variance, atol=1e-5)


def test_the_mapper_takes_classes_from_votes(scenes):
    """Frame by frame without masks: the map's objects are classes, and most of what it shows is right."""
    method = learner().eval()
    source = LiveVotes(method, create_rasterizer("cpu"))
    scene = scenes[0]
    oracle = Oracle(scenes)
    oracle.known = {key: (0, classes) for key, (_, classes) in oracle.known.items()}  # always right
    method.use_classifier(oracle)
    shown = MapOffline.create(params=("steps_per_keyframe=2", "carve=false"), semantics=source)
    for number, view in enumerate(scene.views[:8]):
        shown.add(Frame(number * 2_000_000_000, view.camera, view.rgb, view.depth))
    mapper = shown.mapper
    names = {obj.name for obj in mapper.objects}
    assert {"wall", "floor"} <= names and len(names) == len(mapper.objects)
    right = total = 0
    for view in scene.views[:8]:
        classes = mapper.render_labels(view.camera).semantic
        right += ((classes == view.classes) & (classes > 0)).sum()
        total += classes.size
    assert right / total > 0.75
    assert len(source.sums) == len(source.classes().probabilities)
    assert (
        len(source.add(mapper.gaussians, Frame(14_500_000_000, view.camera, view.rgb, view.depth))) < 200
    )  # not again
    with pytest.raises(InvalidRequestError, match="only learned votes"):
        LiveVotes(learner(answer="uniform"), create_rasterizer("cpu"))


def test_apply_writes_a_map_with_classes(scenes, tmp_path, capsys):
    save_learner(tmp_path / "gnesf.pt", learner())
    room = str(scenes[1].folder)
    words = ["generalize", "apply", str(tmp_path / "gnesf.pt"), room]
    assert main([*words, str(tmp_path / "out"), "--views", "5", "--json", str(tmp_path / "out.json")]) == 0
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert results["views"] == 5 and 0 <= results["miou"] <= 1 and 0 < results["labelled_share"] <= 1
    gaussians, objects = load_map(tmp_path / "out")
    assert len(gaussians) == results["gaussians"]
    assert {obj.slot for obj in objects} == set(torch.unique(gaussians["object"]).tolist()) - {0}
    assert main([*words, str(tmp_path / "again"), "--map", str(tmp_path / "out"), "--views", "-1"]) == EXIT_ERROR
    assert "views: -1" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert main([*words, str(tmp_path / "few"), "--map", str(tmp_path / "out"), "--views", "500"]) == 0
    assert f"500 views were asked for, the recording has {len(scenes[1])}" in capsys.readouterr().err
    stopped = apply(ApplyJob(tmp_path / "gnesf.pt", scenes[1].folder, tmp_path / "never"), cancelled=lambda: True)
    assert stopped.cancelled and not (tmp_path / "never").exists()
    save_learner(tmp_path / "images.pt", SegformerLearner(SegformerConfig(), room_labels()))
    with pytest.raises(InvalidRequestError, match="labels images, not Gaussians"):
        apply(ApplyJob(tmp_path / "images.pt", scenes[1].folder, tmp_path / "never"))


def test_the_suite_has_every_row_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    write_rooms(tmp_path / "rooms", [("test", 9000)], RoomFormat(48, 36, views=6, novel=2))
    paths = []
    for name, options in {
        "a": {"neighbours": "learned"},
        "b": {"neighbours": "learned", "seed": 1},
        "c": {"answer": "direct"},
        "d": {"visibility": "none"},
    }.items():
        paths.append(tmp_path / f"{name}.pt")
        save_learner(paths[-1], learner(**options))
    paths.append(tmp_path / "volume.pt")
    save_learner(
        paths[-1], GnesfVolume(make_config(GnesfVolumeConfig, "paper", overrides={"voxels": 12}), room_labels())
    )
    suite = GnesfSuite(
        tmp_path / "rooms", paths, tmp_path / "kept", {"scan": list_rooms(tmp_path / "rooms", "test")[0]}
    )
    results = suite.run()
    rows = (
        "gnesf",
        "gnesf_alone",
        "gnesf_volume",
        "uniform",
        "uniform_log",
        "uniform_neighbours",
        "segmenter2d",
        "segmenter2d_rendered",
        "no_visibility",
        "direct",
        "gnesf_points",
        "scan",
    )
    assert all(0 <= results[f"{row}_miou"] <= 1 for row in rows) and "gnesf_miou_std" in results
    assert results["test_rooms"] == 1 and results["gnesf_views4_miou"] >= 0
    assert results["direct_at_least_0.30"] is False and "gain_over_uniform" not in results  # weights are untrained
    good = {"gnesf_miou": 0.8, "segmenter2d_miou": 0.55, "direct_miou": 0.3, "uniform_miou": 0.75}
    assert gains(good)["gain_over_uniform"] == pytest.approx(0.05) and "gain_over_no_visibility" not in gains(good)
    assert not any(name.startswith("gain") for name in gains(good | {"segmenter2d_miou": 0.549}))
    draw_classes(suite)
    room, scan = suite.pictures()  # of one test room, and of the recording, which is the same room
    assert list(room)[:3] == ["photograph", "truth", "2D segmenter"] and len(room) == 8
    assert np.array_equal(room["truth"], scan["truth"]) and set(np.unique(room["direct regression"])) <= set(range(20))
    assert room["volume rendering"].shape == (9, 12)  # every fourth pixel
    with Image.open(tmp_path / "kept" / "views.png") as sheet:
        assert sheet.width > 8 * 240 and sheet.height > 2 * 180
    monkeypatch.setattr(GnesfSuite, "_open", lambda *_: pytest.fail("is to be scored"))
    write_rooms(tmp_path / "others", [("test", 9000)], RoomFormat(48, 36, views=5, novel=2))
    with pytest.raises(pytest.fail.Exception, match="is to be scored"):  # a room of the same name that has other views
        GnesfSuite(tmp_path / "others", paths, tmp_path / "kept").run()
    again = GnesfSuite(tmp_path / "rooms", paths, tmp_path / "kept", suite.recordings)
    assert again.run() == results
    assert np.array_equal(again.pictures()[0]["learned votes"], room["learned votes"])
    with pytest.raises(InvalidRequestError, match="none of the checkpoints is of learned votes"):
        GnesfSuite(tmp_path / "rooms", paths[2:4], tmp_path / "kept")
    save_learner(paths[1], learner(seed=1))
    with pytest.raises(InvalidRequestError, match="neighbours=learned, none are no seeds of one another"):
        GnesfSuite(tmp_path / "rooms", paths, tmp_path / "kept")


def test_pictures_are_of_views_with_classes(scenes, tmp_path, monkeypatch):
    save_learner(tmp_path / "a.pt", learner())
    suite = GnesfSuite(scenes[0].folder.parents[1], [tmp_path / "a.pt"], tmp_path / "kept")
    monkeypatch.setattr(GnesfSuite, "scenes", [("rooms", scenes[0].folder)])
    views = scenes[0].novel
    for classes, truth in ((views[0].classes, views[0].classes), (None, np.zeros((36, 48)))):
        monkeypatch.setattr(
            LearningScene, "novel", [replace(views[0], classes=classes), *(replace(v, classes=None) for v in views[1:])]
        )
        assert np.array_equal(suite.pictures()[0]["truth"], truth)
        suite.folder = tmp_path / "kept_without"


def test_points_get_the_class_of_the_nearest_gaussian(scenes):
    scene = scenes[0]
    classes = torch.zeros(len(scene.gaussians), 19)
    view = scene.novel[0]
    found, truth = nearest_classes(scene.gaussians, GaussianClasses(classes), view)
    assert not len(found) and not len(truth)
    classes[:, 4] = 1.0
    found, truth = nearest_classes(scene.gaussians, GaussianClasses(classes), view)
    assert len(found) == 12 * 16 and (found == 5).all() and np.array_equal(truth, view.classes[::3, ::3].ravel())


def test_votes_over_a_model_of_the_user(scenes, tmp_path):
    """A transformers model whose classes have other names and another order."""
    names = {0: "Carpet", 1: "couch", 2: "armchair", 3: "chair", 4: "dragon"}
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, decoder_hidden_size=8, id2label=names
    )
    torch.manual_seed(0)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
    classifier = TransformersClassifier(Weights(str(tmp_path / "model")), room_labels(), "cpu")
    chance = classifier.scores([scenes[0].views[0].rgb])[0].exp()
    known = {room_labels().id_of(name) - 1 for name in ("rug", "sofa", "chair")}
    assert {int(i) for i in torch.nonzero(chance.amax(dim=(1, 2)) > 1e-3)[:, 0]} == known
    save_learner(tmp_path / "gnesf.pt", learner())
    found = apply(
        ApplyJob(tmp_path / "gnesf.pt", scenes[0].folder, tmp_path / "out", views=3, segmenter=str(tmp_path / "model"))
    )
    assert found.labelled_share > 0
    classes = set(torch.unique(load_map(tmp_path / "out")[0]["object"]).tolist()) - {0}
    assert classes <= {key + 1 for key in known}
    config.id2label = {0: "dragon"}
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "other")
    with pytest.raises(
        InvalidInputError, match=r"knows none of the classes wanted; it has dragon; wanted are wall, floor"
    ):
        TransformersClassifier(Weights(str(tmp_path / "other")), room_labels(), "cpu")
    transformers.SegformerModel(config).save_pretrained(tmp_path / "model2")
    with pytest.raises(InvalidRequestError, match=r"holds SegformerModel, expected a \.\.\.ForSemanticSegmentation"):
        TransformersClassifier(Weights(str(tmp_path / "model2")), room_labels(), "cpu")


def test_map_by_a_checkpoint_on_the_command_line(scenes, tmp_path):
    save_learner(tmp_path / "gnesf.pt", learner())
    views = str(scenes[1].folder / "views")
    assert main(["map", views, str(tmp_path / "map"), "--semantics", str(tmp_path / "gnesf.pt")]) == 0
    gaussians, objects = load_map(tmp_path / "map")
    assert (gaussians["object"] > 0).any() and {obj.name for obj in objects} <= set(room_labels().names.values())
