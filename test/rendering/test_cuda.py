"""The CUDA back end against the oracle, where there is a GPU; and what can be checked without one."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
import torch
from raster_scenes import NAMES, Parameters, make_map, psnr, random_values, relative_error, small_camera

from gs_semantic.errors import InvalidRequestError, MissingExtraError
from gs_semantic.rendering import RasterSettings, create_rasterizer
from gs_semantic.rendering.reference import ReferenceRasterizer

GPU = torch.cuda.is_available()
HAS_GSPLAT, HAS_TRITON = (importlib.util.find_spec(name) is not None for name in ("gsplat", "triton"))
if HAS_TRITON and not GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's own interpreter, on CPU tensors
needs_gpu = pytest.mark.skipif(not (GPU and HAS_GSPLAT), reason="no CUDA device, or gsplat is not installed")

CAMERA = small_camera()
COUNT = 1000


def test_missing_gsplat_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(MissingExtraError, match=r"'gsplat': pip install 'gs_semantic\[cuda\]'"):
        create_rasterizer("cuda")


def test_without_a_device_it_says_what_to_use(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidRequestError, match="no CUDA device here; use 'cpu' or 'auto'"):
        create_rasterizer("cuda")
    with pytest.raises(InvalidRequestError, match="alpha_max: gsplat is compiled with 0.999"):
        create_rasterizer("cuda", RasterSettings(alpha_max=0.99))


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@pytest.mark.parametrize("seed", [1, 2])
def test_vote_kernel(seed):
    from gs_semantic.rendering import votes

    camera = small_camera(37, 21)
    gaussians, reference = make_map(random_values(150, seed)), ReferenceRasterizer()
    ids = torch.randint(0, 5, (150,), generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    expected = reference.render_ids(gaussians, camera, ids)
    splats = reference._project(gaussians, camera)
    offsets, lists = [], []
    for top in range(0, camera.height, votes.TILE):
        offsets.append([])
        for left in range(0, camera.width, votes.TILE):
            low, high = torch.tensor([left, top]), torch.tensor([left + votes.TILE, top + votes.TILE])
            reached = (splats.centre + splats.half_size >= low) & (splats.centre - splats.half_size <= high)
            offsets[-1].append(sum(map(len, lists)))
            lists.append(torch.nonzero(reached.all(dim=1))[:, 0])
    conics = torch.stack([splats.conic[:, 0, 0], splats.conic[:, 0, 1], splats.conic[:, 1, 1]], dim=1)
    device = "cuda" if GPU else "cpu"
    tensors = (splats.centre, conics, splats.depth, splats.opacity, ids[splats.rows], torch.tensor(offsets))
    tensors = (*tensors, torch.cat(lists).to(torch.int32))
    settings = RasterSettings()
    result = votes.vote(*(t.to(device) for t in tensors), camera.width, camera.height, settings)
    winner, confidence, depth = (image.cpu() for image in result)
    assert float((winner == expected.ids).float().mean()) >= 0.99
    same = winner == expected.ids
    assert float((expected.confidence - confidence)[same].max()) <= settings.vote_rest + 1e-4
    assert float((confidence - expected.confidence)[same].max()) <= 1e-4
    assert float((depth - expected.depth)[same].abs().median()) < 1e-3


@needs_gpu
@pytest.mark.parametrize("sh_count", [1, 16])
@pytest.mark.parametrize("channels", [0, 5, 70])
def test_images(sh_count, channels):
    gaussians = make_map(random_values(COUNT, 2, sh_count))
    features = torch.randn(COUNT, channels, generator=torch.Generator().manual_seed(1)) if channels else None
    background = torch.tensor([0.1, 0.5, 0.9])
    result = create_rasterizer("cuda").render(gaussians, CAMERA, features, background=background)
    expected = ReferenceRasterizer(dtype=torch.float64).render(gaussians, CAMERA, features, background=background)
    for name in ("rgb", "alpha", "features"):
        if getattr(expected, name) is not None:
            assert psnr(getattr(result, name), getattr(expected, name)) > 90, name
    assert float((result.depth - expected.depth).abs().quantile(0.999)) < 1e-3


@needs_gpu
def test_ids_and_transpose():
    gaussians, cuda, reference = make_map(random_values(COUNT, 2)), create_rasterizer("cuda"), ReferenceRasterizer()
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 6, (COUNT,), generator=generator).to(torch.int32)
    result, expected = (r.render_ids(gaussians, CAMERA, ids) for r in (cuda, reference))
    assert float((result.ids == expected.ids).float().mean()) >= 0.99
    image = torch.randn(CAMERA.height, CAMERA.width, 40, generator=generator)
    sums, wanted = (r.accumulate(gaussians, CAMERA, image) for r in (cuda, reference))
    assert relative_error(sums.weighted_sum, wanted.weighted_sum) < 1e-4
    assert relative_error(sums.weight_sum, wanted.weight_sum) < 1e-4
    assert float((sums.pixel_count == wanted.pixel_count).float().mean()) > 0.99
    labels = torch.randint(0, 50, (CAMERA.height, CAMERA.width), generator=generator).to(torch.int32)
    votes, voted = (r.accumulate_labels(gaussians, CAMERA, labels) for r in (cuda, reference))
    assert float((votes.labels == voted.labels).float().mean()) > 0.98
    assert relative_error(votes.weight_sum, voted.weight_sum) < 1e-4


@needs_gpu
def test_a_map_that_changed_is_drawn_anew():
    gaussians, rasterizer = make_map(random_values(COUNT, 2)), create_rasterizer("cuda")
    ids = torch.ones(COUNT, dtype=torch.int32)
    before = rasterizer.render(gaussians, CAMERA).rgb
    assert torch.equal(rasterizer.render(gaussians, CAMERA).rgb, before)
    gaussians.means.add_(0.2)
    gaussians.touch()
    after, fresh = rasterizer.render(gaussians, CAMERA).rgb, create_rasterizer("cuda").render(gaussians, CAMERA).rgb
    assert torch.equal(after, fresh) and not torch.equal(after, before)
    there = CAMERA.at(CAMERA.T_world_camera + [[0, 0, 0, 0.1], [0] * 4, [0] * 4, [0] * 4])
    moved, known = (r.render_ids(gaussians, there, ids) for r in (rasterizer, create_rasterizer("cuda")))
    assert torch.equal(moved.confidence, known.confidence)


@needs_gpu
@pytest.mark.parametrize("to_geometry", [True, False])
def test_gradients(to_geometry):
    results = []
    for rasterizer, dtype in ((create_rasterizer("cuda"), torch.float32), (ReferenceRasterizer(), torch.float64)):
        generator = torch.Generator().manual_seed(5)
        inputs = {name: value.to(dtype).clone().requires_grad_() for name, value in random_values(COUNT, 2, 4).items()}
        inputs["features"] = torch.randn(COUNT, 20, generator=generator).to(dtype).requires_grad_()
        inputs["pose"] = torch.from_numpy(CAMERA.T_camera_world).to(dtype).requires_grad_()
        rendering = rasterizer.render(
            *(Parameters(*(inputs[name] for name in NAMES)), CAMERA, inputs["features"]),
            feature_grad_to_geometry=to_geometry,
            T_camera_world=inputs["pose"],
        )
        loss = torch.zeros((), dtype=dtype)
        for name in ("rgb", "depth", "alpha", "features"):
            image = getattr(rendering, name)
            loss = loss + (torch.randn(image.shape, generator=generator).to(dtype) * image).sum()
        loss.backward()
        results.append({name: value.grad for name, value in inputs.items()})
    for name, expected in results[1].items():
        if name != "pose":  # gsplat's is not limited to rigid motions
            assert relative_error(results[0][name], expected) < 1e-3, name


@needs_gpu
def test_rows_that_are_not_finite_are_left_out():
    values = random_values(COUNT, 2)
    clean = create_rasterizer("cuda").render(make_map({k: v[5:] for k, v in values.items()}), CAMERA)
    for row, name in enumerate(("means", "quats", "log_scales", "opacity_logits")):
        values[name][row] = float("nan")
    values["quats"][4] = 0
    rasterizer = create_rasterizer("cuda")
    dirty = rasterizer.render(make_map(values), CAMERA)
    assert rasterizer.skipped == 5
    assert torch.allclose(clean.rgb, dirty.rgb, atol=1e-5)
