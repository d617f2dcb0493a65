"""The bench of what a browser gets: all splats look as the map, fewer look worse."""

from __future__ import annotations

from gs_semantic.benchmarks.viewer import SENT_BYTES, run_viewer_bench


def test_fewer_splats_look_worse() -> None:
    every, half, few = (run_viewer_bench(4000, splats, views=2) for splats in (4000, 2000, 400))
    assert every["psnr_db"] > 40 > half["psnr_db"] > few["psnr_db"]
    assert (few["splats"], few["sent_mb"]) == (400, 400 * SENT_BYTES / 1e6)
    assert all(run["choose_ms"] > 0 and run["pick_ms"] > 0 for run in (every, half, few))
