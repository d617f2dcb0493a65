"""The bench of what a browser gets: all splats look as the map, fewer worse, but better than as many Gaussians of the map."""

from __future__ import annotations

from gs_semantic.benchmarks.viewer import SENT_BYTES, run_viewer_bench


def test_fewer_splats_look_worse() -> None:
    found = run_viewer_bench(20_000, (2_000, 8_000, 20_000), views=2)
    every, half, few = (found[f"psnr_{number}_db"] for number in (20_000, 8_000, 2_000))
    assert every > 40 > half > few > found["single_psnr_2000_db"] + 6
    assert found["page_mb"] == 20_000 * SENT_BYTES / 1e6 and found["choose_ms"] > 0 and found["pick_ms"] > 0
    assert 0 < found["changed_gaussians"] < 4_000
    assert 0 < found["change_mb"] < 0.3 * found["stream_mb"] and 0 < found["page_change_mb"] < 0.7 * found["page_mb"]
