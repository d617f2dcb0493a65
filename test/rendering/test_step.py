"""The optimisation step in one native pass, against the passes that it joins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from raster_scenes import Parameters, make_map, one_gaussian, random_values, relative_error, small_camera, sparse_adam
from test_robustness import BAD_ROWS

from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.losses import ssim_l1_gradient
from gs_semantic.rendering.reference import ReferenceRasterizer
from gs_semantic.rendering.residual import LossSettings, image_gradients
from gs_semantic.rendering.step import (
    ATTRIBUTES,
    FeatureOptimiser,
    PhotometricTarget,
    StepRates,
    StepTarget,
    optimise,
    optimise_from_gradients,
    optimise_photometric,
    pose_gradient,
    register_adam,
)

CAMERA = small_camera()
LOSS = LossSettings(0.05, 0.04, 0.2, 0.02, 2.0, 3.0)
RATES = StepRates(4e-3, 1e-2, 2e-2, 5e-2, 3e-2, 2e-2, beta1=0.9, beta2=0.99, eps=1e-3)
CODES = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(8)), dim=1)


def scene(sh_count=1, channels=5):
    gaussians = make_map(random_values(900, 3, sh_count))
    gaussians.register("identity", (channels,))
    gaussians["identity"] = torch.randn(900, channels, generator=torch.Generator().manual_seed(1))
    register_adam(gaussians, "identity")
    return gaussians


def target(depth=True, slots=True):
    generator = torch.Generator().manual_seed(4)
    size = (CAMERA.height, CAMERA.width)
    return StepTarget(
        torch.rand(*size, 3, generator=generator),
        torch.rand(*size, generator=generator) * 4 - 0.4 if depth else None,
        torch.randint(0, len(CODES), size, generator=generator) if slots else None,
        CODES if slots else None,
    )


class Separate:
    """The same step from its parts: render, compare, go backward, and Adam on what was drawn."""

    def __init__(self, gaussians):
        self.state = {}
        for name in (*ATTRIBUTES, "identity"):
            self.state[name] = [torch.zeros_like(gaussians[name]) for _ in range(2)]
        self.steps = {name: torch.zeros(len(gaussians)) for name in self.state}

    def step(self, gaussians, target, move_geometry):
        view = CpuRasterizer().open(gaussians, CAMERA)
        features = None if target.slots is None else gaussians["identity"]
        rendering = view.render(features)
        images = image_gradients(rendering, target.rgb, target.depth, target.slots, target.codes, LOSS)
        grads = view.backward(
            *(rendering, images.rgb, images.depth, None, images.features, features, move_geometry), pose=True
        )
        drawn = view.accumulate(torch.zeros(CAMERA.height, CAMERA.width, 1)).pixel_count[view.visible] > 0
        for name in (*ATTRIBUTES, "identity"):
            grad = getattr(grads, name if name != "identity" else "features")
            if grad is None:
                continue
            rate = getattr(RATES, name if name != "identity" else "features")
            sparse_adam(
                *(gaussians[name], grad[drawn], *self.state[name], self.steps[name], view.visible[drawn]),
                *(rate, RATES.beta1, RATES.beta2, RATES.eps),
            )
        gaussians.touch()
        return images.colour_error, grads.pose


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sh_count": 9},
        {"sh_count": 4, "channels": 16},
        {"depth": False},
        {"slots": False},
        {"move_geometry": False, "channels": 16},
    ],
    ids=str,
)
def test_step_equals_its_parts(options):
    sh_count, channels = options.get("sh_count", 1), options.get("channels", 5)
    joined, apart = scene(sh_count, channels), scene(sh_count, channels)
    wanted = target(options.get("depth", True), options.get("slots", True))
    if wanted.codes is not None and channels != 5:
        wanted = StepTarget(wanted.rgb, wanted.depth, wanted.slots, CODES.repeat(1, 4)[:, :channels].contiguous())
    geometry = options.get("move_geometry", True)
    separate, rasterizer = Separate(apart), CpuRasterizer()
    names = (*ATTRIBUTES, "identity")
    before = {name: joined[name].clone() for name in names}
    for _ in range(3):
        result = optimise(
            *(rasterizer.open(joined, CAMERA), joined, wanted, LOSS, RATES),
            features=None if wanted.slots is None else "identity",
            features_move_geometry=geometry,
            pose=True,
        )
        error, pose = separate.step(apart, wanted, geometry)
        assert result.colour_error == pytest.approx(error, rel=1e-5)
        assert relative_error(result.pose, pose) < 1e-4
    for name in names:
        moved = apart[name] - before[name]
        if name == "identity" and wanted.slots is None:
            assert torch.equal(joined[name], before[name])
        else:
            assert relative_error(joined[name] - before[name], moved) < 2e-3, name
    steps = joined.state("means", "adam")[:, 14:16]
    assert torch.equal(steps[:, 0], separate.steps["means"])
    assert torch.equal(steps[:, 1], separate.steps["identity"])


def test_pixels_without_a_colour_to_compare_with_do_not_count():
    rasterizer, wanted = CpuRasterizer(), target(depth=False, slots=False)
    masked, filled = scene(), scene()
    rendered = rasterizer.open(filled, CAMERA).render().rgb
    nan, same = wanted.rgb.clone(), wanted.rgb.clone()
    nan[:, CAMERA.width // 3 :], same[:, CAMERA.width // 3 :] = float("nan"), rendered[:, CAMERA.width // 3 :]
    before = masked.means.clone()
    optimise(rasterizer.open(masked, CAMERA), masked, StepTarget(nan), LOSS, RATES)
    optimise(rasterizer.open(filled, CAMERA), filled, StepTarget(same), LOSS, RATES)
    assert not torch.equal(masked.means, before)
    for name in ATTRIBUTES:
        assert torch.isfinite(masked[name]).all()
        assert torch.allclose(masked[name], filled[name], atol=1e-5), name


def test_step_is_the_same_for_any_number_of_threads():
    results = []
    for threads in (1, 2, 3, 5):
        gaussians, rasterizer = scene(sh_count=4), CpuRasterizer(threads=threads)
        for _ in range(4):
            view = rasterizer.open(gaussians, CAMERA)
            result = optimise(view, gaussians, target(), LOSS, RATES, features="identity", pose=True)
        results.append([gaussians[name] for name in (*ATTRIBUTES, "identity")] + [result.pose])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_step_notes_exactly_what_it_moved():
    gaussians = scene()
    gaussians.means[::2, 2] -= 9  # half of them behind the camera
    gaussians.touch()
    revision, before = gaussians.revision, gaussians.means.clone()
    rasterizer = CpuRasterizer()
    optimise(rasterizer.open(gaussians, CAMERA), gaussians, target(), LOSS, RATES)
    chunks = np.unique(torch.nonzero((gaussians.means != before).any(1))[:, 0].numpy() // 64)
    assert np.array_equal(gaussians.changed_chunks(revision), chunks)
    fresh, kept = CpuRasterizer().render(gaussians, CAMERA), rasterizer.render(gaussians, CAMERA)
    assert torch.equal(fresh.rgb, kept.rgb)


def test_pose_alone_moves_nothing():
    gaussians = scene()
    before, revision = gaussians.means.clone(), gaussians.revision
    view = CpuRasterizer().open(gaussians, CAMERA)
    result = pose_gradient(view, target(slots=False), LOSS)
    rendering = view.render()
    images = image_gradients(rendering, target().rgb, target().depth, None, None, LOSS)
    expected = view.backward(rendering, images.rgb, images.depth, pose=True).pose
    assert relative_error(result.pose, expected) < 1e-4
    assert torch.equal(gaussians.means, before) and gaussians.revision == revision


def test_descent_along_the_pose_gradient_finds_the_camera():
    gaussians = make_map(random_values(900, 3) | {"opacity_logits": torch.full((900,), 2.0)})
    rendering = CpuRasterizer().render(gaussians, CAMERA)
    wanted = StepTarget(rendering.rgb, rendering.depth)
    offset = np.array([0.01, -0.008, 0.012, 0.015, -0.01, 0.02])
    camera = CAMERA.moved(offset)

    def distance():
        return float(np.abs(camera.T_camera_world - CAMERA.T_camera_world).max())

    start = distance()
    for k in range(150):
        gradient = pose_gradient(CpuRasterizer().open(gaussians, camera), wanted, LOSS).pose.double().numpy()
        camera = camera.moved(-3e-3 * 0.97**k * gradient / np.linalg.norm(gradient))
    assert distance() < 0.2 * start


@pytest.mark.parametrize("slot", [-1, 6, 10**12])
def test_a_slot_without_a_code_is_an_error_and_moves_nothing(slot):
    gaussians, rasterizer = scene(), CpuRasterizer()
    before = {name: gaussians[name].clone() for name in ATTRIBUTES}
    wanted = target()
    slots = wanted.slots.clone()
    slots[3, 4] = slot
    bad = StepTarget(wanted.rgb, wanted.depth, slots, CODES)
    with pytest.raises(InvalidRequestError, match=r"slots: some are outside 0\.\.5"):
        optimise(rasterizer.open(gaussians, CAMERA), gaussians, bad, LOSS, RATES, features="identity")
    assert all(torch.equal(gaussians[name], before[name]) for name in ATTRIBUTES)
    result = optimise(rasterizer.open(gaussians, CAMERA), gaussians, wanted, LOSS, RATES, features="identity")
    assert result.colour_error > 0 and not torch.equal(gaussians.means, before["means"])


def test_step_asks_for_matching_images():
    gaussians = scene()
    view = CpuRasterizer().open(gaussians, CAMERA)
    with pytest.raises(InvalidRequestError, match="target rgb: shape"):
        optimise(view, gaussians, StepTarget(torch.zeros(3, 3, 3)), LOSS, RATES)
    gaussians.register("wide", (17,))
    with pytest.raises(InvalidRequestError, match="17 channels, one step takes 16"):
        register_adam(gaussians, "wide")


def test_step_on_an_empty_map():
    gaussians = scene()
    gaussians.keep(torch.zeros(len(gaussians), dtype=torch.bool))
    result = optimise(CpuRasterizer().open(gaussians, CAMERA), gaussians, target(), LOSS, RATES, features="identity")
    assert result.colour_error == pytest.approx(float(target().rgb.mean()), rel=1e-4)


@pytest.mark.parametrize("channels", [3, 16])
def test_feature_step_equals_torch(channels):
    """Geometry stays: gradients by autograd through the rasteriser, Adam by torch on what was drawn each time."""
    gaussians = scene()
    cameras = [CAMERA, CAMERA.moved(np.array([0.0, 0.1, 0.0, 0.2, 0.0, 0.0]))]
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(900, channels, generator=generator)
    targets = [torch.randn(CAMERA.height, CAMERA.width, channels, generator=generator) for _ in cameras]
    targets[0][5:9, 3:7] = float("nan")
    optimiser = FeatureOptimiser(start.clone(), 0.02, eps=1e-6)
    rasterizer = CpuRasterizer()
    views = [rasterizer.open(gaussians, camera) for camera in cameras]
    expected, state = start.clone(), [torch.zeros(900, channels), torch.zeros(900, channels), torch.zeros(900)]
    for k in range(6):
        loss = optimiser.step(views[k % 2], targets[k % 2])
        features = expected.clone().requires_grad_()
        image = rasterizer.render(gaussians, cameras[k % 2], features).features
        error = (image - targets[k % 2]).nan_to_num(0).square().mean()
        error.backward()
        assert loss == pytest.approx(error.item(), rel=1e-4)
        drawn = rasterizer.accumulate(gaussians, cameras[k % 2], targets[0][..., :1].nan_to_num()).pixel_count > 0
        rows = torch.nonzero(drawn)[:, 0]
        sparse_adam(expected, features.grad[rows], *state, rows, 0.02, eps=1e-6)
    assert relative_error(optimiser.features - start, expected - start) < 2e-3
    assert torch.equal(optimiser.steps, state[2])


def test_feature_steps_reach_a_target_that_features_can_show():
    gaussians, rasterizer = scene(), CpuRasterizer()
    wanted = torch.randn(900, 8, generator=torch.Generator().manual_seed(3))
    target = rasterizer.render(gaussians, CAMERA, wanted).features
    optimiser, view = FeatureOptimiser(torch.zeros(900, 8), 0.05), rasterizer.open(gaussians, CAMERA)
    losses = [optimiser.step(view, target) for _ in range(150)]
    assert losses[-1] < 0.01 * losses[0]


def test_feature_optimiser_refuses_bad_input():
    with pytest.raises(InvalidRequestError, match="17 channels, one step takes 1 to 16"):
        FeatureOptimiser(torch.zeros(5, 17), 0.1)
    with pytest.raises(InvalidRequestError, match="contiguous float32"):
        FeatureOptimiser(torch.zeros(4, 5).T, 0.1)
    view = CpuRasterizer().open(scene(), CAMERA)
    with pytest.raises(InvalidRequestError, match="900 Gaussians, the features have 5 rows"):
        FeatureOptimiser(torch.zeros(5, 4), 0.1).step(view, torch.zeros(CAMERA.height, CAMERA.width, 4))
    with pytest.raises(InvalidRequestError, match="target: shape"):
        FeatureOptimiser(torch.zeros(900, 4), 0.1).step(view, torch.zeros(3, 3, 4))


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("channels", [0, 5])
def test_step_from_gradients_equals_torch(dense, channels):
    """Against autograd and Adam of torch (dense), or of the rows that were drawn."""
    joined, rasterizer = scene(sh_count=4), CpuRasterizer()
    joined.means[::3, 2] -= 9  # behind the camera
    joined.touch()
    features = "identity" if channels else None
    names = [*ATTRIBUTES, *([features] if features else [])]
    before = {name: joined[name].clone() for name in names}
    values = {name: joined[name].clone().requires_grad_() for name in names}
    rates = {name: getattr(RATES, "features" if name == "identity" else name) for name in names}
    optimizer = torch.optim.Adam([{"params": [values[n]], "lr": rates[n]} for n in names], betas=(0.9, 0.99), eps=1e-3)
    state = {name: [torch.zeros_like(joined[name]), torch.zeros_like(joined[name]), torch.zeros(900)] for name in names}
    weight = torch.randn(CAMERA.height, CAMERA.width, 3, generator=torch.Generator().manual_seed(6))
    background = torch.tensor([0.1, 0.4, 0.8])
    for k in range(3):
        camera = CAMERA.moved(np.array([0.0, 0.2 * k, 0.0, 0.1, 0.0, 0.0]))
        grads = (weight, weight[..., 0], weight[..., 1], weight.repeat(1, 1, 2)[..., :5] if channels else None)
        view = rasterizer.open(joined, camera)
        identity = joined["identity"] if channels else None
        rendering = view.render(identity, background=background)
        statistics = optimise_from_gradients(
            *(view, joined, rendering, RATES, *grads), features=features, background=background, dense=dense
        )
        plain = Parameters(*(values[name] for name in ATTRIBUTES))
        opened = rasterizer.open(plain, camera)
        known = opened.backward(
            *(opened.render(values.get("identity"), background=background), *grads, values.get("identity")),
            background=background,
        )
        assert torch.allclose(statistics.means2d_norm, known.means2d_norm, rtol=1e-2, atol=1e-3)
        assert torch.allclose(statistics.radii, known.radii, rtol=1e-3)
        optimizer.zero_grad()
        image = rasterizer.render(plain, camera, values.get("identity"), background=background)
        shown = (image.rgb, image.depth, image.alpha, image.features)
        sum((a * b).sum() for a, b in zip(shown, grads, strict=True) if b is not None).backward()
        if dense:
            optimizer.step()
        else:
            image = torch.zeros(CAMERA.height, CAMERA.width, 1)
            rows = torch.nonzero(rasterizer.accumulate(plain, camera, image).pixel_count > 0)[:, 0]
            for name in names:
                grad = values[name].grad[rows]
                sparse_adam(values[name].detach(), grad, *state[name], rows, rates[name], 0.9, 0.99, 1e-3)
    for name in names:
        moved = values[name].detach() - before[name]
        assert relative_error(joined[name] - before[name], moved) < 5e-3, name


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_useless_row_stays_and_changes_nothing_for_the_others(name):
    results = []
    for extra in (None, BAD_ROWS[name]):
        values = random_values(300, 3)
        if extra is not None:
            bad = one_gaussian(**extra)
            values = {key: torch.cat([value, bad[key]]) for key, value in values.items()}
        gaussians, rasterizer = make_map(values), CpuRasterizer()
        register_adam(gaussians)
        for _ in range(3):
            view = rasterizer.open(gaussians, CAMERA)
            result = optimise(view, gaussians, target(slots=False), LOSS, RATES, pose=True)
        results.append([gaussians[key][:300] for key in ATTRIBUTES] + [result.pose])
        if extra is not None:
            for key in ATTRIBUTES:
                assert torch.equal(gaussians[key][300:].nan_to_num(7), bad[key].nan_to_num(7)), key
            assert not gaussians.state("means", "adam")[300:].any()
    for clean, dirty in zip(*results, strict=True):
        assert torch.isfinite(dirty).all() and torch.equal(clean, dirty)


EXTREME = {
    "opacity 1": {"opacity_logits": torch.tensor([30.0])},
    "covers the whole screen": {"log_scales": torch.full((1, 3), 2.0), "opacity_logits": torch.tensor([-2.0])},
    "thin as a sheet": {"log_scales": torch.tensor([[-1.0, -1.0, -12.0]])},
    "a speck": {"log_scales": torch.full((1, 3), -14.0)},
    "just before the camera": {"means": torch.tensor([[0.0, 0.0, 0.02]]), "log_scales": torch.full((1, 3), -6.0)},
}


@pytest.mark.parametrize("name", EXTREME)
def test_gradients_of_extreme_gaussians(name):
    values = random_values(50, 4)
    extreme = one_gaussian(**EXTREME[name])
    values = {key: torch.cat([value, extreme[key]]) for key, value in values.items()}
    weight = torch.randn(CAMERA.height, CAMERA.width, 3, generator=torch.Generator().manual_seed(6))
    gradients = []
    for rasterizer, dtype in ((CpuRasterizer(), torch.float32), (ReferenceRasterizer(), torch.float64)):
        inputs = {key: value.to(dtype).clone().requires_grad_() for key, value in values.items()}
        image = rasterizer.render(Parameters(*(inputs[key] for key in ATTRIBUTES)), CAMERA)
        ((image.rgb * weight).sum() + (image.depth * weight[..., 0]).sum()).backward()
        gradients.append({key: value.grad for key, value in inputs.items()})
    for key, expected in gradients[1].items():
        assert torch.isfinite(gradients[0][key]).all()
        assert relative_error(gradients[0][key], expected) < 1e-3, key


def test_one_pixel_and_one_gaussian():
    gaussians = make_map(one_gaussian())
    register_adam(gaussians)
    camera = small_camera(1, 1)
    wanted = StepTarget(torch.zeros(1, 1, 3), torch.full((1, 1), 1.9))
    errors = [
        optimise(CpuRasterizer().open(gaussians, camera), gaussians, wanted, LOSS, RATES).colour_error
        for _ in range(20)
    ]
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("tile_size", [8, 16])
def test_kept_weights_change_nothing_but_time(channels, tile_size):
    gaussians, rasterizer = scene(), CpuRasterizer(threads=3)
    cameras = [CAMERA, CAMERA.moved(np.array([0.0, 0.1, 0.0, 0.2, 0.0, 0.0]))]
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(900, channels, generator=generator)
    targets = [torch.randn(CAMERA.height, CAMERA.width, channels, generator=generator) for _ in cameras]
    targets[1][2:7, 1:9] = float("nan")
    results = []
    for keep_mb in (0.0, 50.0):
        views = [rasterizer.open(gaussians, camera, tile_size=tile_size) for camera in cameras]
        optimiser = FeatureOptimiser(start.clone(), 0.02, keep_mb=keep_mb)
        losses = [optimiser.step(views[k % 2], targets[k % 2]) for k in range(10)]
        results.append((losses, optimiser.features, optimiser.moments, optimiser.steps))
        assert (optimiser.kept_mb > 0) == (keep_mb > 0)
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1:], results[1][1:], strict=True))
    views.clear()
    assert optimiser.kept_mb == 0


def test_weights_are_kept_within_the_budget():
    gaussians, rasterizer = scene(), CpuRasterizer()
    target = torch.zeros(CAMERA.height, CAMERA.width, 4)
    one, views = FeatureOptimiser(torch.ones(900, 4), 0.01, keep_mb=50.0), [rasterizer.open(gaussians, CAMERA)]
    for _ in range(2):
        one.step(views[0], target)
    enough = one.kept_mb
    views += [rasterizer.open(gaussians, CAMERA) for _ in range(2)]
    views[0].forget()
    both = FeatureOptimiser(torch.ones(900, 4), 0.01, keep_mb=2.5 * enough)
    for _ in range(3):
        for view in views:
            both.step(view, target)
    assert both.kept_mb == pytest.approx(2 * enough)
    small = FeatureOptimiser(torch.ones(900, 4), 0.01, keep_mb=0.9 * enough)
    view = rasterizer.open(gaussians, CAMERA)
    for _ in range(3):
        small.step(view, target)
    assert small.kept_mb == 0


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("depth", [True, False])
def test_photometric_step_equals_its_parts(dense, depth):
    joined, apart = scene(sh_count=4), scene(sh_count=4)
    wanted = target(depth=depth, slots=False)
    background, before = torch.tensor([0.2, 0.5, 0.1]), {name: joined[name].clone() for name in ATTRIBUTES}
    rasterizer, pixels = CpuRasterizer(), CAMERA.height * CAMERA.width
    rates = StepRates(4e-3, 1e-2, 2e-2, 5e-2, 3e-2, eps=1e-7)
    for _ in range(3):
        result = optimise_photometric(
            *(rasterizer.open(joined, CAMERA), joined, PhotometricTarget(wanted.rgb, wanted.depth), rates),
            depth_weight=0.3,
            background=background,
            dense=dense,
        )
        view = rasterizer.open(apart, CAMERA)
        rendering = view.render(background=background)
        loss, grad_rgb = ssim_l1_gradient(rendering.rgb, wanted.rgb)
        grad_depth = None
        if wanted.depth is not None:
            error = torch.where(wanted.depth > 0, rendering.depth - wanted.depth, 0)
            loss += 0.3 * float(error.abs().mean())
            grad_depth = 0.3 / pixels * error.sign()
        statistics = optimise_from_gradients(
            *(view, apart, rendering, rates, grad_rgb, grad_depth), background=background, dense=dense
        )
        assert result.loss == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(result.statistics.means2d_norm, statistics.means2d_norm, rtol=1e-3, atol=1e-7)
        assert torch.allclose(result.statistics.radii, statistics.radii, rtol=1e-4)
    for name in ATTRIBUTES:
        assert relative_error(joined[name] - before[name], apart[name] - before[name]) < 1e-3, name
    assert set(result.times_ms) == {"render", "loss", "backward_and_adam"}


def test_photometric_step_is_the_same_for_any_number_of_threads():
    results = []
    for threads in (1, 2, 3, 5):
        gaussians, rasterizer = scene(), CpuRasterizer(threads=threads)
        wanted = PhotometricTarget(target().rgb, target().depth)
        losses = [
            optimise_photometric(rasterizer.open(gaussians, CAMERA), gaussians, wanted, RATES, depth_weight=0.1).loss
            for _ in range(3)
        ]
        results.append((losses, [gaussians[name] for name in ATTRIBUTES]))
    for losses, values in results[1:]:
        assert losses == results[0][0]
        assert all(torch.equal(a, b) for a, b in zip(values, results[0][1], strict=True))


def test_photometric_step_refuses_bad_input():
    gaussians = scene()
    view = CpuRasterizer().open(gaussians, CAMERA)
    with pytest.raises(InvalidRequestError, match="target rgb: shape"):
        optimise_photometric(view, gaussians, PhotometricTarget(torch.zeros(3, 3, 3)), RATES)
    with pytest.raises(InvalidRequestError, match=r"ssim_weight: 1\.5 is not within 0\.\.1"):
        optimise_photometric(view, gaussians, PhotometricTarget(target().rgb), RATES, ssim_weight=1.5)
