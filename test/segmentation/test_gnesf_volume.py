"""GNeSF as published: weights along rays, grids over a scene, and rendering by votes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gs_semantic.data.room_writer import RoomFormat, list_rooms, write_rooms
from gs_semantic.data.rooms import room_labels
from gs_semantic.errors import InvalidInputError, InvalidRequestError
from gs_semantic.gaussians import Camera
from gs_semantic.rendering import create_rasterizer
from gs_semantic.segmentation.config import make_config
from gs_semantic.segmentation.generalization.gnesf.rays import (
    density_weights,
    even_depths,
    ray_points,
    sdf_weights,
)
from gs_semantic.segmentation.generalization.gnesf.sources import SourceViews
from gs_semantic.segmentation.generalization.gnesf.volume import Grid, mean_and_depth, mean_and_variance
from gs_semantic.segmentation.generalization.methods.gnesf_volume import (
    GnesfVolume,
    GnesfVolumeConfig,
    SceneGrid,
    ray_difference,
)
from gs_semantic.segmentation.generalization.scenes import LearningScene, SceneView
from gs_semantic.segmentation.generalization.trainer import LearningJob


class TrueClasses:
    """An image classifier that is always right."""

    def __init__(self, scene: LearningScene) -> None:
        self.labels = room_labels()
        self.known = {view.rgb.tobytes(): view.classes for view in scene.views}

    def scores(self, images):
        found = [torch.from_numpy(self.known[rgb.tobytes()].astype(np.int64)) - 1 for rgb in images]
        return 8.0 * torch.nn.functional.one_hot(torch.stack(found), 19).permute(0, 3, 1, 2).float()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    write_rooms(folder, [("train", 1)], RoomFormat(48, 36, views=24, novel=2))
    return LearningScene(list_rooms(folder, "train")[0], room_labels())


def learner(scene: LearningScene | None = None, **options) -> GnesfVolume:
    torch.manual_seed(0)
    small = {"voxels": 40, "rays": 48, "samples": 48, "views": 5, **options}
    made = GnesfVolume(make_config(GnesfVolumeConfig, "paper", overrides=small), room_labels())
    if scene is not None:
        made.use_classifier(TrueClasses(scene))
    return made


def test_weights_of_signed_distances_have_the_published_values():
    s = torch.tensor([[0.3, 0.2, 0.1, 0.05, 0.0, -0.05, -0.3]])
    depths = torch.linspace(1, 1.06, 7)[None]
    weights = sdf_weights(s, depths)
    raw = weights / weights[0, 4] * 0.25
    assert np.allclose(raw[0, [4, 3, 2, 1]], [0.25, 0.2350, 0.1966, 0.1050], atol=1e-4)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    # a second surface, 0.5 m behind the first, counts nothing
    s, depths = torch.tensor([[0.05, -0.05, 0.05, -0.05]]), torch.tensor([[1.0, 1.05, 1.5, 1.55]])
    assert sdf_weights(s, depths)[0, 2:].tolist() == [0, 0] and sdf_weights(s, depths)[0, :2].min() > 0.4
    # without any surface, the first 10 cm alone
    assert (sdf_weights(torch.full((1, 4), 0.2), torch.tensor([[1.0, 1.05, 1.2, 1.3]])) > 0).tolist() == [
        [True, True, False, False]
    ]


def test_weights_of_densities():
    weights = density_weights(torch.tensor([[0.0, np.log(2.0), -1.0, 100.0, 5.0]]))
    assert np.allclose(weights, [[0, 0.5, 0, 0.5, 0]], atol=1e-6)


def test_places_along_rays():
    pose = np.eye(4)
    pose[:3, 3] = [1, 2, 3]
    camera = Camera(9, 7, 10.0, 10.0, 4.0, 3.0, pose)
    depths = even_depths(2, 5, 1.0, 3.0)
    assert depths[0].tolist() == [1, 1.5, 2, 2.5, 3]
    assert np.allclose(1 / even_depths(1, 5, 1.0, 4.0, inverse=True)[0], np.linspace(1, 0.25, 5))
    points = ray_points(camera, np.array([[4, 3], [9, 3]]), depths)
    assert torch.allclose(points[0, 0], torch.tensor([1.0, 2.0, 4.0]))
    assert torch.allclose(points[1, 4], torch.tensor([1 + 0.5 * 3, 2.0, 6.0]))
    difference = ray_difference(
        torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 2.0]]), torch.zeros(3)
    )
    assert torch.allclose(difference[:, 0, 3], torch.tensor([1.0, 0.0]))
    assert torch.allclose(difference[1, 0, :3], torch.tensor([0.5**0.5, 0.0, 0.5**0.5]))


def test_volumes_hold_mean_variance_and_depth():
    views = SourceViews.of([Camera(16, 16, 16.0, 16.0, 7.5, 7.5)] * 2)
    maps = torch.stack([torch.full((1, 4, 4), 1.0), torch.full((1, 4, 4), 3.0)])
    grid = Grid(torch.tensor([-0.2, -0.2, 1.0]), 0.2, (3, 3, 4))
    both = mean_and_variance(views, maps, grid)
    assert (
        both.shape == (2, 3, 3, 4)
        and torch.allclose(both[0], torch.tensor(2.0))
        and torch.allclose(both[1], torch.tensor(1.0))
    )
    depth = mean_and_depth(views, maps, grid)[1]
    assert depth.mean().abs() < 1e-5 and (depth[..., 1:] > depth[..., :-1]).all()
    read = grid.read(depth[None], torch.tensor([[0.0, 0.0, 1.3]]))[0, 0]
    assert read.item() == pytest.approx((depth[1, 1, 1] + depth[1, 1, 2]).item() / 2, abs=1e-5)


def test_signed_distances_are_those_to_recorded_surfaces(scene):
    method = learner(scene)
    field = method.scene_grid(scene)
    voxel = field.grid.voxel
    view = scene.views[3]
    points = torch.from_numpy(view.camera.unproject(view.depth)).reshape(-1, 3)
    eye = torch.from_numpy(view.camera.T_world_camera[:3, 3]).float()
    at = field(points).abs()
    before = field(points + (eye - points) / (eye - points).norm(dim=1, keepdim=True) * 2 * voxel)
    assert at.median() < voxel and (before > 0).float().mean() > 0.9
    blind = [SceneView(view.name, view.camera, view.rgb)] * 2
    with pytest.raises(InvalidInputError, match="none of the source views has depth"):
        SceneGrid.of(blind, method.prepared(scene), 20)


def test_right_opinions_are_rendered_rightly(scene):
    """Before anything is learned, views that agree give the right classes at novel views and Gaussians."""
    method = learner(scene).eval()
    found = method.evaluate([scene], 2)
    assert found["accuracy"] > 0.75
    known = method.classes_of(scene.gaussians, method.prepared(scene))
    shown = method.show(scene.gaussians, known, scene.novel[0].camera, create_rasterizer("auto"))
    assert (shown.classes == scene.novel[0].classes).mean() > 0.75
    with pytest.raises(InvalidRequestError, match="cannot follow a map that grows"):
        method.live(create_rasterizer("auto"))


def test_votes_of_neighbours_are_not_in_the_published_forms(tmp_path):
    with pytest.raises(InvalidRequestError, match="stage 'neighbours': gnesf_volume has train"):
        LearningJob("gnesf_volume", (tmp_path,), tmp_path / "out", stage="neighbours").config()
    with pytest.raises(InvalidRequestError, match="neighbours"):
        make_config(GnesfVolumeConfig, "paper", overrides={"neighbours": "alike"})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"volume_input": "mean_depth", "difference": "vector", "visibility": "depth", "loss": "ce"},
        {"form": "ray", "difference": "ray", "geometry": "density", "volume_input": "none", "samples": 12, "rays": 16},
        {"backbone": "resunet", "volume_input": "none", "visibility": "none", "rays": 8, "kept": 4, "views": 2},
    ],
    ids=["code", "paper", "ray", "resunet"],
)
def test_every_form_learns(scene, options):
    method = learner(scene, **options).train()
    batch = method.sample([scene], np.random.default_rng(0))
    parameters = [p for group in method.parameter_groups() for p in group["params"]]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    totals = []
    for _ in range(6):
        optimizer.zero_grad()
        total = sum(method(batch).values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert np.isfinite(totals).all() and totals[-1] < totals[0]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.voting.parameters())
