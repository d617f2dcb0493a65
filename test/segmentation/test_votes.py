"""Label votes in closed form."""

from __future__ import annotations

from dataclasses import replace

import torch
from training_room import RoomSequence, small_method

from gs_semantic.rendering import create_rasterizer
from gs_semantic.segmentation.methods.votes import SHARES
from gs_semantic.segmentation.trainer import Trainer


class WithoutLabels(RoomSequence):
    """One of whose frames has none."""

    def _read(self, index: int):
        shown = super()._read(index)
        return replace(shown, instances=None, masks={}) if index == 2 else shown


def test_shares_are_those_of_the_pixels_that_show_a_gaussian():
    method = small_method("votes", WithoutLabels(5), iterations=3, initial_gaussians=150, hold_out_every=5)
    Trainer(method).run()
    reference, count = create_rasterizer("reference", method.rasterizer.settings), method.scene.class_count
    sums = torch.zeros(len(method.gaussians), count)
    for index, view in enumerate(method.scene.train):
        classes = method.scene.classes(index)
        for key in range(count) if classes is not None else ():
            mask = (classes == key).float().reshape(view.camera.height, -1, 1)
            sums[:, key] += reference.accumulate(method.gaussians, view.camera, mask).weighted_sum[:, 0].float()
    shares = sums / (sums.sum(dim=1, keepdim=True) + 1e-8)
    assert torch.allclose(method.gaussians[SHARES], shares, atol=1e-3)
    seen = shares.sum(dim=1) > 0.5
    classes, probability = method.gaussian_classes()
    best, winner = shares[seen].max(dim=1)
    clear = best > 0.6
    assert torch.equal(torch.from_numpy(classes)[seen][clear], winner[clear])
    assert torch.allclose(torch.from_numpy(probability)[seen], best, atol=1e-2)


def test_an_error_in_one_view_is_outvoted_and_unlabelled_pixels_need_not_count():
    class Erring(RoomSequence):
        def _read(self, index: int):
            shown = super()._read(index)
            return replace(shown, instances=shown.instances.max() + 1 - shown.instances) if index == 3 else shown

    options = {"iterations": 2, "unlabelled": "ignore"}
    right, wrong = (small_method("votes", sequence, **options) for sequence in (RoomSequence(), Erring()))
    scores = [Trainer(method).run().metrics["miou"] for method in (right, wrong)]
    assert abs(scores[0] - scores[1]) < 0.05
    assert not (right.gaussian_classes()[0] == 0).any()
