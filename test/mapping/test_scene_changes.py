"""Things that are moved, taken away and brought while the map goes on, in a small room whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_association import World

from gs_semantic.benchmarks.identity import follow, make_sequence
from gs_semantic.evaluation.identity import IdentityScore, ghosts
from gs_semantic.gaussians import GaussianMap
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.lifting import hand_over_votes, register_votes
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.objects.registry import Box, MapObject, ObjectState
from gs_semantic.objects.relocation import relocate


@pytest.fixture(scope="module")
def recording() -> tuple:
    return make_sequence(12, 16, 0, (240, 180), cache=32)


@pytest.fixture(scope="module")
def outcome(recording: tuple) -> dict:
    return follow(*recording, seed=0, params=("steps_per_keyframe=2",))


def test_moved_objects_keep_their_ids(outcome: dict) -> None:
    assert outcome["moved_kept_id"] == outcome["moved"] == 2


def test_objects_that_were_taken_away_are_removed(outcome: dict) -> None:
    assert outcome["removed_found"] == outcome["removed"] == 2
    assert outcome["ghosts"] == 0


def test_objects_that_stayed_keep_their_ids(outcome: dict) -> None:
    assert outcome["untouched_kept_id"] == outcome["untouched"] == 6
    assert outcome["objects"] == outcome["true_objects"] == 10
    assert outcome["duplicates_pct"] <= 1 and outcome["shown_pct"] > 80


def mapped(frames, mapper: Mapper | None = None) -> Mapper:
    mapper = mapper or Mapper(MapperConfig(steps_per_keyframe=0, keyframe_translation_m=0.0))
    for frame in frames:
        mapper.step(frame, answer=False)
        mapper.finish()
    return mapper


@pytest.fixture(scope="module")
def walks(recording: tuple) -> tuple:
    sequence, changes = recording
    frames = [sequence[index] for index in range(len(sequence))]
    return frames[:16], frames[16:], changes, sequence


def object_at(mapper: Mapper, shape) -> MapObject:
    return min(
        (obj for obj in mapper.objects if obj.box is not None), key=lambda obj: np.linalg.norm(obj.box.centre - shape.centre)
    )


def test_a_locked_object_is_not_removed_by_perception(walks) -> None:
    before, after, changes, sequence = walks
    mapper = mapped(before)
    chosen = object_at(mapper, sequence.scene_at(0).objects[changes["removed"][0] - 1])
    chosen.locked = True
    mapped(after, mapper)
    assert chosen.state in (ObjectState.STALE, ObjectState.CONFIRMED)
    assert mapper.objects.by_id(chosen.id) is chosen


def test_a_deleted_object_does_not_come_back(walks) -> None:
    before, _, changes, sequence = walks
    mapper = mapped(before)
    shape = sequence.scene_at(0).objects[changes["removed"][0] - 1]
    chosen = object_at(mapper, shape)
    rows = np.flatnonzero(mapper.gaussians["object"].numpy() == chosen.slot)
    mapper.gaussians.remove(torch.from_numpy(rows))
    mapper._rename({}, {chosen.slot})
    chosen.state, chosen.locked = ObjectState.REMOVED, True
    mapped([replace(frame, stamp_ns=frame.stamp_ns + 10**11) for frame in before], mapper)
    assert chosen.state is ObjectState.REMOVED
    near = [obj.id for obj in mapper.objects.present() if np.linalg.norm(obj.box.centre - shape.centre) < shape.radius]
    assert near == [], "it is still seen, and still not shown"


def test_relocation_finds_turn_and_shift_of_a_part() -> None:
    rng = np.random.default_rng(0)
    box = rng.uniform(-1, 1, (3000, 3))
    axis = rng.integers(0, 3, 3000)
    box[np.arange(3000), axis] = np.sign(box[np.arange(3000), axis])
    colours = np.where(axis[:, None] == 2, [0.9, 0.1, 0.1], np.where((box[:, :1] > 0), [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]))
    box = box * [0.15, 0.1, 0.2] + [3, 1, 0.2]
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = (box - [3, 1, 0.2]) @ turn.T + [-2, 4, 0.5]
    part = moved[:, 1] < 4.05  # seen from one side
    found = relocate(box, colours, moved[part], colours[part])
    assert found is not None and found.share > 0.75
    np.testing.assert_allclose(found.motion[:3, :3], turn, atol=0.03)
    np.testing.assert_allclose(found.motion[:3, :3] @ [3, 1, 0.2] + found.motion[:3, 3], [-2, 4, 0.5], atol=0.02)
    other = relocate(box, colours, moved[part], 1 - colours[part])
    assert other is None or other.share < 0.3, "another colour is another thing"
    assert relocate(box, colours, moved * 2, colours) is None, "a larger thing is another thing"


def test_votes_go_to_the_part_that_comes_off() -> None:
    gaussians = GaussianMap()
    register_votes(gaussians)
    gaussians.add(
        means=torch.zeros(3, 3), quats=torch.ones(3, 4), log_scales=torch.zeros(3, 3), opacity_logits=torch.zeros(3),
        sh=torch.zeros(3, 1, 3), object=torch.tensor([1, 1, 1], dtype=torch.int32),
        vote_object=torch.tensor([[1, 2, 0, 0], [1, 2, 3, 0], [1, 0, 0, 0]], dtype=torch.int32),
        vote_weight=torch.tensor([[9, 2, 0, 0], [9, 0.5, 1, 0], [9, 0, 0, 0.0]]),
    )  # fmt: skip
    hand_over_votes(gaussians, part=2, whole=1, least=1.0)
    assert gaussians["object"].tolist() == [2, 1, 1]
    assert gaussians["vote_weight"][0].tolist() == [0, 11, 0, 0]
    assert gaussians["vote_weight"][1].tolist() == [9, 0.5, 1, 0]


def test_switches_duplicates_and_ghosts_are_counted() -> None:
    truth = np.zeros((20, 40), int)
    truth[:, :20], truth[:, 20:] = 1, 2
    score = IdentityScore()
    score.update(np.where(truth == 1, 7, 8), truth)
    score.update(np.where(truth == 1, 7, 9), truth)
    score.update(np.where(truth == 1, 7, 0), truth)
    half = np.where(truth == 1, 7, 9)
    half[:8, 20:] = 5
    score.update(half, truth)
    assert score.results() == {"id_switches": 1, "duplicates_pct": 100 / 8, "shown_pct": 700 / 8}
    objects = []
    for number, x in enumerate((0.0, 5.0)):
        objects.append(MapObject(number + 1, number + 1, box=Box(np.array([x, 0, 0]), np.ones(3), np.eye(3))))
    assert ghosts(objects, {1: (np.array([0.1, 0, 0]), 0.2)}) == [2]


def test_the_associator_splits_what_masks_keep_telling_apart() -> None:
    world = World()
    for _ in range(30):
        world.see((0, 200))
    splits = []
    for _ in range(4):
        slots, result = world.see((0, 120), (120, 200))
        splits.append(dict(result.split))
    assert splits == [{}, {}, {}, {slots[1]: slots[0]}], "not before it is sure"
    assert world.objects.by_slot(slots[1]).parent == world.objects.by_slot(slots[0]).id


def test_a_locked_object_is_not_split_and_takes_all_masks_on_it() -> None:
    world = World()
    for _ in range(30):
        slots, _ = world.see((0, 200))
    world.objects.by_slot(slots[0]).locked = True
    for _ in range(6):
        seen, result = world.see((0, 120), (120, 200))
        assert result.split == {}
    assert seen == [slots[0], slots[0]] and len(world.objects) == 1
