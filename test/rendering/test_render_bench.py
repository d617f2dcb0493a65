"""The benchmark's room and its numbers."""

from __future__ import annotations

import pytest
import torch

from gs_semantic.benchmarks.render import MODES, run_render_bench
from gs_semantic.benchmarks.train import KINDS, run_train_bench
from gs_semantic.data.opaque_room import opaque_room, room_camera
from gs_semantic.errors import InvalidRequestError
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
    assert {"fps", "frame_ms_p50", "project_ms", "bin_ms", "pass_ms", "pack_ms"} <= set(results)
    assert results["fps"] > 0 and results["threads"] == 2
    assert results["psnr_vs_reference_db"] >= 90
    assert results["id_agreement_pct"] >= 99


def test_forced_instruction_set_and_bad_arguments():
    assert run_render_bench(1000, "ids", 32, 24, frames=1, isa="scalar")["fps"] > 0
    with pytest.raises(InvalidRequestError, match="isa 'mmx'"):
        run_render_bench(1000, "ids", 32, 24, frames=1, isa="mmx")
    with pytest.raises(InvalidRequestError, match="mode 'vr': expected one of"):
        run_render_bench(1000, "vr")


@pytest.mark.parametrize("what", KINDS)
def test_training_bench_trains_and_reports_its_numbers(what):
    results = run_train_bench(2000, what, 80, 60, steps=40, threads=2)
    assert results["it_per_s"] > 0 and results["step_ms_p50"] > 0 and results["threads"] == 2
    assert results["gradient_rel_error_max"] < 1e-4
    if what == "full":
        assert results["psnr_db"] > results["psnr_before_db"] + 3
    else:
        assert results["loss"] < 0.9 * results["loss_before"]


def test_training_bench_names_what_it_can_train():
    with pytest.raises(InvalidRequestError, match="what 'all': expected one of full, features"):
        run_train_bench(1000, "all")
