"""Geometric masks of made-up scenes, whose answer is known, and of the samples."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from gs_semantic.data.noise import SensorNoise
from gs_semantic.data.sequence import RgbdSequence
from gs_semantic.errors import InvalidInputError
from gs_semantic.evaluation.masks import MaskScore
from gs_semantic.gaussians import Camera, Frame, MaskInfo
from gs_semantic.segmenters.geometric import GeometricConfig, GeometricSegmenter, nearest
from gs_semantic.share import share_path

CAMERA = Camera(640, 480, 500.0, 500.0, 319.5, 239.5)
FLOOR_M, WALL_M, BOX = 1.2, 4.0, (slice(230, 350), slice(250, 400))


def room(box_m: float | None = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Depth (m) of a floor, a wall and the front of a box, and which pixel is what: 1, 2, 3."""
    v = np.mgrid[0 : CAMERA.height, 0 : CAMERA.width][0]
    with np.errstate(divide="ignore"):
        floor = np.where(v > CAMERA.cy, FLOOR_M * CAMERA.fy / (v - CAMERA.cy), np.inf)
    depth, truth = np.minimum(floor, WALL_M), np.where(floor < WALL_M, 1, 2)
    if box_m is not None:
        inside = np.zeros(depth.shape, bool)
        inside[BOX] = True
        inside &= depth > box_m
        depth, truth = np.where(inside, box_m, depth), np.where(inside, 3, truth)
    return depth.astype(np.float32), truth


def frame_of(depth: np.ndarray, rgb: np.ndarray | None = None) -> Frame:
    grey = np.full((*depth.shape, 3), 128, np.uint8)
    return Frame(0, replace(CAMERA, width=depth.shape[1], height=depth.shape[0]), grey if rgb is None else rgb, depth)


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


def best_ious(instances: np.ndarray, truth: np.ndarray) -> list[float]:
    ids = np.unique(instances)
    return [max(iou(instances == i, truth == t) for i in ids if i) for t in np.unique(truth)]


@pytest.mark.parametrize("noisy", [False, True])
def test_floor_wall_and_box_are_three_masks(noisy):
    depth, truth = room()
    frame = frame_of(depth)
    if noisy:
        frame = SensorNoise(pose_m=0.0, pose_deg=0.0).apply(frame, 0)  # 1.5 mm x z^2 and 5 % holes
    found = GeometricSegmenter().segment(frame)
    assert len(found.masks) == 3
    assert min(best_ious(found.instances, truth)) > 0.93
    assert found.masks == {key: MaskInfo() for key in found.masks}  # no class is invented
    assert set(np.unique(found.instances)) - {0} == set(found.masks)


def roof(sign: float) -> np.ndarray:
    """Two walls that meet at a vertical line in the image's middle: sign 1 an edge towards us, -1 a corner away."""
    rays = (np.arange(CAMERA.width) - CAMERA.cx) / CAMERA.fx
    slope = sign * 1.0  # 90 degrees between the walls
    depth = 3.0 / (1 - slope * np.abs(rays))  # z = 3 + slope * |x|
    return np.repeat(depth[None].astype(np.float32), CAMERA.height, axis=0)


def test_a_concave_corner_separates_and_a_convex_edge_does_not():
    segmenter = GeometricSegmenter()
    corner = segmenter.segment(frame_of(roof(-1.0)))
    edge = segmenter.segment(frame_of(roof(1.0)))
    assert len(corner.masks) == 2 and len(edge.masks) == 1
    halves = np.repeat((np.arange(CAMERA.width) > CAMERA.cx)[None], CAMERA.height, axis=0)
    assert min(best_ious(corner.instances, halves.astype(int) + 1)) > 0.97


def test_a_wall_behind_a_pillar_is_one_mask():
    """Planar structure is joined over what hides it."""
    depth = np.full((480, 640), 4.0, np.float32)
    depth[:, 280:360] = 2.0
    found = GeometricSegmenter().segment(frame_of(depth))
    assert len(found.masks) == 2
    assert found.instances[240, 60] == found.instances[240, 580] != found.instances[240, 320]
    apart = GeometricSegmenter(GeometricConfig(plane_tolerance=0.0)).segment(frame_of(depth))
    assert apart.instances[240, 60] != apart.instances[240, 580]


def test_a_picture_on_a_wall_is_told_by_its_colour():
    depth = np.full((480, 640), 3.0, np.float32)
    rgb = np.full((480, 640, 3), 200, np.uint8)
    rgb[100:300, 200:400] = (30, 60, 160)
    found = GeometricSegmenter().segment(frame_of(depth, rgb))
    assert len(found.masks) == 2
    assert iou(found.instances == found.instances[200, 300], rgb[..., 0] < 100) > 0.95


def test_small_holes_are_filled_and_large_ones_are_not():
    depth, truth = room(None)
    depth[100:106, 100:104] = 0
    depth[50:200, 400:600] = np.nan
    found = GeometricSegmenter().segment(frame_of(depth))
    assert found.instances[103, 102] == found.instances[90, 90] > 0
    assert found.instances[120, 500] == 0
    inside = np.zeros(truth.shape, bool)
    inside[62:188, 412:588] = True
    assert not found.instances[inside].any()


@pytest.mark.parametrize("holes", [0.0, np.nan, np.inf, -1.0])
def test_no_depth_at_all_gives_no_mask(holes):
    depth = np.full((48, 64), holes, np.float32)
    found = GeometricSegmenter().segment(frame_of(depth))
    assert found.instances.shape == (48, 64) and not found.instances.any() and found.masks == {}
    depth, _ = room()
    assert len(GeometricSegmenter().segment(frame_of(depth)).masks) == 3  # the next frame is as good as ever


def test_frame_without_depth_is_refused_by_name():
    frame = replace(frame_of(room()[0]), depth=None)
    with pytest.raises(InvalidInputError, match="depth: the geometric segmenter needs a depth image"):
        GeometricSegmenter().segment(frame)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (37, 53), (480, 640), (720, 1280)])
def test_any_size(size):
    depth = np.full(size, 2.0, np.float32)
    found = GeometricSegmenter().segment(frame_of(depth))
    assert found.instances.shape == size and found.instances.dtype == np.int32
    assert len(found.masks) == 1 and found.instances.all()


def test_same_frame_same_masks():
    frame = RgbdSequence(share_path("sample", "lounge"))[0]
    first, second = (GeometricSegmenter().segment(frame).instances for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("name", "best", "foreign"), [("house", 0.45, 25.0), ("lounge", 0.45, 25.0)])
def test_masks_of_the_samples(name, best, foreign):
    sequence = RgbdSequence(share_path("sample", name))
    segmenter, score = GeometricSegmenter(), MaskScore(sequence.group_ids)
    for index in range(0, len(sequence), 6):
        frame = sequence[index]
        score.update(segmenter.segment(frame).instances, frame.instances)
    results = score.results()
    assert results["best_iou_large"] > best
    assert results["foreign_pixels_pct"] < foreign


def test_nearest_pixel():
    mask = np.zeros((5, 7), bool)
    mask[1, 1] = mask[4, 6] = True
    rows, columns = nearest(mask)
    assert (rows[0, 0], columns[0, 0]) == (1, 1) and (rows[3, 6], columns[3, 6]) == (4, 6)
    assert np.array_equal(rows[mask], [1, 4]) and np.array_equal(columns[mask], [1, 6])


def test_depth_is_used_at_the_working_width_only():
    """A frame twice as large gives the same masks, twice as large."""
    depth, _ = room()
    small = GeometricSegmenter().segment(frame_of(cv2.resize(depth, (320, 240), interpolation=cv2.INTER_NEAREST)))
    large = GeometricSegmenter().segment(frame_of(depth))
    again = cv2.resize(large.instances.astype(np.float32), (320, 240), interpolation=cv2.INTER_NEAREST)
    assert len(small.masks) == len(large.masks)
    assert min(best_ious(again.astype(int), small.instances)) > 0.95
