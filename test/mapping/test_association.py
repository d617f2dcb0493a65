import numpy as np
import pytest

from gs_semantic.gaussians import MaskInfo
from gs_semantic.mapping.association import Evidence, OverlapAssociator
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.objects.registry import ObjectRegistry, ObjectState


class World:
    """Gaussians in a row, each one pixel; masks are ranges of them; votes are kept as the mapper would."""

    def __init__(self, size: int = 1000, **options) -> None:
        self.config = MapperConfig(mask_min_px=20, **options)
        self.associator = OverlapAssociator(self.config)
        self.objects = ObjectRegistry()
        self.votes = np.zeros((size, 64), np.float32)
        self.stamp = 0

    def see(self, *masks: tuple[int, int], classes: tuple[int, ...] | None = None):
        """One keyframe; returns the object slot of every mask and the assignment."""
        self.stamp += 1
        size = len(self.votes)
        index = np.zeros(size, np.int32)
        for number, (low, high) in enumerate(masks, 1):
            index[low:high] = number
        order = np.argsort(-self.votes, axis=1, kind="stable")[:, :4]
        weight = np.take_along_axis(self.votes, order, 1)
        infos = [MaskInfo()] + [MaskInfo(c) for c in classes or (1,) * len(masks)]
        evidence = Evidence(
            mask=index,
            weight=np.ones(size, np.float32),
            vote_object=np.where(weight > 0, order, 0).astype(np.int32),
            vote_weight=weight,
            areas=np.bincount(index, minlength=len(masks) + 1),
            infos=infos,
            stamp_ns=self.stamp,
        )
        result = self.associator.associate(evidence, self.objects)
        leader = self.leader()
        for row in range(1, len(masks) + 1):
            chosen = index == row
            for mask, other in result.shielded:
                if mask == row:
                    chosen &= leader != other
            self.votes[chosen, result.slots[row]] += 1
        for lost, kept in result.merged.items():
            self.votes[:, kept] += self.votes[:, lost]
            self.votes[:, lost] = 0
        for slot in result.forgotten:
            self.votes[:, slot] = 0
        return result.slots[1:].tolist(), result

    def leader(self) -> np.ndarray:
        return np.where(self.votes.max(1) > 0, self.votes.argmax(1), 0)


def test_objects_keep_their_slot_whatever_the_order_of_masks():
    world = World()
    first, _ = world.see((0, 100), (100, 300))
    second, _ = world.see((105, 290), (5, 95))
    assert second == first[::-1]


def test_a_mask_that_grows_into_the_unmapped_stays_the_same_object():
    world = World()
    (slot,), _ = world.see((0, 100))
    assert world.see((50, 400))[0] == [slot]


def test_confirmed_after_the_configured_observations():
    world = World(confirm_observations=3)
    states = []
    for _ in range(3):
        (slot,), _ = world.see((0, 100))
        states.append(world.objects.by_slot(slot).state)
    assert states == [ObjectState.TENTATIVE, ObjectState.TENTATIVE, ObjectState.CONFIRMED]


def test_an_object_does_not_inherit_the_counts_of_who_had_its_slot():
    world = World(merge_observations=3)
    for masks in (((0, 100), (100, 200)), ((0, 100), (100, 200)), ((0, 200),), ((0, 200),)):
        world.see(*masks)
    first, second = world.leader()[[50, 150]]
    world.objects.drop(int(second))  # by hand; the mapper takes its votes away
    world.votes[:, second] = 0
    (_, again), _ = world.see((0, 100), (100, 200))
    assert again == second and world.objects.by_slot(again).id > 2
    _, result = world.see((0, 200))
    assert not result.merged and world.objects.has_slot(int(first)) and world.objects.has_slot(again)


def test_a_passing_split_changes_nothing():
    world = World()
    (slot,), _ = world.see((0, 200))
    for _ in range(3):
        world.see((0, 200))
    world.see((0, 110), (110, 200))
    for _ in range(world.config.forget_after + 1):
        world.see((0, 200))
    assert (world.leader()[:200] == slot).all()
    assert [o.slot for o in world.objects] == [slot], "the part is forgotten"


def test_objects_first_seen_as_one_mask_come_apart():
    world = World()
    world.see((0, 200))
    for _ in range(4):
        world.see((0, 120), (120, 200))
    leader = world.leader()
    assert len(set(leader[:120])) == 1 and len(set(leader[120:200])) == 1 and leader[0] != leader[150]


def test_a_passing_merge_is_shielded_and_forgotten():
    world = World()
    for _ in range(4):
        slots, _ = world.see((0, 120), (120, 200))
    merged, result = world.see((0, 200))
    assert merged == [slots[0]] and (1, slots[1]) in result.shielded
    assert world.see((0, 120), (120, 200))[0] == slots
    assert world.votes[150, slots[0]] == 0, "the swallowed neighbour got no vote of the merged mask"


def test_duplicates_are_merged_when_masks_keep_covering_both():
    world = World()
    for _ in range(3):
        slots, _ = world.see((0, 120), (120, 200))
    for _ in range(10):
        world.see((0, 200))
    assert len(world.objects) == 1 and len(set(world.leader()[:200])) == 1
    survivor = next(iter(world.objects))
    assert survivor.slot == slots[0] and survivor.state is ObjectState.CONFIRMED


def test_objects_of_different_classes_are_never_merged():
    world = World()
    for _ in range(3):
        world.see((0, 120), (120, 200), classes=(1, 2))
    for _ in range(20):
        world.see((0, 200))
    assert len({o.class_id for o in world.objects}) == 2


@pytest.mark.parametrize("given", [1, 2])
def test_class_breaks_the_tie_of_equal_overlaps(given):
    world = World()
    for _ in range(2):
        slots, _ = world.see((0, 100), (100, 200), classes=(1, 2))
    assert world.see((50, 150), classes=(given,))[0] == [slots[given - 1]]


def test_an_object_in_view_without_a_mask_goes_stale_and_comes_back():
    world = World(stale_misses=3)
    for _ in range(2):
        (slot, other), _ = world.see((0, 200), (200, 400))
    for _ in range(3):
        world.see((200, 400))
    assert world.objects.by_slot(slot).state is ObjectState.STALE
    assert world.see((0, 200), (200, 400))[0] == [slot, other]
    assert world.objects.by_slot(slot).state is ObjectState.CONFIRMED


def test_tiny_masks_open_nothing():
    world = World()
    slots, _ = world.see((0, 10))
    assert slots == [0] and len(world.objects) == 0


def test_no_masks_at_all():
    world = World()
    world.see((0, 100))
    assert world.see()[0] == []
