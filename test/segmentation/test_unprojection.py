"""Unprojection of feature maps: known values, both divisors, streaming, attendance, principal components, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import create_rasterizer
from gs_semantic.segmentation.unprojection import Projection, Unprojection, unproject

BACK_ENDS = ["cpu", "reference"]


def balls(*places: tuple[float, float, float], opacity: float = 0.5, scale: float = 0.05) -> GaussianMap:
    count = len(places)
    gaussians = GaussianMap()
    gaussians.add(
        means=torch.tensor(places, dtype=torch.float32),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        log_scales=torch.full((count, 3), math.log(scale)),
        opacity_logits=torch.full((count,), math.log(opacity / (1 - opacity))),
        sh=torch.zeros(count, 1, 3),
    )
    return gaussians


def camera(width: int = 32, height: int = 24, x: float = 0.0) -> Camera:
    pose = np.eye(4)
    pose[0, 3] = x
    return Camera(width, height, width, width, (width - 1) / 2, (height - 1) / 2, pose)


@pytest.mark.parametrize("name", BACK_ENDS)
def test_one_gaussian_one_pixel_of_weight_a_half(name):
    image = torch.full((1, 1, 1), 2.0)
    for norm, expected in (("pixel_count", 1.0), ("weight_sum", 2.0)):
        lifted = unproject(balls((0, 0, 1)), create_rasterizer(name), [(camera(1, 1), image)], norm)
        assert lifted.features.item() == pytest.approx(expected, rel=1e-4)
        assert lifted.weight_sum.item() == pytest.approx(0.5, rel=1e-4) and lifted.pixel_count.tolist() == [1]


@pytest.mark.parametrize("name", BACK_ENDS)
def test_sums_over_views_are_those_of_rendering_backwards(name):
    gaussians = balls((-0.2, 0, 1), (0.1, 0.1, 1.5), (0.1, 0.1, 2.0), scale=0.1)
    random = torch.Generator().manual_seed(0)
    views = [(camera(x=x), torch.rand(24, 32, 5, generator=random)) for x in (-0.1, 0.0, 0.2)]
    upper, lower = torch.zeros(3, 5), torch.zeros(3, 1)
    oracle = create_rasterizer("reference")
    for shown, image in views:  # the gradient of sum_p F(p) . sum_i f_i w_i(p) by f_i is sum_p w_i(p) F(p)
        leaf = torch.zeros(3, 6, requires_grad=True)
        rendered = oracle.render(gaussians, shown, leaf).features
        (rendered * torch.cat([image, torch.ones(24, 32, 1)], dim=2)).sum().backward()
        upper, lower = upper + leaf.grad[:, :5], lower + leaf.grad[:, 5:]
    lifted = unproject(gaussians, create_rasterizer(name), views)
    assert torch.allclose(lifted.features, upper / lower, atol=1e-4)
    counted = unproject(gaussians, create_rasterizer(name), views, "pixel_count")
    assert torch.allclose(counted.features, upper / lifted.pixel_count[:, None], atol=1e-4)
    # after normalisation both are the same directions
    assert torch.allclose(counted.unit(), lifted.unit(), atol=1e-4)


def test_a_constant_map_comes_back_and_resolution_does_not_matter():
    gaussians, rasterizer = balls((-0.2, 0, 1), (0.2, 0.1, 1.2)), create_rasterizer("cpu")
    constant = torch.tensor([3.0, -1.0]).expand(24, 32, 2)
    for size in (None, (16, 12), (64, 48)):
        lifted = unproject(gaussians, rasterizer, [(camera(), constant)], size=size)
        assert torch.allclose(lifted.features, torch.tensor([[3.0, -1.0]] * 2), atol=1e-4)
    halves = torch.zeros(24, 32, 1)
    halves[:, 16:] = 1
    small = torch.nn.functional.avg_pool2d(halves.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)
    full, half = (unproject(gaussians, rasterizer, [(camera(), one)]).features for one in (halves, small))
    assert torch.allclose(full, half, atol=0.02) and full[0] < 0.01 and full[1] > 0.99


def test_maps_are_taken_one_at_a_time():
    alive = []

    def views():
        for index in range(5):
            assert not alive, "an earlier map is still asked for"
            alive.append(index)
            yield camera(), torch.ones(24, 32, 3)
            alive.clear()

    lifted = unproject(balls((0, 0, 1)), create_rasterizer("cpu"), views())
    assert lifted.pixels == 5 * 24 * 32 and lifted.features[0].tolist() == pytest.approx([1, 1, 1], rel=1e-5)


def test_attendance_is_the_share_of_all_pixels():
    gaussians = balls((0, 0, 1), (0, 0, -1))  # the second one is behind the camera
    lifted = unproject(gaussians, create_rasterizer("cpu"), [(camera(), torch.ones(24, 32, 1))] * 2)
    count, pixels = int(lifted.pixel_count[0]), 2 * 24 * 32
    assert count > 10 and lifted.pixel_count[1] == 0 and lifted.pixels == pixels
    assert lifted.attended(0.0).tolist() == [True, True]
    assert lifted.attended(count / pixels).tolist() == [True, False]
    assert lifted.attended((count + 1) / pixels).tolist() == [False, False]
    assert lifted.features[1].tolist() == [0.0] and lifted.unit()[1].tolist() == [0.0]


def test_views_without_features_are_passed_over_and_all_without_are_refused():
    gaussians, rasterizer = balls((0, 0, 1)), create_rasterizer("cpu")
    lifted = unproject(gaussians, rasterizer, [(camera(), None), (camera(), torch.ones(24, 32, 1)), (camera(), None)])
    assert lifted.pixels == 24 * 32
    with pytest.raises(InvalidInputError, match="no view has features to lift"):
        unproject(gaussians, rasterizer, [(camera(), None)])


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (torch.ones(32, 32, 2), "is 32x32, the image 32x24; another aspect ratio"),
        (torch.ones(24, 32, 3), r"has shape \(24, 32, 3\), expected \(H, W, 2\)"),
        (torch.ones(24, 32), r"has shape \(24, 32\), expected"),
        (torch.full((24, 32, 2), torch.nan), "not finite"),
    ],
)
def test_maps_that_do_not_fit_are_named(image, text):
    sums = Unprojection(balls((0, 0, 1)), create_rasterizer("cpu"), 2)
    with pytest.raises(InvalidInputError, match=text):
        sums.add(camera(), image)
    sums.add(camera(), torch.ones(3, 4, 2))  # of few patches, but of the same shape
    with pytest.raises(InvalidRequestError, match="norm: 'median' is not one of"):
        Unprojection(balls((0, 0, 1)), create_rasterizer("cpu"), 2, "median")


def test_principal_components_of_a_known_distribution():
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.normal(size=(6, 6)))[0]
    samples = random.normal(size=(4000, 6)) * [5, 3, 1, 0.1, 0.1, 0.1] @ axes.T + 7
    found = Projection.fit(torch.from_numpy(samples).float(), 3)
    assert torch.allclose(found.mean, torch.full((6,), 7.0), atol=0.4)
    assert np.abs(np.abs(found.basis.numpy().T @ axes[:, :3]) - np.eye(3)).max() < 0.05
    assert torch.allclose(found.basis.T @ found.basis, torch.eye(3), atol=1e-5)
    shown = found(torch.from_numpy(samples[:50]).float())
    assert shown.shape == (50, 3) and torch.allclose(shown.norm(dim=1), torch.ones(50), atol=1e-5)
    assert Projection.fit(torch.from_numpy(samples).float(), 64).basis.shape == (6, 6)  # there are no more
    with pytest.raises(InvalidInputError, match="too few"):
        Projection.fit(torch.ones(1, 6), 3)


def test_the_bench_lifts_onto_what_its_views_show():
    from gs_semantic.benchmarks.unproject import run_unproject_bench

    found = run_unproject_bench(2000, views=2, channels=20, width=40, height=30)
    assert found["seconds"] > 0 and found["views"] == 2 and found["channels"] == 20 and 5 < found["seen_pct"] < 100
