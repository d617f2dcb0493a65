"""Bad Gaussians, odd tensors, forced instruction sets and thread counts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_scenes import make_map, one_gaussian, random_values, small_camera, sparse_adam

from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians import Camera, GaussianMap
from gs_semantic.rendering import create_rasterizer, native
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.reference import ReferenceRasterizer

CAMERA = small_camera()
NAN, INF = float("nan"), float("inf")


def draw_all(rasterizer, gaussians, camera=CAMERA):
    """Every pass once; returns all results as a flat list of tensors."""
    n = len(gaussians)
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(n, 6, generator=generator)
    ids = torch.randint(0, 5, (n,), generator=generator).int()
    labels = torch.randint(0, 5, (camera.height, camera.width), generator=generator).int()
    image = torch.rand(camera.height, camera.width, 3, generator=generator)
    view = rasterizer.open(gaussians, camera)
    rendering = view.render(features)
    image_grads = (image, image[..., 0], image[..., 1], rendering.features * 0 + 1)
    grads = view.backward(rendering, *image_grads, features=features, pose=True)
    results = [rendering, view.render_ids(ids), view.accumulate(image), view.accumulate_labels(labels), grads]
    values = [value for result in results for value in vars(result).values()]
    return [value for value in values if value is not None] + [view.visible]


BAD_ROWS = {
    "nan mean": {"means": torch.tensor([[NAN, 0.0, 2.0]])},
    "infinite mean": {"means": torch.tensor([[0.0, INF, 2.0]])},
    "nan depth": {"means": torch.tensor([[0.0, 0.0, NAN]])},
    "nan quaternion": {"quats": torch.tensor([[NAN, 0.0, 0.0, 0.0]])},
    "zero quaternion": {"quats": torch.zeros(1, 4)},
    "nan scale": {"log_scales": torch.tensor([[NAN, -2.0, -2.0]])},
    "infinite scale": {"log_scales": torch.tensor([[INF, -2.0, -2.0]])},
    "nan opacity": {"opacity_logits": torch.tensor([NAN])},
    "opacity 0": {"opacity_logits": torch.tensor([-INF])},
    "behind the camera": {"means": torch.tensor([[0.0, 0.0, -2.0]])},
    "on the near plane": {"means": torch.tensor([[0.0, 0.0, 0.01]])},
    "at the camera": {"means": torch.zeros(1, 3)},
}


@pytest.mark.parametrize("bad", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_rows_that_cannot_be_drawn_change_nothing(bad):
    good, row = random_values(200), one_gaussian(**bad)
    both = {name: torch.cat([row[name], value, row[name]]) for name, value in good.items()}
    expected = CpuRasterizer().render(make_map(good), CAMERA)
    image = CpuRasterizer().render(make_map(both), CAMERA)
    assert torch.equal(image.rgb, expected.rgb) and torch.equal(image.depth, expected.depth)
    assert all(value.isfinite().all() for value in draw_all(CpuRasterizer(), make_map(both)) if value is not None)


@pytest.mark.parametrize(
    "odd",
    [
        {"log_scales": torch.full((1, 3), -INF)},  # a point
        {"log_scales": torch.full((1, 3), 4.0)},  # covers the whole screen
        {"log_scales": torch.full((1, 3), 30.0)},
        {"log_scales": torch.tensor([[-30.0, 5.0, -30.0]])},  # a needle
        {"opacity_logits": torch.tensor([INF])},
        {"opacity_logits": torch.tensor([300.0])},
        {"means": torch.tensor([[0.0, 0.0, 0.0101]])},
        {"means": torch.tensor([[0.0, 0.0, 1e9]])},
        {"sh": torch.full((1, 1, 3), NAN)},
        {"sh": torch.full((1, 1, 3), -100.0)},
    ],
    ids=str,
)
def test_extreme_gaussians_give_finite_images(odd):
    for result in draw_all(CpuRasterizer(), make_map(one_gaussian(**odd))):
        assert result is None or result.isfinite().all()


def test_a_point_and_a_screen_filling_gaussian_agree_with_the_oracle():
    for odd in ({"log_scales": torch.full((1, 3), -30.0)}, {"log_scales": torch.full((1, 3), 3.0)}):
        gaussians = make_map(one_gaussian(**odd))
        image = CpuRasterizer().render(gaussians, CAMERA)
        expected = ReferenceRasterizer(dtype=torch.float64).render(gaussians, CAMERA)
        assert expected.alpha.max() > 0.5
        assert torch.allclose(image.rgb.double(), expected.rgb, atol=1e-4)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_empty_map(name):
    rasterizer, gaussians = create_rasterizer(name), GaussianMap()
    background = torch.tensor([0.1, 0.2, 0.3])
    image = rasterizer.render(gaussians, CAMERA, torch.zeros(0, 4), background=background)
    assert (image.rgb == background).all() and not image.alpha.any() and not image.depth.any()
    assert image.features.shape == (CAMERA.height, CAMERA.width, 4) and not image.features.any()
    ids = rasterizer.render_ids(gaussians, CAMERA, torch.zeros(0, dtype=torch.int32))
    assert not ids.ids.any() and not ids.confidence.any()
    assert rasterizer.accumulate(gaussians, CAMERA, torch.zeros(*image.rgb.shape)).weight_sum.shape == (0,)


def test_crowded_tile():
    """More splats in one tile than a 16-bit index can name, drawn in the right order."""
    count = 70_000
    values = {name: value.expand(count, *value.shape[1:]).clone() for name, value in one_gaussian().items()}
    depth = torch.linspace(1.0, 5.0, count)[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    values["means"][:, 2] = depth
    values["opacity_logits"][:] = -3.0
    features = depth[:, None].clone()
    image = CpuRasterizer().render(make_map(values), Camera(4, 4, 4.0, 4.0, 1.5, 1.5), features)
    nearest = depth.sort().values
    alpha = torch.sigmoid(torch.tensor(-3.0))
    weights = alpha * (1 - alpha) ** torch.arange(300)
    assert float(image.features[1, 1, 0]) == pytest.approx(float((weights * nearest[:300]).sum()), rel=0.02)


def test_one_far_gaussian_does_not_spoil_the_order():
    values = random_values(400)
    values["means"][0] = torch.tensor([0.0, 0.0, 9e9])
    values["log_scales"][0] = 21.0
    gaussians = make_map(values)
    image = CpuRasterizer().render(gaussians, CAMERA)
    expected = ReferenceRasterizer(dtype=torch.float64).render(gaussians, CAMERA)
    assert float((image.rgb - expected.rgb).abs().max()) < 1e-3


def test_non_contiguous_tensors():
    values = random_values(300)
    gaussians = make_map(values)
    features = torch.rand(8, 300).T
    image = torch.rand(3, CAMERA.height, CAMERA.width).permute(1, 2, 0)
    rasterizer = CpuRasterizer()
    first, second = (rasterizer.render(gaussians, CAMERA, f).features for f in (features, features.contiguous()))
    assert torch.equal(first, second)
    sums = [rasterizer.accumulate(gaussians, CAMERA, i).weighted_sum for i in (image, image.contiguous())]
    assert torch.equal(*sums)


@pytest.mark.parametrize(
    ("method", "argument", "message"),
    [
        (
            "render",
            torch.zeros(300, 4, dtype=torch.float64),
            "features: dtype is torch.float64, expected torch.float32",
        ),
        ("render", torch.zeros(299, 4), r"features: shape is \(299, 4\)"),
        ("render", torch.zeros(300, 4, device="meta"), "features: is on device 'meta'"),
        ("render_ids", torch.zeros(300), "ids: dtype is torch.float32, expected torch.int32"),
        ("accumulate", torch.zeros(5, 5, 3), "image: shape"),
        ("accumulate_labels", torch.zeros(47, 61, dtype=torch.int64), "labels: dtype is torch.int64"),
        ("render_ids", [1, 2], "ids: expected a torch tensor, got list"),
    ],
)
def test_wrong_tensors_are_named(method, argument, message):
    with pytest.raises(InvalidRequestError, match=message):
        getattr(CpuRasterizer(), method)(make_map(random_values(300)), CAMERA, argument)


def test_too_many_tiles_is_an_error_not_a_crash():
    count = 30_000
    values = {name: value.expand(count, *value.shape[1:]).clone() for name, value in one_gaussian().items()}
    values["log_scales"][:] = 8.0
    with pytest.raises(InvalidRequestError, match="scales in metres"):
        CpuRasterizer().open(make_map(values), Camera(4000, 4000, 2000.0, 2000.0, 1999.5, 1999.5))


def test_changes_of_the_map_are_seen():
    rasterizer, gaussians = CpuRasterizer(), make_map(random_values(300))
    before = rasterizer.render(gaussians, CAMERA).rgb
    gaussians.means[:, 0] += 0.3  # torch's own version counter
    moved = rasterizer.render(gaussians, CAMERA).rgb
    assert not torch.equal(before, moved)
    gaussians.keep(torch.arange(300) % 2 == 0)
    assert len(rasterizer.open(gaussians, CAMERA).visible) <= 150
    other = make_map(random_values(300, seed=9))
    assert not torch.equal(rasterizer.render(other, CAMERA).rgb, moved)
    rows = torch.arange(300)
    other_before = rasterizer.render(other, CAMERA).rgb
    sparse_adam(
        other.means, torch.ones(300, 3), *(torch.zeros(300, 3) for _ in "mv"), torch.zeros(300), rows, 0.1
    )
    assert not torch.equal(rasterizer.render(other, CAMERA).rgb, other_before)


def test_thread_counts_give_the_same_bits():
    gaussians = make_map(random_values(3000, sh_count=4))
    expected = draw_all(CpuRasterizer(threads=1), gaussians)
    for threads in (2, 3, 7):
        for value, want in zip(draw_all(CpuRasterizer(threads=threads), gaussians), expected, strict=True):
            assert value is want is None or torch.equal(value, want)


def test_several_python_threads_share_one_rasterizer():
    maps = [make_map(random_values(500, seed=k)) for k in range(3)]
    expected = [CpuRasterizer().render(gaussians, CAMERA).rgb for gaussians in maps]
    rasterizer, wrong = CpuRasterizer(threads=2), []

    def work(k: int) -> None:
        for _ in range(20):
            if not torch.equal(rasterizer.render(maps[k], CAMERA).rgb, expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FORCED = """
import sys, torch
sys.path[:0] = [{tests!r}]
from raster_scenes import make_map, random_values
from test_robustness import draw_all
from gs_semantic.rendering import native
from gs_semantic.rendering.cpu import CpuRasterizer
torch.save([native.isa(), draw_all(CpuRasterizer(), make_map(random_values(2000, sh_count=16)))], sys.argv[1])
"""


def run_forced(isa: str, code: str, *arguments: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join(sys.path)
    environment = os.environ | {"GS_SEMANTIC_ISA": isa, "PYTHONPATH": paths}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_instruction_sets_agree(isa, tmp_path):
    code = FORCED.format(tests=os.path.dirname(__file__))
    run = run_forced(isa, code, str(tmp_path / "result.pt"))
    if "this machine and build must have it" in run.stderr:
        pytest.skip(f"this machine has no {isa}")
    assert run.returncode == 0, run.stderr
    name, result = torch.load(tmp_path / "result.pt")
    assert name == isa
    expected = draw_all(CpuRasterizer(), make_map(random_values(2000, sh_count=16)))
    for value, want in zip(result, expected, strict=True):
        if value.dtype.is_floating_point:
            assert torch.allclose(value, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
        else:
            assert float((value == want).float().mean()) > 0.995


def test_unknown_instruction_set_is_an_error():
    run = run_forced("neon9", "from gs_semantic.rendering import create_rasterizer; create_rasterizer('cpu')")
    assert run.returncode != 0
    assert "GS_SEMANTIC_ISA must be scalar, avx2, avx512 or neon" in run.stderr


def test_missing_library_names_the_build_command(monkeypatch, tmp_path):
    monkeypatch.setenv("GS_SEMANTIC_NATIVE_LIB", str(tmp_path / "nothing.so"))
    native.library.cache_clear()
    try:
        with pytest.raises(native.NativeLibraryError, match="cmake --build build/native"):
            create_rasterizer("cpu")
        with pytest.warns(RuntimeWarning, match="slow reference"):
            assert create_rasterizer().name == "reference"
        (tmp_path / "nothing.so").write_text("not a library")
        with pytest.raises(native.NativeLibraryError, match="build it again"):
            create_rasterizer("cpu")
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
    assert create_rasterizer().name == "cpu"


def test_unknown_back_end():
    with pytest.raises(InvalidRequestError, match="expected auto, cpu, cuda or reference"):
        create_rasterizer("gpu")


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 200),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    spread=st.floats(0.0, 3.0),
)
def test_invariants(seed, count, width, height, spread):
    values = random_values(count, seed)
    values["log_scales"] += spread * torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))
    gaussians, camera = make_map(values), small_camera(width, height)
    rasterizer = CpuRasterizer()
    image = rasterizer.render(gaussians, camera, torch.ones(count, 1))
    assert float(image.alpha.min()) >= 0 and float(image.alpha.max()) <= 1
    assert torch.allclose(image.features[..., 0], image.alpha, atol=1e-4)  # weights sum to alpha
    sums = rasterizer.accumulate(gaussians, camera, torch.ones(height, width, 1))
    assert torch.allclose(sums.weight_sum.sum(), image.alpha.sum(), rtol=1e-3, atol=1e-3)
    assert (sums.pixel_count.bool() == (sums.weight_sum > 0)).all()
    depth = image.depth[image.alpha > 0]
    drawn = values["means"][sums.weight_sum > 0, 2]
    if len(depth):
        assert float(depth.min()) >= float(drawn.min()) * 0.999 and float(depth.max()) <= float(drawn.max()) * 1.001
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    shuffled = make_map({name: value[order] for name, value in values.items()})
    assert torch.allclose(rasterizer.render(shuffled, camera).rgb, image.rgb, atol=1e-5)
    ids = rasterizer.render_ids(gaussians, camera, torch.full((count,), 3, dtype=torch.int32))
    assert ((ids.ids == 3) == (ids.confidence > 0)).all()


@settings(max_examples=40)
@given(values=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=14 * 5, max_size=14 * 5))
def test_any_numbers_at_all(values):
    table = torch.tensor(values).reshape(5, 14)
    parts = table.split([3, 4, 3, 1, 3], dim=1)
    names = ("means", "quats", "log_scales", "opacity_logits", "sh")
    rows = dict(zip(names, parts, strict=True))
    rows["opacity_logits"], rows["sh"] = rows["opacity_logits"][:, 0], rows["sh"].clamp(-1, 1)[:, None]
    rows["means"][:, 2] = rows["means"][:, 2].abs().clamp_max(50)
    image = CpuRasterizer().render(make_map(rows), CAMERA)
    assert image.rgb.isfinite().all() and image.depth.isfinite().all() and image.alpha.isfinite().all()


@pytest.mark.parametrize("value", [INF, -INF, 3e38, NAN])
def test_colours_that_are_not_finite_do_not_spread(value):
    """A lane that a Gaussian does not draw must not meet its colour: 0 times infinity is not a number."""
    good = random_values(200)
    row = one_gaussian(sh=torch.full((1, 1, 3), value))
    image = CpuRasterizer().render(make_map({name: torch.cat([good[name], row[name]]) for name in good}), CAMERA)
    assert image.rgb.isfinite().all()
