"""Association by the codebook: the decisions of the overlap, learned features in place of votes."""

from __future__ import annotations

import numpy as np
import pytest
from scene import camera, frame, shuffled
from test_association import World

from gs_semantic.gaussians import MaskInfo
from gs_semantic.mapping.association import Evidence
from gs_semantic.mapping.codebook import LEARNED, CodebookAssociator
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.objects.registry import ObjectState


class FeatureWorld(World):
    """The Gaussians in a row have features, and no votes at all."""

    def __init__(self, size: int = 1000, **options) -> None:
        super().__init__(size, **options)
        self.associator = CodebookAssociator(self.config)
        self.features = np.zeros((size, self.config.identity_dims), np.float32)

    def see(self, *masks: tuple[int, int], classes: tuple[int, ...] | None = None):
        self.stamp += 1
        size = len(self.features)
        index = np.zeros(size, np.int32)
        for number, (low, high) in enumerate(masks, 1):
            index[low:high] = number
        evidence = Evidence(
            mask=index,
            weight=np.ones(size, np.float32),
            vote_object=np.zeros((size, 4), np.int32),
            vote_weight=np.zeros((size, 4), np.float32),
            areas=np.bincount(index, minlength=len(masks) + 1),
            infos=[MaskInfo()] + [MaskInfo(c) for c in classes or (1,) * len(masks)],
            stamp_ns=self.stamp,
            features=self.features,
        )
        result = self.associator.associate(evidence, self.objects)
        assert result.features is not None and result.kept is not None
        self.features = result.features
        return result.slots[1:].tolist(), result

    def code(self, slot: int) -> np.ndarray:
        return self.associator.codes(self.objects.slots)[slot].numpy()


def test_objects_are_known_by_their_features_whatever_the_order_of_masks():
    world = FeatureWorld()
    first, _ = world.see((0, 100), (100, 300))
    assert world.see((105, 290), (5, 95))[0] == first[::-1]
    assert world.see((20, 100), (100, 250))[0] == first


def test_new_objects_open_codes_that_differ_and_the_others_stay():
    world = FeatureWorld(2000)
    slots = []
    for k in range(40):
        slots += world.see(*[(50 * j, 50 * j + 50) for j in range(max(0, k - 5), k + 1)])[0][-1:]
    assert len(set(slots)) == 40
    known = world.associator.vectors[world.associator.owners > 0]
    cosines = known @ known.T - 2 * np.eye(len(known))
    assert np.allclose(np.linalg.norm(known, axis=1), 1, atol=1e-5) and cosines.max() < 0.9


def test_the_code_of_a_forgotten_object_is_given_to_a_new_one_with_a_new_vector():
    world = FeatureWorld(forget_after=3)
    world.see((0, 300))
    (part, _), _ = world.see((300, 400), (0, 300))
    place = int(np.flatnonzero(world.associator.owners == part)[0])
    before, count = world.associator.vectors[place].copy(), len(world.associator.owners)
    for _ in range(5):
        world.see((0, 300))
    assert not world.objects.has_slot(part) and world.associator.owners[place] == 0
    assert not world.code(part).any()
    (new, _), _ = world.see((500, 700), (0, 300))
    assert world.associator.owners[place] == new and len(world.associator.owners) == count
    assert abs(world.associator.vectors[place] @ before) < 0.9


def test_merged_objects_keep_the_id_and_the_codes_of_both():
    world = FeatureWorld()
    for _ in range(3):
        slots, _ = world.see((0, 120), (120, 200))
    for _ in range(10):
        world.see((0, 200))
    assert [obj.slot for obj in world.objects] == [slots[0]]
    assert (world.associator.owners == slots[0]).sum() == 2
    assert world.see((0, 200))[0] == [slots[0]]


def test_a_feature_that_speaks_against_its_mask_gets_no_vote_and_teaches_nothing():
    world = FeatureWorld()
    for _ in range(3):
        world.see((0, 200), (200, 400))
    before = world.features[195:200].copy()
    _, result = world.see((0, 195), (195, 400))  # the right mask spills over
    assert not result.kept[195:200].any() and result.kept[:195].all() and result.kept[200:400].all()
    assert np.array_equal(world.features[195:200], before)


def test_features_move_towards_their_code_and_what_no_mask_shows_stays():
    world = FeatureWorld()
    (slot,), _ = world.see((0, 100))
    assert np.allclose(world.features[:100] @ world.code(slot), 1, atol=1e-4)
    assert (np.linalg.norm(world.features[100:], axis=1) < LEARNED).all()
    assert world.objects.by_slot(slot).state is ObjectState.TENTATIVE


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mapper_with_a_codebook_knows_the_boxes_again(seed):
    mapper = Mapper(MapperConfig(association="codebook", steps_per_keyframe=2, seed=seed))
    shown = []
    for number in range(6):
        mapper.step(shuffled(frame(camera(0.14 * number), number + 1), seed=number), answer=False)
        mapper.finish()
        shown.append({obj.id for obj in mapper.objects.present()})
    assert len(shown[-1]) == 4 and all(before <= shown[-1] for before in shown)
    answer, truth = mapper.render_labels(camera(0.35)).instance, frame(camera(0.35)).instances
    winners = {int(i): np.bincount(answer[truth == i]).argmax() for i in np.unique(truth)}
    assert len(set(winners.values())) == 4 and 0 not in winners.values()
    assert np.mean([(answer[truth == i] == w).mean() for i, w in winners.items()]) > 0.95


def test_a_loaded_map_is_associated_by_its_votes_until_features_are_learned():
    first = Mapper(MapperConfig(steps_per_keyframe=2))
    for number in range(4):
        first.step(shuffled(frame(camera(0.14 * number), number + 1), seed=number), answer=False)
        first.finish()
    ids = {obj.id for obj in first.objects.present()}
    first.gaussians["identity"].zero_()
    mapper = Mapper(MapperConfig(association="codebook", steps_per_keyframe=2), None, first.gaussians, first.objects)
    for number in range(4, 7):
        mapper.step(shuffled(frame(camera(0.14 * number), number + 1), seed=number), answer=False)
        mapper.finish()
    assert {obj.id for obj in mapper.objects.present()} == ids


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="association = 'guess' is none of overlap, codebook"):
        MapperConfig(association="guess").validate()
