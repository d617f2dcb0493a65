import pytest
import torch
from tiny_room import cameras, room

from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering import create_rasterizer
from gs_semantic.segmentation.generalization.rt_gs2.view_fusion import ViewFusion


@pytest.fixture(scope="module")
def rasterizer():
    return create_rasterizer()


def one_hot_views(gaussians, classes, rasterizer, views):
    one_hot = torch.nn.functional.one_hot(classes, 4).float()
    for camera in views:
        yield camera, rasterizer.render(gaussians, camera, one_hot).features.permute(2, 0, 1)


def fused(rasterizer, gaussians, views):
    fusion = ViewFusion(rasterizer, gaussians)
    for camera, logits in views:
        fusion.add(camera, logits)
    return fusion


def test_classes_drawn_into_views_come_back(rasterizer):
    gaussians, classes = room(4000)
    views = cameras(8)
    fusion = fused(rasterizer, gaussians, one_hot_views(gaussians, classes, rasterizer, views))
    logits = fusion.logits
    assert logits.shape == (4000, 4)
    seen = fusion._weight > 0.5
    assert seen.sum() > 500
    assert (logits.argmax(dim=1) == classes)[seen].float().mean() > 0.85
    assert torch.equal(fusion.seen, logits.abs().sum(dim=1) > 0)


def test_one_wrong_view_is_outvoted(rasterizer):
    gaussians, classes = room(4000)
    views = cameras(16)
    right = list(one_hot_views(gaussians, classes, rasterizer, views))
    wrong = torch.zeros_like(right[0][1])
    wrong[3] = 1
    fusion = fused(rasterizer, gaussians, [*right[1:], (views[0], wrong)])
    drawn = fusion.render(views[0]).argmax(dim=0)
    ball = right[0][1].argmax(dim=0) == 2  # which the neighbouring views see, too
    assert ball.sum() > 100 and (drawn == 2)[ball].float().mean() > 0.8


def test_what_does_not_fit_is_refused(rasterizer):
    gaussians, _ = room(100)
    camera = cameras(1)[0]
    fusion = ViewFusion(rasterizer, gaussians)
    with pytest.raises(InvalidRequestError, match="no view"):
        _ = fusion.logits
    with pytest.raises(InvalidRequestError, match="do not fit"):
        fusion.add(camera, torch.zeros(3, 5, 5))
    fusion.add(camera, torch.zeros(3, camera.height, camera.width))
    with pytest.raises(InvalidRequestError, match="5 classes, the views before had 3"):
        fusion.add(camera, torch.zeros(5, camera.height, camera.width))
