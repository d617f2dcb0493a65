"""Training where the rasteriser is: the map, what is learned and what it is learned from stay on its device."""

from __future__ import annotations

import pytest
import torch
from pretend_device import DEVICE, Elsewhere, PretendedDevice, PretendRasterizer
from training_room import RoomSequence, small_config, small_scene

from gs_semantic.segmentation.loop import CHECKPOINT
from gs_semantic.segmentation.registry import method_class
from gs_semantic.segmentation.trainer import Trainer

CHANGES = {
    "plain": {},
    "grouping": {},
    "votes": {},
    "gradiseg": {
        "igd_from": 4,
        "igd_until": 12,
        "igd_every": 4,
        "igd_quantile": 0.5,
        "la_from": 2,
        "la_side": "identity",
    },
    "unified_lift": {"unlabelled": "background", "codes": 3},
    "contrastive": {},
    "coseg": {"segment_for": 6, "regularise_points": 50},
}


def trained(name: str, rasterizer, output=None, **changes):
    few = {"iterations": 12, "evaluate_every": 6, "initial_gaussians": 120, "densify_from": 1, "densify_every": 3}
    config = small_config(name, **{**few, "densify_until": 10, "hold_out_every": 4, **CHANGES[name], **changes})
    scene = small_scene(config, RoomSequence(4))
    method = method_class(name)(config, scene, rasterizer)
    return Trainer(method, output).run(), method, scene


@pytest.mark.filterwarnings("ignore:.*meta parameter")  # of the pretended device: modules do not load into it
@pytest.mark.parametrize("name", CHANGES)
def test_nothing_leaves_the_device(name, tmp_path):
    with PretendedDevice():
        result, method, scene = trained(name, PretendRasterizer(), tmp_path)
        assert all(isinstance(method.gaussians[key], Elsewhere) for key in method.gaussians)
        assert method.gaussians.means.device == DEVICE
        assert result.map is not None
        again = Trainer.resume(tmp_path, scene, rasterizer=PretendRasterizer())
        again.loop.iteration = 8
        assert again.run().iteration == 12
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["method"] == name
