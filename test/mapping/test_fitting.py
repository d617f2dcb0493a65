"""Fitting a map to whole photographs, on a ray-cast room with sparse points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scene import camera, frame

from gs_semantic.data.sequence import SparsePoints
from gs_semantic.errors import InvalidRequestError
from gs_semantic.evaluation.image_quality import psnr
from gs_semantic.gaussians import Frame, GaussianMap
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.mapping.fitting import (
    FitSettings,
    PhotographFitter,
    fit_exposure,
    map_from_points,
    with_sh_degree,
)
from gs_semantic.mapping.mapper import Mapper
from gs_semantic.mapping.offline import MapOffline
from gs_semantic.rendering.cpu import CpuRasterizer

SIZE = (96, 72)
PLACES = [0.0, 0.15, 0.3, 0.45, 0.6, 0.75]
BETWEEN = 0.37


def photographs() -> list[Frame]:
    return [replace(frame(camera(place, *SIZE)), depth=None) for place in PLACES]


def points(count: int = 1200) -> SparsePoints:
    """Some surface points, as structure from motion finds them."""
    views = [frame(camera(place, *SIZE)) for place in PLACES[::2]]
    xyz = np.concatenate([view.camera.unproject(view.depth).reshape(-1, 3) for view in views])
    rgb = np.concatenate([view.rgb.reshape(-1, 3) for view in views])
    chosen = np.random.default_rng(0).choice(len(xyz), count, replace=False)
    return SparsePoints(xyz[chosen].astype(np.float32), rgb[chosen])


def score(gaussians: GaussianMap) -> float:
    """PSNR at a place between the photographs."""
    truth = frame(camera(BETWEEN, *SIZE))
    return psnr(CpuRasterizer().render(gaussians, truth.camera).rgb.numpy(), truth.rgb)


def test_points_grow_into_a_map_that_shows_what_lies_between_the_photographs() -> None:
    start = map_from_points(points())
    fitted = PhotographFitter(photographs(), FitSettings(steps=400, max_gaussians=3000)).run(start)
    assert len(start) == 1200 and 2000 < len(fitted) <= 3000
    assert fitted.sh_degree == 1
    assert score(fitted) > max(24.0, score(start) + 6)


def test_the_same_fit_gives_the_same_map() -> None:
    settings = FitSettings(steps=80, max_gaussians=1500)
    one, other = (PhotographFitter(photographs(), settings).run(map_from_points(points())) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in ("means", "sh", "opacity_logits"))


def test_photographs_of_different_exposure_do_not_disturb_each_other() -> None:
    gains = np.linspace(0.7, 1.2, len(PLACES))
    gains /= gains.mean()
    taken = [
        replace(shot, rgb=np.clip(shot.rgb * gain, 0, 255).astype(np.uint8))
        for shot, gain in zip(photographs(), gains, strict=True)
    ]
    scores = {}
    for exposure in (True, False):
        settings = FitSettings(steps=400, max_gaussians=2500, exposure=exposure)
        fitter = PhotographFitter(taken, settings)
        scores[exposure] = score(fitter.run(map_from_points(points())))
        if exposure:
            found = fitter.exposures.gain.mean(1)
            assert np.corrcoef(found, gains)[0, 1] > 0.95
    assert scores[True] > scores[False] + 0.5


def test_exposure_is_found() -> None:
    image = np.random.default_rng(1).random((60, 80, 3)).astype(np.float32)
    gain, offset = fit_exposure(image, image * np.float32([1.2, 1.0, 0.8]))
    assert np.allclose(gain, [1.2, 1.0, 0.8], atol=0.03) and np.abs(offset).max() < 0.02
    darker = 0.9 * image - 0.1
    gain, offset = fit_exposure(image, darker)
    assert np.abs(gain * image + offset - darker).mean() < 0.3 * np.abs(image - darker).mean()


def test_attributes_survive_fitting() -> None:
    start = map_from_points(points())
    start.register("object", (), torch.int32)
    start["object"] = (start.means[:, 0] > 0.3).int()
    fitted = PhotographFitter(photographs(), FitSettings(steps=160, max_gaussians=2000)).run(start)
    near = fitted.means[:, 0] > 0.5
    assert len(fitted) > len(start) and fitted["object"][near].float().mean() > 0.95
    assert len(torch.unique(fitted["uid"])) == len(fitted)


def test_a_mapped_room_gets_better_and_keeps_its_objects() -> None:
    seen = [frame(camera(place, *SIZE), (i + 1) * 10**8) for i, place in enumerate(PLACES)]
    shown = MapOffline(Mapper(MapperConfig(steps_per_keyframe=1)))
    for shot in seen:
        shown.add(shot)
    before, objects = score(shown.mapper.gaussians), len(shown.confirmed_slots)
    shown.fit(seen, FitSettings(steps=200, detailed=True, exposure=False))
    assert score(shown.mapper.gaussians) > before + 0.5
    assert len(shown.confirmed_slots) == objects == 4
    truth = frame(camera(BETWEEN, *SIZE))
    found = shown.render_labels(truth.camera).instance
    assert all((found[truth.instances == key] > 0).mean() > 0.9 for key in (1, 2, 3))


def test_ignored_pixels_are_not_learnt() -> None:
    clean = photographs()
    bar = _with_bar(np.zeros(SIZE[::-1], np.uint8)) > 0
    covered = [replace(shot, rgb=_with_bar(shot.rgb), ignored=bar) if i % 2 else shot for i, shot in enumerate(clean)]
    seen = [replace(shot, ignored=None) for shot in covered]
    settings = FitSettings(steps=240, max_gaussians=2000, exposure=False)
    without, with_it = (score(PhotographFitter(shots, settings).run(map_from_points(points()))) for shots in (covered, seen))
    assert without > 22 and without > with_it + 1


def _with_bar(image: np.ndarray) -> np.ndarray:
    """The lower third covered in white, as by a robot's body."""
    image = image.copy()
    image[2 * len(image) // 3 :] = 255
    return image


def test_a_degree_more_looks_the_same() -> None:
    start = map_from_points(points())
    raised = with_sh_degree(start, 2)
    assert raised.sh.shape[1] == 9 and raised.next_uid == start.next_uid
    view = camera(0.2, *SIZE)
    shown = [CpuRasterizer().render(gaussians, view).rgb for gaussians in (start, raised)]
    assert torch.allclose(*shown, atol=1e-5)


@pytest.mark.parametrize("setting", [{"steps": 0}, {"sh_degree": 4}, {"max_gaussians": 0}, {"ssim_weight": 2.0}])
def test_settings_out_of_range_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(setting))):
        PhotographFitter(photographs(), FitSettings(**setting))


def test_nothing_to_fit_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no frames"):
        PhotographFitter([])
    with pytest.raises(InvalidRequestError, match="no Gaussians"):
        PhotographFitter(photographs(), FitSettings(steps=1)).run(GaussianMap())
    with pytest.raises(InvalidRequestError, match="3 points"):
        map_from_points(SparsePoints(np.zeros((3, 3), np.float32), np.zeros((3, 3), np.uint8)))
