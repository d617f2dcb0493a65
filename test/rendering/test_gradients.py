"""Gradients of the native back end against float64 autograd through the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from raster_scenes import NAMES, Parameters, make_map, random_values, relative_error, small_camera, sparse_adam

from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.rendering.reference import ReferenceRasterizer

CAMERA = small_camera()
COUNT = 1000


def gradients(rasterizer, dtype, *, sh_count=1, channels=16, to_geometry=True, with_background=False, images=None):
    """Gradients of a random weighting of the images with respect to every input."""
    generator = torch.Generator().manual_seed(5)
    inputs = {name: value.to(dtype).clone() for name, value in random_values(COUNT, 2, sh_count).items()}
    inputs["features"] = torch.randn(COUNT, channels, generator=generator).to(dtype)
    inputs["background"] = torch.tensor([0.2, 0.5, 0.9], dtype=dtype)
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    rendering = rasterizer.render(
        Parameters(*(inputs[name] for name in NAMES)),
        CAMERA,
        inputs["features"],
        background=inputs["background"] if with_background else None,
        feature_grad_to_geometry=to_geometry,
    )
    loss = torch.zeros((), dtype=dtype)
    for name in ("rgb", "depth", "alpha", "features"):
        image = getattr(rendering, name)
        weight = torch.randn(image.shape, generator=generator).to(dtype)
        if images is None or name in images:
            loss = loss + (weight * image).sum()
    loss.backward()
    return {name: value.grad for name, value in inputs.items() if value.grad is not None}


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 16},
        {"channels": 16, "to_geometry": False, "with_background": True},
        {"channels": 5, "sh_count": 16, "with_background": True},
        {"channels": 37, "sh_count": 4},
        {"channels": 2, "sh_count": 9, "to_geometry": False},
    ],
    ids=str,
)
def test_all_gradients(options):
    result = gradients(CpuRasterizer(), torch.float32, **options)
    expected = gradients(ReferenceRasterizer(), torch.float64, **options)
    assert set(result) == set(expected)
    for name, gradient in expected.items():
        assert relative_error(result[name], gradient) < 1e-4, name


@pytest.mark.parametrize("image", ["rgb", "depth", "alpha", "features"])
def test_gradient_of_one_image(image):
    result = gradients(CpuRasterizer(), torch.float32, images=[image])
    expected = gradients(ReferenceRasterizer(), torch.float64, images=[image])
    for name, gradient in expected.items():
        if gradient.norm() == 0:
            assert result[name].norm() == 0, name
        else:
            assert relative_error(result[name], gradient) < 2e-4, name


def test_features_can_be_kept_from_moving_geometry():
    result = gradients(CpuRasterizer(), torch.float32, images=["features"], to_geometry=False)
    assert result["features"].norm() > 0
    assert all(result[name].norm() == 0 for name in NAMES)


def test_view_gradients_are_the_rows_of_the_dense_ones():
    values = random_values(COUNT)
    values["means"][::7, 2] = -1.0  # behind the camera
    gaussians = make_map(values)
    rasterizer = CpuRasterizer()
    view = rasterizer.open(gaussians, CAMERA)
    rendering = view.render()
    grads = view.backward(rendering, torch.ones_like(rendering.rgb), torch.ones_like(rendering.depth))
    assert 0 < len(view.visible) <= COUNT - len(values["means"][::7])
    assert (view.visible[1:] > view.visible[:-1]).all()
    parameters = Parameters(*(values[name].clone().requires_grad_() for name in NAMES))
    image = rasterizer.render(parameters, CAMERA)
    (image.rgb.sum() + image.depth.sum()).backward()
    for name in NAMES:
        dense = getattr(parameters, name).grad
        assert torch.allclose(dense[view.visible], getattr(grads, name), rtol=1e-5, atol=1e-6), name
        dense[view.visible] = 0
        assert dense.norm() == 0
    assert grads.features is None
    assert grads.radii.shape == grads.means2d_norm.shape == (len(view.visible),)
    assert (grads.radii > 0).all()


def test_image_plane_gradient_and_radius():
    """One isotropic Gaussian in the middle: its radius is known, and by symmetry its centre has no gradient."""
    gaussians = make_map(
        {
            "means": torch.tensor([[0.0, 0.0, 2.0]]),
            "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
            "log_scales": torch.full((1, 3), -3.0),
            "opacity_logits": torch.tensor([4.0]),
            "sh": torch.full((1, 1, 3), 0.5),
        }
    )
    camera = small_camera(41, 41)
    camera = type(camera)(41, 41, 60.0, 60.0, 20.0, 20.0)
    view = CpuRasterizer().open(gaussians, camera)
    rendering = view.render()
    grads = view.backward(rendering, torch.ones_like(rendering.rgb))
    sigma = (60.0 / 2 * torch.exp(torch.tensor(-3.0))) ** 2 + 0.3
    reach = torch.sqrt(2 * torch.log(torch.sigmoid(torch.tensor(4.0)) * 255))
    assert float(grads.radii[0]) == pytest.approx(float(reach * sigma.sqrt()), rel=1e-4)
    assert float(grads.means2d_norm[0]) < 1e-3
    tilted = view.backward(rendering, torch.arange(41.0)[None, :, None].expand(41, 41, 3))
    assert float(tilted.means2d_norm[0]) > 1


def test_transpose_identity():
    """<accumulate(F), f> = <render(f), F>."""
    gaussians = make_map(random_values(COUNT))
    features, image = torch.randn(COUNT, 20), torch.randn(CAMERA.height, CAMERA.width, 20)
    rasterizer = CpuRasterizer()
    forward = (rasterizer.render(gaussians, CAMERA, features).features * image).double().sum()
    transposed = (rasterizer.accumulate(gaussians, CAMERA, image).weighted_sum * features).double().sum()
    assert float(transposed) == pytest.approx(float(forward), rel=1e-4)


def test_backward_asks_for_matching_arguments():
    view = CpuRasterizer().open(make_map(random_values(20)), CAMERA)
    rendering = view.render()
    with pytest.raises(InvalidRequestError, match="grad_rgb: shape"):
        view.backward(rendering, torch.zeros(3, 3, 3))
    with pytest.raises(InvalidRequestError, match="together"):
        view.backward(rendering, features=torch.zeros(20, 4))


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("rows", [torch.arange(50), torch.randperm(50)], ids=["in order", "shuffled"])
def test_sparse_adam_follows_torch(rows, width):
    param = torch.randn(50, width)
    expected = param.clone().requires_grad_()
    optimizer = torch.optim.Adam([expected], lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    state = [torch.zeros(50, width), torch.zeros(50, width), torch.zeros(50)]
    for _ in range(12):
        expected.grad = torch.randn(50, width)
        sparse_adam(param, expected.grad[rows], *state, rows, 0.05, 0.9, 0.99, 1e-8)
        optimizer.step()
    assert torch.allclose(param, expected, atol=1e-5)
    assert (state[2] == 12).all()


def test_sparse_adam_corrects_each_row_by_its_own_count():
    """With constant gradients a first step moves by lr, whatever the neighbours have behind them."""
    param, state = torch.zeros(40, 3), [torch.zeros(40, 3), torch.zeros(40, 3), torch.zeros(40)]
    early = torch.arange(0, 40, 3)
    for _ in range(5):
        sparse_adam(param, torch.ones(len(early), 3), *state, early, 0.1)
    sparse_adam(param, torch.ones(40, 3), *state, torch.arange(40), 0.1)
    expected = torch.full((40, 3), -0.1)
    expected[early] = -0.6
    assert torch.allclose(param, expected, atol=1e-4)


def test_sparse_adam_leaves_other_rows_alone_and_counts_steps_once():
    param, original = torch.ones(6), torch.ones(6)
    state = [torch.zeros(6), torch.zeros(6), torch.zeros(6)]
    rows = torch.tensor([4, 1])
    sparse_adam(param, torch.tensor([1.0, -1.0]), *state, rows, 0.1)
    sparse_adam(original, torch.tensor([1.0, -1.0]), *state, rows, 0.1, advance=False)
    assert state[2].tolist() == [0, 1, 0, 0, 1, 0]
    assert param[[0, 2, 3, 5]].tolist() == [1, 1, 1, 1]
    assert param[4] == pytest.approx(0.9) and param[1] == pytest.approx(1.1)


def test_sparse_adam_refuses_bad_input():
    good = [torch.zeros(4, 2), torch.zeros(1, 2), torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4)]
    with pytest.raises(InvalidRequestError, match="outside 0..3"):
        sparse_adam(*good, torch.tensor([4]), 0.1)
    with pytest.raises(InvalidRequestError, match="grad: shape"):
        sparse_adam(*good, torch.tensor([1, 2]), 0.1)
    with pytest.raises(InvalidRequestError, match="contiguous"):
        sparse_adam(torch.zeros(2, 4).T, *good[1:], torch.tensor([1]), 0.1)


def rigid_motion(twist: torch.Tensor) -> torch.Tensor:
    """exp of a twist (6,) as a (4,4) matrix, by torch."""
    x, y, z, *translation = twist.unbind()
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, translation[0], z, zero, -x, translation[1], -y, x, zero, translation[2], *([zero] * 4)]
    return torch.linalg.matrix_exp(torch.stack(rows).reshape(4, 4))


POSED = CAMERA.moved(np.array([0.05, -0.1, 0.2, 0.1, -0.05, 0.3]))
POSE_OPTIONS = [
    {"sh_count": 1},
    {"sh_count": 16},
    {"sh_count": 4, "images": ["rgb"]},
    {"sh_count": 1, "images": ["depth"]},
    {"sh_count": 1, "images": ["features"]},
]


def pose_gradient(rasterizer, dtype, *, sh_count, images=("rgb", "depth", "alpha", "features"), at=None):
    """Gradient of a random weighting of the images with respect to a twist of the camera."""
    generator = torch.Generator().manual_seed(5)
    values = {name: value.to(dtype) for name, value in random_values(COUNT, 2, sh_count).items()}
    features = torch.randn(COUNT, 4, generator=generator).to(dtype)
    twist = torch.zeros(6, dtype=torch.float64) if at is None else at.clone()
    twist.requires_grad_()
    pose = (rigid_motion(twist) @ torch.from_numpy(POSED.T_camera_world)).to(dtype)
    rendering = rasterizer.render(Parameters(*(values[name] for name in NAMES)), CAMERA, features, T_camera_world=pose)
    loss = torch.zeros((), dtype=dtype)
    for name in ("rgb", "depth", "alpha", "features"):
        weight = torch.randn(getattr(rendering, name).shape, generator=generator).to(dtype)
        if name in images:
            loss = loss + (weight * getattr(rendering, name)).sum()
    loss.backward()
    return twist.grad


@pytest.mark.parametrize("options", POSE_OPTIONS, ids=str)
def test_pose_gradient(options):
    result = pose_gradient(CpuRasterizer(), torch.float32, **options)
    expected = pose_gradient(ReferenceRasterizer(), torch.float64, **options)
    assert relative_error(result[:3], expected[:3]) < 1e-4
    assert relative_error(result[3:], expected[3:]) < 1e-4


def test_pose_gradient_away_from_the_camera_it_was_made_at():
    at = torch.tensor([0.02, 0.3, -0.1, 0.1, 0.05, -0.2], dtype=torch.float64)
    result = pose_gradient(CpuRasterizer(), torch.float32, sh_count=4, at=at)
    assert relative_error(result, pose_gradient(ReferenceRasterizer(), torch.float64, sh_count=4, at=at)) < 1e-4


def test_pose_gradient_of_a_view():
    """The twist of ``RasterView.backward`` is the one of ``Camera.moved``, the same with any number of threads."""
    gaussians = make_map(random_values(3000, 2, 4))
    weight = torch.randn(CAMERA.height, CAMERA.width, 3, generator=torch.Generator().manual_seed(1))
    twists = []
    for threads in (1, 2, 3, 7):
        view = CpuRasterizer(threads=threads).open(gaussians, POSED)
        grads = view.backward(view.render(), weight, torch.full(weight.shape[:2], 0.1), pose=True)
        twists.append(grads.pose)
    assert all(torch.equal(twist, twists[0]) for twist in twists)
    assert view.backward(view.render(), weight).pose is None

    twist = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    pose = rigid_motion(twist) @ torch.from_numpy(POSED.T_camera_world)
    expected = ReferenceRasterizer(dtype=torch.float64).render(gaussians, CAMERA, T_camera_world=pose)
    ((weight * expected.rgb).sum() + 0.1 * expected.depth.sum()).backward()
    assert relative_error(twists[0], twist.grad) < 1e-4


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 3.0])
def test_moved_camera(scale):
    twist = scale * np.array([0.4, -0.5, 0.3, 1.0, 2.0, -3.0])
    expected = rigid_motion(torch.from_numpy(twist)).numpy() @ POSED.T_camera_world
    np.testing.assert_allclose(POSED.moved(twist).T_camera_world, expected, rtol=0, atol=1e-12)


def test_pose_must_be_rigid():
    gaussians = make_map(random_values(20))
    with pytest.raises(InvalidRequestError, match="T_camera_world: shape"):
        CpuRasterizer().render(gaussians, CAMERA, T_camera_world=torch.eye(3))
    with pytest.raises(InvalidRequestError, match="orthonormal"):
        CpuRasterizer().render(gaussians, CAMERA, T_camera_world=2 * torch.eye(4))
