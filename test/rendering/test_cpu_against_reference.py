"""The native back end draws what the oracle draws."""

from __future__ import annotations

import pytest
import torch
from raster_scenes import make_map, psnr, random_values, small_camera

from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.rendering.base import RasterSettings
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.reference import ReferenceRasterizer

ORACLE = ReferenceRasterizer(dtype=torch.float64)


@pytest.fixture(scope="module")
def room():
    return opaque_room(4000, seed=1), room_camera(99, 73)


@pytest.fixture(scope="module")
def transposed(room):
    """An image of 33 channels and what the oracle makes of it."""
    gaussians, camera = room
    image = torch.rand(camera.height, camera.width, 33)
    return image, ORACLE.accumulate(gaussians, camera, image)


@pytest.mark.parametrize("channels", [None, 1, 4, 5, 16, 20, 37])
def test_random_scene(channels):
    gaussians, camera = make_map(random_values(1500)), small_camera()
    features = None if channels is None else torch.rand(1500, channels)
    image, expected = (r.render(gaussians, camera, features) for r in (CpuRasterizer(), ORACLE))
    assert psnr(image.rgb, expected.rgb) >= 90
    assert psnr(image.alpha, expected.alpha) >= 90
    assert torch.allclose(image.depth.double(), expected.depth, atol=1e-4)
    if features is None:
        assert image.features is None
    else:
        assert image.features.shape == (camera.height, camera.width, channels)
        assert psnr(image.features, expected.features) >= 90


def test_room(room):
    gaussians, camera = room
    features = torch.rand(len(gaussians), 16)
    image, expected = (r.render(gaussians, camera, features) for r in (CpuRasterizer(), ORACLE))
    assert float(expected.alpha.mean()) > 0.9  # the room is opaque, so this tests the stop rule
    assert psnr(image.rgb, expected.rgb) >= 90
    assert psnr(image.features, expected.features) >= 90
    assert float((image.depth - expected.depth).abs().max()) < 1e-3


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_view_dependent_colour(degree):
    gaussians = make_map(random_values(800, sh_count=(degree + 1) ** 2))
    image, expected = (r.render(gaussians, small_camera()) for r in (CpuRasterizer(), ORACLE))
    assert psnr(image.rgb, expected.rgb) >= 90
    flat = make_map(random_values(800))
    flat.sh.copy_(gaussians.sh[:, :1])
    assert psnr(CpuRasterizer().render(flat, small_camera()).rgb, expected.rgb) < 40


def test_background():
    gaussians, camera = make_map(random_values(60)), small_camera()
    background = torch.tensor([0.1, 0.5, 0.9])
    image, expected = (r.render(gaussians, camera, background=background) for r in (CpuRasterizer(), ORACLE))
    assert psnr(image.rgb, expected.rgb) >= 90
    empty = image.alpha == 0
    assert empty.any()
    assert (image.rgb[empty] == background).all()


@pytest.mark.parametrize(
    "settings",
    [
        RasterSettings(extent_sigma=1.5),
        RasterSettings(alpha_max=0.6, alpha_min=0.05, transmittance_min=0.1),
        RasterSettings(eps2d=2.0, near=2.4, far=2.9),
    ],
)
def test_settings(settings):
    gaussians, camera = make_map(random_values(700)), small_camera()
    image = CpuRasterizer(settings).render(gaussians, camera)
    expected = ReferenceRasterizer(settings, torch.float64).render(gaussians, camera)
    assert psnr(image.rgb, expected.rgb) >= 90
    assert psnr(image.rgb, CpuRasterizer().render(gaussians, camera).rgb) < 60


def test_ids(room):
    gaussians, camera = room
    image, expected = (r.render_ids(gaussians, camera, gaussians["object"]) for r in (CpuRasterizer(), ORACLE))
    assert len(torch.unique(expected.ids)) > 10
    assert float((image.ids == expected.ids).float().mean()) >= 0.99
    shortfall = expected.confidence - image.confidence
    agree = image.ids == expected.ids
    assert float(shortfall[agree].min()) > -1e-4
    assert float(shortfall[agree].max()) <= RasterSettings().vote_rest + 1e-4
    assert float((image.depth - expected.depth).abs().mean()) < 0.01


def test_ids_without_early_stop_are_exact(room):
    gaussians, camera = room
    ids = torch.randint(-(2**31), 2**31 - 1, (len(gaussians),), generator=torch.Generator().manual_seed(3)).int()
    image = CpuRasterizer(RasterSettings(vote_rest=0)).render_ids(gaussians, camera, ids)
    expected = ORACLE.render_ids(gaussians, camera, ids)
    assert float((image.ids == expected.ids).float().mean()) >= 0.999
    assert float((image.confidence - expected.confidence).abs().mean()) < 1e-5


def test_no_object_takes_part_in_the_vote():
    values = random_values(300)
    ids = torch.zeros(300, dtype=torch.int32)
    ids[::10] = 7
    image = CpuRasterizer().render_ids(make_map(values), small_camera(), ids)
    covered = image.confidence > 0.5
    assert float((image.ids[covered] == 0).float().mean()) > 0.5
    assert (image.ids == 7).any()


@pytest.mark.parametrize("channels", [1, 3, 14, 15, 33])
def test_accumulate(room, transposed, channels):
    image, expected = transposed
    result = CpuRasterizer().accumulate(*room, image[..., :channels])
    assert torch.allclose(result.weighted_sum.double(), expected.weighted_sum[:, :channels], rtol=1e-4, atol=1e-3)
    assert torch.allclose(result.weight_sum.double(), expected.weight_sum, rtol=1e-4, atol=1e-3)
    assert float((result.pixel_count == expected.pixel_count).float().mean()) > 0.99


def test_accumulate_labels(room):
    gaussians, camera = room
    labels = ORACLE.render_ids(gaussians, camera, gaussians["object"]).ids
    result, expected = (r.accumulate_labels(gaussians, camera, labels) for r in (CpuRasterizer(), ORACLE))
    assert float((result.labels == expected.labels).float().mean()) >= 0.99
    assert torch.allclose(result.weight_sum.double(), expected.weight_sum, rtol=1e-4, atol=1e-3)
    # Two slots may miss part of a weight where three labels meet, never add to it.
    agree = result.labels == expected.labels
    missing = (expected.label_weight - result.label_weight)[agree]
    assert float(missing.min()) > -1e-3
    assert float(missing.sum() / expected.label_weight[agree].sum()) < 0.01
    seen = expected.weight_sum > 1
    right = result.labels[seen] == gaussians["object"][seen]
    assert float(right.float().mean()) > 0.9


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (637, 479), (16, 16), (17, 15)])
def test_image_sizes(size):
    gaussians, camera = make_map(random_values(150)), small_camera(*size)
    image, expected = (r.render(gaussians, camera) for r in (CpuRasterizer(), ORACLE))
    assert image.rgb.shape == (size[1], size[0], 3)
    assert psnr(image.rgb, expected.rgb) >= 90


def test_reference_in_float32_follows_float64(room):
    gaussians, camera = room
    low, high = ReferenceRasterizer().render(gaussians, camera), ORACLE.render(gaussians, camera)
    assert low.rgb.dtype == torch.float32 and high.rgb.dtype == torch.float64
    assert psnr(low.rgb, high.rgb) >= 80
