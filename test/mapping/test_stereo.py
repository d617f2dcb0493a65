"""Depth of posed keyframes by matching, on a textured ray-cast room whose depth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scene import BOXES, camera, frame

from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.gaussians import Camera, Frame
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.stereo import Matched, StereoDepth
from gs_semantic.rendering.sweep import PlaneSweep, census

STEP = 0.14  # metres between two keyframes
CONFIG = MapperConfig(match_width_px=160)


def textured(view: Camera, stamp_ns: int = 0) -> Frame:
    """The room with a fine texture that is fixed to its surfaces; with exact depth."""
    plain = frame(view, stamp_ns)
    assert plain.depth is not None
    points = view.unproject(plain.depth).astype(np.float64)
    waves = np.random.default_rng(3).normal(0, 14, (12, 3))
    pattern = np.sin(points @ waves.T + np.arange(12)).mean(-1)
    return replace(plain, rgb=np.clip(plain.rgb * (1 + 1.2 * pattern[..., None]), 0, 255).astype(np.uint8))


def photograph(number: int) -> Frame:
    """The ``number``-th frame of a walk past the boxes, without depth."""
    return replace(textured(camera(STEP * number), 10**8 * (number + 1)), depth=None)


def matched(count: int, config: MapperConfig = CONFIG, threads: int | None = None) -> list[Matched]:
    stereo = StereoDepth(config, threads)
    return [found for number in range(count) for found in stereo.add(number, photograph(number))]


def compare(found: Matched) -> tuple[float, float, float]:
    """Share of pixels with depth; of these the median error in m, and the share that is wrong by more than a tenth."""
    truth = frame(found.frame.camera).depth
    depth = found.frame.depth
    assert truth is not None and depth is not None
    has = depth > 0
    error = np.abs(depth - truth)[has]
    return float(has.mean()), float(np.median(error)), float((error > 0.1 * truth[has]).mean())


def test_matched_depth_is_dense_and_exact() -> None:
    *_, last = matched(6)
    complete, error, wrong = compare(last)
    assert complete > 0.75
    assert error < 0.05  # a pixel of disparity between neighbours is some 20 cm here
    assert wrong < 0.03


def test_a_keyframe_is_given_back_when_the_next_one_has_come() -> None:
    stereo = StereoDepth(CONFIG)
    assert list(stereo.add(0, photograph(0))) == []
    assert stereo.waiting
    assert [found.index for found in stereo.add(1, photograph(1))] == [0]
    assert [found.index for found in stereo.flush()] == [1]
    assert not stereo.waiting
    assert list(stereo.flush()) == []


def test_depth_that_no_other_keyframe_confirms_is_left_out() -> None:
    first, second, *_ = matched(4)
    assert first.frame.depth is not None and not first.frame.depth.any()  # nobody was matched before
    assert compare(second)[0] > 0.5


def test_result_does_not_depend_on_the_number_of_threads() -> None:
    one, two = matched(4, threads=1)[-1], matched(4, threads=2)[-1]
    assert one.frame.depth is not None
    np.testing.assert_array_equal(one.frame.depth, two.frame.depth)


def test_exposure_does_not_matter() -> None:
    stereo = StereoDepth(CONFIG)
    out: list[Matched] = []
    for number in range(6):
        photo = photograph(number)
        bright = np.clip(photo.rgb * (0.6 + 0.25 * (number % 3)), 0, 255).astype(np.uint8)
        out += stereo.add(number, replace(photo, rgb=bright))
    complete, error, wrong = compare(out[-1])
    assert complete > 0.7 and error < 0.06 and wrong < 0.06


# --- input that cannot be matched ---------------------------------------------------------------------------------------


def turned(view: Camera, degrees: float) -> Camera:
    """The camera at the same place, looking elsewhere."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    return view.at(view.T_world_camera @ turn)


def test_pure_rotation_gives_no_depth_and_the_next_motion_does() -> None:
    stereo = StereoDepth(CONFIG)
    for number in range(3):
        spun = replace(textured(turned(camera(), 5 * number)), depth=None)
        for found in stereo.add(number, spun):
            assert found.frame.depth is not None and not found.frame.depth.any()
    out = [found for number in range(5) for found in stereo.add(3 + number, photograph(number))]
    assert compare(out[-1])[1] < 0.05


def test_views_that_share_nothing_give_no_depth() -> None:
    stereo = StereoDepth(CONFIG)
    list(stereo.add(0, photograph(0)))
    away = replace(textured(turned(camera(STEP), 180)), depth=None)
    (found,) = stereo.add(1, away)
    assert found.frame.depth is not None and not found.frame.depth.any()


def test_images_of_one_grey_give_a_depth_nobody_takes_for_certain() -> None:
    stereo = StereoDepth(CONFIG)
    for number in range(4):
        photo = photograph(number)
        for found in stereo.add(number, replace(photo, rgb=np.full_like(photo.rgb, 128))):
            assert found.frame.depth is not None and not found.frame.depth.any()


def test_keyframes_of_another_size_are_matched_with_each_other() -> None:
    stereo = StereoDepth(MapperConfig(match_width_px=80))
    out: list[Matched] = []
    for number in range(6):
        width, height = ((160, 120), (200, 151))[number % 2]  # 151 rows: one is left over at half size
        out += stereo.add(number, replace(textured(camera(STEP * number, width, height)), depth=None))
    last = out[-1]
    assert last.frame.depth is not None and last.frame.depth.shape == last.frame.rgb.shape[:2]
    complete, error, _ = compare(last)
    assert complete > 0.5 and error < 0.1


@pytest.mark.parametrize(("width", "height"), [(5, 3), (400, 1), (1, 1)])
def test_tiny_images_are_matched_without_reading_outside(width: int, height: int) -> None:
    stereo = StereoDepth(MapperConfig(match_width_px=80))
    for number in range(3):
        small = replace(textured(camera(STEP * number, width, height)), depth=None)
        for found in stereo.add(number, small):
            assert found.frame.depth is not None and found.frame.depth.shape == (height, width)


@pytest.mark.parametrize("wrong", [{"planes": 20}, {"planes": 512}, {"large_step": 200}, {"edge": 0}, {"sources": []}])
def test_sweep_refuses_settings_it_cannot_hold(wrong: dict) -> None:
    image = photograph(0).rgb[..., 0]
    descriptors = census(image, 1, 1)
    settings = {
        "sources": [(descriptors, np.eye(3, 4))], "planes": 32, "inverse_far": 0.1, "inverse_step": 0.05,
        "small_step": 8, "large_step": 80, "edge": 8,
    }
    sweep = PlaneSweep()
    with pytest.raises(InvalidRequestError, match="gs_sweep_run"):
        sweep.run(descriptors, np.ascontiguousarray(image), **{**settings, **wrong})
    result = sweep.run(descriptors, np.ascontiguousarray(image), **settings)
    assert result.inverse_depth.shape == image.shape and (result.cost == 0).all()  # an image is like itself


def test_a_nearest_depth_beyond_the_farthest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"match_near_m = 20 is not below depth_max_m = 15"):
        MapperConfig(match_near_m=20.0).validate()
    MapperConfig(match_near_m=20.0, depth_max_m=100.0).validate()


# --- the mapper ---------------------------------------------------------------------------------------------------------


def walked(mapper: Mapper, count: int) -> Mapper:
    for number in range(count):
        mapper.step(photograph(number), answer=False)
        while mapper.pending:
            mapper.step(None)
    mapper.finish()
    return mapper


def test_a_map_from_colour_and_poses_shows_new_views_and_its_objects() -> None:
    mapper = walked(Mapper(replace(CONFIG, seed_detail_px=1)), 8)
    view = camera(3.5 * STEP)  # between two keyframes
    truth = textured(view)
    assert truth.depth is not None and truth.instances is not None
    rendering = mapper.rasterizer.render(mapper.gaussians, view)
    assert psnr(rendering.rgb.numpy(), truth.rgb) > 20
    answer = mapper.render_labels(view)
    shown = answer.depth > 0
    assert shown.mean() > 0.85
    assert np.median(np.abs(answer.depth - truth.depth)[shown]) < 0.07
    slots = set()
    for _, _, instance, _ in BOXES:
        inside = truth.instances == instance
        values, counts = np.unique(answer.instance[inside], return_counts=True)
        slot = int(values[counts.argmax()])
        overlap = (inside & (answer.instance == slot)).sum() / (inside | (answer.instance == slot)).sum()
        assert slot > 0 and overlap > 0.6
        slots.add(slot)
    assert len(slots) == len(BOXES)


def test_every_keyframe_is_integrated_once_in_order() -> None:
    mapper = Mapper(replace(CONFIG, steps_per_keyframe=1))
    stamps = []
    for number in range(4):
        mapper.step(photograph(number), answer=False)
        while mapper.pending:
            stamps += mapper.step(None).integrated
    assert stamps == [10**8 * (number + 1) for number in range(3)]
    mapper.finish()
    assert len(mapper.keyframes) == 4 and not mapper.pending


def test_recorded_depth_is_used_where_there_is_some() -> None:
    mapper = Mapper(CONFIG)
    mapper.step(textured(camera()), answer=False)
    mapper.finish()
    assert len(mapper.gaussians) > 0 and not mapper.stereo.waiting


def test_without_matching_nothing_is_seeded_and_the_mapper_says_so() -> None:
    mapper = Mapper(replace(CONFIG, match=False))
    warnings = []
    for number in range(3):
        mapper.step(photograph(number), answer=False)
        while mapper.pending:
            warnings += mapper.step(None).warnings
    assert len(mapper.gaussians) == 0
    assert any("without depth" in text for text in warnings)


def test_a_camera_that_only_turns_seeds_nothing_and_the_mapper_says_what_to_do() -> None:
    mapper = Mapper(CONFIG)
    warnings: list[str] = []
    for number in range(3):
        mapper.step(replace(textured(turned(camera(), 6 * number)), depth=None), answer=False)
        while mapper.pending:
            warnings += mapper.step(None).warnings
    assert len(mapper.gaussians) == 0
    assert any("move the camera sideways" in text for text in warnings)
    walked(mapper, 5)
    assert len(mapper.gaussians) > 1000


def test_reset_forgets_the_keyframe_that_waits() -> None:
    mapper = Mapper(CONFIG)
    mapper.step(photograph(0), answer=False)
    while mapper.pending:
        mapper.step(None)
    assert mapper.stereo.waiting
    mapper.reset()
    assert not mapper.stereo.waiting
