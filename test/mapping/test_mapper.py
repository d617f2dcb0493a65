"""The whole mapper on a small ray-cast room: seeding, association, voting, optimisation and what must not break them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scene import BOXES, WALLS, camera, frame, shuffled

from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.gaussians import Camera, Frame, GaussianMap
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.objects.registry import ObjectRegistry, ObjectState
from gs_semantic.rendering.cpu import CpuRasterizer

STEP = 0.14  # metres between two frames: each becomes a keyframe
UNSEEN = 0.5 * STEP  # a viewpoint between two frames
NANOSECONDS = 10**8  # between two frames
RENDERER = CpuRasterizer()


def recorded(number: int) -> Frame:
    """The ``number``-th frame of a walk past the boxes; mask ids are drawn anew in every frame."""
    return shuffled(frame(camera(STEP * number), NANOSECONDS * (number + 1)), seed=number)


def mapped(*frames: Frame, mapper: Mapper | None = None, **options) -> Mapper:
    """A mapper that has done all its work on the frames."""
    mapper = mapper or Mapper(MapperConfig(**options))
    for each in frames:
        mapper.step(each, answer=False)
        mapper.finish()
    return mapper


def box_slots(mapper: Mapper, view: Camera, agreement: float = 0.95) -> dict[int, int]:
    """The object that shows each box (and the walls) at a viewpoint; they must agree with the truth pixel by pixel."""
    truth = frame(view)
    answer = mapper.render_labels(view)
    found = {}
    for instance in np.unique(truth.instances):
        inside = truth.instances == instance
        slots, counts = np.unique(answer.instance[inside], return_counts=True)
        found[int(instance)] = int(slots[counts.argmax()])
    assert 0 not in found.values(), found
    assert len(set(found.values())) == len(found), f"one object for each: {found}"
    table = np.zeros(8, np.int32)
    table[list(found)] = list(found.values())
    assert (answer.instance == table[truth.instances]).mean() >= agreement
    return found


def quality(mapper: Mapper, view: Camera) -> float:
    """PSNR of the rendered colour in dB."""
    return psnr(mapper.rasterizer.render(mapper.gaussians, view).rgb.numpy(), frame(view).rgb)


@pytest.fixture(scope="module")
def walk() -> Mapper:
    """The map after ten frames; tests must leave it as it is."""
    return mapped(*(recorded(number) for number in range(10)))


def test_every_box_is_one_confirmed_object_of_its_class(walk):
    found = box_slots(walk, camera(UNSEEN))
    classes = {WALLS: 1, **{instance: class_id for _, _, instance, class_id in BOXES}}
    for instance, slot in found.items():
        obj = walk.objects.by_slot(slot)
        assert obj.state is ObjectState.CONFIRMED and obj.class_id == classes[instance]
        assert obj.observations == 10 and obj.num_gaussians > 20
        assert obj.first_seen_ns == NANOSECONDS and obj.last_seen_ns == 10 * NANOSECONDS
    assert [obj.slot for obj in walk.objects.present()] == sorted(found.values()), "and nothing else"


def test_boxes_fit(walk):
    found = box_slots(walk, camera(UNSEEN))
    for low, high, instance, _ in BOXES:
        obj = walk.objects.by_slot(found[instance])
        assert obj.box is not None and obj.centroid is not None
        np.testing.assert_allclose(obj.box.centre, (low + high) / 2, atol=0.06)
        np.testing.assert_allclose(np.sort(obj.box.size), np.sort(high - low), atol=0.08)
        assert (obj.centroid > low - 0.02).all() and (obj.centroid < high + 0.02).all()


def test_labels_and_colour_are_right_at_new_viewpoints(walk):
    for step in (UNSEEN, 4.5 * STEP, 8.5 * STEP):
        view = camera(step)
        found = box_slots(walk, view)
        answer, truth = walk.render_labels(view, stamp_ns=5), frame(view)
        classes = np.array([0, 1, 2, 2, 3])[truth.instances]
        assert (answer.semantic == classes).mean() >= 0.95
        assert answer.stamp_ns == 5 and set(np.unique(answer.instance)) <= {0, *found.values()}
        np.testing.assert_allclose(np.median(np.abs(answer.depth - truth.depth)), 0, atol=0.02)
        assert answer.confidence[answer.instance > 0].mean() > 200
        assert quality(walk, view) >= 25


def test_the_map_is_optimised_and_drawn_with_the_blur_asked_for():
    sharp, blurred = (mapped(*(recorded(number) for number in range(4)), eps2d=eps2d) for eps2d in (0.0, 1.0))
    for mapper in (sharp, blurred):
        view = camera(UNSEEN)
        assert quality(mapper, view) > 25
        wrong = psnr(RENDERER.render(mapper.gaussians, view).rgb.numpy(), frame(view).rgb)  # with 0.3
        assert wrong < quality(mapper, view)


def test_ids_stay_the_same_from_frame_to_frame():
    mapper = Mapper()
    seen = []
    for number in range(6):
        mapped(recorded(number), mapper=mapper)
        if number >= 1:
            seen.append(box_slots(mapper, camera(STEP * number), agreement=0.9))
    assert all(found == seen[0] for found in seen)


def test_nothing_is_published_before_it_is_confirmed():
    mapper = mapped(recorded(0), confirm_observations=2)
    assert not mapper.render_labels(camera()).instance.any()
    assert mapper.render_labels(camera(), tentative=True).instance.any()
    mapped(recorded(1), mapper=mapper)
    assert mapper.render_labels(camera()).instance.any()


def test_boxes_of_a_live_mapper_wait_while_keyframes_come_and_come_after_all():
    mapper = Mapper(MapperConfig(steps_per_keyframe=2), live=True)
    refreshed = []
    for index in range(4):
        mapper.step(recorded(index))
        planned = 0
        while planned < 4:  # the steps of the keyframe, and some that nobody waits for
            planned += mapper.step(None).iterations
        refreshed.append(any(obj.box is not None for obj in mapper.objects))
    assert refreshed == [False, False, False, True]  # with every fourth
    mapper.step(recorded(4))
    mapper.finish()
    assert not mapper.pending and all(obj.box is not None for obj in mapper.objects.present())


def test_answers_come_with_the_frame_and_work_with_the_steps_between():
    mapper = Mapper(MapperConfig(steps_per_keyframe=4, identity_every=2))
    events = mapper.step(recorded(0))
    assert events.keyframe and mapper.pending and len(mapper.gaussians) == 0
    assert events.answer is not None and not events.answer.instance.any()
    steps, identity, integrated = 0, 0, []
    while mapper.pending:
        events = mapper.step(None)
        assert events.answer is None
        steps, identity = steps + events.iterations, identity + events.identity_iterations
        integrated += events.integrated
    assert (steps, identity, integrated) == (4, 2, [NANOSECONDS])
    assert not mapper.step(recorded(0)).keyframe, "the camera has not moved"
    assert mapper.step(recorded(1), answer=False).answer is None


def test_old_waiting_keyframes_make_room_for_new_ones():
    mapper = Mapper(MapperConfig(keyframe_queue=2))
    for number in range(5):
        mapper.step(recorded(number), answer=False)
    done = []
    while mapper.pending:
        done += mapper.step(None).integrated
    assert done == [4 * NANOSECONDS, 5 * NANOSECONDS] and mapper.dropped_keyframes == 3


def test_two_runs_are_equal_bit_for_bit():
    first, second = (mapped(*(recorded(number) for number in range(4))) for _ in range(2))
    assert len(first.gaussians) == len(second.gaussians)
    for name in first.gaussians:
        np.testing.assert_array_equal(first.gaussians[name].numpy(), second.gaussians[name].numpy(), err_msg=name)


def test_frames_without_masks_fill_the_map_and_keep_its_labels():
    bare = [replace(recorded(number), instances=None, masks={}) for number in range(3, 6)]
    mapper = mapped(*(recorded(number) for number in range(3)))
    before = box_slots(mapper, camera(UNSEEN))
    size = len(mapper.gaussians)
    mapped(*bare, mapper=mapper)
    assert box_slots(mapper, camera(UNSEEN)) == before and len(mapper.gaussians) > size
    assert [obj.observations for obj in mapper.objects.present()] == [3] * len(before)


def test_frames_without_depth_label_and_warn_but_seed_nothing():
    blind = replace(recorded(3), depth=None)
    mapper = Mapper(MapperConfig(match=False))
    events = [mapper.step(blind), mapper.step(None)]
    mapper.finish()
    assert len(mapper.gaussians) == 0 and any("without depth" in text for e in events for text in e.warnings)
    mapped(recorded(0), recorded(1), mapper=mapper)
    size, slots = len(mapper.gaussians), box_slots(mapper, camera())
    mapped(blind, mapper=mapper)
    assert len(mapper.gaussians) == size
    assert box_slots(mapper, camera()) == slots
    assert max(obj.observations for obj in mapper.objects) == 3, "the masks of the blind frame counted"


def nothing_measured(source: Frame) -> Frame:
    return replace(source, depth=np.zeros_like(source.depth))


def only_nan(source: Frame) -> Frame:
    return replace(source, depth=np.full_like(source.depth, np.nan))


def infinite(source: Frame) -> Frame:
    return replace(source, depth=np.full_like(source.depth, np.inf))


def empty_masks(source: Frame) -> Frame:
    return replace(source, instances=np.zeros_like(source.instances), masks={})


def negative_ids(source: Frame) -> Frame:
    return replace(source, instances=np.full_like(source.instances, -3))


@pytest.mark.parametrize("bad", [nothing_measured, only_nan, infinite, empty_masks, negative_ids])
def test_bad_frames_before_between_and_after_good_ones_do_no_harm(bad):
    mapper = mapped(bad(recorded(0)), recorded(1), recorded(2), bad(recorded(3)), recorded(4), bad(recorded(5)))
    assert all(np.isfinite(mapper.gaussians[name].numpy()).all() for name in ("means", "log_scales", "quats", "sh"))
    box_slots(mapper, camera(2.5 * STEP), agreement=0.9)
    assert quality(mapper, camera(2.5 * STEP)) >= 22


def test_missing_depth_in_part_of_the_image_leaves_a_hole_that_the_next_frame_fills():
    source = recorded(0)
    depth = source.depth.copy()
    depth[:, :60] = np.nan
    mapper = mapped(replace(source, depth=depth))
    assert (mapper.render_labels(source.camera).depth[:, :50] == 0).mean() > 0.9
    mapped(recorded(1), mapper=mapper)
    assert (mapper.render_labels(camera(STEP)).depth > 0).mean() > 0.98


def test_masks_where_nothing_is_mapped_open_objects_without_gaussians():
    mapper = mapped(recorded(0), recorded(1), match=False)
    pose = camera().T_world_camera.copy()
    pose[:3, [0, 2]] *= -1  # the other way
    mapped(replace(recorded(2), camera=camera().at(pose), depth=None), mapper=mapper)
    bodiless = [obj for obj in mapper.objects if not obj.num_gaussians]
    assert bodiless and all(obj.box is None and obj.state is ObjectState.TENTATIVE for obj in bodiless)
    mapped(recorded(3), mapper=mapper)
    box_slots(mapper, camera(STEP))


def test_large_mask_ids_and_masks_without_information():
    frames = []
    for number in range(2):
        source = recorded(number)
        ids = np.where(source.instances > 0, source.instances + (1 << 24), 0)
        frames.append(replace(source, instances=ids, masks={}))
    mapper = mapped(*frames)
    box_slots(mapper, camera(STEP), agreement=0.9)
    assert {obj.class_id for obj in mapper.objects} == {0}


def test_ignored_classes_open_no_object():
    mapper = mapped(recorded(0), recorded(1), ignored_classes=[1])
    assert {obj.class_id for obj in mapper.objects} == {2, 3}


def test_the_bound_on_gaussians_holds_and_is_told():
    mapper, warnings = Mapper(MapperConfig(max_gaussians=1500)), []
    for number in range(4):
        mapper.step(recorded(number), answer=False)
        while mapper.pending:
            warnings += mapper.step(None).warnings
            assert len(mapper.gaussians) <= 1500
    assert len(mapper.gaussians) == 1500 and any("max_gaussians = 1500" in text for text in warnings)


def test_floaters_in_front_of_a_measured_surface_are_removed():
    empty = replace(recorded(0), instances=None, masks={})
    depth = empty.depth.copy()
    depth[30:70, 60:100] = 0.6  # something stood close to the camera, and went
    inside = np.s_[36:64, 66:94]  # single pixels may stay at its rim

    def ghost(carve: bool) -> float:
        """Share of pixels that still show it after some more looks."""
        mapper = mapped(replace(empty, depth=depth), carve=carve, keyframe_interval_s=0.0, steps_per_keyframe=0)
        assert (mapper.render_labels(empty.camera).depth[inside] < 0.7).mean() > 0.95
        mapped(*[empty] * 4, mapper=mapper)
        return float((mapper.render_labels(empty.camera).depth < 0.6 * empty.depth)[inside].mean())

    assert ghost(carve=True) == 0
    assert ghost(carve=False) > 0.9


def test_refinement_replaces_what_is_too_coarse():
    flat = replace(recorded(0), rgb=np.full_like(recorded(0).rgb, 120), instances=None, masks={})  # nothing to see yet
    options = {"steps_per_keyframe": 0, "keyframe_interval_s": 0.0}
    detailed = replace(recorded(0), instances=None, masks={})
    fine = mapped(flat, detailed, **options)
    coarse = mapped(flat, detailed, refine_max=0, **options)
    assert len(fine.gaussians) > 1.2 * len(coarse.gaussians)
    assert quality(fine, camera()) > quality(coarse, camera()) + 3


def test_reset_forgets_the_map_but_gives_no_id_twice():
    mapper = mapped(recorded(0), recorded(1))
    map_id, ids = mapper.gaussians.map_id, {obj.id for obj in mapper.objects}
    mapper.step(recorded(3), answer=False)
    mapper.reset()
    assert not mapper.pending and len(mapper.gaussians) == len(mapper.objects) == len(mapper.keyframes) == 0
    assert mapper.gaussians.map_id != map_id
    mapped(recorded(0), recorded(1), mapper=mapper)
    assert not ids & {obj.id for obj in mapper.objects} and len(mapper.objects) == len(ids)
    box_slots(mapper, camera(STEP), agreement=0.9)


def test_a_saved_map_is_loaded_and_continued(tmp_path):
    first = mapped(*(recorded(number) for number in range(4)))
    save_map(tmp_path / "map", first.gaussians, first.objects)
    second = Mapper()
    second.load(*load_map(tmp_path / "map"))
    view = camera(2.5 * STEP)
    before, after = first.render_labels(view), second.render_labels(view)
    np.testing.assert_array_equal(after.instance, before.instance)
    np.testing.assert_array_equal(after.semantic, before.semantic)
    known = {obj.id: obj.slot for obj in first.objects.present()}
    mapped(*(recorded(number) for number in range(4, 7)), mapper=second)
    assert {obj.id: obj.slot for obj in second.objects.present()} == known, "the objects are recognised"
    assert [obj.observations for obj in second.objects.present()] == [7] * len(known)
    box_slots(second, camera(5.5 * STEP))


def test_an_empty_map_can_be_asked_and_loaded():
    mapper = Mapper()
    answer = mapper.render_labels(camera())
    assert not answer.instance.any() and not answer.depth.any()
    mapper.load(GaussianMap(), ObjectRegistry())
    mapper.finish()
    mapped(recorded(0), recorded(1), mapper=mapper)
    box_slots(mapper, camera(STEP), agreement=0.9)


def test_a_wrong_parameter_is_named():
    with pytest.raises(ValueError, match=r"keyframe_queue = 0 is outside \[1, 100\]"):
        Mapper(MapperConfig(keyframe_queue=0))


def test_a_block_that_the_edge_of_the_image_cuts_inherits_from_the_last_pixel(monkeypatch):
    mapper, made = Mapper(MapperConfig(steps_per_keyframe=1)), []
    add = mapper._add
    monkeypatch.setattr(mapper, "_add", lambda index, seeds, votes: made.append(seeds) or add(index, seeds, votes))
    mapper.step(recorded(0))
    mapper.finish()
    whole, before = made[0], len(mapper.gaussians)
    height, width = recorded(0).rgb.shape[:2]
    seeds = whole.take(np.array([0]))
    seeds = replace(seeds, pixel=np.array([[width + 0.5, height + 0.5]]))  # the middle of the whole block
    parents = np.full((height, width), -1)
    parents[-1, -1] = 0
    slots, weights = np.full((1, 4), 7, np.int32), np.full((1, 4), 0.5, np.float32)
    add(0, seeds, (parents, slots, weights))
    assert mapper.gaussians["vote_object"][before].tolist() == [7] * 4
