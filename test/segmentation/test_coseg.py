"""CoSegGaussians: pyramid, encoder, decoder, loss terms, training in two stages, and Gaussians that came later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_room import RoomSequence, small_config, small_method, small_scene

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.gaussians import Frame
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.rendering import create_rasterizer
from gs_semantic.segmentation.graphs import ReplayedSteps
from gs_semantic.segmentation.loop import CHECKPOINT
from gs_semantic.segmentation.losses import jensen_shannon
from gs_semantic.segmentation.methods.coseg.decoder import Decoder
from gs_semantic.segmentation.methods.coseg.encoder import AttentivePooling, SpatialEncoder, sampled
from gs_semantic.segmentation.methods.coseg.encoder_training import EncoderConfig, EncoderTrainer, Rooms
from gs_semantic.segmentation.methods.coseg.field import SegmentationField
from gs_semantic.segmentation.methods.coseg.method import splatting
from gs_semantic.segmentation.methods.coseg.pyramid import Interpolation, Pyramid
from gs_semantic.segmentation.methods.coseg.trained import TrainedField
from gs_semantic.segmentation.trainer import MAP, Trainer

RUN = {"iterations": 140, "segment_for": 100, "evaluate_every": 140, "report_every": 20}


def points(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3)).astype(np.float32)


def pyramid(count: int, seed: int = 0) -> Pyramid:
    return Pyramid.of(points(count, seed), np.random.default_rng(seed))


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_pyramid_quarters_its_points_and_knows_their_neighbours():
    xyz = points(1000)
    made = Pyramid.of(xyz, np.random.default_rng(0))
    assert [len(cloud.points) for cloud in made.clouds] == [1000, 250, 62, 15, 3]
    for cloud in made.clouds:
        assert np.array_equal(cloud.points.numpy(), xyz[cloud.rows])
        assert cloud.neighbours.shape == (len(cloud.points), 16)
        assert torch.equal(cloud.neighbours[:, 0], torch.arange(len(cloud.points)))  # the point itself
    second = made.clouds[1]
    distance = torch.cdist(second.points, second.points)
    assert torch.allclose(distance.topk(16, largest=False)[0], distance.gather(1, second.neighbours), atol=1e-5)
    assert sorted(made.clouds[0].rows.tolist()) == list(range(1000))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_points_than_neighbours(count):
    made = pyramid(count)
    assert all(cloud.neighbours.max() < len(cloud.points) for cloud in made.clouds)
    features = SpatialEncoder().eval()(made)
    assert [len(values) for values in features.scales] == [len(cloud.points) for cloud in made.clouds[:4]]
    assert all(torch.isfinite(values).all() for values in (*features.scales, features.last))
    field = SegmentationField(Decoder([], True, 4, 8, 3), SpatialEncoder().eval(), [], 4)
    cloud = field.cloud_of(points(count), torch.arange(count), np.random.default_rng(0))
    identities, _ = field.decode(cloud, None)  # in training: batches of one row have no deviation
    identities.sum().backward()
    assert identities.shape == (count, 8) and torch.isfinite(identities).all()


def test_interpolation_is_exact_at_points_weighted_between_and_its_gradient_right():
    made = pyramid(64)
    up = made.up[0]
    assert torch.allclose(up.weights.sum(dim=1), torch.ones(64), atol=1e-5)
    values = torch.rand(16, 5, dtype=torch.float64)
    fine = Interpolation(up.indices, up.weights.double())
    assert torch.allclose(fine(values)[:16], values, atol=1e-3)  # the coarse points are the first of the fine ones
    assert torch.autograd.gradcheck(fine, (values.requires_grad_(),))


def test_attentive_pooling_and_sampling_by_hand():
    pool = AttentivePooling(2, 2).eval()
    values = torch.tensor([[[1.0, 0.0], [3.0, 2.0]]])
    with torch.no_grad():
        pool.score.weight.zero_()  # equal weights: the mean
        pool.out.linear.weight.copy_(torch.eye(2))
        assert torch.allclose(pool(values), torch.tensor([[2.0, 1.0]]), atol=1e-4)
        pool.score.weight.copy_(50 * torch.eye(2))  # the largest of each channel wins
        assert torch.allclose(pool(values), torch.tensor([[3.0, 2.0]]), atol=1e-4)
    cloud = pyramid(8).clouds[0]
    numbers = torch.arange(8.0)[:, None]
    assert torch.equal(sampled(numbers, cloud, 2), numbers[cloud.neighbours[:2]].amax(dim=1))


def test_the_encoder_has_the_published_widths_and_comes_back_from_its_file(tmp_path):
    torch.manual_seed(0)
    encoder, made = SpatialEncoder().eval(), pyramid(1024)
    features = encoder(made)
    shapes = [(1024, 32), (256, 32), (64, 128), (16, 256)]
    assert [tuple(values.shape) for values in features.scales] == shapes and features.last.shape == (4, 512)
    encoder.save(tmp_path / "encoder.safetensors", "a room")
    again = SpatialEncoder.load(tmp_path / "encoder.safetensors")
    assert not any(p.requires_grad for p in again.parameters()) and not again.training
    assert torch.allclose(again(made).last, features.last, atol=0.02)  # stored in half precision
    with pytest.raises(InvalidInputError, match="no such file; train one with `gs-semantic train spatial_encoder"):
        SpatialEncoder.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidInputError, match="bad.safetensors: is not a readable spatial encoder"):
        SpatialEncoder.load(tmp_path / "bad.safetensors")


def test_the_decoder_is_smaller_than_a_tenth_of_identities_on_200k_gaussians():
    decoder = Decoder([64] * 4, True, 4, 32, 100)
    parts = decoder.parameters_by_part()
    assert sum(parts.values()) == sum(p.numel() for p in decoder.parameters()) <= 200_000 * 16 / 10
    assert parts["scale_4"] == (64 + 256 + 512) * 256 + 2 * 256


def test_splatted_identities_have_the_logits_that_splatted_logits_are():
    method = small_method("coseg", iterations=1)
    camera, count = method.scene.train[0].camera, len(method.gaussians)
    decoder = Decoder([4] * 4, False, 4, 8, 5)
    identities = torch.randn(count, 8)
    with torch.no_grad():
        before, after = decoder.logits(identities), decoder.logits
        splat = splatting(method.rasterizer, method.gaussians, camera, torch.arange(count))
        assert torch.allclose(splat(before), after(splat(identities)), atol=1e-4)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_splatting_and_its_transpose_are_adjoint(name):
    method = small_method("coseg", RoomSequence(4), iterations=1, initial_gaussians=100, hold_out_every=4)
    camera = method.scene.train[0].camera
    rows = torch.randperm(len(method.gaussians))[:70]
    features = torch.randn(len(rows), 3, requires_grad=True)
    image = splatting(create_rasterizer(name), method.gaussians, camera, rows)(features)
    other = torch.randn_like(image)
    transposed = torch.autograd.grad(image, features, other)[0]
    assert float((image * other).sum().detach()) == pytest.approx(
        float((transposed * features).sum().detach()), rel=1e-3, abs=1e-2
    )


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coseg")
    reports = []
    method = small_method("coseg", **RUN)
    result = Trainer(method, folder, [reports.append]).run()
    return folder, method, result, reports


def test_two_stages_and_identities_that_are_right(trained):
    folder, method, result, reports = trained
    assert set(reports[0].losses) == {"colour"} and set(reports[-1].losses) == {"pixels", "neighbours"}
    assert reports[-1].losses["pixels"] < 0.6 * reports[2].losses["pixels"]
    assert result.metrics["miou"] > 0.6 and result.map == folder / MAP
    stored = method.gaussians["coseg_identity"]
    assert stored.shape == (len(method.gaussians), 32) and torch.isfinite(stored).all()
    parts = method.parameters()
    assert parts["frozen_encoder"] > 500_000 and sum(parts.values()) - parts["frozen_encoder"] < 320_000


def test_geometry_is_frozen_in_the_second_stage():
    method = small_method("coseg", iterations=6, segment_for=4, attendance=0.0)
    for iteration in (1, 2, 3):
        method.step(iteration, 0)
    before = {name: method.gaussians[name].clone() for name in ("means", "quats", "log_scales", "opacity_logits", "sh")}
    weights = method.field.decoder.out.weight.detach().clone()
    method.step(4, 1)
    assert all(torch.equal(method.gaussians[name], rows) for name, rows in before.items())
    assert not torch.equal(method.field.decoder.out.weight, weights)
    assert not any(p.requires_grad for p in method.field.encoder.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"image_features": False},
        {"spatial_features": False},
        {"scales": 1},
        {"loss": "ce"},
        {"regularise_weight": 0.0},
        {"unproject_norm": "pixel_count", "regularise_divisor": "gaussians", "unlabelled": "class"},
        {"labels": "semantic", "masks": "noise_low"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_ablation_trains(changes):
    method = small_method("coseg", iterations=8, segment_for=6, evaluate_every=8, **changes)
    metrics = Trainer(method).run().metrics
    assert 0 <= metrics["miou"] <= 1
    assert ("view_accuracy" in metrics) == ("labels" in changes)
    assert (method.features is None) == ("image_features" in changes)


def test_the_pixel_loss_turns_from_cross_entropy_into_jensen_shannon():
    method = small_method("coseg", iterations=110, segment_for=100)
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(50) % 5
    entropy = float(torch.nn.functional.cross_entropy(logits, classes))

    def loss(method, iteration):
        method.step(method.building + 1, 0)
        method._inputs.copy_(torch.from_numpy(method._drawn_inputs(iteration)))
        return float(method._pixel_loss(logits, classes, None))

    values = [loss(method, iteration) for iteration in (11, 35, 60, 110)]
    assert values[0] == pytest.approx(entropy, rel=0.03)
    assert values[0] > values[1] > values[2] == values[3] == pytest.approx(float(jensen_shannon(logits, classes, 0.5)))
    at_once = small_method("coseg", iterations=110, segment_for=100, label_weight_rises=0.0)
    assert loss(at_once, 11) == pytest.approx(values[2])


def test_the_learning_rate_and_the_weight_of_small_masks_fall_where_told_to():
    options = {
        "lr_decoder": 0.01,
        "lr_decoder_end": 0.01,
        "area_power": 0.5,
        "area_power_end": 0.0,
        "identity_pixels": 0,
    }
    method = small_method("coseg", iterations=110, segment_for=100, **options)
    seen = []

    def pixel_loss(logits, classes, weights):
        seen.append((classes, weights))
        return logits.sum() * 0

    method._pixel_loss = pixel_loss
    for iteration in (11, 60, 110):
        method.step(iteration, 0)
    method.step(11, 0)
    rates = [method._drawn_inputs(iteration)[1] for iteration in (10, 60, 110)]
    assert rates == pytest.approx([0.01, 0.001, 0.0001])
    areas = torch.bincount(seen[0][0])
    small, large = areas.argsort()[areas.sort()[0] > 0][[0, -1]]
    for (classes, weights), power in zip(seen, (0.495, 0.25, 0), strict=False):
        assert float(weights.mean()) == pytest.approx(1, abs=1e-4)
        one, other = (float(weights[classes == key][0]) for key in (small, large))
        assert one / other == pytest.approx(float(areas[large] / areas[small]) ** power, rel=1e-3)


CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_replayed_steps_are_those_of_python(device):
    def trained(replayed: bool) -> list[float]:
        weights = torch.ones(3, device=device, requires_grad=True)
        given, loss = torch.zeros(3, device=device), torch.zeros((), device=device)
        adam = torch.optim.Adam([weights], lr=0.1, fused=True, capturable=device == "cuda")
        steps, seen = ReplayedSteps(torch.device(device)), []

        def step(scale: float) -> None:
            value = ((weights * given - scale) ** 2).sum()
            value.backward()
            adam.step()
            adam.zero_grad()
            loss.copy_(value.detach())

        for turn in range(12):
            given.copy_(torch.tensor([0.1, 1.0, 2.0]) * turn)
            key = turn % 2
            steps.run(key, lambda key=key: step(1.0 + key)) if replayed else step(1.0 + key)
            seen.append(float(loss))
        return [*seen, *weights.tolist()]

    assert trained(True) == pytest.approx(trained(False), rel=1e-5)


def test_unseen_and_hardly_seen_gaussians_are_removed_and_kept_when_told_to():
    for attendance, removed in ((1e-4, True), (0.0, False)):
        method = small_method("coseg", iterations=2, segment_for=2, attendance=attendance)
        first = method.gaussians
        first["means"][:5] = torch.tensor([0.0, 0.0, 100.0]) + 0.01 * torch.arange(5.0)[:, None]  # above the ceiling
        first.touch()
        method.step(1, 0)
        assert (method.pruned >= 5) == removed and len(method.features[0]) == len(method.gaussians)
        method.store_identities()  # those that no view shows have the identity of their neighbours
        assert torch.isfinite(method.gaussians["coseg_identity"]).all()
        assert method.gaussians["coseg_identity"].abs().sum(dim=1).min() > 0
    with pytest.raises(InvalidRequestError, match="attendance=0.9: no Gaussian is seen so much"):
        small_method("coseg", iterations=2, segment_for=2, attendance=0.9).step(1, 0)


def test_views_that_show_nothing_or_have_no_labels_take_no_step():
    class Blind(RoomSequence):
        def _read(self, index: int) -> Frame:
            shown = super()._read(index)
            return replace(shown, instances=None, masks={}) if index == 2 else shown

    method = small_method("coseg", Blind(), iterations=3, segment_for=3)
    unlabelled = next(k for k, view in enumerate(method.scene.train) if view.ids is None)
    assert method.step(1, unlabelled) == {} and method.step(2, 0)["pixels"] > 0
    pose = method.scene.train[1].camera.T_world_camera.copy()
    pose[:3, 3] += 1000
    method.scene.train[1] = replace(method.scene.train[1], camera=method.scene.train[1].camera.at(pose))
    assert method.step(3, 1) == {}
    method.store_identities()
    assert torch.isfinite(method.gaussians["coseg_identity"]).all()


def test_a_class_that_no_view_shows_is_never_answered():
    method = small_method("coseg", **RUN | {"iterations": 20, "segment_for": 15})
    Trainer(method).run()
    shown = method.predict(method.scene.held_out[0].camera)
    assert set(np.unique(shown.ids)) <= set(method.scene.ids[1:].tolist())  # id 0 is ignored, 99 is unknown


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(InvalidRequestError, match="both false"):
        small_config("coseg", image_features=False, spatial_features=False)
    with pytest.raises(InvalidRequestError, match="segment_for=30: is more than iterations=20"):
        small_config("coseg", segment_for=30)
    with pytest.raises(InvalidRequestError, match="option 'scales': 2 is none of 4, 1"):
        small_config("coseg", scales=2)


def test_cancelling_while_features_are_lifted_ends_at_once_and_resuming_is_the_same(tmp_path):
    options = {"iterations": 8, "segment_for": 5, "evaluate_every": 3, "attendance": 0.0}
    whole = small_method("coseg", **options)
    Trainer(whole).run()
    part, asked = small_method("coseg", **options), []
    trainer = Trainer(part, tmp_path)

    def cancelled() -> bool:  # a few views after the checkpoint of iteration 3, the last one of the building
        asked.append(trainer.loop.iteration == 3 and (tmp_path / CHECKPOINT).exists())
        return sum(asked) > 5

    trainer.cancelled = part.cancelled = cancelled
    result = trainer.run()
    assert result.cancelled and result.iteration == 3 and part.field is None
    resumed = Trainer.resume(tmp_path, small_scene(small_config("coseg", **options)))
    assert resumed.run().iteration == 8
    for name, value in whole.field.decoder.state_dict().items():
        assert torch.equal(value, resumed.method.field.decoder.state_dict()[name]), name


# --- Gaussians that came later ----------------------------------------------------------------------------------------


def test_a_trained_decoder_labels_what_the_live_mapper_adds_later(trained):
    """Trained on a walk; the mapper goes on from that map into a part that it does not have, without masks."""
    folder = trained[0]
    from gs_semantic.gaussians.map_folder import load_map

    gaussians, objects = load_map(folder / MAP)
    gone = gaussians.means[:, 0] > float(gaussians.means[:, 0].median())  # as if this half had never been mapped
    gaussians.keep(~gone)
    first_new = gaussians.next_uid
    mapper = Mapper(gaussians=gaussians, objects=objects)
    sequence = RoomSequence(without=("instances",))
    for index in (3, 6, 9):
        mapper.step(sequence[index])
    mapper.finish()
    new = np.flatnonzero(mapper.gaussians["uid"].numpy() >= first_new)
    fresh = new[mapper.gaussians["object"].numpy()[new] == 0]  # others took the place of labelled ones
    assert len(fresh) > 50
    field = TrainedField.load(folder / CHECKPOINT)
    views = [(sequence[index].camera, sequence[index].rgb) for index in range(10)]
    old = np.setdiff1d(np.arange(len(mapper.gaussians)), new)
    before = mapper.gaussians["object"].numpy()[old].copy()
    assert field.label(mapper.gaussians, mapper.objects, views, new) > 50
    assert (mapper.gaussians["object"].numpy()[fresh] > 0).mean() > 0.9
    assert np.array_equal(mapper.gaussians["object"].numpy()[old], before)
    truth = RoomSequence()[6]
    shown = mapper.render_labels(truth.camera, tentative=True).instance
    by_slot = {obj.slot: obj.id for obj in mapper.objects}
    ids = np.vectorize(lambda slot: by_slot.get(slot, 0))(shown)
    known = truth.instances > 0
    assert (ids == truth.instances)[known].mean() > 0.75


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    Trainer(small_method("plain", iterations=2, evaluate_every=2), tmp_path / "plain").run()
    with pytest.raises(InvalidInputError, match="was trained with method 'plain', expected 'coseg'"):
        TrainedField.load(tmp_path / "plain" / CHECKPOINT)
    calls = iter([False] * 2)
    building = small_method("coseg", iterations=10, segment_for=2)
    Trainer(building, tmp_path / "building", cancelled=lambda: next(calls, True)).run()
    with pytest.raises(InvalidInputError, match="still building its map"):
        TrainedField.load(tmp_path / "building" / CHECKPOINT)


# --- the encoder's own training ---------------------------------------------------------------------------------------


def test_the_encoder_learns_classes_from_where_points_lie():
    config = EncoderConfig(iterations=40, points=512, batch=1, hold_out_every=5)
    trainer = EncoderTrainer(Rooms([RoomSequence(6)], config), config)
    losses = []
    assert trainer.run(lambda iteration, loss: losses.append(loss))
    assert np.mean(losses[-8:]) < 0.85 * np.mean(losses[:8])
    assert trainer.score()["accuracy"] > 0.5
    assert not trainer.run(cancelled=lambda: True)


def test_rooms_without_depth_or_labels_are_refused():
    with pytest.raises(InvalidInputError, match="no frame has both depth and labels"):
        Rooms([RoomSequence(4, without=("depth",))], EncoderConfig(points=512))


def test_a_field_that_sees_nothing_says_so():
    method = small_method("coseg", iterations=1)
    field = SegmentationField(Decoder([], True, 4, 8, 3), None, [], 4)
    with pytest.raises(InvalidInputError, match="no view shows any of the Gaussians"):
        field.identities(method.gaussians, None, [None])
    assert small_scene(small_config("coseg")).class_count > 1
