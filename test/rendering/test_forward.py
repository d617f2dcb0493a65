"""What the forward passes offer beside colour: median depth, radii, batches, many channels, counts; and tiles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_scenes import Parameters, make_map, one_gaussian, psnr, random_values, small_camera

from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.gaussians import Camera
from gs_semantic.rendering import create_rasterizer, render_batch
from gs_semantic.rendering.base import RasterSettings
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.reference import ReferenceRasterizer

ORACLE = ReferenceRasterizer(dtype=torch.float64)
NAN, INF = float("nan"), float("inf")


def test_median_depth_follows_the_oracle():
    gaussians, camera = opaque_room(3000, seed=2), room_camera(90, 70)
    image, expected = (r.render(gaussians, camera, median_depth=True) for r in (CpuRasterizer(), ORACLE))
    close = (image.median_depth - expected.median_depth).abs() < 1e-4
    assert float(close.float().mean()) > 0.998  # a transmittance of almost exactly 1/2 may go either way
    assert float((image.median_depth > 0).float().mean()) > 0.9
    assert not torch.allclose(image.median_depth, image.depth, atol=1e-3)
    assert image.rgb.equal(CpuRasterizer().render(gaussians, camera).rgb)
    assert CpuRasterizer().render(gaussians, camera).median_depth is None


def test_median_depth_is_the_splat_at_half_transmittance():
    rows = [one_gaussian(means=torch.tensor([[0.0, 0.0, z]]), opacity_logits=torch.tensor([-0.6])) for z in (1.0, 2, 3)]
    gaussians = make_map({name: torch.cat([row[name] for row in rows]) for name in rows[0]})
    camera = Camera(3, 3, 3.0, 3.0, 1.0, 1.0)  # alphas of 0.354 leave 0.646, then 0.417
    for rasterizer in (CpuRasterizer(), ORACLE):
        image = rasterizer.render(gaussians, camera, median_depth=True)
        assert float(image.median_depth[1, 1]) == pytest.approx(2.0)
    faint = make_map(
        {name: value[:1] for name, value in random_values(3).items()} | {"opacity_logits": torch.tensor([-2.0])}
    )
    assert not CpuRasterizer().render(faint, camera, median_depth=True).median_depth.any()


def test_median_depth_beside_gradients():
    gaussians, camera = Parameters(**random_values(300)), small_camera()
    gaussians.means.requires_grad_()
    rasterizer = CpuRasterizer()
    image = rasterizer.render(gaussians, camera, median_depth=True)
    assert image.rgb.requires_grad and not image.median_depth.requires_grad
    expected = rasterizer.open(gaussians, camera).render(median_depth=True).median_depth
    assert torch.equal(image.median_depth, expected)


BAD_ROWS = {
    "nan mean": {"means": torch.tensor([[NAN, 0.0, 2.0]])},
    "infinite mean": {"means": torch.tensor([[0.0, INF, 2.0]])},
    "nan quaternion": {"quats": torch.tensor([[NAN, 0.0, 0.0, 0.0]])},
    "zero quaternion": {"quats": torch.zeros(1, 4)},
    "nan scale": {"log_scales": torch.tensor([[-2.0, NAN, -2.0]])},
    "infinite scale": {"log_scales": torch.tensor([[INF, -2.0, -2.0]])},
    "nan opacity": {"opacity_logits": torch.tensor([NAN])},
}
FINE_ROWS = {
    "opacity 0": {"opacity_logits": torch.tensor([-INF])},
    "opacity 1": {"opacity_logits": torch.tensor([INF])},
    "a point": {"log_scales": torch.full((1, 3), -INF)},
    "behind the camera": {"means": torch.tensor([[0.0, 0.0, -2.0]])},
}


@pytest.mark.parametrize("name", ["cpu", "reference"])
@pytest.mark.parametrize(("kind", "changes"), [*BAD_ROWS.items(), *FINE_ROWS.items()], ids=[*BAD_ROWS, *FINE_ROWS])
def test_rows_that_can_never_be_drawn_are_counted(name, kind, changes):
    rasterizer, good = create_rasterizer(name), random_values(100)
    rows = {
        key: torch.cat([value, one_gaussian(**changes)[key].expand(3, *value.shape[1:])]) for key, value in good.items()
    }
    image = rasterizer.render(make_map(rows), small_camera())
    assert rasterizer.skipped == (3 if kind in BAD_ROWS else 0)
    assert image.rgb.isfinite().all()
    repaired = rasterizer.render(make_map(good), small_camera())
    assert rasterizer.skipped == 0
    if kind in BAD_ROWS:
        assert torch.equal(image.rgb, repaired.rgb)


def test_count_follows_incremental_changes():
    gaussians, rasterizer = make_map(random_values(300)), CpuRasterizer()
    rasterizer.render(gaussians, small_camera())
    rows = torch.tensor([5, 250])
    gaussians.means[rows] = NAN
    gaussians.touch(rows)
    rasterizer.render(gaussians, small_camera())
    assert rasterizer.skipped == 2
    gaussians.remove(torch.tensor([5]))
    rasterizer.render(gaussians, small_camera())
    assert rasterizer.skipped == 1


def test_radii_are_half_the_size_of_what_is_drawn():
    gaussians = make_map(
        one_gaussian(log_scales=torch.tensor([[-1.5, -3.0, -3.0]]), opacity_logits=torch.tensor([9.0]))
    )
    camera = Camera(201, 101, 100.0, 100.0, 100.0, 50.0)
    view = CpuRasterizer().open(gaussians, camera)
    drawn = view.render().alpha > 0
    assert view.radii().shape == (1, 2)
    half_width, half_height = view.radii()[0].tolist()
    assert half_width == pytest.approx(float(drawn.any(dim=0).sum()) / 2, abs=1.0)
    assert half_height == pytest.approx(float(drawn.any(dim=1).sum()) / 2, abs=1.0)
    assert half_width > 2 * half_height


def test_a_batch_is_its_single_renderings():
    gaussians, features = make_map(random_values(400)), torch.rand(400, 5)
    cameras = [small_camera(), small_camera(33, 20), Camera(40, 40, 30.0, 50.0, -3.0, 55.0)]
    background = torch.tensor([0.2, 0.1, 0.4])
    rasterizer = CpuRasterizer()
    images = render_batch(rasterizer, gaussians, cameras, features, background=background, median_depth=True)
    assert len(images) == 3
    for camera, image in zip(cameras, images, strict=True):
        single = rasterizer.render(gaussians, camera, features, background=background, median_depth=True)
        for name in ("rgb", "depth", "alpha", "features", "median_depth"):
            assert torch.equal(getattr(image, name), getattr(single, name))
    assert render_batch(rasterizer, gaussians, []) == []


@pytest.mark.parametrize("centre", [(0.0, 0.0), (-25.0, 80.0), (61.0, 23.5)])
def test_any_principal_point(centre):
    gaussians, camera = make_map(random_values(500)), Camera(61, 47, 55.0, 70.0, *centre)
    image, expected = (r.render(gaussians, camera) for r in (CpuRasterizer(), ORACLE))
    assert expected.alpha.max() > 0.5
    assert psnr(image.rgb, expected.rgb) >= 90


def test_sixty_four_channels():
    gaussians, features = make_map(random_values(500)), torch.randn(500, 64)
    image, expected = (r.render(gaussians, small_camera(), features).features for r in (CpuRasterizer(), ORACLE))
    assert psnr(image, expected) >= 90


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    spread=st.floats(0.0, 3.0),
    eps2d=st.sampled_from([0.3, 0.0]),
)
def test_tile_sizes_give_the_same_image(seed, size, spread, eps2d):
    """Each tile size finds the blocks that a Gaussian reaches in another way; needles and screen fillers take part."""
    values, generator = random_values(150, seed), torch.Generator().manual_seed(seed)
    values["log_scales"] += spread * torch.randn(150, 3, generator=generator)
    gaussians, camera = make_map(values), small_camera(*size)
    rasterizer = CpuRasterizer(RasterSettings(eps2d=eps2d))
    images = [rasterizer.open(gaussians, camera, tile_size=tile).render() for tile in (16, 32, 8, 24)]
    for image in images[1:]:
        assert float((image.rgb - images[0].rgb).abs().max()) < 2e-2  # an alpha of 1/255 more or less at an edge
        assert float((image.rgb - images[0].rgb).abs().mean()) < 2e-5


def test_passes_over_one_view_do_not_disturb_each_other():
    """An id image stops early and leaves most of the list unsorted; what follows must sort the rest."""
    gaussians, camera = opaque_room(6000), room_camera(128, 96)
    rasterizer = CpuRasterizer()
    expected = rasterizer.open(gaussians, camera).render(median_depth=True)
    ids = rasterizer.open(gaussians, camera).render_ids(gaussians["object"])
    view = rasterizer.open(gaussians, camera)
    first = view.render_ids(gaussians["object"])
    fewer = view.evaluations
    image = view.render(median_depth=True)
    assert view.evaluations > fewer > 0
    again = view.render_ids(gaussians["object"])
    for name in ("rgb", "depth", "alpha", "median_depth"):
        assert torch.equal(getattr(image, name), getattr(expected, name))
    for name in ("ids", "confidence", "depth"):
        assert torch.equal(getattr(first, name), getattr(ids, name))
        assert torch.equal(getattr(again, name), getattr(ids, name))


def test_evaluations_do_not_depend_on_threads():
    gaussians, camera = opaque_room(5000), room_camera(160, 120)
    counts = set()
    for threads in (1, 2, 5):
        view = CpuRasterizer(threads=threads).open(gaussians, camera)
        view.render()
        counts.add(view.evaluations)
    assert len(counts) == 1 and counts.pop() > 5000


def test_equal_depths_stay_in_row_order():
    """A wall that faces the camera: every Gaussian at the same depth, in one bucket of every tile's order."""
    values = random_values(3000)
    values["means"][:, 2] = 2.0
    gaussians = make_map(values)
    image, expected = (r.render(gaussians, small_camera()) for r in (CpuRasterizer(threads=3), ORACLE))
    assert psnr(image.rgb, expected.rgb) >= 90
