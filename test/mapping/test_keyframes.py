"""Which frames are kept, how many, and what an optimisation step sees of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene import camera, frame

from gs_semantic.gaussians import Frame, GaussianMap
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.keyframes import KeyframeStore, make_keyframe, moved, usable_depth
from gs_semantic.mapping.seeding import make_seeds
from gs_semantic.rendering.cpu import CpuRasterizer

CONFIG = MapperConfig()
SOURCE = frame(camera())


def turned(source: Frame, degrees: float, stamp_ns: int = 0) -> Frame:
    angle = np.radians(degrees)
    rotation = np.eye(4)
    rotation[0, 0] = rotation[2, 2] = np.cos(angle)
    rotation[0, 2], rotation[2, 0] = np.sin(angle), -np.sin(angle)
    return replace(source, stamp_ns=stamp_ns, camera=source.camera.at(source.camera.T_world_camera @ rotation))


def shifted(source: Frame, metres: float, stamp_ns: int = 0) -> Frame:
    pose = source.camera.T_world_camera.copy()
    pose[0, 3] += metres
    return replace(source, stamp_ns=stamp_ns, camera=source.camera.at(pose))


def kept(index: int, source: Frame = SOURCE, config: MapperConfig = CONFIG):
    return make_keyframe(index, source, source.instances, config)


@pytest.mark.parametrize(
    ("second", "wanted"),
    [
        (shifted(SOURCE, 0.11), False),
        (shifted(SOURCE, 0.13), True),
        (turned(SOURCE, 3.8), False),
        (turned(SOURCE, 4.2), True),
        (replace(SOURCE, stamp_ns=1_900_000_000), False),
        (replace(SOURCE, stamp_ns=2_000_000_000), True),
        (replace(SOURCE, stamp_ns=-2_000_000_000), True),
    ],
)
def test_a_frame_is_taken_when_the_camera_moved_turned_or_waited(second, wanted):
    store = KeyframeStore(MapperConfig(keyframe_translation_m=0.12, keyframe_rotation_deg=4, keyframe_interval_s=2))
    assert store.wanted(SOURCE)
    assert store.note(SOURCE) == 0
    assert store.wanted(second) is wanted


@given(st.floats(-0.5, 0.5), st.floats(-60, 60))
def test_motion_between_two_poses(metres, degrees):
    distance, angle = moved(SOURCE.camera, shifted(turned(SOURCE, degrees), metres).camera)
    assert distance == pytest.approx(abs(metres), abs=1e-9) and angle == pytest.approx(abs(degrees), abs=1e-4)


def test_the_store_is_bounded_and_drops_what_is_redundant():
    config = MapperConfig(max_keyframes=8, window_recent=2)
    store = KeyframeStore(config)
    positions = [0.0, 0.5, 1.0, 1.01, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.01]
    for index, metres in enumerate(positions):
        store.note(shifted(SOURCE, metres))
        store.add(kept(index, shifted(SOURCE, metres)))
        assert len(store) <= 8
    assert store.count == len(positions)
    indices = [keyframe.index for keyframe in store.frames]
    assert indices[-2:] == [9, 10], "recent ones stay, though they are close together"
    assert not {2, 3} <= set(indices)


@given(st.integers(0, 120), st.integers(0, 80), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=25)
def test_a_window_holds_its_own_pixels(left, top, width, height):
    window = kept(0).window(left, top, width, height)
    part = np.s_[top : top + height, left : left + width]
    np.testing.assert_allclose(window.rgb.numpy(), SOURCE.rgb[part] / 255, atol=1e-6)
    np.testing.assert_allclose(window.depth.numpy(), SOURCE.depth[part], atol=6e-4)
    np.testing.assert_array_equal(window.slots.numpy(), SOURCE.instances[part])


@pytest.mark.parametrize(("left", "top"), [(0, 0), (17, 33), (96, 72)])
def test_a_window_renders_like_that_part_of_the_whole_image(left, top):
    gaussians = GaussianMap()
    gaussians.add(
        **make_seeds(SOURCE.rgb, SOURCE.depth, SOURCE.depth > 0, SOURCE.camera, CONFIG, SOURCE.instances).rows
    )
    rasterizer = CpuRasterizer(CONFIG.raster_settings)
    whole = rasterizer.render(gaussians, SOURCE.camera)
    part = rasterizer.render(gaussians, kept(0).window(left, top, 64, 48).camera)
    window = np.s_[top : top + 48, left : left + 64]
    np.testing.assert_allclose(part.rgb.numpy(), whole.rgb.numpy()[window], atol=2e-3)  # half a grey level
    # a large seed that reaches in from outside is linearised elsewhere when the image ends nearer to it
    np.testing.assert_allclose(part.depth.numpy(), whole.depth.numpy()[window], atol=6e-3)


def test_draws_stay_inside_repeat_with_the_seed_and_reach_old_keyframes():
    config = MapperConfig(optimise_width_px=40, window_recent=2)

    def drawn() -> list[tuple[float, float, float]]:
        store = KeyframeStore(config)
        for index in range(6):
            store.add(kept(index, shifted(SOURCE, float(index))))
        views = [store.draw() for _ in range(60)]
        for view in views:
            assert view.rgb.shape == (30, 40, 3) and view.depth.shape == view.slots.shape == (30, 40)
            assert (view.camera.width, view.camera.height) == (40, 30)
            assert 0 <= SOURCE.camera.cx - view.camera.cx <= 120 and 0 <= SOURCE.camera.cy - view.camera.cy <= 90
        return [(view.camera.T_world_camera[0, 3], view.camera.cx, view.camera.cy) for view in views]

    first = drawn()
    assert first == drawn()
    places = {round(x - SOURCE.camera.T_world_camera[0, 3]) for x, _, _ in first}
    assert places == set(range(6))


def test_windows_of_a_keyframe_take_turns_until_every_pixel_was_in_one():
    store = KeyframeStore(MapperConfig(optimise_width_px=80))  # half the width: four windows, one in each corner
    store.add(kept(0))
    for _ in range(10):
        seen = np.zeros((120, 160), int)
        for _ in range(4):
            view = store.draw()
            left, top = (round(SOURCE.camera.cx - view.camera.cx), round(SOURCE.camera.cy - view.camera.cy))
            seen[top : top + 60, left : left + 80] += 1
        assert (seen > 0).mean() > 0.65  # where they begin is random within a sixth


def test_evenly_drawn_are_those_that_were_drawn_least():
    store = KeyframeStore(MapperConfig(optimise_width_px=80, window_recent=1))
    for index in range(6):
        store.add(kept(index, shifted(SOURCE, float(index))))
        for _ in range(5):
            store.draw()
    assert max(keyframe.draws for keyframe in store.frames) > 5
    for _ in range(100):
        store.draw(evenly=True)
    draws = [keyframe.draws for keyframe in store.frames]
    assert max(draws) - min(draws) <= 1 and sum(draws) == 130


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=6), st.integers(0, 3))
@settings(max_examples=25)
def test_windows_show_objects_under_their_new_slots(renames, late):
    store = KeyframeStore(MapperConfig(optimise_width_px=1000))
    store.add(kept(0))
    expected = SOURCE.instances.copy()
    for number, (old, new) in enumerate(renames):
        table = np.arange(5, dtype=np.int32)
        table[old] = new
        store.rename(table)
        expected = table[expected]
        if number == late:
            np.testing.assert_array_equal(store.draw().slots.numpy(), expected)
    np.testing.assert_array_equal(store.draw().slots.numpy(), expected)


def test_any_number_of_renames_is_remembered():
    store = KeyframeStore(MapperConfig(optimise_width_px=1000, window_recent=1))
    store.add(kept(0))
    for slot in range(1, 200):
        table = np.arange(slot + 2, dtype=np.int32)
        table[slot] = slot + 1  # the object moves on and on
        store.rename(table)
    store.add(make_keyframe(1, SOURCE, np.full_like(SOURCE.instances, 7), CONFIG))
    seen = {tuple(np.unique(store.draw().slots.numpy())) for _ in range(20)}
    assert seen == {(200,), (7,)}


def test_images_smaller_than_the_window_are_used_whole():
    store = KeyframeStore(MapperConfig(optimise_width_px=1000))
    store.add(kept(0))
    assert store.draw().rgb.shape == SOURCE.rgb.shape


def test_keyframes_without_depth_or_masks_have_windows_without_them():
    window = make_keyframe(0, replace(SOURCE, depth=None), None, CONFIG).window(0, 0, 20, 10)
    assert window.depth is None and window.slots is None


def test_unusable_depth_is_zero():
    depth = np.array([[np.nan, np.inf, -np.inf, -1.0, 0.0, 0.1, 0.2, 15.0, 15.1]], np.float32)
    np.testing.assert_allclose(usable_depth(depth, CONFIG), [[0, 0, 0, 0, 0, 0, 0.2, 15.0, 0]], rtol=1e-6)
    far = MapperConfig(depth_max_m=1000.0)
    source = replace(SOURCE, depth=np.full_like(SOURCE.depth, 500.0))
    assert (make_keyframe(0, source, None, far).depth_mm == 65000).all(), "kept in 16 bits without wrapping round"
