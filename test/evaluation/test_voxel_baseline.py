"""The voxel average: known answers on a wall, and its score on the sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from voxel_baseline import VoxelBaseline

from gs_semantic.data.sequence import RgbdSequence
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.evaluation.instances import InstanceScore
from gs_semantic.gaussians import Camera, Frame

SAMPLE = Path(__file__).resolve().parents[2] / "sample"


def wall(colour: int, label: int, depth: float = 1.0) -> Frame:
    """A wall that covers the image; 10 cm a pixel, pixel centres in the middle of 10 cm voxels."""
    camera = Camera(8, 6, 10.0, 10.0, -0.5, -0.5)
    image = np.full((6, 8, 3), colour, np.uint8)
    return Frame(0, camera, image, np.full((6, 8), depth, np.float32), np.full((6, 8), label, np.int32))


def test_mean_colour_and_most_frequent_label():
    voxels = VoxelBaseline(0.1)
    for colour, label in ((100, 5), (110, 6), (150, 6), (40, 0), (40, 0), (40, 0)):
        voxels.add(wall(colour, label))
    frame = wall(0, 0)
    rgb, labels = voxels.render(frame.camera, frame.depth)
    assert len(voxels) == 48
    assert (rgb == 80).all() and (labels == 6).all()  # unlabelled pixels do not vote


def test_own_labels_holes_and_nearest_voxel():
    voxels = VoxelBaseline(0.1)
    first = wall(100, 1)
    labels = np.tile(np.arange(1, 9, dtype=np.int32), (6, 1))
    voxels.add(first, labels)
    depth = np.full((6, 8), 1.0, np.float32)
    depth[0, 0] = 0  # no depth: nothing known
    rgb, found = voxels.render(first.camera, depth)
    assert rgb[0, 0].tolist() == [0, 0, 0] and found[0, 0] == 0
    assert np.array_equal(found[1:], labels[1:])
    _, found = voxels.render(first.camera, np.full((6, 8), 1.2, np.float32))  # before an empty voxel
    assert (found > 0).all()


def test_a_frame_without_depth_is_refused():
    frame = wall(0, 0)
    with pytest.raises(ValueError, match="depth"):
        VoxelBaseline().add(Frame(0, frame.camera, frame.rgb))


def test_score_on_the_sample():
    voxels = VoxelBaseline(0.04)
    for frame in RgbdSequence(SAMPLE / "house"):
        voxels.add(frame)
    score, quality = InstanceScore(), []
    for frame in RgbdSequence(SAMPLE / "house_eval"):
        rgb, labels = voxels.render(frame.camera, frame.depth)
        score.update(labels, frame.instances)
        quality.append(psnr(rgb, frame.rgb))
    assert 0.96 < score.result().miou < 0.99
    assert 26.5 < np.mean(quality) < 28.5
