import math

import pytest
import torch
import torch.nn.functional as F

from gs_semantic.errors import InvalidRequestError
from gs_semantic.segmentation.generalization.rt_gs2.losses import (
    CentreCollapse,
    SegmentationLoss,
    class_centres,
    depth_loss,
    simplex_frame,
)


@pytest.mark.parametrize("width, classes", [(8, 2), (16, 5), (64, 19)])
def test_directions_are_as_far_apart_as_can_be(width, classes):
    frame = simplex_frame(width, classes)
    wanted = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(frame.T @ frame, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(frame.sum(dim=1), torch.zeros(width), rtol=0, atol=1e-5)


def test_too_narrow_an_embedding_is_refused():
    with pytest.raises(InvalidRequestError, match="19 classes"):
        simplex_frame(16, 19)


def test_label_smoothing_of_known_logits():
    # two classes, logits (ln 3, 0): probabilities .75 and .25; target 0 keeps 1 - .15 / 2 of the weight
    logits = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1)
    loss = SegmentationLoss(8, 2, smoothing=0.15, ceco_weight=0.0)
    found = loss(logits, torch.zeros(1, 8, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))
    wanted = -(0.925 * math.log(0.75) + 0.075 * math.log(0.25))
    assert found["cross_entropy"].item() == pytest.approx(wanted, rel=1e-5) and set(found) == {"cross_entropy"}


def test_centre_loss_of_known_embeddings():
    loss = CentreCollapse(4, 3)
    frame = loss.frame
    labels = torch.tensor([[[0, 1], [2, -1]]])
    perfect = torch.zeros(1, 4, 2, 2)
    for pixel, key in (((0, 0), 0), ((0, 1), 1), ((1, 0), 2)):
        perfect[0, :, pixel[0], pixel[1]] = 10 * frame[:, key]
    perfect[0, :, 1, 1] = 1e3  # ignored
    # each row of logits: 10 on its own direction, -5 on the two others
    wanted = math.log(1 + 2 * math.exp(-15))
    assert loss(perfect, labels).item() == pytest.approx(wanted, rel=0.05, abs=1e-6)
    assert loss(torch.zeros(1, 4, 2, 2), labels).item() == pytest.approx(math.log(3), rel=1e-5)


def test_absent_classes_only_rescale_the_centre_loss():
    torch.manual_seed(0)
    embedding, labels = torch.randn(1, 8, 4, 4), torch.randint(0, 2, (1, 4, 4))
    present, every = CentreCollapse(8, 5), CentreCollapse(8, 5, present_only=False)
    wanted = (2 * present(embedding, labels) + 3 * math.log(5)) / 5
    torch.testing.assert_close(every(embedding, labels), wanted)


def test_centres_are_those_of_the_enlarged_embedding():
    torch.manual_seed(0)
    embedding = torch.randn(2, 6, 5, 7, requires_grad=True)
    labels = torch.randint(-1, 4, (2, 20, 28))
    centres, present = class_centres(embedding, labels, 6)
    large = F.interpolate(embedding, size=(20, 28), mode="bilinear", align_corners=False)
    for key in range(4):
        mask = labels == key
        torch.testing.assert_close(centres[key], large.permute(0, 2, 3, 1)[mask].mean(dim=0), rtol=1e-4, atol=1e-5)
    assert present.tolist() == [True] * 4 + [False] * 2 and not centres[4:].any()
    assert torch.autograd.grad(centres.square().sum(), embedding)[0].abs().sum() > 0


def test_terms_carry_their_weights():
    torch.manual_seed(0)
    embedding, labels = torch.randn(1, 8, 4, 4), torch.randint(0, 3, (1, 16, 16))
    terms = SegmentationLoss(8, 3)(torch.randn(1, 3, 16, 16), embedding, labels)
    torch.testing.assert_close(terms["ceco"], 0.4 * CentreCollapse(8, 3, smoothing=0.15)(embedding, labels))


def test_nothing_but_ignored_pixels_is_no_loss():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    terms = SegmentationLoss(8, 3)(logits, torch.randn(1, 8, 1, 1), torch.full((1, 4, 4), -1))
    assert sum(terms.values()).item() == 0


def test_depth_loss_is_the_mean_square_over_known_depth():
    depth = torch.tensor([[[2.0, 0.0], [float("nan"), 4.0]]])
    assert depth_loss(torch.full((1, 1, 2, 2), 3.0), depth).item() == pytest.approx(1.0)
    assert depth_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2)).item() == 0
