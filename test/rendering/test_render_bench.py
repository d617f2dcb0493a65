"""The benchmark's room and its numbers."""

from __future__ import annotations

import pytest
import torch

from gs_semantic.benchmarks import render, scaling
from gs_semantic.benchmarks.render import (
    EXPECTED,
    MODES,
    UnexpectedSceneError,
    check_room,
    run_render_bench,
    time_frames,
)
from gs_semantic.benchmarks.train import KINDS, run_train_bench
from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.errors import InvalidRequestError
from gs_semantic.gaussians.ply import save_ply
from gs_semantic.rendering.cpu import CpuRasterizer


@pytest.mark.parametrize("count", [2000, 20000])
def test_room_is_opaque_at_any_size(count):
    room = opaque_room(count)
    assert len(room) == count
    assert float(CpuRasterizer().render(room, room_camera(160, 120)).alpha.mean()) > 0.95
    assert len(torch.unique(room["object"])) == 31
    assert torch.equal(opaque_room(count).means, room.means)
    assert not torch.equal(opaque_room(count, seed=1).means, room.means)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_reports_its_numbers(mode):
    results = run_render_bench(2000, mode, 80, 60, frames=2, threads=2)
    numbers = ("fps", "fps_at_440_gflops", "frame_ms_p50", "project_ms", "bin_ms", "pass_ms", "pack_ms", "evaluations")
    assert all(results[name] > 0 for name in numbers)
    assert results["threads"] == 2
    assert results["psnr_vs_reference_db"] >= 90
    assert results["id_agreement_pct"] >= 99
    assert results["ratio_vs_reference"] > 5


def test_the_room_that_figures_are_compared_on():
    """At 640x480 the bench itself checks share in view, transmittance and evaluations."""
    results = run_render_bench(50_000, "ids", frames=2)
    assert 45 <= results["in_view_pct"] <= 50
    assert 0.003 <= results["remaining_transmittance"] <= 0.012
    assert results["drawn_per_pixel"] == pytest.approx(EXPECTED[50_000][0], rel=0.1)
    assert results["evaluations"] < results["block_evaluations"] == pytest.approx(EXPECTED[50_000][1], rel=0.1)


EASIER = {"in_view_pct": 40.0, "remaining_transmittance": 0.002, "drawn_per_pixel": 28.0, "block_evaluations": 0.9e6}


@pytest.mark.parametrize("name", EASIER)
def test_an_easier_room_is_refused(name):
    per_pixel, evaluations = EXPECTED[200_000]
    facts = {
        "in_view_pct": 48.0,
        "remaining_transmittance": 0.006,
        "drawn_per_pixel": per_pixel,
        "block_evaluations": evaluations,
    }
    check_room(200_000, facts)
    with pytest.raises(UnexpectedSceneError, match=f"room of 200000 Gaussians: {name} is .* expected"):
        check_room(200_000, facts | {name: EASIER[name]})


def test_only_batches_on_a_quiet_machine_count(monkeypatch):
    speeds = iter([100.0] * 20 + [100, 100] + [95, 50] + [100, 100] + [20, 100] + [99, 98] + [100.0] * 100)
    monkeypatch.setattr(render, "calibrate", lambda threads: next(speeds))
    seen = []

    def frame(k):
        seen.append(k)
        return float(k), [1.0, 1.0, 1.0], k

    timing = time_frames(frame, 8, None)
    assert [k for _, _, k in timing.frames] == [4, 5, 6, 7, 12, 13, 14, 15]  # those beside a slow calibration are not
    assert seen == list(range(-4, 16))
    assert timing.quiet_pct == pytest.approx(50.0)


def test_a_map_from_a_file(tmp_path):
    path = tmp_path / "room.ply"
    save_ply(path, opaque_room(1500))
    results = run_render_bench(7, "rgb", 64, 48, frames=2, path=path)
    assert results["gaussians"] == 1500 and results["fps"] > 0


def test_forced_instruction_set_and_bad_arguments():
    assert run_render_bench(1000, "ids", 32, 24, frames=1, isa="scalar")["isa"] == "scalar"
    with pytest.raises(InvalidRequestError, match="isa 'mmx'"):
        run_render_bench(1000, "ids", 32, 24, frames=1, isa="mmx")
    with pytest.raises(InvalidRequestError, match="mode 'vr': expected one of"):
        run_render_bench(1000, "vr")


@pytest.mark.parametrize("what", KINDS)
def test_training_bench_trains_and_reports_its_numbers(what):
    results = run_train_bench(2000, what, 80, 60, steps=40, threads=2)
    assert results["it_per_s"] > 0 and results["step_ms_p50"] > 0 and results["threads"] == 2
    assert results["gradient_rel_error_max"] < 1e-4
    assert results["transpose_ratio"] > 0 and results["reference_ratio"] > 1
    if what == "full":
        assert results["psnr_db"] > results["psnr_before_db"] + 3
    else:
        assert results["loss"] < 0.9 * results["loss_before"]
        assert results["kept_loss"] == results["loss"] and results["kept_mb_per_view"] > 0


def test_training_bench_names_what_it_can_train():
    with pytest.raises(InvalidRequestError, match="what 'all': expected one of full, features"):
        run_train_bench(1000, "all")


def test_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "FRAMES", 4)
    monkeypatch.setattr(scaling, "CHANNELS", (0, 4))
    curves = scaling.measure((500, 1000), ((32, 24), (64, 48)), patience_s=0.0)
    assert {name: len(points) for name, points in curves.items()}["gaussians_rgb"] == 2
    assert all(ms > 0 for points in curves.values() for _, ms in points)
    scaling.plot(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
