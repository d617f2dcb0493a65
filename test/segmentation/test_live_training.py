"""Training of a map while the mapper goes on with it: the snapshot, what is merged back, and what must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scene import camera, frame, shuffled

from gs_semantic.errors import EmptyMapError, InvalidRequestError, TrainingError
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.gaussians.map_folder import load_map
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.rendering.cpu import CpuRasterizer
from gs_semantic.segmentation.live import ORIGIN, LiveTraining, live_config, live_scene, merge, own_miou, take_snapshot
from gs_semantic.segmentation.registry import method_class

STEP = 0.14
FAST = {"iterations": 60, "identity_pixels": 512, "hold_out_every": 4, "report_every": 10}


def recorded(number: int):
    return shuffled(frame(camera(STEP * number), 10**8 * (number + 1)), seed=number)


def mapped(frames: int = 6, mapper: Mapper | None = None, first: int = 0) -> Mapper:
    mapper = mapper or Mapper(MapperConfig(optimise_width_px=160, steps_per_keyframe=2))
    for number in range(first, first + frames):
        mapper.step(recorded(number), answer=False)
        mapper.finish()
    return mapper


def trained(snapshot, method="grouping", **changes):
    fast = {k: v for k, v in FAST.items() if k in method_class(method).Config.__dataclass_fields__}
    config = live_config(snapshot, method, "quick", {**fast, **changes})
    return LiveTraining(snapshot, method, config, rasterizer=CpuRasterizer(threads=1)).run()


def ids(mapper: Mapper) -> dict[int, tuple[int, int]]:
    """Slot and observations by id of what planners see."""
    return {obj.id: (obj.slot, obj.observations) for obj in mapper.objects.present()}


def quality(mapper: Mapper) -> float:
    view = camera(1.5 * STEP)
    return psnr(CpuRasterizer().render(mapper.gaussians, view).rgb.numpy(), frame(view).rgb)


def test_what_was_trained_takes_the_place_of_what_was_there_and_objects_keep_their_ids():
    mapper = mapped()
    before, seen, revision = quality(mapper), ids(mapper), mapper.gaussians.revision
    shown = mapper.render_labels(camera(1.5 * STEP)).instance
    snapshot = take_snapshot(mapper)
    result, method = trained(snapshot, iterations=60, densify_until=0)
    assert not result.cancelled and 0 <= result.metrics["miou"] <= 1 and result.metrics["psnr_db"] > 5
    merged = merge(mapper, snapshot, method)
    assert merged.updated > 0 and merged.dropped == 0
    assert len(mapper.gaussians) == merged.updated + merged.added == len(method.gaussians)
    assert mapper.gaussians.revision > revision
    mapper.finish()
    assert ids(mapper) == seen
    assert quality(mapper) > before
    again = mapper.render_labels(camera(1.5 * STEP)).instance
    assert (again == shown).mean() > 0.97
    keys = mapper.gaussians["uid"].numpy()
    assert len(np.unique(keys)) == len(keys)
    mapped(2, mapper, first=6)  # and mapping goes on
    assert set(seen) <= set(ids(mapper))


def test_rows_born_meanwhile_stay_and_rows_removed_meanwhile_stay_away():
    mapper = mapped(4)
    snapshot = take_snapshot(mapper)
    _, method = trained(snapshot, densify_until=0)
    mapped(3, mapper, first=4)
    born = mapper.gaussians["uid"].numpy() >= snapshot.gaussians.next_uid
    assert born.any()
    newest = {int(key): mapper.gaussians.means[row].clone() for row, key in enumerate(mapper.gaussians["uid"]) if born[row]}
    lost = mapper.gaussians["uid"][~torch.from_numpy(born)][:50].clone()
    rows = torch.nonzero(torch.isin(mapper.gaussians["uid"], lost))[:, 0]
    mapper.gaussians.remove(rows)
    merged = merge(mapper, snapshot, method)
    after = mapper.gaussians["uid"].numpy()
    assert not np.isin(lost.numpy(), after).any() and merged.dropped >= len(lost)
    for row, key in enumerate(after.tolist()):
        if key in newest:
            assert torch.equal(mapper.gaussians.means[row], newest[key])
    assert set(newest) <= set(after.tolist())


def test_what_the_training_removed_is_removed_and_children_of_lost_rows_are_dropped():
    mapper = mapped(4)
    snapshot = take_snapshot(mapper)
    _, method = trained(snapshot, densify_until=0)
    gaussians, start = method.gaussians, mapper.gaussians["uid"].clone()
    alive = torch.isin(start, gaussians["uid"])
    kept_back = gaussians["uid"][:7].clone()
    children = gaussians.clone(torch.arange(20, 25))
    origins = gaussians[ORIGIN][children]
    gaussians.remove(torch.arange(7))
    mapper.gaussians.remove(torch.nonzero(torch.isin(mapper.gaussians["uid"], origins[:2]))[:, 0])
    merged = merge(mapper, snapshot, method)
    assert merged.removed == 7 + int((~alive).sum()) and merged.added == 3 and merged.dropped == 4
    assert not torch.isin(kept_back, mapper.gaussians["uid"]).any()


def test_trained_gaussians_follow_keyframes_that_were_moved_meanwhile():
    mapper = mapped(4)
    snapshot = take_snapshot(mapper)
    result, method = trained(snapshot, densify_until=0, iterations=2)
    assert own_miou(snapshot, method) > 0.9 > result.metrics["miou"]  # two steps teach nothing, so objects stay as they are
    owners = mapper.gaussians["object"].clone()
    motion = np.eye(4)
    motion[:3, 3] = 0.0, 0.0, 0.5
    moved = int(mapper.gaussians["keyframe"][0])
    mapper.keyframes.move({moved: motion})
    before = {int(k): m.clone() for k, m in zip(method.gaussians["uid"], method.gaussians.means, strict=True)}
    merge(mapper, snapshot, method, relabel=False)
    assert mapper.gaussians["object"].equal(owners)
    rows = mapper.gaussians["keyframe"] == moved
    assert rows.any() and not rows.all()
    for key, mean, mine in zip(mapper.gaussians["uid"], mapper.gaussians.means, rows, strict=True):
        expected = before[int(key)] + torch.tensor([0.0, 0.0, 0.5 * float(mine)])
        assert torch.allclose(mean, expected, atol=1e-4)


def test_an_object_that_was_merged_or_locked_meanwhile_is_not_brought_back():
    mapper = mapped(4)
    snapshot = take_snapshot(mapper)
    _, method = trained(snapshot, densify_until=0, iterations=20)
    gone, locked = (obj.slot for obj in list(mapper.objects.present())[:2])
    mapper._rename({}, {gone})
    mapper.objects.drop(gone)
    mapper.objects.by_slot(locked).locked = True
    owned = mapper.gaussians["object"].clone() == locked
    merge(mapper, snapshot, method)
    now = mapper.gaussians["object"]
    assert not (now == gone).any()
    assert torch.equal(now == locked, owned)


def test_a_codebook_takes_the_ids_of_the_objects_that_it_covers():
    mapper = mapped(5)
    seen, shown = ids(mapper), mapper.render_labels(camera(1.5 * STEP)).instance
    snapshot = take_snapshot(mapper)
    _, method = trained(
        snapshot, "unified_lift", iterations=120, densify_until=0, contrast_pixels=1024, association_pixels=1024,
        lr_features=2.5e-2,
    )  # fmt: skip
    merged = merge(mapper, snapshot, method)
    mapper.finish()
    assert ids(mapper) == seen and merged.updated
    assert (mapper.render_labels(camera(1.5 * STEP)).instance == shown).mean() > 0.9


def test_limits_of_the_live_map_hold_for_the_training():
    mapper = mapped(4)
    mapper.config.max_gaussians = len(mapper.gaussians) + 10
    snapshot = take_snapshot(mapper)
    config = live_config(snapshot, "grouping", "standard", {"sh_degree": 3})
    assert config.sh_degree == 0 and config.max_gaussians == len(mapper.gaussians) + 10
    _, method = trained(snapshot, densify_gradient=1e-7)
    merge(mapper, snapshot, method)
    assert len(mapper.gaussians) <= mapper.config.max_gaussians


def test_pixels_that_show_the_robot_teach_nothing():
    mapper = mapped(4)
    for keyframe in mapper.keyframes.frames:
        keyframe.ignored = np.zeros(keyframe.rgb.shape[:2], bool)
        keyframe.ignored[60:] = True
    snapshot = take_snapshot(mapper)
    config = live_config(snapshot, "grouping", "quick", FAST)
    scene = live_scene(snapshot, config)
    half = scene.train[0].camera.height // 2
    assert all(view.ids is None or not view.ids[half:].any() for view in scene.train)
    assert all(view.ignored is not None and view.ignored[half:].all() for view in scene.train)
    rows = snapshot.gaussians["uid"].clone()
    _, method = trained(snapshot, densify_until=0, iterations=10, adam="all")
    assert len(method.gaussians) == len(rows)


def test_a_training_writes_what_one_of_a_recording_writes(tmp_path):
    mapper = mapped(4)
    snapshot = take_snapshot(mapper)
    config = live_config(snapshot, "grouping", "quick", {**FAST, "iterations": 10})
    result, method = LiveTraining(snapshot, "grouping", config, tmp_path / "out").run()
    assert result.map is not None and len(load_map(result.map)[0]) == len(method.gaussians)
    assert {"config.yaml", "metrics.jsonl", "checkpoint.pt"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_mistakes_are_told():
    with pytest.raises(EmptyMapError, match="0 Gaussians and 0 keyframes.*map first"):
        take_snapshot(Mapper())
    mapper = mapped(4)
    snapshot = take_snapshot(mapper)
    with pytest.raises(InvalidRequestError, match="did you mean 'iterations'"):
        live_config(snapshot, "grouping", "quick", {"iteratons": 3})
    _, method = trained(snapshot, iterations=2)
    mapper.reset()
    with pytest.raises(TrainingError, match="was replaced while it was trained"):
        merge(mapper, snapshot, method)
